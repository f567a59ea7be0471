//! The queue on a ring that does as the script says: short transfers, interruptions, refusals.

use super::queue::{FileQueue, Ring};
use super::*;
use crate::testing::{Bytes, lease_of, pattern, poll_once, pool, request, size};
use penstock_block::{Direction, Op, Outcome, Ticket};
use penstock_buffer::{Lease, Payload};
use penstock_reactor::{FileOp, FileSink};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;

/// What happens to the next operation; without a word it succeeds.
#[derive(Clone, Copy)]
enum Word {
    Works,
    Moves(usize),
    Fails(i32),
}

struct Waiting {
    op: FileOp,
    payload: Payload,
    sink: Rc<dyn FileSink>,
    token: u64,
}

/// A file in memory behind a ring that completes one operation at a time.
#[derive(Clone)]
struct FakeRing(Rc<Fake>);

struct Fake {
    bytes: RefCell<Vec<u8>>,
    script: RefCell<VecDeque<Word>>,
    waiting: RefCell<VecDeque<Waiting>>,
    log: RefCell<Vec<FileOp>>,
}

impl Ring for FakeRing {
    fn submit(&self, op: FileOp, payload: Payload, sink: Rc<dyn FileSink>, token: u64) {
        self.0.log.borrow_mut().push(op);
        self.0.waiting.borrow_mut().push_back(Waiting {
            op,
            payload,
            sink,
            token,
        });
    }
}

impl Fake {
    /// Moves up to `most` bytes between file and payload.
    fn transfer(&self, op: FileOp, payload: &Payload, most: usize) -> u32 {
        let mut bytes = self.bytes.borrow_mut();
        let mut left = payload.len().min(most);
        let moved = left;
        let (mut at, reading) = match op {
            FileOp::Read { offset } => (size(offset), true),
            FileOp::Write { offset, .. } => (size(offset), false),
            FileOp::Fallocate { offset, len, .. } => {
                bytes[size(offset)..size(offset + len)].fill(0);
                return 0;
            }
            FileOp::Fdatasync => return 0,
        };
        for lease in payload.segments() {
            let n = lease.len().min(left);
            let place = &mut bytes[at..at + n];
            if reading {
                lease.write_at(0, place);
            } else {
                lease.read_at(0, place);
            }
            at += n;
            left -= n;
        }
        u32::try_from(moved).unwrap()
    }

    /// Completes the operation that waits longest.
    fn complete_one(&self) -> bool {
        let Some(Waiting {
            op,
            payload,
            sink,
            token,
        }) = self.waiting.borrow_mut().pop_front()
        else {
            return false;
        };
        let word = self.script.borrow_mut().pop_front().unwrap_or(Word::Works);
        let result = match word {
            Word::Works => Ok(self.transfer(op, &payload, usize::MAX)),
            Word::Moves(most) => Ok(self.transfer(op, &payload, most)),
            Word::Fails(errno) => Err(io::Error::from_raw_os_error(errno)),
        };
        sink.on_done(token, result, payload);
        true
    }
}

struct Scene {
    fake: Rc<Fake>,
    queue: Rc<dyn BlockQueue>,
    device: Arc<FileDevice>,
    pool: penstock_buffer::Pool,
    _folder: tempfile::TempDir,
}

const SIZE: usize = 4 << 20;

fn scene(alignment: u32, script: &[Word]) -> Scene {
    let folder = tempfile::tempdir().unwrap();
    let mut device = open::open(&FileConfig {
        name: "scripted".to_owned(),
        path: folder.path().join("a"),
        kind: FileKind::Regular,
        size_bytes: Some(SIZE as u64),
        create: true,
        block_size: BlockSize::B512,
        direct: false,
        read_only: false,
    })
    .unwrap();
    device.alignment = alignment;
    let device = Arc::new(device);
    let fake = Rc::new(Fake {
        bytes: RefCell::new(pattern(42, SIZE)),
        script: RefCell::new(script.iter().copied().collect()),
        waiting: RefCell::default(),
        log: RefCell::default(),
    });
    let queue = FileQueue::new(Arc::clone(&device), FakeRing(Rc::clone(&fake)));
    Scene {
        fake,
        queue,
        device,
        pool: pool(),
        _folder: folder,
    }
}

impl Scene {
    fn end(&self, mut ticket: Ticket) -> Outcome {
        loop {
            if let Some(outcome) = poll_once(&mut ticket) {
                return outcome;
            }
            assert!(
                self.fake.complete_one(),
                "nothing under way for an open request"
            );
        }
    }

    fn run(&self, op: Op, lba: u64, blocks: u64, payload: Payload) -> Outcome {
        self.end(self.queue.submit(request(op, lba, blocks, payload)))
    }

    fn result(&self, op: Op, lba: u64, blocks: u64) -> Result<(), BlockError> {
        self.run(op, lba, blocks, Payload::none()).result
    }

    fn log(&self) -> Vec<FileOp> {
        self.fake.log.borrow().clone()
    }

    /// Three runs that do not start on the same boundaries as the pieces moved.
    fn runs(&self, bytes: &[u8]) -> Payload {
        let mut payload = Payload::none();
        for piece in [&bytes[..1024], &bytes[1024..1536], &bytes[1536..]] {
            payload.push(lease_of(&self.pool, piece));
        }
        payload
    }
}

fn collect(payload: &Payload) -> Vec<u8> {
    payload
        .segments()
        .flat_map(|lease| lease.bytes().to_vec())
        .collect()
}

const WRITE: Op = Op::Write { fua: false };

#[test]
fn short_transfers_go_on_where_they_stopped() {
    use Word::{Fails, Moves};
    let script = [
        Moves(512),
        Fails(libc::EINTR),
        Moves(1024),
        Fails(libc::EAGAIN),
        Moves(700),
    ];
    for scattered in [false, true] {
        let scene = scene(1, &script);
        let memory = |bytes: &[u8]| match scattered {
            true => scene.runs(bytes),
            false => lease_of(&scene.pool, bytes).into(),
        };
        let outcome = scene.run(Op::Read, 2, 8, memory(&[0; 4096]));
        assert_eq!(outcome.result, Ok(()));
        assert!(collect(&outcome.payload) == pattern(42, SIZE)[1024..5120]);
        let offsets = [1024, 1536, 1536, 2560, 2560, 3260].map(|offset| FileOp::Read { offset });
        assert_eq!(scene.log(), offsets);
        drop(outcome);

        scene.fake.script.borrow_mut().extend(script);
        let bytes = pattern(7, 4096);
        let outcome = scene.run(Op::Write { fua: true }, 16, 8, memory(&bytes));
        assert_eq!(outcome.result, Ok(()));
        assert!(
            collect(&outcome.payload) == bytes,
            "the whole payload comes back"
        );
        assert!(scene.fake.bytes.borrow()[8192..12_288] == bytes);
        assert!(
            scene.log()[6..]
                .iter()
                .all(|op| matches!(op, FileOp::Write { dsync: true, .. }))
        );
        drop(outcome);
        assert_eq!(scene.pool.stats().leased_bytes, 0);
    }
}

#[test]
fn transfers_that_stop_for_good_are_media_errors() {
    for (op, error) in [
        (Op::Read, BlockError::ReadMedia),
        (WRITE, BlockError::WriteMedia),
    ] {
        let scene = scene(1, &[Word::Moves(512), Word::Moves(0)]);
        let outcome = scene.run(op, 0, 8, lease_of(&scene.pool, &[0; 4096]).into());
        assert_eq!(outcome.result, Err(error));
        assert_eq!(outcome.payload.len(), 4096);
    }
    // Direct I/O cannot go on inside a sector.
    let scene = scene(512, &[Word::Moves(700)]);
    let outcome = scene.run(Op::Read, 0, 8, lease_of(&scene.pool, &[0; 4096]).into());
    assert_eq!(outcome.result, Err(BlockError::ReadMedia));
}

#[test]
fn interruptions_without_end_end() {
    let scene = scene(1, &[Word::Fails(libc::EAGAIN); 1000]);
    let outcome = scene.run(Op::Read, 0, 1, lease_of(&scene.pool, &[0; 512]).into());
    assert_eq!(outcome.result, Err(BlockError::NotReady));
}

#[test]
fn errors_are_told_apart_by_direction() {
    for (errno, reading, writing) in [
        (libc::EIO, BlockError::ReadMedia, BlockError::WriteMedia),
        (
            libc::ENOSPC,
            BlockError::CapacityExceeded,
            BlockError::CapacityExceeded,
        ),
        (libc::ENODEV, BlockError::Gone, BlockError::Gone),
        (
            libc::EOPNOTSUPP,
            BlockError::Unsupported,
            BlockError::Unsupported,
        ),
    ] {
        let scene = scene(1, &[Word::Fails(errno); 3]);
        let lease = lease_of(&scene.pool, &[0; 512]);
        assert_eq!(
            scene.run(Op::Read, 0, 1, lease.clone().into()).result,
            Err(reading)
        );
        assert_eq!(scene.run(WRITE, 0, 1, lease.into()).result, Err(writing));
        assert_eq!(scene.result(Op::Flush, 0, 0), Err(writing));
    }
}

const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
const RANGE: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;

fn zeroes(fua: bool, may_deallocate: bool) -> Op {
    Op::WriteZeroes {
        fua,
        may_deallocate,
    }
}

#[test]
fn zeroing_takes_the_way_allowed_and_is_durable_with_fua() {
    let scene = scene(1, &[]);
    let fallocate = |mode| FileOp::Fallocate {
        mode,
        offset: 512,
        len: 1024,
    };
    for (op, expected) in [
        (zeroes(false, false), vec![fallocate(RANGE)]),
        (zeroes(false, true), vec![fallocate(PUNCH)]),
        (
            zeroes(true, true),
            vec![fallocate(PUNCH), FileOp::Fdatasync],
        ),
        (Op::Deallocate, vec![fallocate(PUNCH)]),
        (Op::Flush, vec![FileOp::Fdatasync]),
    ] {
        scene.fake.log.borrow_mut().clear();
        assert_eq!(scene.result(op, 1, 2), Ok(()));
        assert_eq!(scene.log(), expected);
    }
    assert!(scene.device.geometry().deallocate);
}

#[test]
fn refused_zeroing_falls_back_to_writing_and_is_remembered() {
    let refuse = Word::Fails(libc::EOPNOTSUPP);
    let scene = scene(512, &[refuse, refuse, Word::Works, Word::Moves(512)]);
    let blocks = 5000_u64;
    assert_eq!(scene.result(zeroes(true, true), 1, blocks), Ok(()));
    let log = scene.log();
    let len = blocks * 512;
    assert_eq!(
        log[0],
        FileOp::Fallocate {
            mode: PUNCH,
            offset: 512,
            len
        }
    );
    assert_eq!(
        log[1],
        FileOp::Fallocate {
            mode: RANGE,
            offset: 512,
            len
        }
    );
    assert_eq!(
        log[2],
        FileOp::Write {
            offset: 512,
            dsync: false
        }
    );
    assert_eq!(
        log[3],
        FileOp::Write {
            offset: 512 + (1 << 20),
            dsync: false
        }
    );
    assert_eq!(
        log[4],
        FileOp::Write {
            offset: 1024 + (1 << 20),
            dsync: false
        }
    );
    assert_eq!(log.last(), Some(&FileOp::Fdatasync));
    {
        let file = scene.fake.bytes.borrow();
        let end = 512 + 5000 * 512;
        assert!(file[512..end].iter().all(|b| *b == 0));
        let before = pattern(42, SIZE);
        assert!(file[..512] == before[..512] && file[end..] == before[end..]);
    }
    let geometry = scene.device.geometry();
    assert!(!geometry.deallocate && !geometry.deallocated_reads_zero);
    scene.fake.log.borrow_mut().clear();
    assert_eq!(scene.result(zeroes(false, true), 0, 1), Ok(()));
    assert_eq!(
        scene.log(),
        [FileOp::Write {
            offset: 0,
            dsync: false
        }]
    );
    assert_eq!(scene.result(Op::Deallocate, 0, 1), Ok(()));
    assert_eq!(scene.log().len(), 1, "nothing is tried any more");
}

#[test]
fn a_refused_deallocate_is_no_error() {
    let scene = scene(1, &[Word::Fails(libc::EOPNOTSUPP)]);
    assert_eq!(scene.result(Op::Deallocate, 0, 8), Ok(()));
    assert!(!scene.device.geometry().deallocate);
    assert!(
        scene.fake.bytes.borrow()[..] == pattern(42, SIZE),
        "the data is as it was"
    );
}

#[test]
fn ranges_that_are_no_whole_sectors_go_around_without_prejudice() {
    let odd = Word::Fails(libc::EINVAL);
    let scene = scene(1, &[odd, odd, Word::Works, odd]);
    assert_eq!(scene.result(zeroes(false, true), 1, 1), Ok(()));
    assert_eq!(scene.log().len(), 3);
    assert_eq!(scene.fake.bytes.borrow()[512..1024], [0; 512]);
    assert_eq!(scene.result(Op::Deallocate, 3, 1), Ok(()));
    assert!(scene.device.geometry().deallocate);
    assert_eq!(scene.result(zeroes(false, false), 8, 8), Ok(()));
    let fallocate = FileOp::Fallocate {
        mode: RANGE,
        offset: 4096,
        len: 4096,
    };
    assert_eq!(scene.log().last(), Some(&fallocate));
}

#[test]
fn real_errors_of_zeroing_are_reported() {
    let scene = scene(
        1,
        &[
            Word::Fails(libc::ENOSPC),
            Word::Works,
            Word::Fails(libc::EIO),
        ],
    );
    assert_eq!(
        scene.result(zeroes(false, false), 0, 8),
        Err(BlockError::CapacityExceeded)
    );
    assert_eq!(
        scene.result(zeroes(true, true), 0, 8),
        Err(BlockError::WriteMedia)
    );
    assert!(scene.device.geometry().deallocate);
}

/// Memory that direct I/O cannot use.
fn skewed(scene: &Scene, bytes: &[u8]) -> Lease {
    let lease = scene
        .pool
        .try_lease(bytes.len() + 4)
        .unwrap()
        .slice(4, bytes.len())
        .unwrap();
    lease.write_at(0, bytes);
    lease
}

#[test]
fn unaligned_memory_is_copied_and_given_back() {
    let scene = scene(512, &[Word::Moves(512)]);
    let outcome = scene.run(Op::Read, 0, 8, skewed(&scene, &[0; 4096]).into());
    assert_eq!(outcome.result, Ok(()));
    assert!(collect(&outcome.payload) == pattern(42, SIZE)[..4096]);

    scene.fake.script.borrow_mut().extend([Word::Moves(1024)]);
    let bytes = pattern(3, 4096);
    assert_eq!(
        scene.run(WRITE, 8, 8, skewed(&scene, &bytes).into()).result,
        Ok(())
    );
    assert!(scene.fake.bytes.borrow()[4096..8192] == bytes);

    scene
        .fake
        .script
        .borrow_mut()
        .extend([Word::Fails(libc::EIO)]);
    let outcome = scene.run(Op::Read, 0, 8, skewed(&scene, &[1; 4096]).into());
    assert_eq!(outcome.result, Err(BlockError::ReadMedia));
    assert!(collect(&outcome.payload) == [1; 4096]);
}

#[test]
fn wrong_requests_reach_no_ring() {
    let scene = scene(1, &[]);
    let end = SIZE as u64 / 512;
    let lease = || Payload::from(lease_of(&scene.pool, &[0; 512]));
    assert_eq!(
        scene.run(Op::Read, end, 1, lease()).result,
        Err(BlockError::OutOfRange)
    );
    assert_eq!(
        scene.run(WRITE, 0, 2, lease()).result,
        Err(BlockError::Internal)
    );
    assert_eq!(
        scene.result(Op::Deallocate, end - 1, 2),
        Err(BlockError::OutOfRange)
    );
    assert_eq!(scene.result(zeroes(true, true), 5, 0), Ok(()));
    assert!(
        scene
            .queue
            .lend(Direction::FromDevice, penstock_units::Lba(0), 1)
            .is_none()
    );
    assert!(scene.log().is_empty());
}

#[test]
fn requests_finish_in_any_order_with_their_own_payload() {
    let scene = scene(1, &[]);
    let io = Bytes::new(Rc::clone(&scene.queue));
    let reads: Vec<Ticket> = (0..16)
        .map(|lba| {
            let lease = io.pool.try_lease(512).unwrap();
            scene.queue.submit(request(Op::Read, lba, 1, lease.into()))
        })
        .collect();
    scene.fake.waiting.borrow_mut().rotate_left(5);
    for (lba, ticket) in reads.into_iter().enumerate() {
        let outcome = scene.end(ticket);
        assert!(collect(&outcome.payload) == pattern(42, SIZE)[lba * 512..(lba + 1) * 512]);
    }
}
