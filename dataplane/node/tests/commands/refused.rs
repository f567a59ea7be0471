//! Commands that cannot be done, and the status that says so (Base 2.1, 4.2.3; NVM 1.1, 3).

use std::time::Duration;

use penstock_client::ClientError;
use penstock_nvme::command::BlockRange;
use penstock_nvme::sqe::Fuse;
use penstock_nvme::{IoOpcode, Le32, Sqe, Status};
use penstock_units::Lba;

use crate::daemon::{NQN, head, listener, memory, subsystem};
use crate::host;
use crate::rig::{Rig, Session, all, both, lease, pattern, refusal, slow_null};

/// Blocks of the namespace.
const BLOCKS: u64 = 256;
/// Longest transfer of a command, in blocks.
const MDTS_BLOCKS: u32 = 16;

fn rig() -> Rig {
    Rig::with(|_| {
        head()
            + "[tcp]\nmdts_bytes = 65536\n\n"
            + &listener("127.0.0.1:0")
            + &subsystem(NQN)
            + &memory(1, BLOCKS * 4096)
            + &memory(2, BLOCKS * 4096)
    })
}

/// The command as it is, with `bytes` of data; its status.
async fn raw(session: &Session, sqe: Sqe, bytes: usize) -> Status {
    let data = match bytes {
        0 => None,
        bytes => Some(lease(&session.pool, &pattern(1, bytes)).await),
    };
    refusal(session.queue.raw(sqe, data).await)
}

fn command(opcode: IoOpcode, lba: u64, blocks: u32) -> Sqe {
    let range = BlockRange::new(Lba(lba), blocks);
    range.encode(opcode, host::nsid(1)).expect("a command")
}

/// Whether the queue still does what it should.
async fn still_works(session: &Session) -> Result<(), ClientError> {
    let disk = session.disk(1, 4096);
    disk.write(BLOCKS - 1, &pattern(2, 4096), false).await?;
    assert!(disk.read(BLOCKS - 1, 1).await? == pattern(2, 4096));
    Ok(())
}

#[test]
fn blocks_beyond_the_end() {
    const OUT: Status = Status::LBA_OUT_OF_RANGE.dnr();
    rig().run(|session| async move {
        let beyond = [
            (BLOCKS, 1),
            (BLOCKS - 1, 2),
            (u64::MAX, 1),
            (u64::MAX - 1, 4),
        ];
        for (lba, blocks) in beyond {
            let bytes = blocks as usize * 4096;
            for opcode in [IoOpcode::Read, IoOpcode::Write, IoOpcode::Compare] {
                let status = raw(&session, command(opcode, lba, blocks), bytes).await;
                assert_eq!(status, OUT, "{opcode:?} {lba} {blocks}");
            }
            for opcode in [IoOpcode::Verify, IoOpcode::WriteZeroes] {
                let status = raw(&session, command(opcode, lba, blocks), 0).await;
                assert_eq!(status, OUT, "{opcode:?} {lba} {blocks}");
            }
            let disk = session.disk(1, 4096);
            disk.write(3, &pattern(5, 4096), false).await?;
            // The good range before the bad one is not touched.
            let ranges = [(Lba(3), 1), (Lba(lba), blocks)];
            let done = session.queue.deallocate(host::nsid(1), &ranges).await;
            assert_eq!(refusal(done), OUT);
            assert!(disk.read(3, 1).await? == pattern(5, 4096));
        }
        still_works(&session).await
    });
}

#[test]
fn lengths_that_do_not_fit() {
    const LENGTH: Status = Status::DATA_SGL_LENGTH_INVALID.dnr();
    const FIELD: Status = Status::INVALID_FIELD.dnr();
    rig().run(|session| async move {
        for opcode in [IoOpcode::Read, IoOpcode::Write, IoOpcode::Compare] {
            // Not whole blocks, too little, too much, nothing.
            for bytes in [4100, 512, 4096, 12288] {
                let status = raw(&session, command(opcode, 0, 2), bytes).await;
                assert_eq!(status, LENGTH, "{opcode:?} {bytes}");
            }
            let status = raw(&session, command(opcode, 0, 2), 0).await;
            assert_eq!(status, LENGTH, "{opcode:?} without data");
            let most = MDTS_BLOCKS as usize * 4096;
            let sqe = command(opcode, 0, MDTS_BLOCKS + 1);
            let status = raw(&session, sqe, most + 4096).await;
            assert_eq!(status, FIELD, "{opcode:?} beyond MDTS");
            assert_eq!(raw(&session, sqe, most).await, FIELD, "{opcode:?}");
        }
        let disk = session.disk(1, 4096);
        let most = pattern(7, MDTS_BLOCKS as usize * 4096);
        disk.write(0, &most, false).await?;
        assert!(disk.read(0, MDTS_BLOCKS).await? == most, "MDTS itself");
        // Commands without data are not bound to MDTS.
        let (queue, ns) = (&session.queue, host::nsid(1));
        queue.verify(ns, Lba(0), 256).await?;
        queue.write_zeroes(ns, Lba(0), 256, false).await?;
        assert!(disk.read(0, 1).await? == [0; 4096]);
        still_works(&session).await
    });
}

#[test]
fn fields_opcodes_and_namespaces_that_do_not_exist() {
    rig().run(|session| async move {
        let mut elsewhere = command(IoOpcode::Read, 0, 1);
        for nsid in [0, 3, 256, 257, 0xffff_fffe, u32::MAX] {
            elsewhere.nsid = Le32::new(nsid);
            let status = raw(&session, elsewhere, 4096).await;
            assert_eq!(status, Status::INVALID_NAMESPACE.dnr(), "{nsid}");
        }
        let mut unknown = command(IoOpcode::Read, 0, 1);
        for opcode in [0x04, 0x18, 0x0e, 0x90, 0xfc] {
            unknown.opcode = opcode;
            let bytes = if opcode & 3 == 0 { 0 } else { 4096 };
            let status = raw(&session, unknown, bytes).await;
            assert_eq!(status, Status::INVALID_OPCODE.dnr(), "{opcode:#x}");
        }
        let protected = BlockRange {
            prinfo: 8,
            ..BlockRange::new(Lba(0), 1)
        };
        let sqe = protected.encode(IoOpcode::Write, host::nsid(1));
        let status = raw(&session, sqe.expect("a command"), 4096).await;
        assert_eq!(status, Status::INVALID_FIELD.dnr());
        let reserved = command(IoOpcode::Read, 0, 1).with_fuse(Fuse::Reserved);
        let status = raw(&session, reserved, 4096).await;
        assert_eq!(status, Status::INVALID_FIELD.dnr());
        still_works(&session).await
    });
}

#[test]
fn a_namespace_that_was_removed() {
    rig().run_with(|session, rig| async move {
        let disk = session.disk(2, 4096);
        disk.write(0, &pattern(1, 4096), false).await?;
        let without = rig.config.replace(&memory(2, BLOCKS * 4096), "");
        rig.daemon.reload(&without);
        let gone = Status::INVALID_NAMESPACE.dnr();
        assert_eq!(refusal(disk.write(0, &pattern(2, 4096), false).await), gone);
        assert_eq!(refusal(disk.read(0, 1).await), gone);
        assert_eq!(refusal(session.queue.flush(host::nsid(2)).await), gone);
        still_works(&session).await
    });
}

/// Commands the device works on when their namespace goes still end.
#[test]
fn a_namespace_removed_under_commands_in_flight() {
    let slow = slow_null(2, 400_000);
    let rig = Rig::new(&(memory(1, BLOCKS * 4096) + &slow));
    rig.run_with(move |session, rig| async move {
        let disk = session.disk(2, 4096);
        let data = pattern(1, 4096);
        let reads = all((0..8).map(|lba| disk.read(lba, 1)));
        let writes = all((0..8).map(|lba| disk.write(lba, &data, true)));
        let removal = async {
            penstock_reactor::sleep(Duration::from_millis(100)).await;
            rig.daemon.reload(&rig.config.replace(&slow, ""))
        };
        let ((reads, writes), log) = both(both(reads, writes), removal).await;
        assert!(log.contains("removed"), "{log}");
        let statuses = reads.into_iter().map(|read| read.map(drop)).chain(writes);
        for result in statuses.filter(Result::is_err) {
            assert_eq!(refusal(result).code(), Status::INVALID_NAMESPACE);
        }
        let gone = refusal(disk.read(0, 1).await);
        assert_eq!(gone, Status::INVALID_NAMESPACE.dnr());
        // It comes back under the same number.
        rig.daemon.reload(&rig.config);
        disk.write(0, &data, true).await?;
        still_works(&session).await
    });
}
