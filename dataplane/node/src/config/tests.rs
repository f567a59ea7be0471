//! Bad input, each message asserted: what is wrong, on which line, what to do.

mod reactors;

use std::collections::BTreeSet;

use super::*;

mod drive;

fn machine() -> Machine {
    Machine {
        cores_online: BTreeSet::from([0, 1, 2, 3]),
        cores_allowed: BTreeSet::from([0, 1, 2]),
        memlock_limit_bytes: Some(8 << 20),
        memory_bytes: 8 << 30,
        hugepages: 100,
    }
}

fn parse(text: &str) -> Result<Config, Problems> {
    Config::parse(Path::new("node.toml"), text, &machine())
}

const LISTENER: &str = "[[listener]]\naddress = \"127.0.0.1:4420\"\n";
const SUBSYSTEM: &str = "[[subsystem]]\nnqn = \"nqn.2026-01.io.example:a\"\n";

/// A file with one listener, one subsystem (lines 1 to 4) and one namespace (from line 5).
fn with_namespace(keys: &str) -> String {
    format!("{LISTENER}{SUBSYSTEM}[[subsystem.namespace]]\n{keys}")
}

#[test]
fn defaults_stand_in_for_what_is_left_out() {
    let config = parse(LISTENER).expect("a listener is enough");
    assert_eq!(config.reactors.cores, Cores::Placed(1));
    assert!(config.reactors.adaptive && config.reactors.pin && !config.reactors.lock_memory);
    assert_eq!(config.tcp.mdts_bytes, 1 << 20);
    assert_eq!(config.tcp.in_capsule_data_size_bytes, 8192);
    assert_eq!(config.metrics_listen, None);
    assert_eq!(config.listeners[0].line, 2);
}

#[test]
fn a_namespace_keeps_its_identity_over_restarts() {
    let text = with_namespace("nsid = 1\nbackend = \"memory\"\nsize_bytes = 8192\n");
    let (one, two) = (parse(&text).expect("sound"), parse(&text).expect("sound"));
    let (one, two) = (&one.subsystems[0], &two.subsystems[0]);
    assert_eq!(one.namespaces[0].uuid, two.namespaces[0].uuid);
    assert_eq!(one.serial, two.serial);
    assert_eq!(one.serial.len(), 20);
}

/// Asserts that `text` is refused with exactly one problem, on `line`, saying all of `parts`.
fn refused(text: &str, line: usize, parts: &[&str]) {
    let problems = parse(text).expect_err(text);
    assert_eq!(problems.0.len(), 1, "{text}\n{problems}");
    assert_eq!(problems.0[0].line, Some(line), "{text}\n{problems}");
    let message = problems.to_string();
    assert!(
        message.starts_with(&format!("node.toml:{line}: ")),
        "{message}"
    );
    for part in parts {
        assert!(message.contains(part), "{message:?} lacks {part:?}");
    }
}

#[test]
fn refuses_what_toml_or_serde_cannot_read() {
    for (text, line, parts) in [
        (
            "[tcp]\nmtds_bytes = 1\n",
            2,
            [
                "unknown key `mtds_bytes` in [tcp]",
                "did you mean `mdts_bytes`?",
            ]
            .as_slice(),
        ),
        (
            "colour = 1\n",
            1,
            &[
                "unknown key `colour` in the file",
                "known keys: node, reactors",
            ],
        ),
        (
            "[reactor]\ncores = [0]\n",
            1,
            &[
                "unknown key `reactor` in the file",
                "did you mean `reactors`?",
            ],
        ),
        (
            "[[listener]]\nadress = \"x\"\n",
            2,
            &["in [listener]", "did you mean `address`?"],
        ),
        (
            "[tcp]\n\nmdts_bytes = \"1M\"\n",
            3,
            &[
                "tcp.mdts_bytes",
                "invalid type: string \"1M\"",
                "whole bytes",
            ],
        ),
        (
            "[tcp]\nmdts_bytes = -1\n",
            2,
            &["tcp.mdts_bytes", "invalid value: integer `-1`"],
        ),
        ("[tcp\n", 1, &["correct the TOML on this line"]),
        ("[tcp]\nr2t_max = 1\nr2t_max = 2\n", 3, &["duplicate key"]),
    ] {
        refused(text, line, parts);
    }
}

#[test]
fn refuses_tcp_log_and_addresses_out_of_their_limits() {
    for (text, line, parts) in [
        (
            "[tcp]\nmdts_bytes = 1048577",
            2,
            ["tcp.mdts_bytes", "no power of two"].as_slice(),
        ),
        (
            "[tcp]\nmdts_bytes = 0",
            2,
            &["0 is outside its limits", "from 4096 to 16777216"],
        ),
        (
            "[tcp]\nin_capsule_data_size_bytes = 8193",
            2,
            &["no multiple of 16"],
        ),
        ("[tcp]\nmax_h2c_data_bytes = 4097", 2, &["no multiple of 4"]),
        ("[tcp]\nqueue_depth_max = 1025", 2, &["from 2 to 1024"]),
        ("[tcp]\nio_queues_max = 129", 2, &["from 1 to 128"]),
        ("[tcp]\nr2t_max = 0", 2, &["from 1 to 4"]),
        ("[tcp]\ntransfer_timeout_ms = 1", 2, &["from 100 to 600000"]),
        ("[log]\nformat = \"xml\"", 2, &["log.format", "text, json"]),
        (
            "[log]\nlevel = \"a=b=c\"",
            2,
            &["log.level", "no log filter"],
        ),
        (
            "[metrics]\nlisten = \"9464\"",
            2,
            &["metrics.listen", "no address with a port"],
        ),
        ("[node]\nname = \"\"", 2, &["node.name", "empty"]),
        ("[node]\nshutdown_timeout_ms = 9000", 2, &["from 0 to 4000"]),
        (
            "[[listener]]\naddress = \"localhost:4420\"",
            2,
            &[
                "listener.address",
                "\"localhost:4420\" is no address",
                "192.0.2.1:4420",
            ],
        ),
        (
            "[[listener]]\n",
            1,
            &["listener.address", "the address is missing"],
        ),
    ] {
        refused(&format!("{text}\n{LISTENER}"), line, parts);
    }
}

#[test]
fn refuses_no_listener_and_one_twice() {
    let twice = format!("{LISTENER}{LISTENER}");
    refused(
        &twice,
        4,
        &[
            "127.0.0.1:4420 is a listener already (line 2)",
            "remove one",
        ],
    );
    let none = parse("").expect_err("no listener");
    assert!(
        none.to_string()
            .contains("node.toml: [[listener]]: the node listens nowhere")
    );
}

#[test]
fn refuses_namespaces_that_cannot_be() {
    for (keys, line, parts) in [
        (
            "backend = \"memory\"",
            5,
            ["namespace.nsid", "missing"].as_slice(),
        ),
        (
            "nsid = 0\nbackend = \"memory\"",
            6,
            &["0 is no namespace id", "from 1"],
        ),
        (
            "nsid = 1",
            5,
            &["the backend is missing", "memory, null, file, block"],
        ),
        (
            "nsid = 1\nbackend = \"tape\"",
            7,
            &["\"tape\" is not known here", "memory, null"],
        ),
        (
            "nsid = 1\nbackend = \"memory\"",
            7,
            &["a memory namespace needs a size"],
        ),
        (
            "nsid = 1\nbackend = \"file\"",
            7,
            &["a file namespace needs a path"],
        ),
        (
            "nsid = 1\nbackend = \"block\"",
            7,
            &["a block namespace needs a path"],
        ),
        (
            "nsid = 300\nbackend = \"null\"\nsize_bytes = 4096",
            6,
            &["above namespaces_max (256)"],
        ),
    ] {
        refused(&with_namespace(keys), line, parts);
    }
}

#[test]
fn refuses_sizes_identities_and_keys_that_do_not_fit() {
    for (keys, line, parts) in [
        (
            "nsid = 1\nbackend = \"null\"\nsize_bytes = 0",
            8,
            ["0 bytes are no size to serve"].as_slice(),
        ),
        (
            "nsid = 1\nbackend = \"null\"\nsize_bytes = 10000",
            8,
            &[
                "10000 is no multiple of the block size, 4096 bytes",
                "use 8192",
            ],
        ),
        (
            "nsid = 1\nbackend = \"null\"\nsize_bytes = 4096\nblock_size_bytes = 1000",
            9,
            &["blocks of 1000 bytes are not served", "use 512 or 4096"],
        ),
        (
            "nsid = 1\nbackend = \"null\"\nsize_bytes = 4096\nuuid = \"x\"",
            9,
            &["\"x\" is no UUID", "uuidgen"],
        ),
        (
            "nsid = 1\nbackend = \"memory\"\nsize_bytes = 4096\npath = \"/x\"",
            9,
            &["path means nothing to a memory namespace", "file, block"],
        ),
        (
            "nsid = 1\nbackend = \"block\"\npath = \"/x\"\nsize_bytes = 4096",
            9,
            &["size_bytes means nothing to a block namespace"],
        ),
        (
            "nsid = 1\nbackend = \"memory\"\nsize_bytes = 4096\nlatency_us = 5",
            9,
            &["latency_us means nothing to a memory namespace", "null"],
        ),
    ] {
        refused(&with_namespace(keys), line, parts);
    }
}

#[test]
fn refuses_what_stands_in_the_file_twice() {
    let one = "[[subsystem.namespace]]\nnsid = 1\nbackend = \"null\"\nsize_bytes = 4096\n";
    let twice = format!("{LISTENER}{SUBSYSTEM}{one}{one}");
    refused(
        &twice,
        10,
        &[
            "namespace id 1 is used twice in nqn.2026-01.io.example:a",
            "line 5",
        ],
    );

    let subsystems = format!("{LISTENER}{SUBSYSTEM}{SUBSYSTEM}");
    refused(
        &subsystems,
        5,
        &["nqn.2026-01.io.example:a is defined on line 3 already"],
    );

    let file = |nsid| {
        format!("[[subsystem.namespace]]\nnsid = {nsid}\nbackend = \"file\"\npath = \"x.img\"\n")
    };
    let files = format!("{LISTENER}{SUBSYSTEM}{}{}", file(1), file(2));
    refused(&files, 9, &["x.img is kept by line 5 already"]);
}

#[test]
fn refuses_bad_names_of_subsystems_and_hosts() {
    for (keys, parts) in [
        (
            "serial = \"x\"",
            ["subsystem.nqn", "the NQN is missing"].as_slice(),
        ),
        (
            "nqn = \"training\"",
            &["\"training\" is no NQN", "must look like nqn.yyyy-mm"],
        ),
        (
            "nqn = \"nqn.2014-08.org.nvmexpress.discovery\"",
            &["discovery subsystem is built in"],
        ),
        (
            "nqn = \"nqn.2026-01.io.e:a\"\nhosts = [\"me\"]",
            &["subsystem.hosts", "\"me\" is no NQN"],
        ),
        (
            "nqn = \"nqn.2026-01.io.e:a\"\nserial = \"123456789012345678901\"",
            &["subsystem.serial", "1 to 20 printable"],
        ),
        (
            "nqn = \"nqn.2026-01.io.e:a\"\nmodel = \"Ä\"",
            &["subsystem.model", "1 to 40"],
        ),
    ] {
        let text = format!("{LISTENER}[[subsystem]]\n{keys}\n");
        let message = parse(&text).expect_err(&text).to_string();
        for part in parts {
            assert!(message.contains(part), "{message:?} lacks {part:?}");
        }
    }
}

#[test]
fn tells_everything_that_is_wrong_in_the_order_of_the_file() {
    let text = format!("[tcp]\nr2t_max = 0\nmdts_bytes = 5\n{LISTENER}[[subsystem]]\n");
    let lines: Vec<_> = parse(&text)
        .expect_err("wrong")
        .0
        .iter()
        .map(|problem| problem.line)
        .collect();
    assert_eq!(lines, [Some(2), Some(3), Some(3), Some(6)]);
}

#[test]
fn the_summary_names_what_will_run() {
    let config = parse(&with_namespace(
        "nsid = 1\nbackend = \"memory\"\nsize_bytes = 8192\n",
    ));
    let summary = config.expect("sound").to_string();
    for part in [
        "node.toml is sound",
        "tcp 127.0.0.1:4420",
        "1: memory, 8192 bytes",
        "no host",
    ] {
        assert!(summary.contains(part), "{summary}");
    }
}

const DEVICE: &str = "[[device]]\n";

#[test]
fn devices_are_files_drives_and_memory() {
    let config = parse(&format!(
        "{LISTENER}{DEVICE}name = \"d0\"\nbackend = \"file\"\npath = \"/x/d0\"\nsize_bytes = 1048576\n\
         {DEVICE}name = \"d1\"\nbackend = \"block\"\npath = \"/dev/none\"\nblock_size_bytes = 512\n\
         {DEVICE}name = \"d2\"\nbackend = \"memory\"\nsize_bytes = 4096\n"
    ))
    .expect("sound");
    let names: Vec<&str> = config.devices.iter().map(|d| d.name.as_str()).collect();
    assert_eq!(names, ["d0", "d1", "d2"]);
    let summary = config.to_string();
    for part in [
        "device d0: file /x/d0, 1048576 bytes, blocks of 4096 bytes",
        "device d1: block /dev/none, whole size, blocks of 512 bytes",
        "device d2: memory, 4096 bytes",
    ] {
        assert!(summary.contains(part), "{summary}");
    }
    let problems = config
        .check_files()
        .expect_err("no such folder, no such drive");
    assert_eq!(problems.0.len(), 2, "{problems}");
    assert!(
        problems
            .to_string()
            .contains("node.toml:3: device.path: /x/d0 cannot be made")
    );
}

#[test]
fn refuses_devices_that_cannot_be() {
    let cases: [(&str, usize, &[&str]); 11] = [
        (
            "backend = \"file\"\npath = \"x\"",
            1,
            &["device.name", "a letter first"],
        ),
        (
            "name = \"D0\"\nbackend = \"memory\"\nsize_bytes = 4096",
            2,
            &["device.name"],
        ),
        (
            "name = \"d0\"",
            1,
            &[
                "device.backend: the backend is missing",
                "file, block, memory",
            ],
        ),
        (
            "name = \"d0\"\nbackend = \"null\"",
            3,
            &["\"null\" is not known here"],
        ),
        (
            "name = \"d0\"\nbackend = \"memory\"",
            3,
            &["device.size_bytes", "needs a size"],
        ),
        (
            "name = \"d0\"\nbackend = \"file\"",
            3,
            &["device.path", "needs a path"],
        ),
        (
            "name = \"d0\"\nbackend = \"block\"",
            3,
            &["device.path", "needs a path"],
        ),
        (
            "name = \"d0\"\nbackend = \"block\"\npath = \"x\"\nsize_bytes = 4096",
            5,
            &["size_bytes means nothing to a block device", "remove it"],
        ),
        (
            "name = \"d0\"\nbackend = \"memory\"\npath = \"x\"\nsize_bytes = 4096",
            4,
            &["path means nothing to a memory device"],
        ),
        (
            "name = \"d0\"\nbackend = \"memory\"\nsize_bytes = 1000",
            4,
            &["device.size_bytes: 1000 is no multiple of the block size"],
        ),
        (
            "name = \"d0\"\nbackend = \"file\"\npath = \"x\"\nblock_size_bytes = 1024",
            5,
            &[
                "device.block_size_bytes: blocks of 1024 bytes",
                "512 or 4096",
            ],
        ),
    ];
    for (keys, line, parts) in cases {
        refused(&format!("{DEVICE}{keys}\n{LISTENER}"), line, parts);
    }
}

#[test]
fn refuses_a_device_named_or_used_twice() {
    let one = "name = \"d0\"\nbackend = \"file\"\npath = \"x\"\n";
    let other = one.replace("\"x\"", "\"y\"");
    let twice = format!("{DEVICE}{one}{DEVICE}{other}{LISTENER}");
    refused(
        &twice,
        6,
        &["\"d0\" is a device already (line 1)", "its own name"],
    );
    let shared = format!(
        "{LISTENER}{SUBSYSTEM}[[subsystem.namespace]]\nnsid = 1\nbackend = \"file\"\npath = \"x\"\n{DEVICE}{one}"
    );
    refused(
        &shared,
        9,
        &[
            "device.path: x is kept by line 5 already",
            "its own file or drive",
        ],
    );
}

/// The keys that serde knows in the table that `header` opens, read off its own error message.
fn keys_of(header: &str) -> Vec<String> {
    let text = format!("{header}\nzzz = 1\n");
    let error = toml::from_str::<schema::Root>(&text).expect_err("zzz is unknown");
    let (_, known) = problem::unknown_field(error.message()).expect("serde's wording");
    known.into_iter().map(str::to_owned).collect()
}

#[test]
fn the_example_documents_every_key() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/node.toml");
    let text = std::fs::read_to_string(&path).expect("configs/node.toml");
    let config = Config::parse(&path, &text, &machine()).expect("the example is sound");
    let bare = parse(LISTENER).expect("defaults");
    assert_eq!(config.node, bare.node);
    assert_eq!(config.reactors, bare.reactors);
    assert_eq!(config.log, bare.log);
    assert_eq!(config.tcp, bare.tcp);

    for (table, header) in [
        ("node", "[node]"),
        ("reactors", "[reactors]"),
        ("log", "[log]"),
        ("metrics", "[metrics]"),
        ("tcp", "[tcp]"),
        ("control", "[control]"),
        ("device", "[[device]]"),
        ("listener", "[[listener]]"),
        ("subsystem", "[[subsystem]]"),
        ("namespace", "[[subsystem]]\n[[subsystem.namespace]]"),
    ] {
        for key in keys_of(header) {
            assert!(documented(&text, &key), "[{table}] {key} is not documented");
        }
    }
    for table in keys_of("") {
        assert!(
            text.contains(&format!("[{table}]")),
            "[{table}] is not documented"
        );
    }
}

/// Whether a line (a commented one counts) sets `key`, or opens it as a table, under a comment
/// that tells a default or that there is none.
fn documented(text: &str, key: &str) -> bool {
    let lines: Vec<&str> = text.lines().collect();
    lines.iter().enumerate().any(|(index, line)| {
        let bare = line.trim_start_matches("# ");
        if bare.starts_with(&format!("[[subsystem.{key}]]")) {
            return true;
        }
        let comment: Vec<&str> = lines[..index]
            .iter()
            .rev()
            .take_while(|above| above.starts_with('#'))
            .copied()
            .collect();
        bare.starts_with(&format!("{key} = "))
            && comment.join(" ").to_lowercase().contains("default")
    })
}

const CONTROL: &str = "[control]\nstate_directory = \"/s\"\n";

#[test]
fn control_needs_no_listener_of_the_file() {
    let text = format!("{CONTROL}endpoints = [\"http://127.0.0.1:7600\", \"http://[::1]:7600\"]\n");
    let config = parse(&text).expect("sound");
    assert!(
        config
            .to_string()
            .contains("control: http://127.0.0.1:7600, http://[::1]:7600")
    );
    let control = config.control.expect("control");
    assert_eq!(control.endpoints.len(), 2);
    assert_eq!(control.tls, None);
    assert_eq!(control.reconnect_backoff_max, Duration::from_secs(2));
}

#[test]
fn control_with_tls_takes_all_three_files() {
    let files = "tls_ca_file = \"a\"\ntls_certificate_file = \"b\"\ntls_key_file = \"c\"\n";
    let text = format!("{CONTROL}endpoints = [\"https://control.example:7600\"]\n");
    let config = parse(&format!("{text}{files}")).expect("sound");
    let tls = config.control.and_then(|control| control.tls).expect("TLS");
    assert_eq!(tls.key, Path::new("c"));
    let message = parse(&text).expect_err("no files").to_string();
    for key in ["tls_ca_file", "tls_certificate_file", "tls_key_file"] {
        assert!(
            message.contains(&format!("control.{key}: the file is not named")),
            "{message}"
        );
    }
    assert!(message.contains("penstock certs init"), "{message}");
}

#[test]
fn refuses_addresses_of_control_that_cannot_be() {
    for (text, parts) in [
        (
            "[]",
            ["no address of control is given", "https://"].as_slice(),
        ),
        (
            "[\"http://10.0.0.1:7600\"]",
            &["another machine without TLS", "use https://"],
        ),
        (
            "[\"http://control:7600\"]",
            &["another machine without TLS"],
        ),
        (
            "[\"http://127.0.0.1\"]",
            &["is no address of control", "HOST:PORT"],
        ),
        ("[\"ftp://127.0.0.1:1\"]", &["is no address of control"]),
        ("[\"127.0.0.1:7600\"]", &["is no address of control"]),
        (
            "[\"http://127.0.0.1:7600/x\"]",
            &["is no address of control"],
        ),
        ("[\"a b\"]", &["is no address", "HOST:PORT"]),
        (
            "[\"http://127.0.0.1:1\", \"http://127.0.0.1:1\"]",
            &["is named twice", "once"],
        ),
    ] {
        refused(&format!("{CONTROL}endpoints = {text}\n"), 3, parts);
    }
    let unnamed = "[control]\nendpoints = [\"http://localhost:7600\"]\n";
    refused(
        unnamed,
        1,
        &["control.state_directory", "no folder", "/var/lib/penstock"],
    );
}

#[test]
fn control_knows_nodes_by_a_plain_name() {
    let control = format!("{CONTROL}endpoints = [\"http://localhost:7600\"]\n");
    for name in ["Node_1", "1n", "n-", "nodes/n1"] {
        let text = format!("[node]\nname = \"{name}\"\n{control}");
        refused(
            &text,
            2,
            &["node.name", "control could not know", "a letter first"],
        );
        parse(&format!("[node]\nname = \"{name}\"\n{LISTENER}")).expect("without control");
    }
}

#[test]
fn the_files_of_control_are_looked_at() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("ca"), "-----BEGIN CERTIFICATE-----").expect("written");
    std::fs::write(path("key"), "what?").expect("written");
    let text = format!(
        "[control]\nendpoints = [\"https://c:1\"]\nstate_directory = \"{}\"\ntls_ca_file = \"{}\"\n\
         tls_certificate_file = \"{}\"\ntls_key_file = \"{}\"\n",
        path("ca"),
        path("ca"),
        path("none"),
        path("key")
    );
    let config = parse(&text).expect("sound in itself");
    let message = config
        .check_files()
        .expect_err("not on this machine")
        .to_string();
    for part in [
        "ca is no folder",
        "none: No such file",
        "key holds no PRIVATE KEY in PEM",
    ] {
        assert!(message.contains(part), "{message:?} lacks {part:?}");
    }
    assert!(!message.contains("tls_ca_file"), "{message}");
}
