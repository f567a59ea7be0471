//! Sizes and lengths of time as people write and read them.

use std::time::Duration;

const UNITS: [(&str, u64); 12] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("PiB", 1 << 50),
    ("EiB", 1 << 60),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("PB", 1_000_000_000_000_000),
    ("EB", 1_000_000_000_000_000_000),
];

/// Bytes of `100GiB`, `1.5 TB`, `4096` or `4096B`. Units of 1024 have an i, those of 1000 have none.
pub fn parse_size(written: &str) -> Result<u64, String> {
    let text = written.trim();
    if text.starts_with('-') {
        return Err(refuse(written, "it is negative"));
    }
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim();
    let factor = unit_bytes(unit).ok_or_else(|| refuse(written, "its unit is not known"))?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || (number.contains('.') && fraction.is_empty()) {
        return Err(refuse(written, "it does not begin with a number"));
    }
    let too_large = || refuse(written, "it is more than 16 EiB");
    let whole: u64 = whole.parse().map_err(|_| too_large())?;
    let mut bytes = u128::from(whole) * u128::from(factor);
    if !fraction.is_empty() {
        let digits: u128 = fraction
            .get(..fraction.len().min(18))
            .unwrap_or(fraction)
            .parse()
            .map_err(|_| refuse(written, "it does not begin with a number"))?;
        let scale = 10_u128.pow(u32::try_from(fraction.len().min(18)).unwrap_or(18));
        let part = digits * u128::from(factor);
        if !part.is_multiple_of(scale) {
            return Err(refuse(written, "it is no whole number of bytes"));
        }
        bytes += part / scale;
    }
    u64::try_from(bytes).map_err(|_| too_large())
}

fn unit_bytes(unit: &str) -> Option<u64> {
    if unit.is_empty() || unit.eq_ignore_ascii_case("b") {
        return Some(1);
    }
    let found = UNITS
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(unit));
    found.map(|(_, bytes)| *bytes)
}

fn refuse(written: &str, why: &str) -> String {
    format!(
        "\"{written}\" is not a size: {why}; write bytes, or a number with KiB, MiB, GiB, TiB, PiB \
         or EiB (of 1024) or KB, MB, GB, TB, PB or EB (of 1000), like 100GiB"
    )
}

/// A size as people read it: exact where a unit fits, else to two places.
pub fn size(bytes: u64) -> String {
    let units = UNITS.iter().take(6).rev();
    let Some((unit, factor)) = units.copied().find(|(_, factor)| bytes >= *factor) else {
        return format!("{bytes} B");
    };
    if bytes.is_multiple_of(factor) {
        return format!("{} {unit}", bytes / factor);
    }
    let hundredths = u128::from(bytes) * 100 / u128::from(factor);
    let text = format!("{}.{:02}", hundredths / 100, hundredths % 100);
    let text = text.trim_end_matches('0').trim_end_matches('.');
    format!("{text} {unit}")
}

/// `30`, `30s`, `500ms`, `10m`, `2h`.
pub fn parse_duration(written: &str) -> Result<Duration, String> {
    let text = written.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| refuse_time(written))?;
    let milliseconds = match unit.trim() {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(refuse_time(written)),
    };
    let total = number.checked_mul(milliseconds).filter(|total| *total > 0);
    total
        .map(Duration::from_millis)
        .ok_or_else(|| refuse_time(written))
}

fn refuse_time(written: &str) -> String {
    format!(
        "\"{written}\" is not a length of time: write a number above 0 with ms, s, m, h or d, like 30s"
    )
}

/// A length of time as people read it: its two largest units.
pub fn duration(length: Duration) -> String {
    let seconds = length.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..600 if !seconds.is_multiple_of(60) => format!("{minutes}m{}s", seconds % 60),
        60..3_600 => format!("{minutes}m"),
        3_600..36_000 if minutes != 0 => format!("{hours}h{minutes}m"),
        3_600..86_400 => format!("{hours}h"),
        86_400..864_000 if hours != 0 => format!("{days}d{hours}h"),
        _ => format!("{days}d"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_every_form() {
        let told = [
            ("4096", 4096),
            ("4096B", 4096),
            ("100GiB", 100 << 30),
            ("100 gib", 100 << 30),
            ("1.5TiB", 3 << 39),
            ("1TB", 1_000_000_000_000),
            ("0.5KB", 500),
            ("15EiB", 15 << 60),
            ("0", 0),
        ];
        for (written, bytes) in told {
            assert_eq!(parse_size(written), Ok(bytes), "{written}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused_with_the_units() {
        for written in [
            "",
            "GiB",
            "-5GiB",
            "10XB",
            "1.GiB",
            "16EiB",
            "0.3B",
            "1e3",
            "99999999999999999999",
            "1..5GiB",
        ] {
            let told = parse_size(written).unwrap_err();
            assert!(told.contains("like 100GiB"), "{told}");
        }
    }

    #[test]
    fn sizes_are_told_exactly_or_to_two_places() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(1 << 20), "1 MiB");
        assert_eq!(size(100 << 30), "100 GiB");
        assert_eq!(size(1_000_000_000_000), "931.32 GiB");
        assert_eq!(size(3 << 29), "1.5 GiB");
        assert_eq!(size(u64::MAX), "15.99 EiB");
    }

    #[test]
    fn lengths_of_time_go_both_ways() {
        assert_eq!(parse_duration("30"), Ok(Duration::from_secs(30)));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("2h"), Ok(Duration::from_secs(7200)));
        for wrong in ["", "0", "-1s", "1w", "s", "99999999999999999d"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
        let told = [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (61, "1m1s"),
            (3600, "1h"),
            (5400, "1h30m"),
        ];
        for (seconds, words) in told {
            assert_eq!(duration(Duration::from_secs(seconds)), words);
        }
        assert_eq!(duration(Duration::from_secs(90_000)), "1d1h");
        assert_eq!(duration(Duration::from_secs(864_000)), "10d");
    }
}
