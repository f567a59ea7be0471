//! Fused Compare-and-Write (Base 2.1, 3.4.2).

use penstock_client::ClientError;
use penstock_nvme::command::BlockRange;
use penstock_nvme::sqe::Fuse;
use penstock_nvme::{IoOpcode, Status};
use penstock_units::Lba;

use crate::daemon::{NQN, file, head, listener, memory, subsystem};
use crate::host::{self, Host};
use crate::rig::{Disk, Rig, Session, both, lease, pattern, refusal};

/// How often each host counts up.
const COUNTS: u64 = 150;

fn rig() -> Rig {
    Rig::with(|folder| {
        head()
            + &listener("127.0.0.1:0")
            + &subsystem(NQN)
            + &memory(1, 1 << 20)
            + &file(2, &folder.path().join("a.img"), 1 << 20)
    })
}

#[test]
fn a_pair_writes_where_the_data_is_as_expected_only() {
    rig().run(|session| async move {
        for nsid in [1, 2] {
            let disk = session.disk(nsid, 4096);
            let (old, new) = (pattern(1, 4096), pattern(2, 4096));
            disk.write(5, &old, false).await?;
            disk.swap(5, &old, &new).await?;
            assert!(disk.read(5, 1).await? == new);
            let status = refusal(disk.swap(5, &old, &pattern(3, 4096)).await);
            assert_eq!(status.code(), Status::COMPARE_FAILURE);
            assert!(disk.read(5, 1).await? == new, "a mismatch writes nothing");
            // More than one block is not atomic here (Identify's ACWU is 0).
            let two = pattern(4, 8192);
            let status = refusal(disk.swap(5, &two, &two).await);
            assert_eq!(status, Status::ATOMIC_WRITE_UNIT_EXCEEDED.dnr());
            assert!(disk.read(5, 1).await? == new);
        }
        Ok(())
    });
}

#[test]
fn halves_without_their_partner_do_nothing() {
    rig().run(|session| async move {
        let disk = session.disk(1, 4096);
        let old = pattern(1, 4096);
        disk.write(5, &old, false).await?;
        let half = |opcode, fuse| {
            let range = BlockRange::new(Lba(5), 1).encode(opcode, host::nsid(1));
            range.expect("a command").with_fuse(fuse)
        };
        let data = lease(&session.pool, &pattern(2, 4096)).await;
        let second = half(IoOpcode::Write, Fuse::Second);
        let status = refusal(session.queue.raw(second, Some(data)).await);
        assert_eq!(status.code(), Status::ABORT_MISSING_FUSED);

        let first = half(IoOpcode::Compare, Fuse::First);
        let data = lease(&session.pool, &old).await;
        let waiting = session.queue.raw(first, Some(data));
        let next = async {
            penstock_reactor::sleep(std::time::Duration::from_millis(50)).await;
            disk.read(5, 1).await
        };
        let (alone, read) = both(waiting, next).await;
        assert_eq!(refusal(alone).code(), Status::ABORT_MISSING_FUSED);
        assert!(read? == old, "the command between is done, the pair is not");
        disk.swap(5, &old, &pattern(3, 4096)).await
    });
}

#[test]
fn two_hosts_on_one_counter_lose_no_update() {
    let rig = rig();
    let address = rig.address();
    for nsid in [1, 2] {
        let hosts = [Host::new(), Host::new()];
        let counting = |host: &Host| {
            host.begin(move |pool| async move {
                let session = Session::new(address, pool).await?;
                count_up(&session.disk(nsid, 4096)).await
            })
        };
        let running: Vec<_> = hosts.iter().map(counting).collect();
        for result in running {
            result.recv().expect("a result").expect("it counts");
        }
        let total = rig.run(move |session| async move {
            Ok(number(&session.disk(nsid, 4096).read(0, 1).await?))
        });
        assert_eq!(total, 2 * COUNTS, "namespace {nsid}");
    }
}

/// Adds one to the number in block 0, over and over.
async fn count_up(disk: &Disk) -> Result<(), ClientError> {
    for _ in 0..COUNTS {
        loop {
            let old = disk.read(0, 1).await?;
            let mut new = old.clone();
            new[..8].copy_from_slice(&(number(&old) + 1).to_le_bytes());
            match disk.swap(0, &old, &new).await {
                Ok(()) => break,
                Err(error) => {
                    let code = error.status().map(Status::code);
                    if code != Some(Status::COMPARE_FAILURE) {
                        return Err(error);
                    }
                }
            }
        }
    }
    Ok(())
}

fn number(block: &[u8]) -> u64 {
    u64::from_le_bytes(*block.first_chunk().expect("8 bytes"))
}
