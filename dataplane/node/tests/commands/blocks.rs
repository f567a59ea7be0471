//! The NVM command set on every backend and block size (NVM 1.1, 3.3).

use std::net::SocketAddr;

use penstock_buffer::Pool;
use penstock_client::{ClientError, Controller, IoQueue};
use penstock_nvme::Status;
use penstock_nvme::command::flush;
use penstock_nvme::identify::DLFEAT_READ_ZEROES;
use penstock_nvme::sqe::NSID_BROADCAST;
use penstock_nvme::{IoOpcode, Le32, Sqe};
use penstock_units::{Lba, QueueId};
use tempfile::TempDir;

use crate::daemon::{NQN, file, head, listener, memory, subsystem};
use crate::host::{self, Host};
use crate::rig::{Disk, Rig, Session, all, block_size, lease, pattern, refusal};

const MIB: usize = 1 << 20;

/// A memory and a file namespace of each block size: 1, 2 with 512 bytes, 3, 4 with 4096.
fn four_kinds() -> Rig {
    Rig::with(|folder| {
        let image = |name: &str| folder.path().join(name);
        head()
            + &listener("127.0.0.1:0")
            + &subsystem(NQN)
            + &memory(1, 1 << 20)
            + &block_size(512)
            + &file(2, &image("512.img"), 1 << 20)
            + &block_size(512)
            + &memory(3, 1 << 20)
            + &file(4, &image("4096.img"), 1 << 20)
    })
}

const KINDS: [(u32, usize); 4] = [(1, 512), (2, 512), (3, 4096), (4, 4096)];

#[test]
fn what_is_written_is_read_compared_and_verified() {
    four_kinds().run(|session| async move {
        for (nsid, block) in KINDS {
            let disk = session.disk(nsid, block);
            for (lba, blocks, fua) in [(0, 1, false), (7, 3, true), (100, 16, false)] {
                let data = pattern(lba, blocks * block);
                disk.write(lba, &data, fua).await?;
                let count = u32::try_from(blocks).expect("few blocks");
                assert!(disk.read(lba, count).await? == data, "{nsid} {lba}");
                disk.compare(lba, &data).await?;
                session
                    .queue
                    .verify(host::nsid(nsid), Lba(lba), count)
                    .await?;
                let mut other = data.clone();
                *other.last_mut().expect("a byte") ^= 1;
                let status = refusal(disk.compare(lba, &other).await);
                assert_eq!(status.code(), Status::COMPARE_FAILURE, "{nsid} {lba}");
            }
            session.queue.flush(host::nsid(nsid)).await?;
        }
        let mut everywhere = flush(host::nsid(1));
        everywhere.nsid = Le32::new(NSID_BROADCAST);
        session.queue.raw(everywhere, None).await.map(drop)
    });
}

#[test]
fn zeroed_and_deallocated_blocks_read_as_zeroes_and_their_neighbours_stay() {
    four_kinds().run(|session| async move {
        for (nsid, block) in KINDS {
            zeroes(&session, nsid, block).await?;
        }
        Ok(())
    });
}

/// Writes 64 blocks, takes pieces out of the middle in each of the ways there are.
async fn zeroes(session: &Session, nsid: u32, block: usize) -> Result<(), ClientError> {
    let disk = session.disk(nsid, block);
    let ns = host::nsid(nsid);
    let mut expected = pattern(9, 64 * block);
    disk.write(64, &expected, false).await?;
    let info = session.controller.identify_namespace(ns).await?;
    assert!(info.identity.dlfeat & 7 == DLFEAT_READ_ZEROES, "{nsid}");

    session.queue.write_zeroes(ns, Lba(65), 3, false).await?;
    expected[block..4 * block].fill(0);
    session.queue.write_zeroes(ns, Lba(80), 8, true).await?;
    expected[16 * block..24 * block].fill(0);
    assert!(disk.read(64, 64).await? == expected, "zeroed, {nsid}");

    let ranges = [(Lba(96), 8), (Lba(120), 0), (Lba(111), 1)];
    session.queue.deallocate(ns, &ranges).await?;
    expected[32 * block..40 * block].fill(0);
    expected[47 * block..48 * block].fill(0);
    assert!(disk.read(64, 64).await? == expected, "deallocated, {nsid}");
    disk.compare(64, &expected).await?;
    // What was taken out takes data again.
    disk.write(96, &pattern(10, block), true).await?;
    assert!(disk.read(96, 1).await? == pattern(10, block), "{nsid}");
    session.queue.flush(ns).await
}

#[test]
fn other_attributes_of_dataset_management_are_hints() {
    Rig::new(&memory(1, 1 << 20)).run(|session| async move {
        let disk = session.disk(1, 4096);
        disk.write(0, &pattern(1, 4096), false).await?;
        let mut sqe = Sqe::new(IoOpcode::DatasetManagement.into());
        sqe.nsid = Le32::new(1);
        // Integral dataset for read.
        sqe.cdw11 = Le32::new(1);
        let mut range = [0; 16];
        range[4] = 1;
        let data = lease(&session.pool, &range).await;
        session.queue.raw(sqe, Some(data)).await?;
        assert!(disk.read(0, 1).await? == pattern(1, 4096));
        Ok(())
    });
}

/// A node with as little payload memory as the configuration allows.
fn small(namespaces: impl FnOnce(&TempDir) -> String) -> Rig {
    Rig::with(|folder| {
        head().replace("= 16777216", "= 4194304")
            + &listener("127.0.0.1:0")
            + &subsystem(NQN)
            + &namespaces(folder)
    })
}

/// Namespace 1 through `count` queues of one controller.
async fn queues(
    address: SocketAddr,
    pool: &Pool,
    count: u16,
) -> Result<(Controller, Vec<Disk>), ClientError> {
    let mut options = host::options(address);
    options.command_timeout_ms = 10_000;
    let controller = Controller::connect(&options, pool).await?;
    controller.request_io_queues(count).await?;
    let mut disks = Vec::new();
    for id in 1..=count {
        disks.push(Disk {
            queue: IoQueue::connect(controller.info(), QueueId(id), 8, pool).await?,
            pool: pool.clone(),
            nsid: 1,
            block_bytes: 4096,
        });
    }
    Ok((controller, disks))
}

/// Each compare needs memory for what the host sends and for what is stored. All of them together
/// want more than the pool has, and none may wait for ever with half of its own.
#[test]
fn more_compares_at_once_than_the_pool_holds_all_end() {
    let rig = small(|_| memory(1, 4 << 20));
    let address = rig.address();
    let work = move |pool: Pool| async move {
        let (_controller, disks) = queues(address, &pool, 10).await?;
        let data = pattern(3, MIB);
        disks[0].write(0, &data, false).await?;
        for _ in 0..3 {
            for result in all(disks.iter().map(|disk| disk.compare(0, &data))).await {
                result?;
            }
        }
        Ok::<_, ClientError>(())
    };
    Host::new().run(work).expect("every compare ends");
}

#[test]
fn a_mix_of_commands_beyond_the_pool_all_ends_right() {
    const QUEUES: u16 = 8;
    const WORKERS: u64 = 4 * QUEUES as u64;
    let rig = small(|folder| file(1, &folder.path().join("a.img"), (MIB as u64) * WORKERS));
    let address = rig.address();
    let work = move |pool: Pool| async move {
        let (_controller, disks) = queues(address, &pool, QUEUES).await?;
        let workers = (0..WORKERS).zip(disks.iter().cycle());
        for result in all(workers.map(|(worker, disk)| mix(disk, worker))).await {
            result?;
        }
        Ok::<_, ClientError>(())
    };
    Host::new().run(work).expect("every command ends");
}

/// Every command once over the worker's own 256 blocks.
async fn mix(disk: &Disk, worker: u64) -> Result<(), ClientError> {
    let (ns, at) = (host::nsid(1), worker * 256);
    let mut data = pattern(worker, MIB);
    disk.write(at, &data, worker.is_multiple_of(2)).await?;
    disk.compare(at, &data).await?;
    disk.queue.verify(ns, Lba(at), 256).await?;
    disk.queue.write_zeroes(ns, Lba(at + 8), 16, true).await?;
    data[8 * 4096..24 * 4096].fill(0);
    let new = pattern(worker + 1000, 4096);
    disk.swap(at + 40, &data[40 * 4096..41 * 4096], &new)
        .await?;
    data[40 * 4096..41 * 4096].copy_from_slice(&new);
    disk.queue.deallocate(ns, &[(Lba(at + 100), 28)]).await?;
    data[100 * 4096..128 * 4096].fill(0);
    disk.queue.flush(ns).await?;
    assert!(disk.read(at, 256).await? == data, "worker {worker}");
    disk.compare(at, &data).await
}
