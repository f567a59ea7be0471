//! NVMe qualified names (Base 2.1, 4.7).

use core::fmt;

/// The well-known discovery subsystem NQN (Base 2.1, 4.7).
pub const DISCOVERY_NQN: &str = "nqn.2014-08.org.nvmexpress.discovery";

/// Prefix of NQNs made of a UUID (Base 2.1, 4.7, second form).
pub const UUID_PREFIX: &str = "nqn.2014-08.org.nvmexpress:uuid:";

/// Longest NQN in bytes, its NUL not counted.
pub const NQN_BYTES_MAX: usize = 223;

/// Why a string is no NQN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NqnError {
    /// Nothing there.
    #[error("NQN is empty: give one like nqn.2024-01.com.example:name")]
    Empty,
    /// Longer than 223 bytes.
    #[error("NQN has {0} bytes: shorten it to at most 223")]
    TooLong(usize),
    /// Not UTF-8, or a NUL within.
    #[error("NQN is not NUL-free UTF-8: use text only")]
    NotText,
    /// Does not start with "nqn." and a date.
    #[error("NQN must look like nqn.yyyy-mm.reverse.domain[:name]")]
    Form,
    /// Starts as a UUID NQN but holds no UUID.
    #[error("NQN ends in no UUID: give nqn.2014-08.org.nvmexpress:uuid: and 8-4-4-4-12 hex digits")]
    Uuid,
}

/// A valid NQN.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nqn(String);

impl Nqn {
    /// Checks and keeps a name.
    pub fn new(name: &str) -> Result<Nqn, NqnError> {
        validate(name).map(|()| Nqn(name.to_owned()))
    }

    /// From a NUL-terminated field of the wire.
    pub fn from_field(field: &[u8; 256]) -> Result<Nqn, NqnError> {
        from_field(field).map(|name| Nqn(name.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Nqn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Nqn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Checks a name: length, text, and one of the two forms of Base 2.1, 4.7.
pub fn validate(name: &str) -> Result<(), NqnError> {
    if name.is_empty() {
        return Err(NqnError::Empty);
    }
    if name.len() > NQN_BYTES_MAX {
        return Err(NqnError::TooLong(name.len()));
    }
    if name.bytes().any(|b| b == 0) {
        return Err(NqnError::NotText);
    }
    if let Some(uuid) = name.strip_prefix(UUID_PREFIX) {
        return if is_uuid(uuid) {
            Ok(())
        } else {
            Err(NqnError::Uuid)
        };
    }
    if has_dated_domain(name) {
        Ok(())
    } else {
        Err(NqnError::Form)
    }
}

/// Reads a NUL-terminated 256-byte field of the wire, and checks it as [`validate`] does.
pub fn from_field(field: &[u8; 256]) -> Result<&str, NqnError> {
    let bytes = crate::wire::nul_terminated(field);
    if bytes.len() > NQN_BYTES_MAX {
        return Err(NqnError::TooLong(bytes.len()));
    }
    let name = core::str::from_utf8(bytes).map_err(|_| NqnError::NotText)?;
    validate(name)?;
    Ok(name)
}

/// A valid name as a NUL-filled field of the wire; `None` where [`validate`] refuses it.
pub fn nqn_field(name: &str) -> Option<[u8; 256]> {
    validate(name).ok()?;
    let mut field = [0; 256];
    field
        .get_mut(..name.len())?
        .copy_from_slice(name.as_bytes());
    Some(field)
}

/// The UUID form for a host or subsystem with this UUID (network byte order).
pub fn uuid_nqn(uuid: [u8; 16]) -> Nqn {
    use core::fmt::Write as _;
    let mut name = String::from(UUID_PREFIX);
    for (i, byte) in uuid.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            name.push('-');
        }
        // Writing to a String cannot fail.
        let _ = write!(name, "{byte:02x}");
    }
    Nqn(name)
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(i, b)| match i {
            8 | 13 | 18 | 23 => b == b'-',
            _ => b.is_ascii_hexdigit(),
        })
}

/// "nqn.yyyy-mm." and a reverse domain of at least one character.
fn has_dated_domain(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("nqn.") else {
        return false;
    };
    let bytes = rest.as_bytes();
    let Some((date, domain)) = bytes.split_at_checked(8) else {
        return false;
    };
    let dated = date.iter().enumerate().all(|(i, b)| match i {
        4 => *b == b'-',
        7 => *b == b'.',
        _ => b.is_ascii_digit(),
    });
    let month = (date[5], date[6]);
    let month_ok = matches!(month, (b'0', b'1'..=b'9') | (b'1', b'0'..=b'2'));
    dated && month_ok && domain.first().is_some_and(|b| !matches!(b, b':' | b'.'))
}
