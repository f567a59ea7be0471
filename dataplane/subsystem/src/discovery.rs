//! The discovery log: where a host finds the subsystems it may connect to (Base 2.1, 5.1.12.3.1).
//!
//! Of other nodes it lists the NVM subsystems' ports themselves, not their discovery subsystems: a
//! host that follows referrals (`nvme connect-all` does, each with a connection of its own) would
//! walk from every node to every other, and from there on again, which multiplies with each node.
//! So one log page of any node tells all, and a host asks once.

use std::net::{IpAddr, SocketAddr};

use penstock_nvme::fabrics::CNTLID_DYNAMIC;
use penstock_nvme::log::{
    ADRFAM_IPV4, ADRFAM_IPV6, DiscoveryEntry, DiscoveryHeader, EFLAGS_PERSISTENT,
    SUBTYPE_CURRENT_DISCOVERY, SUBTYPE_NVM, TREQ_DISABLE_SQ_FLOW, TREQ_NOT_REQUIRED, TRTYPE_TCP,
};
use penstock_nvme::nqn::nqn_field;
use penstock_nvme::{FromZeros, IntoBytes, Le16, Le64};

use crate::controller::Controller;
use crate::session::Session;
use crate::subsystem::SubsystemKind;
use crate::target::{TargetConfig, seen_by};

/// The log as the controller's host sees it: an entry for each subsystem it may use (and this
/// discovery subsystem) at each listener.
pub(crate) fn log_page(session: &Session, controller: &Controller) -> Vec<u8> {
    let target = session.target();
    // Read before the contents: a change between the two shows as a generation of its own.
    let generation = target.generation();
    let host = &controller.host().nqn;
    let mut entries = Vec::new();
    let mut subsystems = vec![target.discovery().clone()];
    subsystems.extend(target.subsystems().into_iter().filter(|s| s.allows(host)));
    for (port, listener) in target.listeners().into_iter().enumerate() {
        let Some(address) = reachable(listener, session.context().local) else {
            continue;
        };
        let port_id = u16::try_from(port + 1).unwrap_or(u16::MAX);
        for subsystem in &subsystems {
            let (kind, nqn) = (subsystem.kind(), subsystem.nqn());
            entries.push(entry(kind, nqn, target.config(), address, port_id));
        }
    }
    let remote = target.remote_ports();
    let mut places: Vec<SocketAddr> = Vec::new();
    for (nqn, address) in seen_by(&remote, host) {
        let known = places.iter().position(|place| *place == address);
        let place = known.unwrap_or_else(|| {
            places.push(address);
            places.len() - 1
        });
        // Counted from the other end: no port of another node has the number of one here.
        let port_id = u16::MAX.saturating_sub(u16::try_from(place).unwrap_or(u16::MAX));
        let (kind, config) = (SubsystemKind::Nvm, target.config());
        entries.push(entry(kind, nqn, config, address, port_id));
    }
    let mut header = DiscoveryHeader::new_zeroed();
    header.genctr = Le64::new(generation);
    header.numrec = Le64::new(entries.len() as u64);
    let mut bytes = header.as_bytes().to_vec();
    for entry in &entries {
        bytes.extend_from_slice(entry.as_bytes());
    }
    bytes
}

/// The address to tell a host for a listener: a wildcard stands for the address the host came in
/// by, where that is of the same family.
fn reachable(listener: SocketAddr, local: SocketAddr) -> Option<SocketAddr> {
    if !listener.ip().is_unspecified() {
        return Some(listener);
    }
    let ip = local.ip().to_canonical();
    (ip.is_ipv4() == listener.is_ipv4()).then(|| SocketAddr::new(ip, listener.port()))
}

fn entry(
    kind: SubsystemKind,
    nqn: &str,
    target: &TargetConfig,
    address: SocketAddr,
    port_id: u16,
) -> DiscoveryEntry {
    let mut entry = DiscoveryEntry::new_zeroed();
    entry.trtype = TRTYPE_TCP;
    entry.adrfam = match address.ip() {
        IpAddr::V4(_) => ADRFAM_IPV4,
        IpAddr::V6(_) => ADRFAM_IPV6,
    };
    match kind {
        SubsystemKind::Discovery => {
            entry.subtype = SUBTYPE_CURRENT_DISCOVERY;
            entry.eflags = Le16::new(EFLAGS_PERSISTENT);
        }
        SubsystemKind::Nvm => entry.subtype = SUBTYPE_NVM,
    }
    entry.treq = TREQ_NOT_REQUIRED | TREQ_DISABLE_SQ_FLOW;
    entry.portid = Le16::new(port_id);
    entry.cntlid = Le16::new(CNTLID_DYNAMIC);
    entry.asqsz = Le16::new(target.queue_entries_max.min(ADMIN_ENTRIES));
    entry.trsvcid = padded(&address.port().to_string());
    entry.traddr = padded(&address.ip().to_string());
    if let Some(nqn) = nqn_field(nqn) {
        entry.subnqn = nqn;
    }
    entry
}

/// Admin submission queue entries hosts are told to use at most.
const ADMIN_ENTRIES: u16 = 128;

/// An ASCII field filled with NULs, as hosts expect addresses; what does not fit is cut off.
fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut field = [0; N];
    for (to, from) in field.iter_mut().zip(text.bytes()) {
        *to = from;
    }
    field
}
