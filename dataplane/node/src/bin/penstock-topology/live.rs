//! What a running node tells of its reactors, by its metrics endpoint.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// How long the node may take for each step of its answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// More than any page of metrics has.
const PAGE_MAX_BYTES: u64 = 64 << 20;

/// Reactors that run now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Live {
    /// The core of each reactor, by its number.
    pub cores: BTreeMap<usize, usize>,
    /// Bytes of each reactor's memory by NUMA node; none where the kernel keeps no account.
    pub memory: BTreeMap<usize, BTreeMap<u32, u64>>,
    /// Bytes bound to one NUMA node that lie on another.
    pub misplaced_bytes: Option<u64>,
}

impl Live {
    /// Asks the node whose metrics are served at `listen`.
    ///
    /// # Errors
    /// Nobody answers there, or nobody who tells of reactors.
    pub fn ask(listen: SocketAddr) -> std::io::Result<Live> {
        let page = fetch(reachable(listen))?;
        let live = Live::parse(&page);
        if live.cores.is_empty() {
            return Err(std::io::Error::other("what answers there is no node"));
        }
        Ok(live)
    }

    fn parse(page: &str) -> Live {
        let mut live = Live::default();
        for (name, labels, value) in page.lines().filter_map(sample) {
            let label = |wanted: &str| {
                let mut labels = labels.split(',').filter_map(|label| label.split_once('='));
                let found = labels.find(|(name, _)| *name == wanted)?;
                found.1.trim_matches('"').parse::<u32>().ok()
            };
            let reactor = label("reactor").map(|id| id as usize);
            match (name, reactor) {
                ("penstock_reactor_up", Some(reactor)) => {
                    let core = label("core").map(|core| core as usize);
                    live.cores.extend(core.map(|core| (reactor, core)));
                }
                ("penstock_reactor_memory_bytes", Some(reactor)) => {
                    let of_reactor = live.memory.entry(reactor).or_default();
                    of_reactor.extend(label("numa_node").map(|node| (node, value)));
                }
                ("penstock_numa_misplaced_bytes", _) => live.misplaced_bytes = Some(value),
                _ => {}
            }
        }
        live
    }
}

/// Name, labels and value of a line, where it has one that is a whole number.
fn sample(line: &str) -> Option<(&str, &str, u64)> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = series.split_once('{').unwrap_or((series, ""));
    Some((name, labels.trim_end_matches('}'), value.parse().ok()?))
}

/// Whoever listens everywhere is reached here.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let here: IpAddr = match listen {
        SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    match listen.ip().is_unspecified() {
        true => (here, listen.port()).into(),
        false => listen,
    }
}

fn fetch(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.take(PAGE_MAX_BYTES).read_to_string(&mut answer)?;
    match answer.split_once("\r\n\r\n") {
        Some((head, page)) if head.split(' ').nth(1) == Some("200") => Ok(page.to_owned()),
        _ => Err(std::io::Error::other("the answer is no page of metrics")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "\
# HELP penstock_reactor_up Whether the reactor answers.
penstock_reactor_up{core=\"1\",reactor=\"0\"} 1
penstock_reactor_up{core=\"2\",reactor=\"1\"} 0
penstock_reactor_busy_ratio{core=\"2\",reactor=\"1\"} 0.25
penstock_reactor_memory_bytes{numa_node=\"0\",reactor=\"0\"} 1048576
penstock_reactor_memory_bytes{numa_node=\"1\",reactor=\"1\"} 4096
penstock_numa_misplaced_bytes 8192
";

    #[test]
    fn a_page_of_metrics_tells_of_reactors_and_memory() {
        let live = Live::parse(PAGE);
        assert_eq!(live.cores, BTreeMap::from([(0, 1), (1, 2)]));
        assert_eq!(live.memory[&0], BTreeMap::from([(0, 1 << 20)]));
        assert_eq!(live.memory[&1], BTreeMap::from([(1, 4096)]));
        assert_eq!(live.misplaced_bytes, Some(8192));
        assert_eq!(Live::parse("hello"), Live::default());
    }

    #[test]
    fn a_node_that_listens_everywhere_is_reached_here() {
        for (listen, reached) in [
            ("0.0.0.0:1", "127.0.0.1:1"),
            ("[::]:1", "[::1]:1"),
            ("192.0.2.1:1", "192.0.2.1:1"),
        ] {
            let reached: SocketAddr = reached.parse().unwrap();
            assert_eq!(reachable(listen.parse().unwrap()), reached);
        }
    }

    #[test]
    fn a_node_that_is_not_there_and_other_servers_are_told() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 256];
            let _ = stream.read(&mut request).unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nhello").unwrap();
        });
        let told = Live::ask(address).unwrap_err().to_string();
        assert!(told.contains("no node"), "{told}");
        server.join().unwrap();
        assert!(Live::ask(address).is_err());
    }
}
