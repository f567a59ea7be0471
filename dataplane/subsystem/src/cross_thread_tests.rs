//! A controller whose I/O queue lives on another thread than its admin queue.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use penstock_nvme::command::Abort;
use penstock_nvme::fabrics::{ConnectCommand, ConnectData};
use penstock_nvme::register::Cc;
use penstock_nvme::sqe::Fuse;
use penstock_nvme::{IoOpcode, Status};
use penstock_seam::Handler;

use crate::fakes::{FakeControl, held, pool, release_held};
use crate::local::{Job, Runner};
use crate::target::{SessionContext, Target};
use crate::testing::{Bed, HOST, HOST_ID, NQN, Peer, io, status};

/// A thread that runs jobs, as a reactor does.
struct Elsewhere {
    jobs: Sender<Job>,
    thread: JoinHandle<()>,
}

impl Elsewhere {
    /// With an I/O queue of controller `cntlid`; `then` runs on the thread with it.
    fn with_queue(
        target: &Arc<Target>,
        cntlid: u16,
        then: impl FnOnce(&Peer) + Send + 'static,
    ) -> Elsewhere {
        let (jobs, queue): (Sender<Job>, Receiver<Job>) = channel();
        let (sender, target) = (jobs.clone(), Arc::clone(target));
        let (ready, wait) = channel();
        let thread = thread::spawn(move || {
            let runner: Runner = Arc::new(move |job| sender.send(job).is_ok());
            let peer = dial(&target, runner);
            let data = ConnectData::new(HOST_ID, cntlid, NQN, HOST).unwrap();
            let reply = peer.connect(&ConnectCommand::new(1, 128, 0), &data);
            assert_eq!(status(&reply), Status::SUCCESS);
            then(&peer);
            ready.send(()).unwrap();
            while let Ok(job) = queue.recv() {
                job();
                if peer.control.closes.borrow().len() == 1 {
                    peer.hang_up();
                    return;
                }
            }
        });
        wait.recv().unwrap();
        Elsewhere { jobs, thread }
    }

    fn run(&self, job: impl FnOnce() + Send + 'static) {
        self.jobs.send(Box::new(job)).unwrap();
    }
}

fn dial(target: &Arc<Target>, runner: Runner) -> Peer {
    let session = target.session(SessionContext {
        peer: "192.0.2.1:1001".parse().unwrap(),
        local: "192.0.2.9:4420".parse().unwrap(),
        pool: pool(),
        runner,
    });
    let control = std::rc::Rc::new(FakeControl::default());
    control.abort_works.set(true);
    session.attach(control.clone());
    Peer::new(session, control)
}

#[test]
fn abort_waits_for_the_other_threads_answer() {
    let bed = Bed::new();
    let admin = bed.admin();
    let elsewhere = Elsewhere::with_queue(&bed.target, admin.cntlid, |_| {});
    let pending = admin.start(Abort { sqid: 1, cid: 9 }.encode(), &[]);
    let reply = loop {
        bed.tasks.run();
        if let Some(reply) = pending.take() {
            break reply;
        }
        thread::yield_now();
    };
    assert_eq!(
        (status(&reply), reply.result),
        (Status::SUCCESS, 0),
        "aborted"
    );
    admin.hang_up();
    elsewhere.thread.join().unwrap();
}

#[test]
fn a_reset_is_complete_when_the_other_thread_has_closed_its_queue() {
    let bed = Bed::new();
    let admin = bed.admin();
    let elsewhere = Elsewhere::with_queue(&bed.target, admin.cntlid, |_| {});
    assert_eq!(admin.set_cc(Cc(0)), Status::SUCCESS);
    while admin.csts() & 1 == 1 {
        thread::yield_now();
    }
    elsewhere.thread.join().unwrap();
    assert_eq!(admin.csts(), 0);
}

#[test]
fn a_fused_pair_waits_for_a_write_on_another_thread() {
    let bed = Bed::new();
    let (admin, queue) = bed.pair();
    queue.hang_up();
    bed.run_jobs();
    bed.device.hold.store(true, Ordering::Relaxed);
    let elsewhere = Elsewhere::with_queue(&bed.target, admin.cntlid, |peer| {
        let write = peer.start(io(IoOpcode::Write, 0, 1), &[1; 512]);
        assert_eq!(held(), 1);
        // Its future stays with the peer's tasks; the device holds the write.
        std::mem::forget(write);
    });
    bed.device.hold.store(false, Ordering::Relaxed);
    let queue = bed.io(&admin, 2);
    let first = queue.start(
        io(IoOpcode::Compare, 0, 1).with_fuse(Fuse::First),
        &[1; 512],
    );
    let second = queue.start(io(IoOpcode::Write, 0, 1).with_fuse(Fuse::Second), &[2; 512]);
    for _ in 0..100 {
        bed.tasks.run();
        assert!(first.take().is_none(), "a write is under way elsewhere");
        thread::yield_now();
    }
    elsewhere.run(|| {
        assert!(release_held());
        crate::testing::run_everything();
    });
    let reply = loop {
        bed.tasks.run();
        if let Some(reply) = first.take() {
            break reply;
        }
        thread::yield_now();
    };
    assert_eq!(status(&reply), Status::SUCCESS);
    bed.tasks.run();
    assert_eq!(second.status(), Status::SUCCESS);
    assert_eq!(bed.device.block(0), 2);
    admin.hang_up();
    elsewhere.thread.join().unwrap();
}
