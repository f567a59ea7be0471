//! Quantities for people.

/// Bytes with a binary unit and one digit after the point where it is not 0: `3.2 TiB`.
pub(super) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut unit = 0;
    let mut divisor = 1u64;
    while unit + 1 < UNITS.len() && bytes / divisor >= 1024 {
        divisor *= 1024;
        unit += 1;
    }
    let tenths = u128::from(bytes) * 10 / u128::from(divisor);
    let (whole, tenth) = (tenths / 10, tenths % 10);
    if tenth == 0 {
        format!("{whole} {}", UNITS[unit])
    } else {
        format!("{whole}.{tenth} {}", UNITS[unit])
    }
}

/// `nodes/n1/devices/d0` as `n1/d0`, `nodes/n1` as `n1`.
pub(super) fn short(name: &str) -> String {
    name.split('/')
        .skip(1)
        .step_by(2)
        .collect::<Vec<_>>()
        .join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_readable() {
        let table = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1 << 20, "1 MiB"),
            ((1 << 30) + (1 << 29), "1.5 GiB"),
            (u64::MAX, "15.9 EiB"),
        ];
        for (value, text) in table {
            assert_eq!(bytes(value), text);
        }
        assert_eq!(short("nodes/n1/devices/d0"), "n1/d0");
        assert_eq!(short("nodes/n1"), "n1");
    }
}
