//! Listeners that control asks for, and the ports of other nodes for the discovery log.

use std::net::{IpAddr, SocketAddr};

use penstock_api::v1::{DesiredListener, RemotePort, TransportAddress};
use penstock_subsystem::RemotePort as Port;

use super::{ManagedError, ManagedListener};
use crate::config::Placed;
use crate::node::{self, Node};

fn socket_address(given: Option<&TransportAddress>) -> Result<SocketAddr, ManagedError> {
    let invalid = |what: String| ManagedError::new("AddressInvalid", what);
    let given = given.ok_or_else(|| invalid("there is no address".to_owned()))?;
    if !given.transport.eq_ignore_ascii_case("tcp") {
        let message = format!("transport {:?} is not served; use tcp", given.transport);
        return Err(ManagedError::new("TransportUnsupported", message));
    }
    let ip: IpAddr = given
        .address
        .parse()
        .map_err(|error| invalid(format!("{:?} is no IP address: {error}", given.address)))?;
    let port = u16::try_from(given.port)
        .map_err(|_| invalid(format!("{} is no port; use 1 to 65535", given.port)))?;
    Ok(SocketAddr::new(ip, port))
}

impl Node {
    /// Listens where control asks for it. Port 0 takes a free one. Waits up to three seconds for a
    /// port that a killed node still holds.
    ///
    /// # Errors
    /// `AddressInvalid`, `TransportUnsupported`; `AddressInUse` where the configuration file, another
    /// listener or another process has it; `ListenFailed`.
    pub fn add_listener(&mut self, wanted: &DesiredListener) -> Result<SocketAddr, ManagedError> {
        let address = socket_address(wanted.address.as_ref())?;
        if let Some(known) = self.managed.listeners.get(&wanted.uid) {
            if known.configured == address {
                return Ok(known.bound);
            }
            let message = format!("{} listens on {} already", wanted.name, known.configured);
            return Err(ManagedError::new("ListenerDiffers", message));
        }
        let of_file = self.listening.iter().any(|known| known.bound == address);
        if of_file || self.managed.has_listener(address) {
            let whose = if of_file {
                "the node's file"
            } else {
                "control"
            };
            let message =
                format!("{address} is a listener of {whose} already; remove one of the two");
            return Err(ManagedError::new("AddressInUse", message));
        }
        let placed = Placed {
            value: address,
            line: 0,
        };
        let (listening, listener) = node::bind(&self.config, &placed).map_err(|problem| {
            let reason = match problem.what.contains("in use") {
                true => "AddressInUse",
                false => "ListenFailed",
            };
            ManagedError::new(reason, format!("{}; {}", problem.what, problem.remedy))
        })?;
        if !self.accept(listening.bound, listener) {
            let message = "the reactor takes no messages; see the node's log";
            return Err(ManagedError::new("ListenFailed", message));
        }
        let known = ManagedListener {
            configured: address,
            bound: listening.bound,
        };
        self.managed.listeners.insert(wanted.uid.clone(), known);
        Ok(listening.bound)
    }

    /// Listens there no longer; connections made through it stay. One that is not there is no error.
    pub fn remove_listener(&mut self, uid: &str) {
        if let Some(gone) = self.managed.listeners.remove(uid) {
            self.fleet.unlisten(gone.bound);
            self.target.remove_listener(gone.bound);
            tracing::info!(address = %gone.bound, "no longer listening");
        }
    }

    /// Replaces the ports of other nodes in the discovery log. Those that make no sense are left out
    /// and named in the log.
    pub fn set_remote_ports(&mut self, ports: &[RemotePort]) {
        let mut known = Vec::new();
        for port in ports {
            match socket_address(port.address.as_ref()) {
                Ok(address) => known.push(Port {
                    nqn: port.nqn.clone(),
                    address,
                    allow_any_host: port.allow_any_host,
                    hosts: port.host_nqns.iter().cloned().collect(),
                }),
                Err(error) => {
                    tracing::warn!(subsystem = port.nqn, %error, "a port of another node is left out");
                }
            }
        }
        self.target.set_remote_ports(known);
    }

    /// Where hosts connect by the node's own configuration.
    pub fn configured_listeners(&self) -> Vec<TransportAddress> {
        let address = |listening: &node::Listening| TransportAddress {
            transport: "tcp".to_owned(),
            address: listening.bound.ip().to_string(),
            port: u32::from(listening.bound.port()),
        };
        self.listening.iter().map(address).collect()
    }
}
