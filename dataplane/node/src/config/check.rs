//! From what the file says to a sound [`Config`]: defaults, limits, contradictions.
//!
//! Checking goes on after a finding, so that one run tells everything that is wrong.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use toml::Spanned;

use super::problem::Source;
use super::schema::{self, Key};
use super::{
    Config, CongestionControl, LogSettings, Machine, NodeSettings, Placed, Problem, Problems,
    ReactorSettings, TcpSettings,
};

mod control;
mod cores;
mod device;
mod drive;
mod subsystem;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Pool leases that a reactor must be able to hand out at the same time.
const LEASES_MIN: u64 = 4;

pub(super) fn check(file: &Path, text: &str, machine: &Machine) -> Result<Config, Problems> {
    let source = Source::new(file, text);
    let root: schema::Root =
        toml::from_str(text).map_err(|error| Problems(vec![source.syntax_problem(&error)]))?;
    let mut checker = Checker {
        source,
        problems: Vec::new(),
    };
    let config = checker.config(file, &root, machine);
    let mut problems = checker.problems;
    if problems.is_empty() {
        return Ok(config);
    }
    problems.sort_by_key(|problem| problem.line);
    Err(Problems(problems))
}

struct Checker<'a> {
    source: Source<'a>,
    problems: Vec<Problem>,
}

fn offset<T>(key: &Spanned<T>) -> Option<usize> {
    Some(key.span().start)
}

impl Checker<'_> {
    fn refuse(&mut self, at: Option<usize>, key: &str, what: String, remedy: impl Into<String>) {
        let problem = self.source.problem(at, key, what, remedy.into());
        self.problems.push(problem);
    }

    fn line<T>(&self, key: &Spanned<T>) -> usize {
        self.source.line_of(key.span().start)
    }

    /// A number within its limits, or its default. After a refusal the default stands in.
    fn number<T>(
        &mut self,
        key: &str,
        given: &Key<u64>,
        default: T,
        limits: RangeInclusive<u64>,
    ) -> T
    where
        T: TryFrom<u64>,
    {
        let Some(given) = given else { return default };
        let value = *given.get_ref();
        match T::try_from(value) {
            Ok(fits) if limits.contains(&value) => fits,
            _ => {
                let (low, high) = limits.into_inner();
                let what = format!("{value} is outside its limits");
                self.refuse(
                    offset(given),
                    key,
                    what,
                    format!("give a value from {low} to {high}"),
                );
                default
            }
        }
    }

    /// One of a few words, or the first of them.
    fn word(&mut self, key: &str, given: &Key<String>, words: &[&'static str]) -> &'static str {
        let Some(given) = given else { return words[0] };
        if let Some(word) = words.iter().find(|word| *word == given.get_ref()) {
            return word;
        }
        let what = format!("\"{}\" is not known here", given.get_ref());
        self.refuse(
            offset(given),
            key,
            what,
            format!("use one of: {}", words.join(", ")),
        );
        words[0]
    }

    fn config(&mut self, file: &Path, root: &schema::Root, machine: &Machine) -> Config {
        let tcp = self.tcp(&root.tcp);
        let mut paths = Vec::new();
        let subsystems = self.subsystems(&root.subsystem, &mut paths);
        Config {
            file: file.to_owned(),
            node: self.node(&root.node),
            reactors: self.reactors(&root.reactors, &tcp, machine),
            log: self.log(&root.log),
            metrics_listen: self.metrics(&root.metrics),
            tcp,
            nvme: self.nvme(&root.nvme),
            control: self.control(root.control.as_ref(), &root.node),
            listeners: self.listeners(&root.listener, root.control.is_some()),
            devices: self.devices(&root.device, &mut paths),
            subsystems,
        }
    }

    fn node(&mut self, node: &schema::Node) -> NodeSettings {
        let name = text_or(&node.name, "penstock");
        if name.is_empty() {
            let at = node.name.as_ref().and_then(offset);
            self.refuse(
                at,
                "node.name",
                "the name is empty".to_owned(),
                "give the node a name",
            );
        }
        let key = "node.shutdown_timeout_ms";
        let ms = self.number(key, &node.shutdown_timeout_ms, 3_000, 0..=4_000);
        NodeSettings {
            name,
            shutdown_timeout: Duration::from_millis(ms),
        }
    }

    fn log(&mut self, log: &schema::Log) -> LogSettings {
        let json = self.word("log.format", &log.format, &["text", "json"]) == "json";
        let level = text_or(&log.level, "info");
        if let Err(error) = tracing_subscriber::EnvFilter::builder().parse(&level) {
            let at = log.level.as_ref().and_then(offset);
            let what = format!("\"{level}\" is no log filter: {error}");
            let remedy = "use error, warn, info, debug, trace, or directives such as \
                          \"info,penstock_reactor=debug\"";
            self.refuse(at, "log.level", what, remedy);
        }
        LogSettings { json, level }
    }

    fn metrics(&mut self, metrics: &schema::Metrics) -> Option<Placed<SocketAddr>> {
        let listen = metrics.listen.as_ref()?;
        if listen.get_ref().is_empty() {
            return None;
        }
        self.address("metrics.listen", listen)
    }

    fn address(&mut self, key: &str, given: &Spanned<String>) -> Option<Placed<SocketAddr>> {
        match given.get_ref().parse() {
            Ok(value) => Some(Placed {
                value,
                line: self.line(given),
            }),
            Err(_) => {
                let what = format!("\"{}\" is no address with a port", given.get_ref());
                let remedy = "write \"192.0.2.1:4420\" for IPv4 or \"[2001:db8::1]:4420\" for IPv6";
                self.refuse(offset(given), key, what, remedy);
                None
            }
        }
    }

    /// With control, listeners may come from there.
    fn listeners(
        &mut self,
        given: &[Spanned<schema::Listener>],
        controlled: bool,
    ) -> Vec<Placed<SocketAddr>> {
        let mut listeners: Vec<Placed<SocketAddr>> = Vec::new();
        if given.is_empty() && !controlled {
            let what = "the node listens nowhere".to_owned();
            self.refuse(
                None,
                "[[listener]]",
                what,
                "add a [[listener]] with an address",
            );
        }
        for listener in given {
            let key = "listener.address";
            let Some(address) = &listener.get_ref().address else {
                let what = "the address is missing".to_owned();
                self.refuse(
                    offset(listener),
                    key,
                    what,
                    "add address = \"0.0.0.0:4420\"",
                );
                continue;
            };
            let Some(new) = self.address(key, address) else {
                continue;
            };
            let earlier = listeners.iter().find(|known| known.value == new.value);
            if let Some(earlier) = earlier.filter(|_| new.value.port() != 0) {
                let what = format!(
                    "{} is a listener already (line {})",
                    new.value, earlier.line
                );
                self.refuse(offset(address), key, what, "remove one of the two");
                continue;
            }
            listeners.push(new);
        }
        listeners
    }

    fn tcp(&mut self, tcp: &schema::Tcp) -> TcpSettings {
        let in_capsule = &tcp.in_capsule_data_size_bytes;
        let settings = TcpSettings {
            in_capsule_data_size_bytes: self.number(
                "tcp.in_capsule_data_size_bytes",
                in_capsule,
                8192,
                0..=256 * KIB,
            ),
            mdts_bytes: self.number(
                "tcp.mdts_bytes",
                &tcp.mdts_bytes,
                1 << 20,
                4 * KIB..=16 * MIB,
            ),
            max_h2c_data_bytes: self.number(
                "tcp.max_h2c_data_bytes",
                &tcp.max_h2c_data_bytes,
                256 << 10,
                4 * KIB..=16 * MIB,
            ),
            r2t_max: self.number("tcp.r2t_max", &tcp.r2t_max, 4, 1..=4),
            queue_depth_max: self.number(
                "tcp.queue_depth_max",
                &tcp.queue_depth_max,
                1024,
                2..=1024,
            ),
            io_queues_max: self.number("tcp.io_queues_max", &tcp.io_queues_max, 128, 1..=128),
            header_digest: yes_unless_told(&tcp.header_digest),
            data_digest: yes_unless_told(&tcp.data_digest),
            connect_timeout_ms: self.timeout(
                "tcp.connect_timeout_ms",
                &tcp.connect_timeout_ms,
                10_000,
            ),
            transfer_timeout_ms: self.timeout(
                "tcp.transfer_timeout_ms",
                &tcp.transfer_timeout_ms,
                30_000,
            ),
            send_timeout_ms: self.timeout("tcp.send_timeout_ms", &tcp.send_timeout_ms, 30_000),
            congestion_control: congestion_control(&tcp.congestion_control),
        };
        self.multiple("tcp.in_capsule_data_size_bytes", in_capsule, 16);
        self.multiple("tcp.max_h2c_data_bytes", &tcp.max_h2c_data_bytes, 4);
        self.power_of_two("tcp.mdts_bytes", &tcp.mdts_bytes);
        settings
    }

    fn timeout(&mut self, key: &str, given: &Key<u64>, default: u32) -> u32 {
        self.number(key, given, default, 100..=600_000)
    }

    fn power_of_two(&mut self, key: &str, given: &Key<u64>) {
        let Some(given) = given else { return };
        let value = *given.get_ref();
        // Zero is outside every limit and has been refused for that.
        if value != 0 && !value.is_power_of_two() {
            let what = format!("{value} is no power of two");
            self.refuse(
                offset(given),
                key,
                what,
                "use a power of two, such as 1048576",
            );
        }
    }

    fn multiple(&mut self, key: &str, given: &Key<u64>, unit: u64) {
        let Some(given) = given else { return };
        if given.get_ref() % unit != 0 {
            let what = format!("{} is no multiple of {unit}", given.get_ref());
            self.refuse(
                offset(given),
                key,
                what,
                format!("use a multiple of {unit} bytes"),
            );
        }
    }

    fn reactors(
        &mut self,
        given: &schema::Reactors,
        tcp: &TcpSettings,
        machine: &Machine,
    ) -> ReactorSettings {
        let pin = yes_unless_told(&given.pin);
        let pool: u64 = self.number(
            "reactors.buffer_pool_size_bytes",
            &given.buffer_pool_size_bytes,
            64 * MIB,
            MIB..=1024 * GIB,
        );
        let settings = ReactorSettings {
            cores: self.cores(given, pin, machine),
            pin,
            adaptive: self.word("reactors.poll", &given.poll, &["adaptive", "busy"]) == "adaptive",
            idle_us: self.number("reactors.idle_us", &given.idle_us, 50, 0..=1_000_000),
            ring_entries: self.number(
                "reactors.ring_entries",
                &given.ring_entries,
                4096,
                64..=32768,
            ),
            receive_buffers: self.number(
                "reactors.receive_buffers",
                &given.receive_buffers,
                256,
                16..=32768,
            ),
            receive_buffer_size_bytes: self.number(
                "reactors.receive_buffer_size_bytes",
                &given.receive_buffer_size_bytes,
                65536,
                4096..=MIB,
            ),
            buffer_pool_size_bytes: usize::try_from(pool).unwrap_or(usize::MAX),
            hugepages: yes_unless_told(&given.hugepages),
            hugepages_required: told(&given.hugepages_required),
            lock_memory: told(&given.lock_memory),
            stall_threshold_ms: self.number(
                "reactors.stall_threshold_ms",
                &given.stall_threshold_ms,
                100,
                1..=60_000,
            ),
        };
        self.power_of_two("reactors.ring_entries", &given.ring_entries);
        self.power_of_two("reactors.receive_buffers", &given.receive_buffers);
        self.pool_fits(given, &settings, tcp, machine);
        self.hugepages_fit(given, &settings, machine);
        settings
    }

    fn hugepages_fit(
        &mut self,
        given: &schema::Reactors,
        settings: &ReactorSettings,
        machine: &Machine,
    ) {
        let key = "reactors.hugepages_required";
        let at = given.hugepages_required.as_ref().and_then(offset);
        if !settings.hugepages_required {
            return;
        }
        if !settings.hugepages {
            let what = "hugepages are demanded and switched off".to_owned();
            self.refuse(at, key, what, "remove hugepages = false, or this key");
            return;
        }
        let (reactors, pool) = (
            settings.cores.count(),
            settings.buffer_pool_size_bytes as u64,
        );
        let pages = pool.div_ceil(2 * MIB).saturating_mul(reactors as u64);
        // Of those a running node has its own already, so free ones tell nothing.
        let has = machine.hugepages;
        if pages > has {
            let what = format!(
                "{reactors} pools of {pool} bytes take {pages} hugepages of 2 MiB, and the machine \
                 has {has}"
            );
            let remedy = format!(
                "reserve them (sysctl -w vm.nr_hugepages={pages}, or hugepages={pages} on the \
                 kernel's command line), lower buffer_pool_size_bytes, or do not demand them"
            );
            self.refuse(at, key, what, remedy);
        }
    }

    fn pool_fits(
        &mut self,
        given: &schema::Reactors,
        settings: &ReactorSettings,
        tcp: &TcpSettings,
        machine: &Machine,
    ) {
        let key = "reactors.buffer_pool_size_bytes";
        let at = given.buffer_pool_size_bytes.as_ref().and_then(offset);
        let pool = settings.buffer_pool_size_bytes as u64;
        let least = LEASES_MIN * u64::from(tcp.mdts_bytes);
        if pool < least {
            let what =
                format!("{pool} bytes hold fewer than {LEASES_MIN} transfers of tcp.mdts_bytes");
            self.refuse(
                at,
                key,
                what,
                format!("give at least {least}, or lower tcp.mdts_bytes"),
            );
        }
        let reactors = settings.cores.count();
        let total = pool.saturating_mul(reactors as u64);
        if total > machine.memory_bytes {
            let what = format!(
                "{reactors} pools of {pool} bytes are more than the machine's {} bytes of memory",
                machine.memory_bytes
            );
            self.refuse(at, key, what, "lower it, or use fewer reactors");
        }
        let Some(limit) = machine.memlock_limit_bytes.filter(|_| settings.lock_memory) else {
            return;
        };
        if total > limit {
            let at = given.lock_memory.as_ref().and_then(offset).or(at);
            let what = format!(
                "{reactors} pools of {pool} bytes need {total} bytes of locked memory, and the \
                 memlock limit of this process is {limit}"
            );
            let remedy = format!(
                "raise the limit (LimitMEMLOCK= in the systemd unit, or `ulimit -l {}`), lower \
                 buffer_pool_size_bytes, or set lock_memory = false",
                total.div_ceil(KIB)
            );
            self.refuse(at, "reactors.lock_memory", what, remedy);
        }
    }
}

fn told(given: &Key<bool>) -> bool {
    given.as_ref().is_some_and(|told| *told.get_ref())
}

fn yes_unless_told(given: &Key<bool>) -> bool {
    given.as_ref().is_none_or(|told| *told.get_ref())
}

fn text_or(given: &Key<String>, default: &str) -> String {
    given
        .as_ref()
        .map_or_else(|| default.to_owned(), |text| text.get_ref().clone())
}

fn congestion_control(given: &Key<String>) -> CongestionControl {
    match given.as_ref().map(|key| key.get_ref().trim()) {
        None => CongestionControl::Preferred,
        Some("") => CongestionControl::System,
        Some(name) => CongestionControl::Named(name.to_owned()),
    }
}
