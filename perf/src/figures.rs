//! Figures of one measurement, and of several.

use serde::Serialize;

/// What one measurement gave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Figures {
    /// Commands completed a second.
    pub iops: f64,
    /// MiB moved a second.
    pub mib_per_s: f64,
    /// Mean latency in microseconds.
    pub mean_us: f64,
    /// Median latency in microseconds.
    pub p50_us: f64,
    /// 99th percentile in microseconds.
    pub p99_us: f64,
    /// 99.9th percentile in microseconds.
    pub p99_9_us: f64,
}

/// A figure by name and unit, and how to take it.
#[derive(Clone, Copy)]
pub struct Measure {
    /// Name and unit.
    pub title: &'static str,
    /// Takes it.
    pub of: fn(&Figures) -> f64,
}

/// Every measure, in the order of the table.
pub const MEASURES: [Measure; 6] = [
    Measure {
        title: "IOPS",
        of: |f| f.iops,
    },
    Measure {
        title: "MiB/s",
        of: |f| f.mib_per_s,
    },
    Measure {
        title: "mean us",
        of: |f| f.mean_us,
    },
    Measure {
        title: "p50 us",
        of: |f| f.p50_us,
    },
    Measure {
        title: "p99 us",
        of: |f| f.p99_us,
    },
    Measure {
        title: "p99.9 us",
        of: |f| f.p99_9_us,
    },
];

/// Middle and ends of several measurements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The middle one; of an even number, the mean of the two in the middle.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

impl Spread {
    /// Of these; none of none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let upper = *sorted.get(middle)?;
        let median = if sorted.len().is_multiple_of(2) {
            f64::midpoint(sorted[middle - 1], upper)
        } else {
            upper
        };
        Some(Spread {
            median,
            min: sorted[0],
            max: sorted[sorted.len() - 1],
        })
    }
}

/// A number with about four digits, thousands apart.
pub fn show(value: f64) -> String {
    if value < 100.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_in_the_middle() {
        let odd = Spread::of([3.0, 1.0, 100.0]).expect("three");
        assert_eq!((odd.median, odd.min, odd.max), (3.0, 1.0, 100.0));
        assert_eq!(
            Spread::of([4.0, 1.0, 2.0, 9.0]).map(|s| s.median),
            Some(3.0)
        );
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn numbers_are_readable() {
        for (value, right) in [
            (13.04, "13.0"),
            (407.1, "407"),
            (628_850.2, "628 850"),
            (1_129_834.0, "1 129 834"),
        ] {
            assert_eq!(show(value), right);
        }
    }
}
