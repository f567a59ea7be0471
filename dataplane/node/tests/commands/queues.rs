//! Queues, digests and listeners.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use penstock_client::{ClientError, Controller, IoQueue};
use penstock_reactor::sleep;
use penstock_units::QueueId;

use crate::daemon::{NQN, head, listener, memory, subsystem};
use crate::host::{self, Host};
use crate::rig::{Disk, Rig, Session, all, both, pattern, slow_null};

/// A queue of 1024 entries holds one command less (Base 2.1, 3.3.3.2).
const DEEPEST: u16 = 1023;

#[test]
fn one_controller_uses_128_queues() {
    let rig = Rig::new(&memory(1, 4 << 20));
    let address = rig.address();
    let work = move |pool: penstock_buffer::Pool| async move {
        let controller = Controller::connect(&host::options(address), &pool).await?;
        assert_eq!(controller.request_io_queues(200).await?, 128);
        let mut disks = Vec::new();
        for id in 1..=128 {
            let queue = IoQueue::connect(controller.info(), QueueId(id), 4, &pool).await?;
            disks.push(Disk {
                queue,
                pool: pool.clone(),
                nsid: 1,
                block_bytes: 4096,
            });
        }
        let beyond = IoQueue::connect(controller.info(), QueueId(129), 4, &pool).await;
        assert!(matches!(beyond, Err(ClientError::Refused { .. })));
        let twice = IoQueue::connect(controller.info(), QueueId(1), 4, &pool).await;
        assert!(matches!(twice, Err(ClientError::Refused { .. })));

        let data: Vec<_> = (0..128).map(|lba| pattern(lba, 8192)).collect();
        let writes = data.iter().zip(&disks).zip((0..).step_by(2));
        for result in all(writes.map(|((data, disk), lba)| disk.write(lba, data, false))).await {
            result?;
        }
        // Each reads what another wrote.
        let reads = disks.iter().rev().zip((0..).step_by(2));
        for (read, data) in all(reads.map(|(disk, lba)| disk.read(lba, 2)))
            .await
            .iter()
            .zip(&data)
        {
            assert!(read.as_ref().is_ok_and(|read| read == data));
        }
        Ok::<_, ClientError>(())
    };
    Host::new().run(work).expect("128 queues work");
}

#[test]
fn a_queue_is_used_to_its_last_entry() {
    let rig = Rig::new(&(slow_null(1, 500_000) + &memory(2, 8 << 20)));
    let address = rig.address();
    let work = move |pool: penstock_buffer::Pool| async move {
        let (_controller, queue) = host::connect(&host::options(address), &pool, DEEPEST).await?;
        let disk = |nsid| Disk {
            queue: queue.clone(),
            pool: pool.clone(),
            nsid,
            block_bytes: 4096,
        };
        let (slow, fast) = (disk(1), disk(2));
        let begun = Instant::now();
        let reads = all((0..u64::from(DEEPEST)).map(|lba| slow.read(lba, 1)));
        let look = async {
            sleep(Duration::from_millis(100)).await;
            queue.outstanding().len()
        };
        let (reads, in_flight) = both(reads, look).await;
        assert!(reads.iter().all(Result::is_ok));
        assert_eq!(in_flight, usize::from(DEEPEST));
        let took = begun.elapsed();
        assert!(
            took < Duration::from_secs(5),
            "one after the other: {took:?}"
        );

        let data: Vec<_> = (0..u64::from(DEEPEST))
            .map(|lba| pattern(lba, 4096))
            .collect();
        let writes = (0..)
            .zip(&data)
            .map(|(lba, data)| fast.write(lba, data, false));
        for result in all(writes).await {
            result?;
        }
        let reads = all((0..u64::from(DEEPEST)).map(|lba| fast.read(lba, 1))).await;
        for (read, data) in reads.iter().zip(&data) {
            assert!(read.as_ref().is_ok_and(|read| read == data));
        }
        Ok::<_, ClientError>(())
    };
    Host::new().run(work).expect("the deep queue works");
}

#[test]
fn all_sizes_pass_under_both_digests() {
    let rig = Rig::new(&(memory(1, 4 << 20) + "block_size_bytes = 512\n"));
    let address = rig.address();
    let work = move |pool: penstock_buffer::Pool| async move {
        let mut options = host::options(address);
        options.header_digest = true;
        options.data_digest = true;
        let (controller, queue) = host::connect(&options, &pool, 8).await?;
        assert!(controller.info().header_digest && controller.info().data_digest);
        let session = Session {
            controller,
            queue,
            pool,
        };
        let disk = session.disk(1, 512);
        // In the capsule, at its limit, beyond it, in several pieces.
        for (seed, blocks) in (0..).zip([1, 3, 16, 17, 100, 513, 1000, 2048_u32]) {
            let data = pattern(seed, blocks as usize * 512);
            disk.write(seed, &data, false).await?;
            assert!(disk.read(seed, blocks).await? == data, "{blocks} blocks");
            disk.compare(seed, &data).await?;
        }
        Ok::<_, ClientError>(())
    };
    Host::new().run(work).expect("all sizes pass");
}

#[test]
fn every_listener_serves_the_same_namespaces() {
    let six = std::net::TcpListener::bind("[::1]:0").is_ok();
    if !six {
        println!("skipped: IPv6 listener: this machine has no ::1");
    }
    let rig = Rig::with(|_| {
        let third = if six {
            listener("[::1]:0")
        } else {
            String::new()
        };
        head()
            + &listener("127.0.0.1:0")
            + &listener("127.0.0.1:0")
            + &third
            + &subsystem(NQN)
            + &memory(1, 1 << 20)
    });
    let addresses: Vec<SocketAddr> = rig
        .daemon
        .log()
        .iter()
        .filter(|line| line.contains(" listening "))
        .filter_map(|line| line.rsplit("address=").next()?.trim().parse().ok())
        .collect();
    assert_eq!(addresses.len(), if six { 3 } else { 2 });
    assert!(!six || addresses.iter().any(SocketAddr::is_ipv6));
    for (seed, address) in (1..).zip(&addresses) {
        let address = *address;
        let work = move |pool: penstock_buffer::Pool| async move {
            let session = Session::new(address, pool).await?;
            let disk = session.disk(1, 4096);
            if seed > 1 {
                let before = disk.read(0, 8).await?;
                assert!(before == pattern(seed - 1, 32768), "what another wrote");
            }
            disk.write(0, &pattern(seed, 32768), false).await
        };
        Host::new().run(work).expect("the listener serves");
    }
}
