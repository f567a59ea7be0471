//! How the tools connect: the arguments they share.

use std::net::{SocketAddr, ToSocketAddrs};

use anyhow::Context;
use clap::{Args, ValueEnum};
use penstock_client::ConnectOptions;
use penstock_nvme::nqn::Nqn;
use penstock_units::Nsid;
use uuid::Uuid;

/// Port of NVMe/TCP I/O controllers (TCP 1.1, 3.1.2).
const DEFAULT_PORT: u16 = 4420;

/// How capsules and data move.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Transport {
    /// NVMe/TCP
    #[default]
    Tcp,
}

/// Where to connect to and how.
#[derive(Args, Clone, Debug)]
pub struct Target {
    /// How capsules and data move
    #[arg(long, value_enum, default_value_t)]
    pub transport: Transport,
    /// Where the target listens: HOST:PORT, an IPv6 address in brackets; the port defaults to 4420
    #[arg(long, value_name = "HOST:PORT")]
    pub address: String,
    /// Host NQN to connect with; made of --host-id where not given
    #[arg(long, value_name = "NQN")]
    pub host_nqn: Option<String>,
    /// Host identifier, a UUID; a random one where not given
    #[arg(long, value_name = "UUID")]
    pub host_id: Option<Uuid>,
    /// Protect PDU headers with CRC32C
    #[arg(long)]
    pub header_digest: bool,
    /// Protect PDU data with CRC32C
    #[arg(long)]
    pub data_digest: bool,
    /// Limit for one command
    #[arg(long, value_name = "MS", default_value_t = 30_000)]
    pub command_timeout_ms: u64,
    /// Limit for connecting
    #[arg(long, value_name = "MS", default_value_t = 5_000)]
    pub connect_timeout_ms: u64,
    /// Keep alive timeout the target is asked for; 0 for none
    #[arg(long, value_name = "MS", default_value_t = 30_000)]
    pub keep_alive_timeout_ms: u32,
}

impl Target {
    /// Options for the initiator to connect to `nqn`.
    pub fn options(&self, nqn: &str) -> anyhow::Result<ConnectOptions> {
        let Transport::Tcp = self.transport;
        let address = resolve(&self.address)?;
        let nqn = Nqn::new(nqn).with_context(|| format!("subsystem NQN `{nqn}`"))?;
        let host_id = self.host_id.unwrap_or_else(Uuid::new_v4);
        let mut options = ConnectOptions::new(address, nqn, *host_id.as_bytes());
        if let Some(host) = &self.host_nqn {
            options.host_nqn = Nqn::new(host).with_context(|| format!("host NQN `{host}`"))?;
        }
        options.header_digest = self.header_digest;
        options.data_digest = self.data_digest;
        options.command_timeout_ms = self.command_timeout_ms;
        options.connect_timeout_ms = self.connect_timeout_ms;
        options.keep_alive_timeout_ms = self.keep_alive_timeout_ms;
        Ok(options)
    }
}

/// Reads a namespace identifier.
pub fn parse_nsid(text: &str) -> Result<Nsid, String> {
    let number = text.parse().ok().and_then(Nsid::new);
    number.ok_or_else(|| format!("`{text}` is no namespace identifier: 1 to 4294967294"))
}

fn resolve(text: &str) -> anyhow::Result<SocketAddr> {
    let told = || format!("`{text}` is no address: write HOST:PORT, for example 127.0.0.1:4420");
    let with_port = if text
        .rsplit_once(':')
        .is_some_and(|(_, port)| port.parse::<u16>().is_ok())
        && !is_bare_ipv6(text)
    {
        text.to_owned()
    } else if is_bare_ipv6(text) {
        format!("[{text}]:{DEFAULT_PORT}")
    } else {
        format!("{text}:{DEFAULT_PORT}")
    };
    let mut found = with_port.to_socket_addrs().with_context(told)?;
    found.next().with_context(told)
}

fn is_bare_ipv6(text: &str) -> bool {
    text.parse::<std::net::Ipv6Addr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_understood() {
        for (text, right) in [
            ("127.0.0.1:4430", "127.0.0.1:4430"),
            ("127.0.0.1", "127.0.0.1:4420"),
            ("[::1]:4430", "[::1]:4430"),
            ("::1", "[::1]:4420"),
            ("[::1]", "[::1]:4420"),
        ] {
            assert_eq!(resolve(text).expect(text).to_string(), right, "{text}");
        }
        let told = format!(
            "{:#}",
            resolve("127.0.0.1:99999").expect_err("no such port")
        );
        assert!(told.contains("HOST:PORT"), "{told}");
    }
}
