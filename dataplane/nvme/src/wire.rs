//! What every wire structure of this crate is made of.

/// Little-endian 16-bit field, aligned to one byte.
pub type Le16 = zerocopy::little_endian::U16;
/// Little-endian 32-bit field, aligned to one byte.
pub type Le32 = zerocopy::little_endian::U32;
/// Little-endian 64-bit field, aligned to one byte.
pub type Le64 = zerocopy::little_endian::U64;
/// Little-endian 128-bit field, aligned to one byte.
pub type Le128 = zerocopy::little_endian::U128;

/// A number the specifications give no meaning in that place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{value:#x} is no {what} of the NVMe revisions this crate knows")]
pub struct UnknownValue {
    /// Which field it was meant for.
    pub what: &'static str,
    /// The number found.
    pub value: u32,
}

/// Asserts size and field offsets of a wire structure when it is compiled.
macro_rules! layout {
    ($type:ty, $size:literal $(, $field:ident @ $offset:literal)* $(,)?) => {
        const _: () = {
            assert!(size_of::<$type>() == $size);
            assert!(align_of::<$type>() == 1);
            $(assert!(core::mem::offset_of!($type, $field) == $offset);)*
        };
    };
}

/// An enumeration of the wire, with a checked conversion from its number and the name the
/// specification gives each value.
macro_rules! wire_enum {
    (
        $(#[$meta:meta])*
        pub enum $name:ident: $repr:ty = $what:literal {
            $($(#[$vmeta:meta])* $variant:ident = $value:literal $text:literal,)*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr($repr)]
        pub enum $name {
            $(#[doc = concat!($text, " (", stringify!($value), ").")]
              $(#[$vmeta])* $variant = $value,)*
        }

        impl $name {
            /// Every value, in the order of the specification's table.
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];

            /// The specification's name for it.
            pub const fn name(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }
        }

        impl TryFrom<$repr> for $name {
            type Error = $crate::wire::UnknownValue;

            fn try_from(value: $repr) -> Result<Self, $crate::wire::UnknownValue> {
                match value {
                    $($value => Ok($name::$variant),)*
                    other => {
                        Err($crate::wire::UnknownValue { what: $what, value: u32::from(other) })
                    }
                }
            }
        }

        impl From<$name> for $repr {
            fn from(value: $name) -> $repr {
                value as $repr
            }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

/// An ASCII string field as the specifications pad it: left-justified, filled with spaces
/// (Base 2.1, 1.4.2). Characters that do not fit are cut off; those outside 20h to 7Eh become `?`.
pub fn ascii_field<const N: usize>(text: &str) -> [u8; N] {
    let mut field = [b' '; N];
    for (to, from) in field.iter_mut().zip(text.chars()) {
        let byte = u8::try_from(from)
            .ok()
            .filter(|byte| matches!(byte, 0x20..=0x7e));
        *to = byte.unwrap_or(b'?');
    }
    field
}

/// The part of a field before its first NUL, or all of it where there is none.
pub fn nul_terminated(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|&b| b == 0).unwrap_or(field.len());
    &field[..end]
}
