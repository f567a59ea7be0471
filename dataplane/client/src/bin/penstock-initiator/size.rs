//! Byte counts as people write them.

/// Reads `4096`, `4KiB`, `4k`, `1MiB`, `2GB`: binary units with an `i` or a bare letter, decimal
/// ones with `kB`, `MB`, `GB`, `TB`.
pub fn parse(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let told = || format!("`{text}` is no byte count: write for example 4096, 4KiB or 1MiB");
    let number: u64 = number.parse().map_err(|_| told())?;
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(told()),
    };
    number.checked_mul(factor).ok_or_else(told)
}

/// A byte count as people read it, such as `4 KiB` or `1.5 GiB`.
pub fn show(bytes: u64) -> String {
    const UNITS: [(&str, u64); 4] = [
        ("TiB", 1 << 40),
        ("GiB", 1 << 30),
        ("MiB", 1 << 20),
        ("KiB", 1 << 10),
    ];
    match UNITS.iter().find(|(_, unit)| bytes >= *unit) {
        None => format!("{bytes} B"),
        Some((name, unit)) if bytes.is_multiple_of(*unit) => format!("{} {name}", bytes / unit),
        Some((name, unit)) => format!("{:.2} {name}", bytes as f64 / *unit as f64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_are_understood() {
        for (text, bytes) in [
            ("4096", 4096),
            ("4KiB", 4096),
            ("4k", 4096),
            ("1 MiB", 1 << 20),
            ("2GB", 2_000_000_000),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for bad in [
            "",
            "KiB",
            "4 parsecs",
            "-1",
            "99999999999999999999",
            "20000000000GiB",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn shown_counts_are_read_back() {
        for bytes in [512, 4096, 3 << 20, 7 << 30] {
            assert_eq!(parse(&show(bytes)), Ok(bytes));
        }
        assert_eq!(show(1536 << 20), "1.50 GiB");
    }
}
