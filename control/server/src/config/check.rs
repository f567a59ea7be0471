//! From what the file says to a sound [`Config`]: defaults, limits, contradictions.
//!
//! Checking goes on after a finding, so that one run tells everything that is wrong.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;

use super::problem::Source;
use super::schema::{self, Key};
use super::{
    Config, EtcdSettings, Identity, LogSettings, Problems, Quotas, Retention, Settings,
    StoreSettings,
};

/// One more than which is no number of TOML.
const MOST: u64 = i64::MAX as u64;

pub(super) fn check(file: &Path, text: &str) -> Result<Config, Problems> {
    let source = Source::new(file, text);
    let root: schema::Root =
        toml::from_str(text).map_err(|error| Problems(vec![source.unreadable(&error)]))?;
    let mut checker = Checker {
        source,
        problems: Vec::new(),
    };
    let config = checker.config(&root);
    let mut problems = checker.problems;
    if problems.is_empty() {
        return Ok(config);
    }
    problems.sort_by_key(|problem| problem.line);
    Err(Problems(problems))
}

struct Checker<'a> {
    source: Source<'a>,
    problems: Vec<super::Problem>,
}

fn at<T>(key: &Key<T>) -> Option<usize> {
    key.as_ref().map(|key| key.span().start)
}

fn text(key: &Key<String>) -> Option<String> {
    let text = key.as_ref()?.get_ref();
    (!text.is_empty()).then(|| text.clone())
}

fn path(key: &Key<String>) -> Option<PathBuf> {
    text(key).map(PathBuf::from)
}

impl Checker<'_> {
    fn refuse(&mut self, offset: Option<usize>, key: &str, what: String, remedy: &str) {
        let problem = self.source.problem(offset, key, what, remedy);
        self.problems.push(problem);
    }

    /// A number within its limits, or its default. After a refusal the default stands in.
    fn number(
        &mut self,
        key: &str,
        given: &Key<u64>,
        default: u64,
        limits: RangeInclusive<u64>,
    ) -> u64 {
        let Some(value) = given.as_ref().map(|given| *given.get_ref()) else {
            return default;
        };
        if limits.contains(&value) {
            return value;
        }
        let (low, high) = limits.into_inner();
        let remedy = format!("give a value from {low} to {high}");
        let what = format!("{value} is outside its limits");
        self.refuse(at(given), key, what, &remedy);
        default
    }

    fn ms(
        &mut self,
        key: &str,
        given: &Key<u64>,
        default: u64,
        limits: RangeInclusive<u64>,
    ) -> Duration {
        Duration::from_millis(self.number(key, given, default, limits))
    }

    fn seconds(&mut self, key: &str, given: &Key<u64>, default: u64, low: u64) -> Duration {
        Duration::from_secs(self.number(key, given, default, low..=31_536_000))
    }

    /// One of a few words, or the first of them.
    fn word(&mut self, key: &str, given: &Key<String>, words: &[&'static str]) -> &'static str {
        let Some(value) = given.as_ref().map(Spanned::get_ref) else {
            return words[0];
        };
        if let Some(word) = words.iter().find(|word| *word == value) {
            return word;
        }
        let remedy = format!("use one of: {}", words.join(", "));
        self.refuse(
            at(given),
            key,
            format!("\"{value}\" is not known here"),
            &remedy,
        );
        words[0]
    }

    fn address(&mut self, key: &str, given: &Key<String>, default: &str) -> Option<SocketAddr> {
        let value = given.as_ref().map_or(default, |given| given.get_ref());
        if value.is_empty() {
            return None;
        }
        let parsed = value.parse().ok();
        if parsed.is_none() {
            let what = format!("\"{value}\" is no address with a port");
            let remedy = "write \"192.0.2.1:7600\" for IPv4 or \"[2001:db8::1]:7600\" for IPv6";
            self.refuse(at(given), key, what, remedy);
        }
        parsed
    }

    /// A word that becomes part of keys in the store.
    fn identifier(&mut self, key: &str, given: &Key<String>, default: &str) -> String {
        let value = text(given).unwrap_or_else(|| default.to_owned());
        if penstock_api::names::check_id(&value).is_err() {
            let remedy = "use 1 to 63 of a-z, 0-9 and -, with a letter first and no - at the end";
            self.refuse(
                at(given),
                key,
                format!("\"{value}\" is no good name"),
                remedy,
            );
        }
        value
    }

    fn config(&mut self, root: &schema::Root) -> Config {
        let control = &root.control;
        let listen = self.address("control.listen", &control.listen, "127.0.0.1:7600");
        let listen = listen.unwrap_or_else(|| {
            if at(&control.listen).is_some() && text(&control.listen).is_none() {
                let what = "the server listens nowhere".to_owned();
                let remedy = "give an address such as \"127.0.0.1:7600\"";
                self.refuse(at(&control.listen), "control.listen", what, remedy);
            }
            SocketAddr::from(([127, 0, 0, 1], 7600))
        });
        let tls = self.tls(&root.tls);
        if tls.is_none() && !listen.ip().is_loopback() {
            let what = format!(
                "{listen} can be reached from other machines, and without [tls] anybody who does \
                 reach it is an administrator"
            );
            let remedy = "set ca_file, cert_file and key_file in [tls] (`penstock certs init` makes \
                          them for a lab), or listen on 127.0.0.1";
            self.refuse(at(&control.listen), "control.listen", what, remedy);
        }
        Config {
            file: self.source.file.to_owned(),
            listen,
            shutdown_timeout: self.ms(
                "control.shutdown_timeout_ms",
                &control.shutdown_timeout_ms,
                3_000,
                0..=60_000,
            ),
            store: self.store(&root.store, &root.retention),
            tls,
            metrics_listen: self.address("metrics.listen", &root.metrics.listen, "127.0.0.1:7601"),
            log: self.log(&root.log),
            settings: self.settings(root),
        }
    }

    fn settings(&mut self, root: &schema::Root) -> Settings {
        let (control, nodes) = (&root.control, &root.nodes);
        let auto = nodes.auto_register.as_ref();
        Settings {
            name: text(&control.name).unwrap_or_else(|| "penstock-control".to_owned()),
            cluster: self.identifier("store.cluster", &root.store.cluster, "default"),
            auto_register: auto.is_some_and(|auto| *auto.get_ref()),
            session_time_to_live: self.ms(
                "nodes.session_time_to_live_ms",
                &nodes.session_time_to_live_ms,
                10_000,
                2_000..=600_000,
            ),
            leader_time_to_live: self.ms(
                "control.leader_time_to_live_ms",
                &control.leader_time_to_live_ms,
                5_000,
                2_000..=600_000,
            ),
            quotas: self.quotas(&root.quotas),
            retention: self.retention(&root.retention),
        }
    }

    fn quotas(&mut self, given: &schema::Quotas) -> Quotas {
        let default = Quotas::default();
        let mut count =
            |key: &str, value: &Key<u64>, default| self.number(key, value, default, 0..=MOST);
        Quotas {
            nodes_max: count("quotas.nodes_max", &given.nodes_max, default.nodes_max),
            volumes_max: count(
                "quotas.volumes_max",
                &given.volumes_max,
                default.volumes_max,
            ),
            subsystems_max: count(
                "quotas.subsystems_max",
                &given.subsystems_max,
                default.subsystems_max,
            ),
            namespaces_max: count(
                "quotas.namespaces_max",
                &given.namespaces_max,
                default.namespaces_max,
            ),
            hosts_max: count("quotas.hosts_max", &given.hosts_max, default.hosts_max),
            listeners_max: count(
                "quotas.listeners_max",
                &given.listeners_max,
                default.listeners_max,
            ),
            volume_size_bytes_max: count(
                "quotas.volume_size_max_bytes",
                &given.volume_size_max_bytes,
                default.volume_size_bytes_max,
            ),
            volumes_total_bytes_max: count(
                "quotas.volumes_total_max_bytes",
                &given.volumes_total_max_bytes,
                default.volumes_total_bytes_max,
            ),
        }
    }

    fn retention(&mut self, given: &schema::Retention) -> Retention {
        Retention {
            history: self.seconds("retention.history_s", &given.history_s, 3_600, 1),
            operations: self.seconds("retention.operations_s", &given.operations_s, 86_400, 60),
            requests: self.seconds("retention.requests_s", &given.requests_s, 86_400, 60),
        }
    }

    fn store(&mut self, given: &schema::Store, retention: &schema::Retention) -> StoreSettings {
        let kind = self.word("store.kind", &given.kind, &["embedded", "etcd"]);
        let history_revisions = self.number(
            "retention.history_revisions",
            &retention.history_revisions,
            10_000,
            100..=10_000_000,
        );
        if kind == "embedded" {
            return StoreSettings::Embedded {
                path: path(&given.path)
                    .unwrap_or_else(|| PathBuf::from("/var/lib/penstock/control.redb")),
                history_revisions,
            };
        }
        let endpoints: Vec<String> = given.endpoints.as_ref().map_or_else(Vec::new, |list| {
            let each = list.get_ref().iter();
            each.map(|endpoint| endpoint.get_ref().clone()).collect()
        });
        if endpoints.is_empty() {
            let what = "no member of the etcd cluster is named".to_owned();
            let remedy = "add endpoints = [\"https://192.0.2.1:2379\"]";
            let offset = at(&given.endpoints).or(at(&given.kind));
            self.refuse(offset, "store.endpoints", what, remedy);
        }
        for endpoint in given.endpoints.iter().flat_map(|list| list.get_ref()) {
            let address = endpoint.get_ref();
            if !address.starts_with("http://") && !address.starts_with("https://") {
                let what = format!("\"{address}\" is no address of an etcd member");
                let remedy = "write \"https://192.0.2.1:2379\", or http:// without TLS";
                self.refuse(Some(endpoint.span().start), "store.endpoints", what, remedy);
            }
        }
        if text(&given.user).is_some() != path(&given.password_file).is_some() {
            let what = "user and password_file go together".to_owned();
            let offset = at(&given.user).or(at(&given.password_file));
            self.refuse(offset, "store.user", what, "give both or neither");
        }
        let (cert, key) = (path(&given.cert_file), path(&given.key_file));
        if cert.is_some() != key.is_some() || (cert.is_some() && path(&given.ca_file).is_none()) {
            let what = "ca_file, cert_file and key_file of the store do not go together".to_owned();
            let offset = at(&given.cert_file).or(at(&given.key_file));
            let remedy = "give all three, or ca_file alone, or none";
            self.refuse(offset, "store.cert_file", what, remedy);
        }
        let timeout = |checker: &mut Self, key, given| checker.ms(key, given, 5_000, 100..=60_000);
        StoreSettings::Etcd(EtcdSettings {
            endpoints,
            user: text(&given.user),
            password_file: path(&given.password_file),
            ca_file: path(&given.ca_file),
            cert_file: cert,
            key_file: key,
            request_timeout: timeout(self, "store.request_timeout_ms", &given.request_timeout_ms),
            connect_timeout: self.ms(
                "store.connect_timeout_ms",
                &given.connect_timeout_ms,
                2_000,
                100..=60_000,
            ),
        })
    }

    fn tls(&mut self, given: &schema::Tls) -> Option<Identity> {
        let files = [&given.ca_file, &given.cert_file, &given.key_file];
        match files.map(path) {
            [None, None, None] => None,
            [Some(ca_file), Some(cert_file), Some(key_file)] => Some(Identity {
                ca_file,
                cert_file,
                key_file,
            }),
            _ => {
                let what = "ca_file, cert_file and key_file go together".to_owned();
                let offset = files.iter().find_map(|file| at(file));
                self.refuse(offset, "tls", what, "give all three or none");
                None
            }
        }
    }

    fn log(&mut self, log: &schema::Log) -> LogSettings {
        let json = self.word("log.format", &log.format, &["text", "json"]) == "json";
        let level = text(&log.level).unwrap_or_else(|| "info".to_owned());
        if let Err(error) = tracing_subscriber::EnvFilter::builder().parse(&level) {
            let what = format!("\"{level}\" is no log filter: {error}");
            let remedy = "use error, warn, info, debug, trace, or directives such as \
                          \"info,penstock_control=debug\"";
            self.refuse(at(&log.level), "log.level", what, remedy);
        }
        LogSettings { json, level }
    }
}
