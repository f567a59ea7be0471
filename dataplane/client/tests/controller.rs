//! The admin queue: enabling, identifying, features, log pages, events, keep alive, shutdown; and
//! discovery on top of it.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test that cannot go on must fail"
)]
#![allow(
    clippy::cast_possible_truncation,
    reason = "numbers of tests are small"
)]

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use common::{Hello, Peer, accept, nsid, on_reactor, options, target};
use penstock_buffer::Pool;
use penstock_client::{ClientError, ConnectOptions, Controller, LogPart, discover};
use penstock_nvme::command::{Abort, GetLogPage, Identify, SetFeatures};
use penstock_nvme::event::AsyncEvent;
use penstock_nvme::fabrics::{ConnectResult, FabricsCommand};
use penstock_nvme::feature::NumberOfQueues;
use penstock_nvme::identify::{IdentifyController, IdentifyNamespace, LbaFormat, NamespaceList};
use penstock_nvme::log::{
    ADRFAM_IPV4, DiscoveryEntry, DiscoveryHeader, LogPage, SUBTYPE_NVM, TRTYPE_TCP,
};
use penstock_nvme::register::{Cap, Cc, Csts, OFFSET_CAP, OFFSET_CC, OFFSET_CSTS, OFFSET_VS};
use penstock_nvme::{AdminOpcode, FromZeros, IntoBytes, Sqe, Status};
use penstock_units::{CommandId, QueueId};

/// What the scripted controller does, and what it has seen.
struct Script {
    /// Reads of CSTS before it says ready.
    ready_after: u32,
    /// CAP.TO, in half seconds.
    timeout_units: u8,
    fatal: bool,
    keep_alives: Arc<AtomicU32>,
    shut_down: Arc<AtomicU32>,
    /// Generation of the discovery log each time its header is read.
    generations: Vec<u64>,
}

impl Default for Script {
    fn default() -> Script {
        Script {
            ready_after: 2,
            timeout_units: 10,
            fatal: false,
            keep_alives: Arc::default(),
            shut_down: Arc::default(),
            generations: vec![7],
        }
    }
}

impl Script {
    fn serve(mut self, peer: &mut Peer) {
        peer.hello(Hello::default());
        let mut cc = Cc(0);
        let mut csts_reads = 0;
        while let Some(pdu) = peer.try_pdu() {
            let sqe = pdu.sqe();
            let cid = sqe.cid.get();
            if sqe.is_fabrics() {
                let result = match FabricsCommand::decode(&sqe) {
                    FabricsCommand::Connect(connect) => {
                        assert_eq!((connect.qid.get(), connect.queue_entries()), (0, 32));
                        ConnectResult {
                            cntlid: 1,
                            authreq: 0,
                        }
                        .result()
                    }
                    FabricsCommand::PropertySet(set) => {
                        assert_eq!(set.ofst.get(), OFFSET_CC);
                        cc = Cc(set.value.get() as u32);
                        self.shut_down.store(cc.shn().into(), Ordering::Relaxed);
                        0
                    }
                    FabricsCommand::PropertyGet(get) => match get.ofst.get() {
                        OFFSET_CAP => Cap::default().with_mqes(127).with_to(self.timeout_units).0,
                        OFFSET_VS => 0x0002_0100,
                        OFFSET_CC => cc.0.into(),
                        OFFSET_CSTS => {
                            csts_reads += 1;
                            let ready = cc.en() && csts_reads > self.ready_after;
                            let csts = Csts::default().with_rdy(ready).with_cfs(self.fatal);
                            csts.with_shst(if cc.shn() == 0 { 0 } else { 2 }).0.into()
                        }
                        other => panic!("property {other:#x}"),
                    },
                    other => panic!("{other:?}"),
                };
                peer.respond(cid, Status::SUCCESS, result);
                continue;
            }
            self.admin(peer, &sqe);
        }
    }

    fn admin(&mut self, peer: &mut Peer, sqe: &Sqe) {
        let cid = sqe.cid.get();
        match AdminOpcode::try_from(sqe.opcode).expect("a known command") {
            AdminOpcode::Identify => match identify(Identify::decode(sqe)) {
                Ok(data) => peer.c2h(cid, 0, &data, true, true),
                Err(status) => peer.respond(cid, status, 0),
            },
            AdminOpcode::GetLogPage => {
                let command = GetLogPage::decode(sqe);
                let data = self.log(command);
                peer.c2h(cid, 0, &data, true, true);
            }
            AdminOpcode::SetFeatures => {
                let asked = NumberOfQueues::from_dword(SetFeatures::decode(sqe).cdw11);
                let granted = NumberOfQueues {
                    submission: asked.submission.min(4),
                    ..asked
                };
                peer.respond(cid, Status::SUCCESS, granted.dword().into());
            }
            AdminOpcode::GetFeatures => peer.respond(cid, Status::SUCCESS, 0x1234),
            AdminOpcode::AsyncEventRequest => {
                let event = AsyncEvent::NAMESPACE_CHANGED.dword();
                peer.respond(cid, Status::SUCCESS, event.into());
            }
            AdminOpcode::KeepAlive => {
                self.keep_alives.fetch_add(1, Ordering::Relaxed);
                peer.respond(cid, Status::SUCCESS, 0);
            }
            AdminOpcode::Abort => {
                let abort = Abort::decode(sqe);
                let not_aborted = abort.sqid == 9;
                peer.respond(cid, Status::SUCCESS, not_aborted.into());
            }
            other => panic!("{other}"),
        }
    }

    /// The discovery log as it is now: a header that tells the next generation, then two entries.
    fn log(&mut self, command: GetLogPage) -> Vec<u8> {
        assert_eq!(command.lid, u8::from(LogPage::Discovery));
        let mut header = DiscoveryHeader::new_zeroed();
        header.genctr.set(self.generations[0]);
        header.numrec.set(2);
        if command.offset == 0 && self.generations.len() > 1 {
            self.generations.remove(0);
        }
        let mut log = header.as_bytes().to_vec();
        for port in ["4420", "4421"] {
            let mut entry = DiscoveryEntry::new_zeroed();
            entry.trtype = TRTYPE_TCP;
            entry.adrfam = ADRFAM_IPV4;
            entry.subtype = SUBTYPE_NVM;
            entry.subnqn[..28].copy_from_slice(b"nqn.2024-01.com.example:disk");
            entry.traddr = [b' '; 256];
            entry.traddr[..9].copy_from_slice(b"192.0.2.1");
            entry.trsvcid[..4].copy_from_slice(port.as_bytes());
            log.extend_from_slice(entry.as_bytes());
        }
        let start = command.offset as usize;
        log[start..start + command.bytes() as usize].to_vec()
    }
}

fn identify(command: Identify) -> Result<Vec<u8>, Status> {
    match (command.cns, command.nsid) {
        (0x01, _) => {
            let mut identity = IdentifyController::zeroed();
            identity.mdts = 5;
            identity.ioccsz.set(4 + 512);
            identity.maxcmd.set(100);
            identity.mn[..4].copy_from_slice(b"Test");
            Ok(identity.as_bytes().to_vec())
        }
        (0x02, after) => Ok(NamespaceList::after(after, [1, 5]).as_bytes().to_vec()),
        (0x00, 1 | 5) => {
            let mut namespace = IdentifyNamespace::new_zeroed();
            namespace.nsze.set(1000);
            namespace.flbas = 1;
            namespace.lbaf[1] = LbaFormat {
                lbads: 12,
                ..LbaFormat::default()
            };
            Ok(namespace.as_bytes().to_vec())
        }
        (0x00, _) => Err(Status::INVALID_NAMESPACE.dnr()),
        (0x03, _) => {
            let mut list = vec![0; 4096];
            list[..4].copy_from_slice(&[3, 16, 0, 0]);
            list[4..20].fill(0xab);
            Ok(list)
        }
        other => panic!("{other:?}"),
    }
}

fn serve(script: Script) -> (SocketAddr, JoinHandle<()>) {
    target(move |listener| {
        let mut peer = accept(&listener);
        script.serve(&mut peer);
    })
}

/// Connects a controller that follows the script and runs the test on it.
fn with_controller<F>(
    script: Script,
    change: impl FnOnce(&mut ConnectOptions),
    test: impl FnOnce(Controller, Pool) -> F + Send + 'static,
) where
    F: Future<Output = ()> + 'static,
{
    let (address, thread) = serve(script);
    let mut options = options(address);
    change(&mut options);
    on_reactor(move |pool| async move {
        let controller = Controller::connect(&options, &pool)
            .await
            .expect("connected");
        test(controller, pool).await;
    });
    thread.join().expect("the script was followed");
}

#[test]
fn connecting_learns_the_limits() {
    with_controller(
        Script::default(),
        |_| {},
        |controller, _| async move {
            let info = controller.info();
            assert_eq!(info.transfer_max_bytes, Some(128 * 1024));
            assert_eq!(info.in_capsule_max_bytes, 8192);
            assert_eq!(
                (info.commands_max, info.cap.queue_entries_max()),
                (100, 128)
            );
            assert_eq!((info.version, info.controller_id.0), (0x0002_0100, 1));
            assert_eq!(&controller.identity().expect("identified").mn[..4], b"Test");
            assert_eq!(controller.request_io_queues(8).await.expect("queues"), 4);
            assert_eq!(controller.request_io_queues(2).await.expect("queues"), 2);
        },
    );
}

#[test]
fn namespaces_are_listed_and_described() {
    with_controller(
        Script::default(),
        |_| {},
        |controller, _| async move {
            let nsids = controller.active_namespaces().await.expect("listed");
            assert_eq!(nsids.iter().map(|n| n.get()).collect::<Vec<_>>(), [1, 5]);
            let found = controller
                .identify_namespace(nsid())
                .await
                .expect("identified");
            assert_eq!((found.blocks, found.block_size.bytes()), (1000, 4096));
            assert_eq!(found.descriptors.len(), 1);
            let other = penstock_units::Nsid::new(9).expect("an identifier");
            let error = controller
                .identify_namespace(other)
                .await
                .expect_err("inactive");
            assert!(error.to_string().contains("namespace 9"), "{error}");
        },
    );
}

#[test]
fn events_aborts_and_features_are_carried() {
    with_controller(
        Script::default(),
        |_| {},
        |controller, _| async move {
            let event = controller.next_event().await.expect("an event");
            assert_eq!(event, AsyncEvent::NAMESPACE_CHANGED);
            assert!(
                controller
                    .abort(QueueId(1), CommandId(3))
                    .await
                    .expect("answered")
            );
            assert!(
                !controller
                    .abort(QueueId(9), CommandId(3))
                    .await
                    .expect("answered")
            );
            let feature = penstock_nvme::command::GetFeatures::default();
            assert_eq!(
                controller.get_feature(feature).await.expect("a value"),
                0x1234
            );
            let part = LogPart::start(LogPage::Discovery, 3072);
            assert_eq!(controller.log_page(part).await.expect("a page").len(), 3072);
        },
    );
}

#[test]
fn the_controller_is_kept_alive_and_shut_down_in_order() {
    let script = Script::default();
    let (keep_alives, shut_down) = (
        Arc::clone(&script.keep_alives),
        Arc::clone(&script.shut_down),
    );
    with_controller(
        script,
        |options| options.keep_alive_timeout_ms = 40,
        |controller, _| async move {
            penstock_reactor::sleep(Duration::from_millis(200)).await;
            assert!(controller.closed().is_none());
            controller.shut_down().await.expect("shut down");
        },
    );
    assert!(
        keep_alives.load(Ordering::Relaxed) >= 3,
        "{keep_alives:?} in 200 ms"
    );
    assert_eq!(
        shut_down.load(Ordering::Relaxed),
        1,
        "a normal shutdown was asked for"
    );
}

/// Connects to a controller that does not become ready; what is told then.
fn refusal(script: Script) -> String {
    let (address, thread) = serve(script);
    let options = options(address);
    let error = on_reactor(move |pool| async move {
        Controller::connect(&options, &pool)
            .await
            .map(drop)
            .expect_err("not ready")
    });
    thread.join().expect("the script was followed");
    assert!(matches!(error, ClientError::Controller { .. }), "{error}");
    error.to_string()
}

#[test]
fn a_controller_that_does_not_become_ready_is_given_its_own_time() {
    let told = refusal(Script {
        ready_after: 1000,
        timeout_units: 1,
        ..Script::default()
    });
    assert!(told.contains("did not become ready in 500 ms"), "{told}");
    let told = refusal(Script {
        ready_after: 1000,
        fatal: true,
        ..Script::default()
    });
    assert!(told.contains("CSTS.CFS"), "{told}");
}

#[test]
fn a_discovery_log_that_moves_is_read_again() {
    // Read as 7, then found to be 8: read again, twice 9.
    let script = Script {
        generations: vec![7, 8, 9, 9],
        ..Script::default()
    };
    let (address, thread) = serve(script);
    let options = options(address);
    let log =
        on_reactor(move |pool| async move { discover(&options, &pool).await.expect("discovered") });
    thread.join().expect("the script was followed");
    assert_eq!(log.generation, 9);
    assert_eq!(log.records.len(), 2);
    let record = &log.records[1];
    assert_eq!(record.subsystem_nqn, "nqn.2024-01.com.example:disk");
    assert_eq!(
        (record.address.as_str(), record.service.as_str()),
        ("192.0.2.1", "4421")
    );
    assert_eq!((record.transport, record.subsystem_type), ("tcp", "nvm"));
}

#[test]
fn a_discovery_log_that_never_stands_still_is_given_up() {
    let script = Script {
        generations: (1..100).collect(),
        ..Script::default()
    };
    let (address, thread) = serve(script);
    let options = options(address);
    let error =
        on_reactor(
            move |pool| async move { discover(&options, &pool).await.expect_err("given up") },
        );
    thread.join().expect("the script was followed");
    assert!(error.to_string().contains("changes faster"), "{error}");
}
