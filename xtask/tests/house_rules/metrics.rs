//! What dashboards and alerts ask for is what the programs export.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::tree;

const RULES: &str = "configs/prometheus-rules.yml";
const DASHBOARD: &str = "configs/grafana-dashboard.json";

/// Where the names are given to Prometheus, and what is put before a name there.
const SOURCES: [(&str, &str); 4] = [
    ("dataplane/node/src/metrics/memory.rs", ""),
    ("dataplane/node/src/metrics/page.rs", ""),
    ("dataplane/node/src/agent/gauges.rs", ""),
    ("control/server/src/metrics.rs", "penstock_control_"),
];

fn read(path: &str) -> String {
    std::fs::read_to_string(tree::root().join(path)).expect("the file is there")
}

fn is_name(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'
}

/// Words of metrics in an expression; jobs and the like have a hyphen.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !is_name(c));
    let words = words.filter(|word| word.starts_with("penstock_"));
    words.map(str::to_owned).collect()
}

/// Names that the sources give to metrics.
fn exported() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (path, prefix) in SOURCES {
        let text = read(path);
        // What tests in the file say is no export.
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for word in code.split('"').skip(1).step_by(2) {
            if !word.is_empty() && word.chars().all(is_name) {
                names.insert(format!("{prefix}{word}"));
            }
        }
    }
    names
}

/// The name without what a histogram's series end with.
fn family(name: &str) -> &str {
    let ends = ["_bucket", "_sum", "_count"];
    let family = ends.iter().find_map(|end| name.strip_suffix(end));
    family.unwrap_or(name)
}

fn unknown(text: &str) -> Vec<String> {
    let exported = exported();
    let known = |name: &String| exported.contains(name) || exported.contains(family(name));
    named(text)
        .into_iter()
        .filter(|name| !known(name))
        .collect()
}

#[test]
fn dashboards_and_alerts_ask_for_metrics_that_exist() {
    for path in [RULES, DASHBOARD] {
        let text = read(path);
        assert!(named(&text).len() > 10, "{path} asks for too little");
        let unknown = unknown(&text);
        assert!(unknown.is_empty(), "{path} asks for {unknown:?}");
    }
    assert_eq!(
        unknown("rate(penstock_no_such_total[5m]) + penstock_reactor_up"),
        ["penstock_no_such_total"]
    );
}

#[test]
fn every_part_of_the_system_is_watched() {
    let text = read(RULES) + &read(DASHBOARD);
    let asked = named(&text);
    for prefix in ["penstock_io_", "penstock_reactor_", "penstock_agent_"] {
        assert!(
            asked.iter().any(|name| name.starts_with(prefix)),
            "{prefix}"
        );
    }
    // The names of control are agreed upon; all of them are shown.
    for name in exported() {
        let shown = asked
            .iter()
            .any(|asked| family(asked) == name || *asked == name);
        assert!(
            !name.starts_with("penstock_control_") || shown || is_label(&name),
            "{name}"
        );
    }
}

/// Labels stand in quotes too where the names of control are made.
fn is_label(name: &str) -> bool {
    let labels = ["method", "code", "kind", "operation"];
    labels
        .iter()
        .any(|label| name == format!("penstock_control_{label}"))
}

#[test]
fn the_dashboard_is_sound() {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let mut ids = BTreeSet::new();
    let mut cells = BTreeSet::new();
    for panel in panels {
        let title = panel["title"].as_str().expect("a title");
        assert!(ids.insert(panel["id"].as_u64()), "{title} has another's id");
        let at = |field: &str| panel["gridPos"][field].as_u64().expect("a position");
        assert!(at("x") + at("w") <= 24, "{title} is too wide");
        for x in at("x")..at("x") + at("w") {
            for y in at("y")..at("y") + at("h") {
                assert!(cells.insert((x, y)), "{title} covers another panel");
            }
        }
        if panel["type"] == "row" {
            continue;
        }
        assert!(
            panel["description"].is_string(),
            "{title} has no description"
        );
        let unit = panel["fieldConfig"]["defaults"]["unit"].as_str();
        assert!(
            unit.is_some_and(|unit| !unit.is_empty()),
            "{title} has no unit"
        );
        let targets = panel["targets"].as_array().expect("targets");
        assert!(!targets.is_empty(), "{title} asks for nothing");
    }
}
