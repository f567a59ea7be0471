//! Volumes: striped, grown, cleared, and namespaces that come and go.

use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use penstock_api::v1::Extent;
use penstock_buffer::Pool;
use penstock_client::ClientError;
use penstock_nvme::command::SetFeatures;
use penstock_nvme::feature::FeatureId;

use crate::rig::{
    Host, MIB, NQN, PATIENCE, Rig, connect, content, extent, image, is_zero, namespace, nsid, read,
    subsystem, volume, write,
};

/// Blocks of 4096 bytes in a MiB.
const BLOCKS: u64 = 256;

/// Writes garbage to an extent, past the node.
fn soil(rig: &Rig, extents: &[Extent]) {
    for extent in extents {
        let device = extent
            .device
            .rsplit('d')
            .next()
            .and_then(|n| n.parse().ok());
        let path = image(rig.folder.path(), device.expect("a device"));
        let file = std::fs::OpenOptions::new()
            .write(true)
            .open(path)
            .expect("open");
        let bytes = vec![0xa5; usize::try_from(extent.length_bytes).expect("small")];
        file.write_all_at(&bytes, extent.offset_bytes)
            .expect("written");
        file.sync_all().expect("synced");
    }
}

/// Serves `wanted` as namespace 1 of a new subsystem.
fn serve(rig: &mut Rig, uid: &str) {
    rig.node
        .serve_subsystem(&subsystem("s1", NQN))
        .expect("a subsystem");
    let wanted = namespace("ns1", "s1", uid, 1);
    rig.node.serve_namespace(&wanted).expect("a namespace");
    rig.node.serve_namespace(&wanted).expect("once more");
}

fn fill(address: SocketAddr, from: u64, to: u64) {
    let filled = Host::new().run(move |pool| async move {
        let (_controller, queue) = connect(address, NQN, &pool).await?;
        for lba in (from..to).step_by(256) {
            write(&queue, &pool, (1, lba, 256)).await?;
        }
        // Across units and not aligned to them.
        for lba in (from + 3..to - 40).step_by(97) {
            write(&queue, &pool, (1, lba, 37)).await?;
        }
        queue.flush(nsid(1)).await
    });
    filled.expect("written");
}

fn check(address: SocketAddr, from: u64, to: u64) {
    let checked = Host::new().run(move |pool| async move {
        let (_controller, queue) = connect(address, NQN, &pool).await?;
        for lba in (from..to).step_by(256) {
            let bytes = read(&queue, &pool, (1, lba, 256)).await?;
            assert!(bytes == content(lba, 256), "blocks from {lba}");
        }
        Ok::<_, ClientError>(())
    });
    checked.expect("read");
}

fn zeroes(address: SocketAddr, blocks: u64) -> bool {
    let zero = Host::new().run(move |pool| async move {
        let (_controller, queue) = connect(address, NQN, &pool).await?;
        is_zero(&queue, &pool, 1, blocks).await
    });
    zero.expect("read")
}

#[test]
fn a_striped_volume_serves_grows_and_leaves_nothing_behind() {
    let mut rig = Rig::new(3, 64);
    let address = rig.listen("l1");
    let first: Vec<Extent> = (0..3).map(|d| extent(d, 8, 4)).collect();
    let longer: Vec<Extent> = [first.clone(), (0..3).map(|d| extent(d, 40, 2)).collect()].concat();
    soil(&rig, &longer);
    rig.clear(&first).expect("cleared");
    let small = volume("v1", 12, 3, &first);
    rig.node.open_volume(&small).expect("open");
    rig.node.open_volume(&small).expect("open already");
    serve(&mut rig, "v1");
    assert_eq!(rig.node.namespace_size("ns1"), Some(12 * MIB));
    assert!(zeroes(address, 12 * BLOCKS), "a new volume reads zeroes");
    fill(address, 0, 12 * BLOCKS);
    check(address, 0, 12 * BLOCKS);

    // What the metrics are made of.
    let counted = &rig.node.target().snapshot().namespaces[0];
    assert_eq!(
        (counted.device.as_str(), counted.blocks),
        ("volumes/v1", 12 * BLOCKS)
    );
    assert!(counted.totals.written_bytes >= 12 * MIB);

    // Unit 4 of 64 KiB is the second of column 1.
    let d1 = std::fs::File::open(image(rig.folder.path(), 1)).expect("open");
    let mut unit = vec![0; 64 << 10];
    d1.read_exact_at(&mut unit, 8 * MIB + (64 << 10))
        .expect("read");
    assert!(
        unit == content(4 * 16, 16),
        "the layout is what control said"
    );

    grows(&mut rig, address, &longer);

    rig.node.remove_namespace("ns1").expect("removed");
    rig.node.close_volume("v1").expect("closed");
    rig.node.close_volume("v1").expect("closed already");
    rig.clear(&longer).expect("cleared");
    let again = volume("v2", 18, 3, &longer);
    rig.node.open_volume(&again).expect("open");
    rig.node
        .serve_namespace(&namespace("ns2", "s1", "v2", 1))
        .expect("served");
    assert!(zeroes(address, 18 * BLOCKS), "old data shows through");
    rig.node.stop();
}

/// From 12 to 18 MiB while a host is connected, who is told.
fn grows(rig: &mut Rig, address: SocketAddr, longer: &[Extent]) {
    let host = Host::new();
    let (ready, connected) = std::sync::mpsc::channel();
    let told = host.begin(move |pool| async move {
        let (controller, queue) = connect(address, NQN, &pool).await?;
        let notices = SetFeatures::new(FeatureId::AsyncEvents, 1 << 8);
        controller.set_feature(notices, &[]).await?;
        ready.send("asked for events").expect("the test waits");
        controller.next_event().await?;
        ready.send("had an event").expect("the test waits");
        let blocks = controller.identify_namespace(nsid(1)).await?.blocks;
        ready.send("saw the size").expect("the test waits");
        // The queue was open before the volume grew.
        let at = (1, blocks - 8, 8);
        write(&queue, &pool, at).await?;
        assert!(read(&queue, &pool, at).await? == content(at.1, at.2));
        Ok::<_, ClientError>(blocks)
    });
    connected.recv_timeout(PATIENCE).expect("connected");
    rig.clear(&longer[3..]).expect("cleared");
    let large = volume("v1", 18, 3, longer);
    rig.node.grow_volume(&large).expect("grown");
    rig.node.grow_volume(&large).expect("grown already");
    let blocks = told.recv_timeout(PATIENCE);
    let last = connected.try_iter().last();
    let blocks = blocks.unwrap_or_else(|_| panic!("the host last told {last:?}"));
    let blocks = blocks.expect("no error");
    assert_eq!(blocks, 18 * BLOCKS);
    check(address, 0, 12 * BLOCKS);
    fill(address, 12 * BLOCKS, 18 * BLOCKS);
    check(address, 0, 18 * BLOCKS);
    let smaller = volume("v1", 12, 3, &longer[..3]);
    let refused = rig.node.grow_volume(&smaller).expect_err("smaller");
    assert_eq!(refused.reason, "LayoutDiffers");
}

#[test]
fn writes_on_their_way_never_land_on_cleared_extents() {
    let mut rig = Rig::new(2, 32);
    let address = rig.listen("l1");
    let extents = [extent(0, 0, 8), extent(1, 0, 8)];
    let wanted = volume("v1", 16, 2, &extents);
    rig.node
        .serve_subsystem(&subsystem("s1", NQN))
        .expect("a subsystem");
    for round in 0..4 {
        rig.node.open_volume(&wanted).expect("open");
        serve(&mut rig, "v1");
        let host = Host::new();
        let written = Arc::new(AtomicU64::new(0));
        let begin = |n| {
            let written = Arc::clone(&written);
            host.begin(move |pool| hammer(address, pool, n, written))
        };
        let load: Vec<_> = (0..4).map(begin).collect();
        let deadline = Instant::now() + PATIENCE;
        while written.load(Ordering::Relaxed) < 40 {
            assert!(Instant::now() < deadline, "round {round}: hardly a write");
            std::thread::sleep(Duration::from_millis(1));
        }
        rig.node.remove_namespace("ns1").expect("removed");
        rig.node.close_volume("v1").expect("closed");
        rig.clear(&extents).expect("cleared");
        for load in load {
            load.recv_timeout(PATIENCE).expect("refused in the end");
        }
        rig.node.open_volume(&wanted).expect("open");
        serve(&mut rig, "v1");
        assert!(
            zeroes(address, 16 * BLOCKS),
            "round {round}: a write came late"
        );
        rig.node.remove_namespace("ns1").expect("removed");
        rig.node.close_volume("v1").expect("closed");
    }
    rig.node.stop();
}

/// Writes until it is refused.
async fn hammer(address: SocketAddr, pool: Pool, seed: u64, written: Arc<AtomicU64>) {
    let Ok((_controller, queue)) = connect(address, NQN, &pool).await else {
        return;
    };
    for n in 0_u64.. {
        let lba = (seed * 997 + n * 131) % (15 * BLOCKS);
        if write(&queue, &pool, (1, lba, 200)).await.is_err() {
            return;
        }
        written.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn namespaces_come_and_go_and_clearing_goes_on_beside_other_io() {
    let mut rig = Rig::new(1, 256);
    let address = rig.listen("l1");
    let (busy, other) = ([extent(0, 0, 16)], [extent(0, 16, 128)]);
    soil(&rig, &other);
    rig.node
        .open_volume(&volume("v1", 16, 1, &busy))
        .expect("open");
    serve(&mut rig, "v1");
    let host = Host::new();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let is_clearing = Arc::new(AtomicBool::new(false));
    let clearing = Arc::clone(&is_clearing);
    let load = host.begin(move |pool| async move {
        let (_controller, queue) = connect(address, NQN, &pool).await?;
        let (mut rounds, mut worst) = (0_u64, Duration::ZERO);
        while stopped.try_recv().is_err() {
            let at = (1, rounds * 8 % 4000, 8);
            let (begun, beside) = (Instant::now(), clearing.load(Ordering::Relaxed));
            write(&queue, &pool, at).await?;
            assert!(read(&queue, &pool, at).await? == content(at.1, at.2));
            if beside && clearing.load(Ordering::Relaxed) {
                worst = worst.max(begun.elapsed());
            }
            rounds += 1;
        }
        Ok::<_, ClientError>((rounds, worst))
    });
    std::thread::sleep(Duration::from_millis(100));
    for round in 0..3 {
        is_clearing.store(true, Ordering::Relaxed);
        rig.clear(&other).expect("cleared");
        is_clearing.store(false, Ordering::Relaxed);
        rig.node
            .open_volume(&volume("v2", 128, 1, &other))
            .expect("open");
        rig.node
            .serve_namespace(&namespace("ns2", "s1", "v2", 2))
            .expect("served");
        rig.node.remove_namespace("ns2").expect("removed");
        rig.node.close_volume("v2").expect("closed");
        // The same under another identity takes over, and nothing is left of the first.
        let again = namespace(&format!("again-{round}"), "s1", "v1", 1);
        rig.node.serve_namespace(&again).expect("taken over");
        rig.node.remove_namespace("ns1").expect("gone already");
        soil(&rig, &other);
    }
    stop.send(()).expect("the load runs");
    let (rounds, worst) = load
        .recv_timeout(PATIENCE)
        .expect("ends")
        .expect("no I/O failed");
    println!("{rounds} rounds of write and read; the longest beside clearing took {worst:?}");
    assert!(rounds > 10, "{rounds} rounds");
    assert!(worst < Duration::from_secs(2), "a round took {worst:?}");
    rig.node.remove_subsystem("s1").expect("removed");
    rig.node.remove_subsystem("s1").expect("removed already");
    rig.node.stop();
}

#[test]
fn the_inventory_tells_of_every_device_and_a_missing_one_keeps_nothing_from_serving() {
    let more = "[[device]]\nname = \"gone\"\nbackend = \"block\"\npath = \"/dev/penstock-none\"\n\
                [[device]]\nname = \"mem\"\nbackend = \"memory\"\nsize_bytes = 16777216\n";
    let mut rig = Rig::with(1, 16, more);
    let node = &mut rig.node;
    let devices = node.devices_inventory();
    let ids: Vec<&str> = devices.iter().map(|device| device.id.as_str()).collect();
    assert_eq!(ids, ["d0", "gone", "mem"]);
    let (file, gone, memory) = (&devices[0], &devices[1], &devices[2]);
    assert_eq!((file.kind.as_str(), file.size_bytes), ("file", 16 * MIB));
    assert_eq!((file.block_size_bytes, file.persistent), (512, true));
    assert!(file.problem.is_empty() && file.deallocate && !file.controller_memory);
    assert!(gone.problem.contains("penstock-none"), "{}", gone.problem);
    assert_eq!((memory.kind.as_str(), memory.persistent), ("memory", false));
    assert_eq!((memory.path.as_str(), memory.numa_node), ("", -1));
    let on_gone = Extent {
        device: "nodes/n1/devices/gone".to_owned(),
        ..extent(0, 0, 1)
    };
    let refused = node.open_volume(&volume("v1", 1, 1, &[on_gone]));
    assert_eq!(refused.expect_err("no device").reason, "DeviceMissing");
    node.open_volume(&volume("v2", 1, 1, &[extent(0, 0, 1)]))
        .expect("open");
    assert!(!node.reopen_devices(), "it has not come");
    rig.node.stop();
}

#[test]
fn a_device_that_comes_later_is_used_without_a_restart() {
    let elsewhere = tempfile::tempdir().expect("a folder");
    let folder = elsewhere.path().join("not-mounted-yet");
    let more = format!(
        "[[device]]\nname = \"late\"\nbackend = \"file\"\npath = \"{}/late.img\"\n\
         size_bytes = 16777216\n",
        folder.display()
    );
    let mut rig = Rig::with(1, 16, &more);
    let node = &mut rig.node;
    let on_late = Extent {
        device: "nodes/n1/devices/late".to_owned(),
        ..extent(0, 0, 1)
    };
    let wanted = volume("v1", 1, 1, &[on_late]);
    let refused = node.open_volume(&wanted).expect_err("no device");
    assert_eq!(refused.reason, "DeviceMissing");
    assert!(!node.reopen_devices());
    assert!(!node.devices_inventory()[1].problem.is_empty());
    std::fs::create_dir(&folder).expect("the folder comes");
    assert!(node.reopen_devices());
    let late = &node.devices_inventory()[1];
    assert_eq!((late.problem.as_str(), late.size_bytes), ("", 16 * MIB));
    node.open_volume(&wanted).expect("open");
    assert!(!node.reopen_devices(), "nothing more to find");
    assert_eq!(node.served_for_control(), (0, 0, 0));
    rig.node.stop();
}
