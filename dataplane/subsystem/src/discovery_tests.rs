use penstock_nvme::command::{SetFeatures, async_event_request, keep_alive};
use penstock_nvme::event::AsyncEvent;
use penstock_nvme::fabrics::{ConnectCommand, ConnectData};
use penstock_nvme::feature::FeatureId;
use penstock_nvme::identify::{Cns, IdentifyController};
use penstock_nvme::log::{DiscoveryEntry, DiscoveryHeader, LogPage};
use penstock_nvme::nqn::DISCOVERY_NQN;
use penstock_nvme::{AdminOpcode, FromBytes, Sqe, Status};

use crate::subsystem::SubsystemConfig;
use crate::target::RemotePort;
use crate::testing::{Bed, HOST, HOST_ID, NQN, Peer, data, status};

const SECRET: &str = "nqn.2024-01.com.example:secret";

fn read(peer: &Peer) -> (u64, Vec<DiscoveryEntry>) {
    let header = DiscoveryHeader::read_from_bytes(&peer.log(LogPage::Discovery, 1024)).unwrap();
    let count = usize::try_from(header.numrec.get()).unwrap();
    let log = peer.log(LogPage::Discovery, 1024 * (count + 1));
    let entries = log[1024..]
        .chunks(1024)
        .map(|e| DiscoveryEntry::read_from_bytes(e).unwrap());
    (header.genctr.get(), entries.collect())
}

fn summary(entry: &DiscoveryEntry) -> String {
    format!(
        "{} {} {} {}:{}",
        entry.subtype,
        entry.adrfam,
        String::from_utf8_lossy(entry.subnqn_bytes()),
        String::from_utf8_lossy(entry.traddr_bytes()),
        String::from_utf8_lossy(entry.trsvcid_bytes()),
    )
}

#[test]
fn the_log_lists_each_subsystem_at_each_listener() {
    let bed = Bed::new();
    bed.target.add_listener("192.0.2.9:4420".parse().unwrap());
    bed.target
        .add_listener("[2001:db8::9]:4421".parse().unwrap());
    bed.target.add_listener("0.0.0.0:8009".parse().unwrap());
    bed.target.add_listener("[::]:8010".parse().unwrap());
    let (_, entries) = read(&bed.discovery());
    let found: Vec<_> = entries.iter().map(summary).collect();
    let mut expected = Vec::new();
    for (adrfam, at) in [
        (1, "192.0.2.9:4420"),
        (2, "2001:db8::9:4421"),
        (1, "192.0.2.9:8009"),
    ] {
        expected.push(format!("3 {adrfam} {DISCOVERY_NQN} {at}"));
        expected.push(format!("2 {adrfam} {NQN} {at}"));
    }
    assert_eq!(
        found, expected,
        "the IPv6 wildcard is not reachable from an IPv4 connection"
    );
    let entry = entries[1];
    assert_eq!(
        (entry.trtype, entry.cntlid.get(), entry.portid.get()),
        (3, 0xffff, 1)
    );
    assert!(entry.asqsz.get() >= 32);
    assert_eq!(entries[0].eflags.get() & 2, 2, "persistent connections");
}

#[test]
fn hosts_see_what_they_may_use_and_hear_of_changes() {
    let bed = Bed::new();
    bed.target.add_listener("192.0.2.9:4420".parse().unwrap());
    let peer = bed.discovery();
    let set = SetFeatures::new(FeatureId::AsyncEvents, 1 << 31).encode();
    assert_eq!(status(&peer.exec(set, &[])), Status::SUCCESS);
    let (generation, before) = read(&peer);
    let request = peer.start(async_event_request(), &[]);
    let mut secret = SubsystemConfig::new(SECRET, "SN3");
    secret.allow_any_host = false;
    bed.target.add_subsystem(secret).unwrap();
    bed.tasks.run();
    assert!(request.take().is_none(), "nothing this host could see");
    assert_eq!(read(&peer).1.len(), before.len());
    bed.target
        .set_hosts(SECRET, false, &[HOST.to_owned()])
        .unwrap();
    bed.tasks.run();
    let event = request.take().unwrap();
    assert_eq!(
        event.result,
        u64::from(AsyncEvent::DISCOVERY_CHANGED.dword())
    );
    let (next, after) = read(&peer);
    assert!(next > generation);
    assert_eq!(after.len(), before.len() + 1);
    let request = peer.start(async_event_request(), &[]);
    bed.target
        .remove_listener("192.0.2.9:4420".parse().unwrap());
    bed.tasks.run();
    assert!(request.take().is_some());
    let (last, none) = read(&peer);
    assert!(last > next && none.is_empty());
}

#[test]
fn discovery_controllers_do_only_what_they_may() {
    let bed = Bed::new();
    let peer = bed.discovery();
    let id: IdentifyController = data(&peer.identify(Cns::Controller, 0));
    assert_eq!(
        (id.cntrltype, id.oaes.get(), id.nn.get()),
        (2, 1 << 31 | 1 << 15, 0)
    );
    assert_eq!(
        penstock_nvme::nul_terminated(&id.subnqn),
        DISCOVERY_NQN.as_bytes()
    );
    let reply = peer.identify(Cns::ActiveNamespaces, 0);
    assert_eq!(status(&reply), Status::INVALID_FIELD.dnr());
    let abort = peer.exec(Sqe::new(AdminOpcode::Abort.into()), &[]);
    assert_eq!(status(&abort), Status::INVALID_OPCODE.dnr());
    assert_eq!(status(&peer.exec(keep_alive(), &[])), Status::SUCCESS);
    let kato = SetFeatures::new(FeatureId::KeepAliveTimer, 30_000).encode();
    assert_eq!(status(&peer.exec(kato, &[])), Status::SUCCESS);
    let queues = SetFeatures::new(FeatureId::NumberOfQueues, 0).encode();
    assert_eq!(status(&peer.exec(queues, &[])), Status::INVALID_FIELD.dnr());
    let connect = ConnectData::new(HOST_ID, peer.cntlid, DISCOVERY_NQN, HOST).unwrap();
    let io = bed.dial().connect(&ConnectCommand::new(1, 32, 0), &connect);
    assert_eq!(status(&io), Status::CONNECT_INVALID_PARAMETERS.dnr());
}

fn remote(nqn: &str, address: &str, hosts: &[&str]) -> RemotePort {
    RemotePort {
        nqn: nqn.to_owned(),
        address: address.parse().unwrap(),
        allow_any_host: hosts.is_empty(),
        hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
    }
}

#[test]
fn ports_of_other_nodes_are_listed_for_the_hosts_they_are_for() {
    let bed = Bed::new();
    bed.target.add_listener("192.0.2.9:4420".parse().unwrap());
    let peer = bed.discovery();
    let set = SetFeatures::new(FeatureId::AsyncEvents, 1 << 31).encode();
    assert_eq!(status(&peer.exec(set, &[])), Status::SUCCESS);
    let (first, before) = read(&peer);
    let request = peer.start(async_event_request(), &[]);

    let foreign = remote(SECRET, "192.0.2.10:4420", &["nqn.2024-01.com.example:else"]);
    bed.target.set_remote_ports(vec![foreign.clone()]);
    bed.tasks.run();
    assert!(request.take().is_none(), "nothing this host could see");
    let (second, same) = read(&peer);
    assert!(second > first && same.len() == before.len());

    let ours = [
        remote(NQN, "192.0.2.10:4420", &[HOST]),
        remote(NQN, "[2001:db8::11]:4420", &[]),
        remote(SECRET, "192.0.2.10:4420", &[HOST]),
    ];
    let mut all = ours.to_vec();
    all.push(foreign.clone());
    bed.target.set_remote_ports(all.clone());
    bed.tasks.run();
    let event = request.take().unwrap();
    let expected = u64::from(AsyncEvent::DISCOVERY_CHANGED.dword());
    assert_eq!(event.result, expected);
    let (third, entries) = read(&peer);
    assert!(third > second);
    let found: Vec<_> = entries[before.len()..].iter().map(summary).collect();
    let expected = [
        format!("2 1 {SECRET} 192.0.2.10:4420"),
        format!("2 1 {NQN} 192.0.2.10:4420"),
        format!("2 2 {NQN} 2001:db8::11:4420"),
    ];
    assert_eq!(found, expected);
    let port = |entry: &DiscoveryEntry| entry.portid.get();
    let new = &entries[before.len()..];
    assert_eq!(port(&new[0]), port(&new[1]), "one port");
    assert_ne!(port(&new[0]), port(&new[2]));
    assert!(new.iter().all(|entry| port(entry) != port(&entries[0])));

    // The same list in another order is no change.
    let request = peer.start(async_event_request(), &[]);
    all.reverse();
    bed.target.set_remote_ports(all);
    bed.tasks.run();
    assert!(request.take().is_none());
    assert_eq!(read(&peer).0, third);
    bed.target.set_remote_ports(Vec::new());
    bed.tasks.run();
    assert!(request.take().is_some());
    assert_eq!(read(&peer).1.len(), before.len());
}
