//! Who may use whom.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

use crate::tree;

/// Each crate of the workspace and the others it may use. Development dependencies are free.
const MAY_USE: [(&str, &[&str]); 22] = [
    ("penstock-units", &[]),
    ("penstock-spdk-sys", &[]),
    (
        "penstock-async-nvme",
        &["units", "nvme", "buffer", "spdk-sys"],
    ),
    ("penstock-nvme", &["units"]),
    ("penstock-buffer", &["units"]),
    ("penstock-block", &["units", "buffer"]),
    ("penstock-reactor", &["units", "buffer"]),
    ("penstock-seam", &["units", "nvme", "buffer"]),
    ("penstock-topology", &[]),
    (
        "penstock-backend",
        &["units", "nvme", "buffer", "block", "reactor", "async-nvme"],
    ),
    (
        "penstock-subsystem",
        &["units", "nvme", "buffer", "block", "seam"],
    ),
    (
        "penstock-transport-tcp",
        &["units", "nvme", "buffer", "reactor", "seam"],
    ),
    ("penstock-client", &["units", "nvme", "buffer", "reactor"]),
    (
        "penstock-node",
        &[
            "units",
            "nvme",
            "buffer",
            "block",
            "reactor",
            "backend",
            "async-nvme",
            "seam",
            "subsystem",
            "topology",
            "transport-tcp",
            // The agent speaks control's API and carries out its plans.
            "api",
            "plan",
        ],
    ),
    ("penstock-api", &[]),
    ("penstock-store", &[]),
    ("penstock-plan", &["units", "api"]),
    ("penstock-control", &["units", "api", "store", "plan"]),
    ("penstock-cli", &["units", "api"]),
    ("penstock-hwtests", &["api"]),
    ("penstock-perf", &["api"]),
    ("penstock-xtask", &[]),
];

/// What never comes into the data path, not even through others.
const NOT_IN_THE_DATA_PATH: [&str; 8] = [
    "tokio",
    "tonic",
    "etcd-client",
    "async-std",
    "smol",
    "hyper",
    "mio",
    "futures-executor",
];

struct Graph {
    /// Package id to name.
    names: BTreeMap<String, String>,
    /// Package id to the ids it links (normal and build dependencies).
    links: BTreeMap<String, Vec<String>>,
    members: Vec<Value>,
}

fn graph() -> Graph {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(tree::root())
        .output()
        .expect("cargo metadata runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let list = |value: &Value| value.as_array().expect("a list").clone();
    let packages = list(&metadata["packages"]);
    let names = packages
        .iter()
        .map(|p| (text(&p["id"]), text(&p["name"])))
        .collect();
    let members: BTreeSet<String> = list(&metadata["workspace_members"])
        .iter()
        .map(text)
        .collect();
    let linked = |dependency: &&Value| {
        let kinds = list(&dependency["dep_kinds"]);
        kinds
            .iter()
            .any(|kind| kind["kind"].as_str() != Some("dev"))
    };
    let mut links = BTreeMap::new();
    for node in list(&metadata["resolve"]["nodes"]) {
        let dependencies = list(&node["deps"]);
        let ids = dependencies
            .iter()
            .filter(linked)
            .map(|d| text(&d["pkg"]))
            .collect();
        links.insert(text(&node["id"]), ids);
    }
    let is_member = |package: &Value| members.contains(&text(&package["id"]));
    Graph {
        names,
        links,
        members: packages.into_iter().filter(is_member).collect(),
    }
}

impl Graph {
    fn name(&self, id: &str) -> &str {
        &self.names[id]
    }

    fn member_ids(&self) -> Vec<String> {
        self.members
            .iter()
            .map(|m| m["id"].as_str().expect("an id").to_owned())
            .collect()
    }

    /// Everything that `id` links, through others too.
    fn closure(&self, id: &str) -> BTreeSet<String> {
        let mut seen = BTreeSet::new();
        let mut todo = vec![id.to_owned()];
        while let Some(id) = todo.pop() {
            for next in &self.links[&id] {
                if seen.insert(next.clone()) {
                    todo.push(next.clone());
                }
            }
        }
        seen
    }
}

#[test]
fn crates_use_only_what_they_may() {
    let graph = graph();
    let rules: BTreeMap<&str, &[&str]> = MAY_USE.into_iter().collect();
    let ids = graph.member_ids();
    let ours: BTreeSet<&str> = ids.iter().map(|id| graph.name(id)).collect();
    let mut broken = Vec::new();
    for id in &ids {
        let name = graph.name(id);
        let Some(allowed) = rules.get(name) else {
            broken.push(format!(
                "{name} is not in the table of who may use whom: add it"
            ));
            continue;
        };
        for used in graph.links[id].iter().map(|id| graph.name(id)) {
            let short = used.strip_prefix("penstock-").unwrap_or(used);
            if ours.contains(used) && !allowed.contains(&short) {
                broken.push(format!("{name} may not use {used}; it may use {allowed:?}"));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn the_data_path_links_no_foreign_runtime() {
    let graph = graph();
    let mut broken = Vec::new();
    for package in &graph.members {
        let manifest = package["manifest_path"].as_str().expect("a path");
        let id = package["id"].as_str().expect("an id");
        if !manifest.contains("/dataplane/") && !manifest.contains("/bindings/") {
            continue;
        }
        // Its agent does; `sources` keeps it to the agent.
        if manifest.ends_with("/dataplane/node/Cargo.toml") {
            continue;
        }
        for linked in graph.closure(id) {
            if NOT_IN_THE_DATA_PATH.contains(&graph.name(&linked)) {
                broken.push(format!("{} links {}", graph.name(id), graph.name(&linked)));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn control_reaches_the_data_plane_through_units_only() {
    let graph = graph();
    let folder = |id: &str| {
        let package = graph.members.iter().find(|m| m["id"].as_str() == Some(id));
        package
            .and_then(|m| m["manifest_path"].as_str())
            .unwrap_or("")
            .to_owned()
    };
    let mut checked = 0;
    for id in graph.member_ids() {
        if !folder(&id).contains("/control/") {
            continue;
        }
        checked += 1;
        for linked in graph.closure(&id) {
            let in_dataplane = folder(&linked).contains("/dataplane/");
            let name = graph.name(&linked);
            assert!(
                !in_dataplane || name == "penstock-units",
                "{} links {name}",
                graph.name(&id)
            );
        }
    }
    assert!(checked > 0, "no crate under control/ was found");
}

#[test]
fn every_crate_bears_our_name_and_keeps_the_lints() {
    for package in graph().members {
        let name = package["name"].as_str().expect("a name");
        assert!(
            name.starts_with("penstock-"),
            "{name}: crates are called penstock-..."
        );
        assert_eq!(package["license"].as_str(), Some("Apache-2.0"), "{name}");
        let manifest = package["manifest_path"].as_str().expect("a path");
        let text = std::fs::read_to_string(manifest).expect("a manifest");
        assert!(
            text.contains("[lints]\nworkspace = true"),
            "{name} must take the workspace's lints"
        );
    }
}
