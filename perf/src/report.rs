//! The table of a comparison, in Markdown.

use std::fmt::Write;

use crate::case::Case;
use crate::figures::{MEASURES, Measure, Spread, show};
use crate::tcp::{OURS, Outcome, PEER};

/// Middle and ends of a measure over the runs of one case and target.
pub fn spread(outcome: &Outcome, case: &Case, target: &str, measure: &Measure) -> Option<Spread> {
    let of = |s: &&crate::tcp::Sample| s.case == case.name && s.target == target;
    let samples = outcome.samples.iter().filter(of);
    Spread::of(samples.map(|s| (measure.of)(&s.figures)))
}

/// The whole table, with what must be known to judge it.
pub fn markdown(outcome: &Outcome) -> String {
    let mut out = String::from("# NVMe/TCP, side by side\n\n");
    let facts = &outcome.facts;
    for (key, value) in [
        ("Command", format!("`{}`", facts.command)),
        ("Date", facts.date.clone()),
        ("Machine", format!("{}, Linux {}", facts.cpu, facts.kernel)),
        ("Penstock", facts.revision.clone()),
        (
            "Peer",
            outcome
                .peer
                .clone()
                .unwrap_or_else(|| "none: SPDK_DIR is not set".to_owned()),
        ),
        ("Client", outcome.client.to_owned()),
        ("Set-up", outcome.setup.clone()),
    ] {
        let _ = writeln!(out, "- {key}: {value}");
    }
    let _ = writeln!(
        out,
        "\nMedians, least and greatest in parentheses. Ratio: median of {OURS} over median of \
         {PEER}; above 1 is better for IOPS and MiB/s, below 1 for latency. Disturbed: runs during \
         which others used more than 5 % of a core.\n"
    );
    let titles: Vec<&str> = MEASURES.iter().map(|m| m.title).collect();
    let _ = writeln!(
        out,
        "| case | target | {} | disturbed |",
        titles.join(" | ")
    );
    let _ = writeln!(out, "|---|---|{}---:|", "---:|".repeat(MEASURES.len()));
    for case in &outcome.cases {
        for target in [OURS, PEER] {
            row(&mut out, outcome, case, target);
        }
        ratios(&mut out, outcome, case);
    }
    out
}

fn row(out: &mut String, outcome: &Outcome, case: &Case, target: &str) {
    let of = |s: &&crate::tcp::Sample| s.case == case.name && s.target == target;
    let runs = outcome.samples.iter().filter(of).count();
    if runs == 0 {
        return;
    }
    let disturbed = outcome.samples.iter().filter(of).filter(|s| s.disturbed());
    let disturbed = disturbed.count();
    let cells: Vec<String> = MEASURES
        .iter()
        .filter_map(|measure| spread(outcome, case, target, measure))
        .map(|s| format!("{} ({}..{})", show(s.median), show(s.min), show(s.max)))
        .collect();
    let _ = writeln!(
        out,
        "| {} | {target} | {} | {disturbed} of {runs} |",
        case.title,
        cells.join(" | ")
    );
}

fn ratios(out: &mut String, outcome: &Outcome, case: &Case) {
    let cells: Vec<String> = MEASURES
        .iter()
        .filter_map(|measure| ratio(outcome, case, measure))
        .map(|ratio| format!("**{ratio:.2}**"))
        .collect();
    if !cells.is_empty() {
        let _ = writeln!(out, "| | ratio | {} | |", cells.join(" | "));
    }
}

/// Ours over the peer's, of the medians; none where one is missing.
pub fn ratio(outcome: &Outcome, case: &Case, measure: &Measure) -> Option<f64> {
    let ours = spread(outcome, case, OURS, measure)?.median;
    let theirs = spread(outcome, case, PEER, measure)?.median;
    (theirs > 0.0).then(|| ours / theirs)
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::figures::Figures;
    use crate::machine::Facts;
    use crate::tcp::Sample;

    /// Made-up results of every usual case, for looking at tables and plots.
    pub fn example() -> Outcome {
        let mut samples = Vec::new();
        let cases = crate::case::choose(&[], false).expect("the usual");
        for (index, case) in (0_u32..).zip(&cases) {
            for run in 0..3_u32 {
                for (target, factor) in [(OURS, 1.25), (PEER, 1.0)] {
                    let speed = factor * 100_000.0 / f64::from(1 + 3 * (index % 3));
                    let iops = speed * (1.0 + f64::from(run) * 0.03);
                    let figures = Figures {
                        iops,
                        mib_per_s: iops * f64::from(case.io_bytes) / 1_048_576.0,
                        mean_us: 1.1e7 / iops,
                        p50_us: 1.0e7 / iops,
                        p99_us: 3.0e7 / iops,
                        p99_9_us: 9.0e7 / iops,
                    };
                    samples.push(Sample {
                        case: case.name,
                        target,
                        run,
                        figures,
                        other_share: 0.03 * f64::from(run),
                        attempts: 1,
                    });
                }
            }
        }
        Outcome {
            facts: Facts::gather(),
            peer: Some("SPDK v0 (made up)".to_owned()),
            client: "made up",
            setup: "made up".to_owned(),
            samples,
            cases,
        }
    }

    #[test]
    fn the_table_compares_medians() {
        let text = markdown(&example());
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with('|')).collect();
        assert_eq!(lines.len(), 2 + 6 * 3, "{text}");
        let columns = lines[0].matches('|').count();
        for line in &lines {
            assert_eq!(line.matches('|').count(), columns, "{line}");
        }
        assert!(
            lines[2].contains("128 750 (125 000..132 500)"),
            "{}",
            lines[2]
        );
        assert!(lines[2].ends_with("1 of 3 |"), "{}", lines[2]);
        assert!(
            lines[4].contains("| ratio | **1.25** | **1.25** | **0.80**"),
            "{}",
            lines[4]
        );
    }

    #[test]
    fn without_a_peer_there_are_no_ratios() {
        let mut outcome = example();
        outcome.samples.retain(|s| s.target == OURS);
        let text = markdown(&outcome);
        assert!(!text.contains("| ratio |"), "{text}");
        assert!(text.contains("128 750"), "{text}");
    }
}
