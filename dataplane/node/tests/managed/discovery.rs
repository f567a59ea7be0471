//! Listeners, hosts and other nodes' ports, as hosts find them.

use std::net::SocketAddr;

use penstock_api::v1::{RemotePort, TransportAddress};
use penstock_client::{ClientError, DiscoveryRecord, discover};
use penstock_nvme::nqn::DISCOVERY_NQN;

use crate::rig::{Host, NQN, Rig, connect, extent, namespace, options, subsystem, volume};

fn remote(nqn: &str, address: &str, hosts: &[&str]) -> RemotePort {
    RemotePort {
        nqn: nqn.to_owned(),
        address: Some(TransportAddress {
            transport: "tcp".to_owned(),
            address: address.to_owned(),
            port: 4420,
        }),
        allow_any_host: false,
        host_nqns: hosts.iter().map(|host| (*host).to_owned()).collect(),
    }
}

fn place(record: &DiscoveryRecord) -> String {
    format!("{}:{}", record.address, record.service)
}

/// What a host finds: NQN and address of each entry that is no discovery subsystem.
fn found(address: SocketAddr) -> Vec<String> {
    let log = Host::new()
        .run(move |pool| async move { discover(&options(address, DISCOVERY_NQN), &pool).await });
    let records = log.expect("discovered").records;
    records
        .iter()
        .filter(|record| record.subsystem_nqn != DISCOVERY_NQN)
        .map(|record| format!("{} {}", record.subsystem_nqn, place(record)))
        .collect()
}

#[test]
fn hosts_find_every_nodes_ports_and_only_what_they_may_use() {
    let mut rig = Rig::new(1, 16);
    let address = rig.listen("l1");
    rig.node
        .serve_subsystem(&subsystem("s1", NQN))
        .expect("served");
    assert_eq!(found(address), [format!("{NQN} {address}")]);
    let mut broken = remote(NQN, "192.0.2.9", &[]);
    broken.address = None;
    let seen = penstock_client_host(address);
    rig.node.set_remote_ports(&[
        remote(NQN, "192.0.2.7", &[&seen]),
        remote("nqn.2026-01.io.penstock:far", "192.0.2.7", &[&seen]),
        remote(
            "nqn.2026-01.io.penstock:secret",
            "192.0.2.8",
            &["nqn.2026-01.io.penstock:other"],
        ),
        broken,
    ]);
    let mut expected = vec![
        format!("{NQN} {address}"),
        "nqn.2026-01.io.penstock:far 192.0.2.7:4420".to_owned(),
        format!("{NQN} 192.0.2.7:4420"),
    ];
    let mut all = found(address);
    all.sort();
    expected.sort();
    assert_eq!(all, expected);
    rig.node.set_remote_ports(&[]);
    assert_eq!(found(address), [format!("{NQN} {address}")]);
    let second = rig.listen("l2");
    assert_eq!(found(address).len(), 2);
    rig.node.remove_listener("l2");
    rig.node.remove_listener("l2");
    assert_eq!(found(address).len(), 1);
    assert!(refuses_connections(second));
    rig.node.stop();
}

/// The NQN under which the client connects.
fn penstock_client_host(address: SocketAddr) -> String {
    options(address, NQN).host_nqn.as_str().to_owned()
}

/// Whether nobody accepts there, after a while: reactors are told, not waited for.
fn refuses_connections(address: SocketAddr) -> bool {
    (0..200).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(10));
        std::net::TcpStream::connect(address).is_err()
    })
}

#[test]
fn access_changes_while_hosts_are_connected() {
    let mut rig = Rig::new(1, 16);
    let address = rig.listen("l1");
    rig.node
        .serve_subsystem(&subsystem("s1", NQN))
        .expect("served");
    rig.node
        .open_volume(&volume("v1", 1, 1, &[extent(0, 0, 1)]))
        .expect("open");
    rig.node
        .serve_namespace(&namespace("a", "s1", "v1", 1))
        .expect("served");
    let try_connect = move || {
        Host::new().run(move |pool| async move {
            let connected = connect(address, NQN, &pool).await;
            Ok::<bool, ClientError>(connected.is_ok())
        })
    };
    assert!(try_connect().expect("tried"));
    let mut closed = subsystem("s1", NQN);
    closed.allow_any_host = false;
    rig.node.serve_subsystem(&closed).expect("changed");
    assert!(!try_connect().expect("tried"));
    closed.host_nqns = vec![penstock_client_host(address)];
    rig.node.serve_subsystem(&closed).expect("changed");
    assert!(try_connect().expect("tried"));
    rig.node.stop();
}
