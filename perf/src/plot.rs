//! A plot of a comparison: for every case and measure a pair of bars, drawn as SVG.
//!
//! Cases differ a hundredfold, so each pair has its own scale: what one sees is who is ahead and by
//! how much, and the figure itself stands beside the bar.

use std::fmt::Write;

use crate::case::Case;
use crate::figures::{MEASURES, Measure, Spread, show};
use crate::report::{ratio, spread};
use crate::tcp::{OURS, Outcome, PEER};

const TITLES_WIDTH: f64 = 250.0;
const PANEL_WIDTH: f64 = 240.0;
const BAR_LENGTH_MAX: f64 = 125.0;
const ROW_HEIGHT: f64 = 62.0;
const BAR_HEIGHT: f64 = 18.0;
const HEAD_HEIGHT: f64 = 118.0;
const FOOT_HEIGHT: f64 = 44.0;

const BACKGROUND: &str = "#fbfbf9";
const INK: &str = "#22282f";
const FAINT: &str = "#6b747d";
const LINE: &str = "#e3e4df";
/// Name and colour of each side; told apart by those who see colours differently too.
const SIDES: [(&str, &str); 2] = [(OURS, "#1f77a4"), (PEER, "#e39a3b")];

/// The panels: index into [`MEASURES`], heading, and what is better.
const PANELS: [(usize, &str, &str); 5] = [
    (0, "IOPS", "more is better"),
    (2, "Latency, mean", "us, less is better"),
    (3, "Latency, p50", "us, less is better"),
    (4, "Latency, p99", "us, less is better"),
    (5, "Latency, p99.9", "us, less is better"),
];

/// The plot as an SVG document.
pub fn svg(outcome: &Outcome) -> String {
    let width = TITLES_WIDTH + PANEL_WIDTH * PANELS.len() as f64 + 20.0;
    let height = HEAD_HEIGHT + ROW_HEIGHT * outcome.cases.len() as f64 + FOOT_HEIGHT;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         width=\"{width}\" height=\"{height}\" \
         font-family=\"DejaVu Sans, Helvetica, Arial, sans-serif\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"{BACKGROUND}\"/>\n"
    );
    head(&mut out, outcome, width);
    for (row, case) in outcome.cases.iter().enumerate() {
        let top = HEAD_HEIGHT + ROW_HEIGHT * row as f64;
        let _ = writeln!(
            out,
            "<line x1=\"20\" y1=\"{top}\" x2=\"{}\" y2=\"{top}\" stroke=\"{LINE}\"/>",
            width - 20.0
        );
        text(
            &mut out,
            20.0,
            top + ROW_HEIGHT / 2.0 + 4.5,
            13,
            INK,
            case.title,
        );
        for (column, (measure, _, _)) in PANELS.iter().enumerate() {
            let left = TITLES_WIDTH + PANEL_WIDTH * column as f64;
            pair(&mut out, outcome, case, &MEASURES[*measure], left, top);
        }
    }
    let foot = format!(
        "{} · {}, Linux {} · {OURS} {} · {} · client {}",
        outcome.facts.date,
        outcome.facts.cpu,
        outcome.facts.kernel,
        outcome.facts.revision,
        outcome.peer.as_deref().unwrap_or("no peer"),
        outcome.client,
    );
    text(&mut out, 20.0, height - 16.0, 11, FAINT, &foot);
    out.push_str("</svg>\n");
    out
}

fn head(out: &mut String, outcome: &Outcome, width: f64) {
    text(
        out,
        20.0,
        34.0,
        20,
        INK,
        "NVMe/TCP on one core, side by side",
    );
    let told = "Bars: medians, each pair on its own scale. Thin lines: least to greatest run. \
                Beside them: the figure, and ours over the peer's.";
    text(out, 20.0, 56.0, 12, FAINT, told);
    let mut left = width - 230.0;
    for (name, colour) in SIDES {
        if outcome.samples.iter().any(|s| s.target == name) {
            let _ = writeln!(
                out,
                "<rect x=\"{left}\" y=\"21\" width=\"14\" height=\"14\" rx=\"2\" fill=\"{colour}\"/>"
            );
            text(out, left + 20.0, 33.0, 13, INK, name);
        }
        left += 115.0;
    }
    for (column, (_, title, better)) in PANELS.iter().enumerate() {
        let left = TITLES_WIDTH + PANEL_WIDTH * column as f64;
        text(out, left, HEAD_HEIGHT - 26.0, 13, INK, title);
        text(out, left, HEAD_HEIGHT - 10.0, 11, FAINT, better);
    }
}

/// The bars of one case and measure.
fn pair(out: &mut String, outcome: &Outcome, case: &Case, measure: &Measure, left: f64, top: f64) {
    let spreads = SIDES.map(|(name, _)| spread(outcome, case, name, measure));
    // The longest thin line sets the scale: nothing is cut.
    let most = spreads.iter().flatten().map(|s| s.max).fold(0.0, f64::max);
    if most <= 0.0 {
        return;
    }
    let _ = writeln!(
        out,
        "<line x1=\"{left}\" y1=\"{}\" x2=\"{left}\" y2=\"{}\" stroke=\"{FAINT}\"/>",
        top + 8.0,
        top + ROW_HEIGHT - 8.0
    );
    let there = spreads.iter().flatten().count() as f64;
    let mut y = top + (ROW_HEIGHT - there * (BAR_HEIGHT + 3.0) + 3.0) / 2.0;
    for ((name, colour), found) in SIDES.iter().zip(spreads) {
        let Some(found) = found else { continue };
        let ratio = (*name == OURS)
            .then(|| ratio(outcome, case, measure))
            .flatten();
        bar(out, &found, most, (left, y), colour, ratio);
        y += BAR_HEIGHT + 3.0;
    }
}

fn bar(
    out: &mut String,
    found: &Spread,
    most: f64,
    (x, y): (f64, f64),
    colour: &str,
    ratio: Option<f64>,
) {
    let length = |value: f64| value / most * BAR_LENGTH_MAX;
    let _ = writeln!(
        out,
        "<rect x=\"{x}\" y=\"{y}\" width=\"{:.1}\" height=\"{BAR_HEIGHT}\" fill=\"{colour}\"/>",
        length(found.median).max(1.0)
    );
    let middle = y + BAR_HEIGHT / 2.0;
    let _ = writeln!(
        out,
        "<line x1=\"{:.1}\" y1=\"{middle}\" x2=\"{:.1}\" y2=\"{middle}\" stroke=\"{INK}\" \
         stroke-width=\"1.5\" opacity=\"0.65\"/>",
        x + length(found.min),
        x + length(found.max)
    );
    let at = x + length(found.median).max(length(found.max)) + 6.0;
    let mut label = show(found.median);
    if let Some(ratio) = ratio {
        let _ = write!(label, "  ({ratio:.2}x)");
    }
    text(out, at, middle + 4.0, 11, INK, &label);
}

fn text(out: &mut String, x: f64, y: f64, size: u32, colour: &str, words: &str) {
    let safe = words
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    let _ = writeln!(
        out,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{size}\" fill=\"{colour}\">{safe}</text>"
    );
}

#[cfg(test)]
mod tests {
    use crate::report::tests::example;
    use crate::tcp::OURS;

    fn bars(svg: &str) -> usize {
        svg.matches("height=\"18\"").count()
    }

    #[test]
    fn every_case_has_a_pair_of_bars_in_every_panel() {
        let drawn = super::svg(&example());
        if let Some(path) = std::env::var_os("PENSTOCK_PERF_EXAMPLE_SVG") {
            std::fs::write(path, &drawn).expect("written");
        }
        assert_eq!(bars(&drawn), 6 * 5 * 2);
        assert!(drawn.contains("(1.25x)") && drawn.contains("(0.80x)"));
    }

    #[test]
    fn without_a_peer_there_is_one_bar() {
        let mut outcome = example();
        outcome.samples.retain(|s| s.target == OURS);
        outcome.facts.cpu = "a <odd> & name".to_owned();
        let drawn = super::svg(&outcome);
        assert_eq!(bars(&drawn), 6 * 5);
        assert!(drawn.contains("a &lt;odd&gt; &amp; name") && !drawn.contains("x)"));
    }
}
