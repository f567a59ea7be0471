//! Where a PCI function sits.

use std::fmt;
use std::str::FromStr;

/// A PCI function's address, `domain:bus:device.function`, such as `0000:3b:00.0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciAddress {
    domain: u32,
    bus: u8,
    /// 5 bits of device, 3 of function.
    slot: u8,
}

/// Text that is no PCI address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no PCI address; write it as 0000:3b:00.0 (lspci -D shows them)")]
pub struct BadAddress(pub String);

impl PciAddress {
    /// The device's number on its bus.
    #[must_use]
    pub fn device(self) -> u8 {
        self.slot >> 3
    }

    /// The function's number in its device.
    #[must_use]
    pub fn function(self) -> u8 {
        self.slot & 7
    }

    /// The PCI domain (segment).
    #[must_use]
    pub fn domain(self) -> u32 {
        self.domain
    }

    /// The bus in the domain.
    #[must_use]
    pub fn bus(self) -> u8 {
        self.bus
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (device, function) = (self.device(), self.function());
        write!(
            f,
            "{:04x}:{:02x}:{device:02x}.{function}",
            self.domain, self.bus
        )
    }
}

impl FromStr for PciAddress {
    type Err = BadAddress;

    /// Reads `3b:00.0` as well, in domain 0.
    fn from_str(text: &str) -> Result<PciAddress, BadAddress> {
        parse(text).ok_or_else(|| BadAddress(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<PciAddress> {
    let (place, function) = text.split_once('.')?;
    let mut words = place.rsplit(':');
    let (device, bus) = (words.next()?, words.next()?);
    let domain = words.next().unwrap_or("0");
    if words.next().is_some() {
        return None;
    }
    let device = u8::try_from(hex(device, 2)?).ok().filter(|n| *n < 32)?;
    let function = u8::try_from(hex(function, 1)?).ok().filter(|n| *n < 8)?;
    Some(PciAddress {
        domain: hex(domain, 8)?,
        bus: u8::try_from(hex(bus, 2)?).ok()?,
        slot: device << 3 | function,
    })
}

/// A number of at most `digits` hexadecimal digits; the standard library would take a sign too.
fn hex(text: &str, digits: usize) -> Option<u32> {
    let plain = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    (plain && text.len() <= digits)
        .then(|| u32::from_str_radix(text, 16).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_and_print_as_the_kernel_writes_them() {
        for (text, printed) in [
            ("0000:3b:00.0", "0000:3b:00.0"),
            ("3b:1f.7", "0000:3b:1f.7"),
            ("10000:E1:00.0", "10000:e1:00.0"),
            ("0:0:4.0", "0000:00:04.0"),
        ] {
            let address: PciAddress = text.parse().unwrap();
            assert_eq!(address.to_string(), printed);
            assert_eq!(printed.parse(), Ok(address));
        }
    }

    #[test]
    fn other_text_is_refused_and_told_how_to_write_it() {
        for text in [
            "",
            "nvme0",
            "3b:00",
            "3b:20.0",
            "3b:00.8",
            "+3:00.0",
            "1:2:3:4.0",
            "/../../x",
        ] {
            let err = text.parse::<PciAddress>().unwrap_err();
            assert!(err.to_string().contains("0000:3b:00.0"), "{err}");
        }
    }
}
