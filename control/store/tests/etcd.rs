//! The store on real etcd members: the shared suite, and what only a cluster does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use penstock_store::etcd::{EtcdConfig, EtcdStore};
use penstock_store::{
    Change, Committed, Compare, LeaseId, Range, Store, StoreError, Txn, Watch, WatchItem, Write,
};
use tokio::time::{sleep, timeout};

mod cluster;
mod suite;

use cluster::Cluster;
use cluster::relay::{Relay, Way};

const LONG: Duration = Duration::from_secs(30);

fn put(key: &str, value: &[u8]) -> Write {
    Write::Put {
        key: key.to_owned(),
        value: value.to_vec(),
        lease: None,
    }
}

fn unmarked(key: &str, value: &[u8]) -> Txn {
    Txn {
        writes: vec![put(key, value)],
        ..Txn::default()
    }
}

fn marked(key: &str, marker: &str) -> Txn {
    Txn {
        compares: vec![Compare::Absent(marker.to_owned())],
        writes: vec![put(key, b"v"), put(marker, b"mine")],
        marker: Some(marker.to_owned()),
    }
}

/// Connects, with as much patience as a starting cluster needs.
async fn connect(config: EtcdConfig) -> Arc<EtcdStore> {
    let mut tries = 0;
    loop {
        match EtcdStore::connect(config.clone()).await {
            Ok(store) => return Arc::new(store),
            Err(error) if tries < 10 && error.kind() == "unavailable" => tries += 1,
            Err(error) => panic!("{error}"),
        }
    }
}

async fn start(members: usize) -> Option<(Cluster, Arc<EtcdStore>)> {
    let cluster = Cluster::start(cluster::program()?, members);
    let store = connect(EtcdConfig::new(cluster.endpoints())).await;
    Some((cluster, store))
}

async fn next_revision(watch: &mut Box<dyn Watch>) -> Result<i64, StoreError> {
    loop {
        let next = timeout(LONG, watch.next())
            .await
            .expect("a watch is silent");
        if let WatchItem::Changes { revision, .. } = next? {
            return Ok(revision);
        }
    }
}

async fn write(store: &EtcdStore, key: &str, value: &[u8]) -> i64 {
    match store.txn(unmarked(key, value)).await.unwrap() {
        Committed::Yes(revision) => revision,
        Committed::No(_) => unreachable!("it has no conditions"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms() {
    let Some((_cluster, store)) = start(1).await else {
        return;
    };
    suite::run(store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_resumes_after_the_member_is_killed() {
    let Some((mut cluster, store)) = start(1).await else {
        return;
    };
    let first = write(&store, "/k", b"1").await;
    let mut watch = store.watch("/k", first).await.unwrap();
    assert_eq!(next_revision(&mut watch).await, Ok(first));
    for round in 0..2_u8 {
        let before = write(&store, "/k", &[round]).await;
        cluster.kill(0);
        let down = store.get("/k").await.unwrap_err();
        assert_eq!(down.kind(), "unavailable", "{down}");
        let refused = store.txn(unmarked("/k", b"x")).await.unwrap_err();
        assert_eq!(refused.kind(), "unavailable", "{refused}");
        cluster.run(0);
        let after = connect(EtcdConfig::new(cluster.endpoints())).await;
        let after = write(&after, "/k", &[round]).await;
        assert_eq!(after, before + 1);
        assert_eq!(next_revision(&mut watch).await, Ok(before));
        assert_eq!(next_revision(&mut watch).await, Ok(after));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_missed_compacted_changes_says_so() {
    let Some((cluster, other)) = start(1).await else {
        return;
    };
    let relay = Relay::start(cluster.address(0)).await;
    let store = connect(EtcdConfig::new([relay.endpoint.clone()])).await;
    let first = write(&store, "/k", b"1").await;
    let mut watch = store.watch("/k", first).await.unwrap();
    assert_eq!(next_revision(&mut watch).await, Ok(first));
    relay.set_requests(Way::Held);
    relay.set_answers(Way::Held);
    relay.cut().await;
    let mut last = 0;
    for n in 0..5_u8 {
        last = write(&other, "/k", &[n]).await;
    }
    other.compact(last).await.unwrap();
    relay.set_requests(Way::Open);
    relay.set_answers(Way::Open);
    relay.cut().await;
    let error = next_revision(&mut watch).await.unwrap_err();
    assert_eq!(error, StoreError::Compacted { oldest: last });
    assert_eq!(next_revision(&mut watch).await.unwrap_err(), error);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_made_anew_is_noticed() {
    let Some((mut cluster, store)) = start(1).await else {
        return;
    };
    let id = store.id().await.unwrap();
    let mut last = 0;
    for n in 0..10_u8 {
        last = write(&store, "/k", &[n]).await;
    }
    let mut same = store.watch("/k", last + 1).await.unwrap();
    cluster.kill(0);
    cluster.wipe(0);
    cluster.run(0);
    // The same token and addresses give the same identity: the revision tells.
    let behind = next_revision(&mut same).await.unwrap_err();
    assert!(
        matches!(behind, StoreError::FutureRevision { asked, current } if asked == last + 1 && current < last),
        "{behind}"
    );
    let fresh = connect(EtcdConfig::new(cluster.endpoints())).await;
    let mut other = fresh.watch("/k", 1).await.unwrap();
    cluster.kill(0);
    cluster.wipe(0);
    cluster.token = "second".into();
    cluster.run(0);
    let replaced = next_revision(&mut other).await.unwrap_err();
    let fresh = connect(EtcdConfig::new(cluster.endpoints())).await;
    let found = fresh.id().await.unwrap();
    assert_ne!(id, found);
    let expected = StoreError::Replaced {
        expected: id,
        found,
    };
    assert_eq!(replaced, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_store_says_what_to_do() {
    let Some(program) = cluster::program() else {
        return;
    };
    let mut cluster = Cluster::new(program, 1);
    cluster.arguments = vec![format!("--quota-backend-bytes={}", 4 << 20)];
    cluster.start_all();
    let store = connect(EtcdConfig::new(cluster.endpoints())).await;
    let mut tries = 0;
    let error = loop {
        match store.txn(unmarked("/k", &vec![1; 1_000_000])).await {
            // It notices its size only now and then.
            Ok(_) if tries < 100 => {
                tries += 1;
                sleep(Duration::from_millis(50)).await;
            }
            Ok(_) => panic!("it takes anything"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StoreError::Full(_)), "{error}");
    assert!(error.to_string().contains("alarm disarm"), "{error}");
    // Reading and making room go on.
    assert!(store.get("/k").await.unwrap().0.is_some());
    let delete = Txn {
        writes: vec![Write::Delete { key: "/k".into() }],
        ..Txn::default()
    };
    store.txn(delete).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_settled_by_the_marker() {
    let Some((cluster, other)) = start(1).await else {
        return;
    };
    let relay = Relay::start(cluster.address(0)).await;
    let mut config = EtcdConfig::new([relay.endpoint.clone()]);
    config.request_timeout = Duration::from_secs(2);
    let store = connect(config).await;

    // It happened; its answer is lost with the connection.
    relay.set_answers(Way::Held);
    let request = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.txn(marked("/a", "/marker/a")).await }
    });
    sleep(Duration::from_millis(500)).await;
    let applied = other.get("/a").await.unwrap().0.unwrap().mod_revision;
    relay.set_answers(Way::Open);
    relay.cut().await;
    let outcome = request.await.unwrap();
    assert_eq!(outcome, Ok(Committed::Yes(applied)));

    // It did not arrive.
    relay.set_requests(Way::Held);
    let request = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.txn(marked("/b", "/marker/b")).await }
    });
    sleep(Duration::from_millis(500)).await;
    relay.cut().await;
    relay.set_requests(Way::Open);
    let outcome = request.await.unwrap().unwrap_err();
    assert!(matches!(outcome, StoreError::Unavailable(_)), "{outcome}");
    assert_eq!(other.get("/b").await.unwrap().0, None);
    // The client goes on, behind its fence.
    let again = store.txn(marked("/b", "/marker/b")).await.unwrap();
    assert!(matches!(again, Committed::Yes(_)), "{again:?}");
    let refused = store.txn(marked("/b", "/marker/b")).await.unwrap();
    assert!(matches!(refused, Committed::No(_)), "{refused:?}");

    // Without a marker nobody can tell.
    relay.set_answers(Way::Held);
    let request = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.txn(unmarked("/c", b"v")).await }
    });
    sleep(Duration::from_millis(500)).await;
    relay.cut().await;
    relay.set_answers(Way::Open);
    let outcome = request.await.unwrap().unwrap_err();
    assert!(matches!(outcome, StoreError::Unknown(_)), "{outcome}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_said_not_to_have_happened_never_happens_late() {
    let Some((cluster, other)) = start(1).await else {
        return;
    };
    let slow = Relay::start(cluster.address(0)).await;
    let good = Relay::start(cluster.address(0)).await;
    let mut config = EtcdConfig::new([slow.endpoint.clone(), good.endpoint.clone()]);
    config.request_timeout = Duration::from_secs(1);
    let store = connect(config).await;
    slow.set_requests(Way::Held);
    let outcome = store.txn(marked("/a", "/marker/a")).await.unwrap_err();
    assert!(matches!(outcome, StoreError::Unavailable(_)), "{outcome}");
    let settled = other.get("/a").await.unwrap().1;
    // Now it arrives after all.
    slow.set_requests(Way::Open);
    sleep(Duration::from_millis(500)).await;
    assert_eq!(other.get("/a").await.unwrap(), (None, settled));
}

#[tokio::test(flavor = "multi_thread")]
async fn three_members_lose_nothing_when_one_after_the_other_is_killed() {
    let Some((mut cluster, store)) = start(3).await else {
        return;
    };
    let mut watch = store.watch("/n/", 1).await.unwrap();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let writers: Vec<_> = (0..3)
        .map(|writer| {
            let (store, stopped) = (Arc::clone(&store), stopped.clone());
            tokio::spawn(async move {
                let mut done = Vec::new();
                let mut number = 0;
                while !*stopped.borrow() {
                    let key = format!("/n/{writer}/{number}");
                    match store
                        .txn(marked(&key, &format!("/m/{writer}/{number}")))
                        .await
                    {
                        Ok(Committed::Yes(revision)) => done.push((key, revision)),
                        Ok(Committed::No(_)) => panic!("{key} happened before"),
                        Err(StoreError::Unavailable(_)) => continue,
                        Err(StoreError::Unknown(_)) => {}
                        Err(error) => panic!("{error}"),
                    }
                    number += 1;
                }
                done
            })
        })
        .collect();
    for member in 0..3 {
        sleep(Duration::from_secs(1)).await;
        cluster.kill(member);
        sleep(Duration::from_secs(3)).await;
        cluster.run(member);
        sleep(Duration::from_secs(2)).await;
    }
    stop.send_replace(true);
    let mut acknowledged = Vec::new();
    for writer in writers {
        acknowledged.extend(writer.await.unwrap());
    }
    assert!(acknowledged.len() > 100, "{}", acknowledged.len());
    let all = Range {
        prefix: "/n/".into(),
        ..Range::default()
    };
    let entries = store.list(all).await.unwrap().entries;
    for (key, revision) in &acknowledged {
        let entry = entries.iter().find(|entry| entry.key == *key);
        assert_eq!(entry.map(|entry| entry.mod_revision), Some(*revision));
    }
    // The watch told everything, once and in order.
    let mut told = Vec::new();
    while told.len() < entries.len() {
        match timeout(LONG, watch.next()).await.unwrap().unwrap() {
            WatchItem::Changes { revision, changes } => {
                for change in changes {
                    assert!(matches!(change, Change::Put { .. }));
                    told.push(revision);
                }
            }
            WatchItem::Progress { .. } => {}
        }
    }
    let mut expected: Vec<i64> = entries.iter().map(|entry| entry.mod_revision).collect();
    expected.sort_unstable();
    assert_eq!(told, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_in_and_again_when_its_token_is_forgotten() {
    let Some((mut cluster, _)) = start(1).await else {
        return;
    };
    let mut admin = etcd_client::Client::connect(cluster.endpoints(), None)
        .await
        .unwrap();
    let rights = etcd_client::Permission::read_write("/penstock/").with_prefix();
    admin.user_add("root", "top", None).await.unwrap();
    admin.user_grant_role("root", "root").await.unwrap();
    admin.role_add("control").await.unwrap();
    admin
        .role_grant_permission("control", rights)
        .await
        .unwrap();
    admin.user_add("control", "secret", None).await.unwrap();
    admin.user_grant_role("control", "control").await.unwrap();
    admin.auth_enable().await.unwrap();

    let mut config = EtcdConfig::new(cluster.endpoints());
    config.user = Some("control".into());
    config.password = Some("wrong".into());
    let error = EtcdStore::connect(config.clone()).await.unwrap_err();
    assert!(matches!(error, StoreError::Denied(_)), "{error}");
    let anonymous = EtcdConfig::new(cluster.endpoints());
    let error = EtcdStore::connect(anonymous).await.unwrap_err();
    assert!(matches!(error, StoreError::Denied(_)), "{error}");

    config.password = Some("secret".into());
    let store = connect(config).await;
    let first = write(&store, "/penstock/k", b"1").await;
    let mut watch = store.watch("/penstock/", first).await.unwrap();
    assert_eq!(next_revision(&mut watch).await, Ok(first));
    let foreign = store.get("/other").await.unwrap_err();
    assert!(matches!(foreign, StoreError::Denied(_)), "{foreign}");
    let foreign = store.txn(unmarked("/other", b"v")).await.unwrap_err();
    assert!(matches!(foreign, StoreError::Denied(_)), "{foreign}");
    let foreign = store.watch("/other", first).await.err().unwrap();
    assert!(matches!(foreign, StoreError::Denied(_)), "{foreign}");

    // etcd keeps its tokens in memory.
    cluster.kill(0);
    cluster.run(0);
    let second = loop {
        match store.txn(unmarked("/penstock/k", b"2")).await {
            Ok(Committed::Yes(revision)) => break revision,
            Ok(Committed::No(_)) => unreachable!("it has no conditions"),
            Err(error) => assert!(matches!(error, StoreError::Unavailable(_)), "{error}"),
        }
    };
    assert_eq!(next_revision(&mut watch).await, Ok(second));
    store.keep_alive(LeaseId(1)).await.unwrap_err();
    let lease = store.grant(LONG).await.unwrap();
    store.keep_alive(lease).await.unwrap();
    store.revoke(lease).await.unwrap();
}

/// A certificate and its key, signed by an authority, as files.
fn certificate(
    folder: &Path,
    name: &str,
    issuer: &rcgen::Issuer<'_, rcgen::KeyPair>,
) -> (PathBuf, PathBuf) {
    let mut params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, name);
    params.extended_key_usages = vec![
        rcgen::ExtendedKeyUsagePurpose::ServerAuth,
        rcgen::ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let key = rcgen::KeyPair::generate().unwrap();
    let signed = params.signed_by(&key, issuer).unwrap();
    let files = [("crt", signed.pem()), ("key", key.serialize_pem())];
    let [cert, key] = files.map(|(kind, pem)| {
        let path = folder.join(format!("{name}.{kind}"));
        std::fs::write(&path, pem).unwrap();
        path
    });
    (cert, key)
}

/// An authority that signs certificates, and its own as a file.
fn authority(folder: &Path, name: &str) -> (PathBuf, rcgen::Issuer<'static, rcgen::KeyPair>) {
    let mut params = rcgen::CertificateParams::new(vec![]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, name);
    let key = rcgen::KeyPair::generate().unwrap();
    let path = folder.join(format!("{name}.crt"));
    std::fs::write(&path, params.self_signed(&key).unwrap().pem()).unwrap();
    (path, rcgen::Issuer::new(params, key))
}

#[tokio::test(flavor = "multi_thread")]
async fn speaks_tls_and_shows_its_certificate() {
    let Some(program) = cluster::program() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (ca, issuer) = authority(folder.path(), "ca");
    let (other_ca, other_issuer) = authority(folder.path(), "other");
    let (server_cert, server_key) = certificate(folder.path(), "server", &issuer);
    let (cert, key) = certificate(folder.path(), "client", &issuer);
    let (other_cert, other_key) = certificate(folder.path(), "stranger", &other_issuer);
    let mut cluster = Cluster::new(program, 1);
    cluster.scheme = "https";
    cluster.arguments = vec![
        format!("--cert-file={}", server_cert.display()),
        format!("--key-file={}", server_key.display()),
        format!("--trusted-ca-file={}", ca.display()),
        "--client-cert-auth".into(),
    ];
    cluster.start_all();
    let mut config = EtcdConfig::new(cluster.endpoints());
    config.ca_file = Some(ca);
    config.cert_file = Some(cert);
    config.key_file = Some(key);
    let store = connect(config.clone()).await;
    let revision = write(&store, "/k", b"v").await;
    let mut watch = store.watch("/k", revision).await.unwrap();
    assert_eq!(next_revision(&mut watch).await, Ok(revision));

    config.request_timeout = Duration::from_secs(1);
    let change = |change: &dyn Fn(&mut EtcdConfig)| {
        let mut config = config.clone();
        change(&mut config);
        EtcdStore::connect(config)
    };
    let anonymous = change(&|c| (c.cert_file, c.key_file) = (None, None)).await;
    assert_eq!(anonymous.unwrap_err().kind(), "unavailable");
    let stranger = change(&|c| {
        c.cert_file = Some(other_cert.clone());
        c.key_file = Some(other_key.clone());
    });
    assert_eq!(stranger.await.unwrap_err().kind(), "unavailable");
    let mistrusted = change(&|c| c.ca_file = Some(other_ca.clone())).await;
    let mistrusted = mistrusted.unwrap_err();
    assert_eq!(mistrusted.kind(), "unavailable");
    assert!(
        mistrusted.to_string().contains("certificate"),
        "{mistrusted}"
    );
}
