//! Bad input, each message asserted: what is wrong, on which line, what to do.

use super::*;

fn parse(text: &str) -> Result<Config, Problems> {
    Config::parse(Path::new("control.toml"), text)
}

#[test]
fn nothing_is_needed() {
    let config = parse("").expect("defaults");
    assert_eq!(config.listen, SocketAddr::from(([127, 0, 0, 1], 7600)));
    assert_eq!(config.settings, Settings::default());
    assert!(config.tls.is_none());
}

/// Asserts that `text` is refused with exactly one problem, on `line`, saying all of `parts`.
fn refused(text: &str, line: usize, parts: &[&str]) {
    let problems = parse(text).expect_err(text);
    assert_eq!(problems.0.len(), 1, "{text}\n{problems}");
    let message = problems.to_string();
    let place = format!("control.toml:{line}: ");
    assert!(message.starts_with(&place), "{text}\n{message}");
    for part in parts {
        assert!(message.contains(part), "{message:?} lacks {part:?}");
    }
}

#[test]
fn refuses_what_cannot_be_read() {
    refused(
        "[store]\nkidn = \"etcd\"\n",
        2,
        &["unknown key `kidn` in [store]", "known keys: kind, cluster"],
    );
    refused(
        "[stores]\nkind = \"etcd\"\n",
        1,
        &["unknown key `stores` in the file"],
    );
    refused(
        "[nodes]\nauto_register = \"yes\"\n",
        2,
        &["nodes.auto_register", "invalid type", "expected type"],
    );
    refused("[store\n", 1, &["correct the TOML on this line"]);
}

#[test]
fn refuses_values_beyond_their_limits() {
    for (text, line, parts) in [
        (
            "[control]\nleader_time_to_live_ms = 1\n",
            2,
            ["control.leader_time_to_live_ms", "from 2000 to 600000"],
        ),
        (
            "[store]\nkind = \"redis\"\n",
            2,
            ["\"redis\" is not known", "embedded, etcd"],
        ),
        (
            "[store]\nkind = \"etcd\"\n",
            2,
            ["store.endpoints", "add endpoints"],
        ),
        (
            "[store]\nkind = \"etcd\"\nendpoints = [\n\"a:1\"]\n",
            4,
            ["\"a:1\" is no address", "https://"],
        ),
        (
            "[store]\nkind = \"etcd\"\nendpoints = [\"http://a:1\"]\nuser = \"u\"\n",
            4,
            ["go together", "both or neither"],
        ),
        (
            "[store]\ncluster = \"A/b\"\n",
            2,
            ["\"A/b\" is no good name", "a-z"],
        ),
        (
            "[control]\nlisten = \"0.0.0.0:7600\"\n",
            2,
            ["anybody", "penstock certs init"],
        ),
        (
            "[control]\nlisten = \"\"\n",
            2,
            ["listens nowhere", "give an address"],
        ),
        (
            "[metrics]\nlisten = \"7601\"\n",
            2,
            ["no address with a port", "192.0.2.1"],
        ),
        (
            "[tls]\nca_file = \"a\"\n",
            2,
            ["go together", "all three or none"],
        ),
        (
            "[log]\nlevel = \"a=b=c\"\n",
            2,
            ["no log filter", "use error, warn"],
        ),
    ] {
        refused(text, line, &parts);
    }
}

#[test]
fn tls_opens_other_addresses() {
    let config = parse(
        "[control]\nlisten = \"0.0.0.0:7600\"\n[tls]\nca_file = \"/no/a\"\n\
         cert_file = \"/no/b\"\nkey_file = \"/no/c\"\n[store]\npath = \"/no/such/d\"\n",
    )
    .expect("sound in itself");
    let problems = config.check_files().expect_err("no such files");
    assert_eq!(problems.0.len(), 4, "{problems}");
    assert!(problems.to_string().contains("there is no folder /no/such"));
    assert!(config.to_string().contains("client certificates required"));
}

/// The keys that serde knows in the table that `header` opens, read off its own error message.
fn keys_of(header: &str) -> Vec<String> {
    let text = format!("{header}\nzzz = 1\n");
    let error = toml::from_str::<schema::Root>(&text).expect_err("zzz is unknown");
    let (_, known) = problem::unknown_field(error.message()).expect("serde's wording");
    known.into_iter().map(str::to_owned).collect()
}

#[test]
fn the_example_documents_every_key_and_its_default() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/control.toml");
    let text = std::fs::read_to_string(&file).expect("configs/control.toml");
    let config = Config::parse(&file, &text).expect("the example is sound");
    let bare = Config::parse(&file, "").expect("defaults");
    assert_eq!(config, bare, "the example shows the defaults");
    for table in keys_of("") {
        assert!(text.contains(&format!("[{table}]")), "[{table}] is missing");
        let (_, body) = text.split_once(&format!("[{table}]\n")).expect("table");
        let body = body.split("\n[").next().unwrap_or(body);
        for key in keys_of(&format!("[{table}]")) {
            assert!(documented(body, &key), "[{table}] {key} is not documented");
        }
    }
}

/// Whether a line (a commented one counts) sets `key` under a comment that tells a default or that
/// there is none.
fn documented(text: &str, key: &str) -> bool {
    let lines: Vec<&str> = text.lines().collect();
    lines.iter().enumerate().any(|(index, line)| {
        let above = lines[..index].iter().rev();
        let comment: Vec<&str> = above
            .take_while(|above| above.starts_with('#'))
            .copied()
            .collect();
        line.trim_start_matches("# ")
            .starts_with(&format!("{key} = "))
            && comment.join(" ").to_lowercase().contains("default")
    })
}
