//! Base64 (RFC 4648, 4), so that any text travels in one line of the control channel.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Encodes with padding, without line breaks.
#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |index: usize| u32::from(group.get(index).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            if place <= group.len() {
                let value = bits >> (18 - 6 * place) & 0x3f;
                text.push(char::from(ALPHABET[value as usize]));
            } else {
                text.push('=');
            }
        }
    }
    text
}

/// Decodes; `None` for a character outside the alphabet.
#[must_use]
pub fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut held) = (0u32, 0u32);
    for character in text.trim_end_matches('=').bytes() {
        let value = ALPHABET.iter().position(|known| *known == character)?;
        bits = bits << 6 | u32::try_from(value).ok()?;
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held & 0xff) as u8);
            bits &= (1 << held) - 1;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_vectors_of_the_standard() {
        let vectors = [
            "", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy",
        ];
        for (length, text) in vectors.iter().enumerate() {
            let plain = &b"foobar"[..length];
            assert_eq!(encode(plain), *text);
            assert_eq!(decode(text).as_deref(), Some(plain));
        }
        assert_eq!(decode("a b"), None);
    }

    proptest::proptest! {
        #[test]
        fn what_goes_in_comes_out(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..99)) {
            proptest::prop_assert_eq!(decode(&encode(&bytes)), Some(bytes));
        }
    }
}
