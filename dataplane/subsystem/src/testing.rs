//! A target, hosts and their connections, for the tests beside the code.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use penstock_buffer::Pool;
use penstock_nvme::command::{BlockRange, GetLogPage, Identify};
use penstock_nvme::fabrics::{ConnectCommand, ConnectData, PropertyCommand, PropertySize};
use penstock_nvme::identify::Cns;
use penstock_nvme::log::LogPage;
use penstock_nvme::register::{Cc, OFFSET_CC, OFFSET_CSTS};
use penstock_nvme::{FromBytes, IntoBytes, IoOpcode, Sqe, Status};
use penstock_seam::{Command, Handler, Reply};
use penstock_units::{BlockSize, Lba, Nsid};

use crate::fakes::{FakeControl, FakeDevice, FakeLink, LinkState, Tasks, pool};
use crate::local::{Job, Runner, lock};
use crate::namespace::NamespaceConfig;
use crate::session::Session;
use crate::subsystem::SubsystemConfig;
use crate::target::{Clock, SessionContext, Target, TargetConfig};

/// The subsystem of the tests.
pub const NQN: &str = "nqn.2024-01.com.example:store";
/// The host of the tests.
pub const HOST: &str = "nqn.2024-01.com.example:host";
/// Its identifier.
pub const HOST_ID: [u8; 16] = [7; 16];

thread_local! {
    static NOW: Cell<u64> = const { Cell::new(1_000_000) };
}

thread_local! {
    static OWN: Rc<Tasks> = Rc::default();
}

/// Runs the tasks of this thread's peers made by [`Peer::new`].
pub fn run_everything() {
    OWN.with(|tasks| tasks.run());
}

fn now() -> u64 {
    NOW.get()
}

/// Moves this thread's clock (1000 ticks a second) on.
pub fn advance_ms(ms: u64) {
    NOW.set(NOW.get() + ms);
}

/// A target with one subsystem and one namespace, and everything to talk to it.
pub struct Bed {
    pub target: Arc<Target>,
    pub device: Arc<FakeDevice>,
    pub pool: Pool,
    pub tasks: Rc<Tasks>,
    jobs: Arc<Mutex<VecDeque<Job>>>,
}

impl Bed {
    /// With 512-byte blocks, 1024 of them.
    pub fn new() -> Bed {
        Bed::with(BlockSize::B512)
    }

    pub fn with(block_size: BlockSize) -> Bed {
        let target = Target::new(TargetConfig {
            mdts_bytes: 128 << 10,
            ..TargetConfig::new(Clock {
                now,
                per_second: 1000,
            })
        });
        target
            .add_subsystem(SubsystemConfig::new(NQN, "SN1"))
            .unwrap();
        let device = FakeDevice::new(1024, block_size);
        let config = NamespaceConfig {
            uuid: [1; 16],
            nguid: [2; 16],
            eui64: [3; 8],
        };
        target
            .add_namespace(NQN, Nsid::new(1), config, device.clone())
            .unwrap();
        let jobs = Arc::default();
        Bed {
            target,
            device,
            pool: pool(),
            tasks: Rc::default(),
            jobs,
        }
    }

    fn runner(&self) -> Runner {
        let jobs = Arc::clone(&self.jobs);
        Arc::new(move |job| {
            lock(&jobs).push_back(job);
            true
        })
    }

    /// Runs what was sent to this thread.
    pub fn run_jobs(&self) {
        loop {
            let job = lock(&self.jobs).pop_front();
            match job {
                Some(job) => job(),
                None => return,
            }
        }
    }

    /// A connection on which nothing was said yet.
    pub fn dial(&self) -> Peer {
        let context = SessionContext {
            peer: "192.0.2.1:1000".parse::<SocketAddr>().unwrap(),
            local: "192.0.2.9:4420".parse::<SocketAddr>().unwrap(),
            pool: self.pool.clone(),
            runner: self.runner(),
        };
        let session = self.target.session(context);
        let control = Rc::new(FakeControl::default());
        session.attach(control.clone());
        Peer {
            session,
            control,
            cntlid: 0,
            cid: Cell::new(1),
            tasks: Rc::clone(&self.tasks),
        }
    }

    /// An admin queue as `host`, connected, not enabled.
    pub fn connect_as(&self, nqn: &str, host: &str, kato_ms: u32) -> Result<Peer, Reply> {
        let mut peer = self.dial();
        let data = ConnectData::new(HOST_ID, 0xffff, nqn, host).unwrap();
        let reply = peer.connect(&ConnectCommand::new(0, 32, kato_ms), &data);
        if reply.status != 0 {
            return Err(reply);
        }
        peer.cntlid = u16::try_from(reply.result & 0xffff).unwrap();
        Ok(peer)
    }

    /// An admin queue, enabled.
    pub fn admin(&self) -> Peer {
        let peer = self.connect_as(NQN, HOST, 0).unwrap();
        peer.enable();
        peer
    }

    /// An enabled discovery controller.
    pub fn discovery(&self) -> Peer {
        let nqn = penstock_nvme::nqn::DISCOVERY_NQN;
        let peer = self.connect_as(nqn, HOST, 0).unwrap();
        peer.enable();
        peer
    }

    /// I/O queue `qid` of the controller.
    pub fn io(&self, admin: &Peer, qid: u16) -> Peer {
        let mut peer = self.dial();
        let data = ConnectData::new(HOST_ID, admin.cntlid, NQN, HOST).unwrap();
        let reply = peer.connect(&ConnectCommand::new(qid, 128, 0), &data);
        assert_eq!(Status::from_wire(reply.status), Status::SUCCESS);
        peer.cntlid = admin.cntlid;
        peer
    }

    /// An enabled controller with one I/O queue.
    pub fn pair(&self) -> (Peer, Peer) {
        let admin = self.admin();
        let io = self.io(&admin, 1);
        (admin, io)
    }
}

/// One connection, as its host sees it.
pub struct Peer {
    pub session: Rc<Session>,
    pub control: Rc<FakeControl>,
    pub cntlid: u16,
    cid: Cell<u16>,
    tasks: Rc<Tasks>,
}

/// A command under way.
pub struct Pending {
    reply: Rc<RefCell<Option<Reply>>>,
    pub link: Rc<LinkState>,
    pub task: u64,
    pub cid: u16,
}

impl Pending {
    /// The reply, where there is one.
    pub fn take(&self) -> Option<Reply> {
        self.reply.take()
    }

    /// The status of the reply, which must be there.
    pub fn status(&self) -> Status {
        Status::from_wire(self.take().expect("no reply yet").status)
    }
}

/// Enable, NVM command set, entry sizes of the NVM command set.
pub fn cc_enable() -> Cc {
    Cc(0).with_en(true).with_iosqes(6).with_iocqes(4)
}

impl Peer {
    /// A connection with tasks of its own, which [`run_everything`] runs.
    pub fn new(session: Rc<Session>, control: Rc<FakeControl>) -> Peer {
        let tasks = OWN.with(Rc::clone);
        Peer {
            session,
            control,
            cntlid: 0,
            cid: Cell::new(1),
            tasks,
        }
    }

    pub fn connect(&self, command: &ConnectCommand, data: &ConnectData) -> Reply {
        self.exec(Sqe::from(*command), data.as_bytes())
    }

    /// Starts a command that carries `link`'s data.
    pub fn start_on(&self, sqe: Sqe, data_len: usize, link: Rc<LinkState>) -> Pending {
        let cid = self.cid.replace(self.cid.get() + 1);
        let command = Command {
            sqe: sqe.with_cid(cid).to_bytes(),
            data_len: u32::try_from(data_len).unwrap(),
            received_ticks: now(),
        };
        self.session.traffic(now());
        let reply = Rc::new(RefCell::new(None));
        let future = Rc::clone(&self.session).execute(command, FakeLink(Rc::clone(&link)));
        let kept = Rc::clone(&reply);
        let task = self.tasks.spawn(async move {
            let earlier = kept.replace(Some(future.await));
            assert!(earlier.is_none());
        });
        self.tasks.run();
        Pending {
            reply,
            link,
            task,
            cid,
        }
    }

    /// Starts a command.
    pub fn start(&self, sqe: Sqe, data: &[u8]) -> Pending {
        self.start_on(sqe, data.len(), LinkState::new(data))
    }

    /// Executes a command that sends `data`.
    pub fn exec(&self, sqe: Sqe, data: &[u8]) -> Reply {
        self.start(sqe, data)
            .take()
            .expect("the command did not finish")
    }

    /// Executes a command that fetches `len` bytes.
    pub fn fetch(&self, sqe: Sqe, len: usize) -> Reply {
        let pending = self.start_on(sqe, len, LinkState::new(&[]));
        pending.take().expect("the command did not finish")
    }

    pub fn set_cc(&self, cc: Cc) -> Status {
        let set = PropertyCommand::set(OFFSET_CC, PropertySize::Four, u64::from(cc.0));
        Status::from_wire(self.exec(Sqe::from(set), &[]).status)
    }

    pub fn csts(&self) -> u32 {
        let get = PropertyCommand::get(OFFSET_CSTS, PropertySize::Four);
        u32::try_from(self.exec(Sqe::from(get), &[]).result).unwrap()
    }

    pub fn enable(&self) {
        assert_eq!(self.set_cc(cc_enable()), Status::SUCCESS);
        assert_eq!(self.csts(), 1);
    }

    pub fn identify(&self, cns: Cns, nsid: u32) -> Reply {
        self.fetch(Identify::new(cns, nsid).encode(), 4096)
    }

    /// A log page, whole, read without Retain Asynchronous Event.
    pub fn log(&self, page: LogPage, len: usize) -> Vec<u8> {
        let sqe = GetLogPage::new(page, 0xffff_ffff, 0, len as u64)
            .encode()
            .unwrap();
        bytes(&self.fetch(sqe, len))
    }

    pub fn read(&self, lba: u64, blocks: u32, len: usize) -> Reply {
        self.fetch(io(IoOpcode::Read, lba, blocks), len)
    }

    /// The connection is gone.
    pub fn hang_up(&self) {
        self.session.closed();
    }
}

/// An I/O command on namespace 1.
pub fn io(opcode: IoOpcode, lba: u64, blocks: u32) -> Sqe {
    let nsid = Nsid::new(1).unwrap();
    BlockRange::new(Lba(lba), blocks)
        .encode(opcode, nsid)
        .unwrap()
}

/// The data of a reply, which must be a success.
pub fn bytes(reply: &Reply) -> Vec<u8> {
    assert_eq!(Status::from_wire(reply.status), Status::SUCCESS);
    reply
        .payload
        .segments()
        .flat_map(|lease| lease.bytes().to_vec())
        .collect()
}

/// The data of a reply as a structure.
pub fn data<T: FromBytes>(reply: &Reply) -> T {
    T::read_from_bytes(&bytes(reply))
        .map_err(drop)
        .expect("the structure's size")
}

/// Status of a reply.
pub fn status(reply: &Reply) -> Status {
    Status::from_wire(reply.status)
}
