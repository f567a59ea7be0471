//! Opening, and I/O on real files through a real reactor. Scripted failures: `file_script_tests`.

use super::*;
use crate::testing::{Bytes, lease_of, on_reactor, pattern, pool, request, size};
use penstock_block::{Op, Outcome};
use penstock_buffer::Payload;
use proptest::prelude::*;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

fn config(path: PathBuf, size_bytes: Option<u64>) -> FileConfig {
    FileConfig {
        name: "f".to_owned(),
        path,
        kind: FileKind::Regular,
        size_bytes,
        create: true,
        block_size: BlockSize::B512,
        direct: true,
        read_only: false,
    }
}

fn refusal(config: &FileConfig) -> String {
    FileDevice::open_path(config).err().unwrap().to_string()
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// Where files go, and whether through the page cache: the usual folder both ways, and tmpfs.
fn places() -> Vec<(TempDir, bool)> {
    let mut places = vec![(folder(), true), (folder(), false)];
    match tempfile::tempdir_in("/dev/shm") {
        Ok(shm) => places.push((shm, true)),
        Err(e) => println!("skipped: no tmpfs at /dev/shm ({e})"),
    }
    places
}

#[test]
fn a_missing_file_is_created_sparse_at_its_size() {
    let folder = folder();
    let config = config(folder.path().join("a"), Some(64 * MIB));
    let device = FileDevice::open_path(&config).unwrap();
    let metadata = std::fs::metadata(&config.path).unwrap();
    assert_eq!(metadata.len(), 64 * MIB);
    assert!(metadata.blocks() * 512 < MIB);
    assert_eq!(device.geometry().blocks, 64 * MIB / 512);
    assert!(device.geometry().volatile_cache);
    assert_eq!(device.name(), "f");
}

#[test]
fn a_file_already_there_is_used_up_to_the_size_asked_for() {
    let folder = folder();
    let path = folder.path().join("a");
    std::fs::write(&path, vec![3; 8192]).unwrap();
    let part = FileDevice::open_path(&config(path.clone(), Some(4096))).unwrap();
    assert_eq!(part.geometry().blocks, 8);
    drop(part);
    let all = FileDevice::open_path(&config(path.clone(), None)).unwrap();
    assert_eq!(all.geometry().blocks, 16);
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 8192);
}

#[test]
fn refusals_say_what_where_and_what_to_do() {
    let folder = folder();
    let path = folder.path().join("a");
    let shown = path.display().to_string();
    let expect = |config: &FileConfig, words: &[&str]| {
        let said = refusal(config);
        assert!(said.contains(&shown), "{said}");
        for word in words {
            assert!(said.contains(word), "{said}");
        }
    };
    expect(&config(path.clone(), None), &["no such file", "size_bytes"]);
    expect(
        &FileConfig {
            create: false,
            ..config(path.clone(), Some(4096))
        },
        &["no such file"],
    );
    expect(
        &FileConfig {
            read_only: true,
            ..config(path.clone(), Some(4096))
        },
        &["no such file"],
    );
    expect(
        &config(path.clone(), Some(4097)),
        &["4097", "multiple of block_size_bytes = 512"],
    );
    expect(&config(path.clone(), Some(0)), &["positive multiple"]);
    assert!(!path.exists(), "nothing is left behind");

    std::fs::write(&path, vec![0; 5000]).unwrap();
    expect(
        &config(path.clone(), Some(8192)),
        &["has 5000 bytes", "8192", "truncate -s 8192"],
    );
    expect(
        &config(path.clone(), None),
        &["5000 bytes", "block_size_bytes = 512"],
    );
    expect(
        &FileConfig {
            kind: FileKind::Block,
            ..config(path.clone(), None)
        },
        &["is not a block device"],
    );
    assert!(refusal(&config(folder.path().to_owned(), None)).contains("is not a regular file"));
    let inside = config(path.join("b"), Some(4096));
    assert!(refusal(&inside).contains("cannot look at it"));
    let nowhere = config(folder.path().join("no/such"), Some(4096));
    assert!(refusal(&nowhere).contains("cannot create it"));
}

#[test]
fn one_writer_or_many_readers() {
    let folder = folder();
    let writing = config(folder.path().join("a"), Some(4096));
    let reading = FileConfig {
        read_only: true,
        ..writing.clone()
    };
    let writer = FileDevice::open_path(&writing).unwrap();
    for other in [&writing, &reading] {
        let said = refusal(other);
        let own = format!("locked by process {}", std::process::id());
        assert!(said.contains(&own) && said.contains("one writer"), "{said}");
    }
    drop(writer);
    let first = FileDevice::open_path(&reading).unwrap();
    let second = FileDevice::open_path(&reading).unwrap();
    assert!(refusal(&writing).contains("locked by"));
    drop((first, second));
    FileDevice::open_path(&writing).unwrap();
}

#[test]
fn a_lock_of_the_dead_is_waited_for() {
    let folder = folder();
    let config = config(folder.path().join("a"), Some(4096));
    drop(FileDevice::open_path(&config).unwrap());
    // `sleep` inherits the lock of `flock`, which is killed: as the kernel keeps a killed node's.
    let mut flock = match std::process::Command::new("flock")
        .arg(&config.path)
        .args(["sleep", "1"])
        .spawn()
    {
        Ok(flock) => flock,
        Err(why) => return println!("skipped: no flock ({why})"),
    };
    let pid = flock.id();
    let mut said = String::new();
    for _ in 0..100 {
        match FileDevice::open_path(&config) {
            Ok(_) => std::thread::sleep(std::time::Duration::from_millis(5)),
            Err(e) => {
                said = e.to_string();
                break;
            }
        }
    }
    assert!(said.contains(&format!("locked by process {pid}")), "{said}");
    flock.kill().unwrap();
    flock.wait().unwrap();
    FileDevice::open_path(&config).unwrap();
}

#[test]
fn a_resize_looks_again_and_enlarges_only_what_it_may_create() {
    let folder = folder();
    let made = config(folder.path().join("a"), Some(MIB));
    let device = FileDevice::open_path(&made).unwrap();
    device.resize(Some(2 * MIB)).unwrap();
    assert_eq!(device.geometry().size_bytes(), 2 * MIB);
    device.resize(Some(MIB)).unwrap();
    assert_eq!(
        std::fs::metadata(&made.path).unwrap().len(),
        2 * MIB,
        "never shortened"
    );
    assert!(device.resize(Some(MIB + 1)).is_err());
    assert_eq!(device.geometry().size_bytes(), MIB);
    drop(device);

    let given = FileConfig {
        create: false,
        size_bytes: None,
        ..made
    };
    let device = FileDevice::open_path(&given).unwrap();
    assert!(
        device
            .resize(Some(4 * MIB))
            .unwrap_err()
            .to_string()
            .contains("lower size_bytes")
    );
    std::fs::File::options()
        .write(true)
        .open(&given.path)
        .unwrap()
        .set_len(3 * MIB)
        .unwrap();
    device.resize(None).unwrap();
    assert_eq!(device.geometry().size_bytes(), 3 * MIB);
}

#[test]
fn what_is_written_is_in_the_file() {
    for (folder, direct) in places() {
        let config = FileConfig {
            direct,
            ..config(folder.path().join("a"), Some(4 * MIB))
        };
        let device = FileDevice::open_path(&config).unwrap();
        let bytes = pattern(1, 1 << 20);
        let written = bytes.clone();
        let there = Arc::clone(&device);
        on_reactor(move || async move {
            let io = Bytes::new(there.open().unwrap());
            io.write(1, &written[..512], false).await.unwrap();
            io.write(2048, &written, true).await.unwrap();
            io.op(Op::Flush, 0, 0).await.unwrap();
            assert!(io.read(2048, 2048).await.unwrap() == written);
            assert!(io.read(0, 1).await.unwrap() == [0; 512]);
        });
        let mut file = Vec::new();
        std::fs::File::open(&config.path)
            .unwrap()
            .read_to_end(&mut file)
            .unwrap();
        assert_eq!(file[512..1024], bytes[..512]);
        assert!(file[1 << 20..2 << 20] == bytes);
    }
}

#[test]
fn zeroes_and_holes_read_zero_and_free_space() {
    for (folder, direct) in places() {
        let config = FileConfig {
            direct,
            ..config(folder.path().join("a"), Some(8 * MIB))
        };
        let device = FileDevice::open_path(&config).unwrap();
        let there = Arc::clone(&device);
        on_reactor(move || async move {
            let io = Bytes::new(there.clone().open().unwrap());
            assert!(there.geometry().deallocate && there.geometry().deallocated_reads_zero);
            for mib in 0..8 {
                io.write(mib * 2048, &pattern(mib, 1 << 20), false)
                    .await
                    .unwrap();
            }
            io.op(Op::Deallocate, 0, 2048).await.unwrap();
            let zeroes = |may_deallocate| Op::WriteZeroes {
                fua: true,
                may_deallocate,
            };
            io.op(zeroes(true), 2048, 2048).await.unwrap();
            // More than one piece where zeroes have to be written.
            io.op(zeroes(false), 2 * 2048 + 1, 3 * 2048).await.unwrap();
            io.op(zeroes(false), 0, 0).await.unwrap();
            let all = io.read(0, 8 * 2048).await.unwrap();
            let zeroed = 2 << 20;
            assert!(all[..zeroed].iter().all(|b| *b == 0));
            assert!(all[zeroed..zeroed + 512] == pattern(2, 1 << 20)[..512]);
            assert!(
                all[zeroed + 512..zeroed + 512 + (3 << 20)]
                    .iter()
                    .all(|b| *b == 0)
            );
            assert!(all[5 * 1048576 + 512..6 * 1048576] == pattern(5, 1 << 20)[512..]);
        });
        let used = std::fs::metadata(&config.path).unwrap().blocks() * 512;
        assert!(used <= 6 * MIB + 65_536, "{used} bytes in use");
    }
}

#[test]
fn scattered_and_unaligned_payloads_work() {
    for (folder, direct) in places() {
        let config = FileConfig {
            direct,
            ..config(folder.path().join("a"), Some(4 * MIB))
        };
        let device = FileDevice::open_path(&config).unwrap();
        on_reactor(move || async move {
            let queue = device.open().unwrap();
            let pool = pool();
            for skew in [0, 8, 511] {
                let bytes = pattern(skew as u64, 12 << 10);
                let scatter = |fill: bool| {
                    let mut payload = Payload::none();
                    for (at, len) in [(0, 4096), (4096, 512), (4608, 7680)] {
                        let lease = pool.try_lease(len + skew).unwrap();
                        let run = lease.slice(skew, len).unwrap();
                        run.write_at(0, if fill { &bytes[at..at + len] } else { &[] });
                        payload.push(run);
                    }
                    payload
                };
                let write = request(Op::Write { fua: false }, 5, 24, scatter(true));
                assert_eq!(queue.submit(write).await.result, Ok(()), "skew {skew}");
                let outcome = queue.submit(request(Op::Read, 5, 24, scatter(false))).await;
                assert_eq!(outcome.result, Ok(()), "skew {skew}");
                let read: Vec<u8> = outcome
                    .payload
                    .segments()
                    .flat_map(|run| run.bytes().to_vec())
                    .collect();
                assert!(read == bytes, "skew {skew}");
            }
        });
    }
}

#[test]
fn a_file_cut_short_behind_our_back_is_a_media_error() {
    for (folder, direct) in places() {
        let config = FileConfig {
            direct,
            ..config(folder.path().join("a"), Some(MIB))
        };
        let device = FileDevice::open_path(&config).unwrap();
        std::fs::File::options()
            .write(true)
            .open(&config.path)
            .unwrap()
            .set_len(4196)
            .unwrap();
        let results = on_reactor(move || async move {
            let io = Bytes::new(device.open().unwrap());
            [
                io.read(0, 8).await.err(),
                io.read(0, 64).await.err(),
                io.read(1024, 1).await.err(),
            ]
        });
        let lost = Some(BlockError::ReadMedia);
        assert_eq!(results, [None, lost, lost]);
    }
}

#[test]
fn a_read_only_device_refuses_writes() {
    let folder = folder();
    let path = folder.path().join("a");
    std::fs::write(&path, pattern(1, 8192)).unwrap();
    let device = FileDevice::open_path(&FileConfig {
        read_only: true,
        ..config(path, None)
    })
    .unwrap();
    assert!(device.geometry().read_only && !device.geometry().deallocate);
    on_reactor(move || async move {
        let io = Bytes::new(device.open().unwrap());
        assert_eq!(
            io.write(0, &[0; 512], false).await,
            Err(BlockError::ReadOnly)
        );
        assert_eq!(io.op(Op::Deallocate, 0, 1).await, Err(BlockError::ReadOnly));
        assert_eq!(io.op(Op::Flush, 0, 0).await, Ok(()));
        assert!(io.read(0, 16).await.unwrap() == pattern(1, 8192));
    });
}

#[test]
fn many_requests_at_once_each_get_their_own_bytes() {
    let folder = folder();
    let device = FileDevice::open_path(&config(folder.path().join("a"), Some(16 * MIB))).unwrap();
    on_reactor(move || async move {
        let queue = device.open().unwrap();
        let pool = pool();
        for _ in 0..4 {
            let writes: Vec<_> = (0..256)
                .map(|i| {
                    let payload = lease_of(&pool, &pattern(i, 4096)).into();
                    queue.submit(request(Op::Write { fua: i % 7 == 0 }, i * 8, 8, payload))
                })
                .collect();
            for ticket in writes {
                assert_eq!(ticket.await.result, Ok(()));
            }
            let reads: Vec<_> = (0..256)
                .map(|i| {
                    let payload = pool.try_lease(4096).unwrap().into();
                    queue.submit(request(Op::Read, i * 8, 8, payload))
                })
                .collect();
            for (i, ticket) in (0..).zip(reads) {
                let Outcome { result, payload } = ticket.await;
                assert_eq!(result, Ok(()));
                assert!(payload.single().unwrap().bytes() == pattern(i, 4096));
            }
        }
        assert_eq!(pool.stats().leased_bytes, 0);
    });
}

#[test]
fn an_abandoned_request_ends_by_itself() {
    let folder = folder();
    let device = FileDevice::open_path(&config(folder.path().join("a"), Some(MIB))).unwrap();
    on_reactor(move || async move {
        let io = Bytes::new(device.open().unwrap());
        let payload = lease_of(&io.pool, &[8; 4096]).into();
        drop(
            io.queue
                .submit(request(Op::Write { fua: false }, 0, 8, payload)),
        );
        while io.pool.stats().leased_bytes > 0 {
            penstock_reactor::sleep(std::time::Duration::from_millis(1)).await;
        }
        assert!(io.read(0, 8).await.unwrap() == [8; 4096]);
    });
}

#[test]
fn devices_say_whether_they_go_direct() {
    for (folder, direct) in places() {
        let config = FileConfig {
            direct,
            ..config(folder.path().join("a"), Some(MIB))
        };
        let device = FileDevice::open_path(&config).unwrap();
        assert!(device.alignment_bytes() <= 512);
        assert_eq!(device.is_direct(), device.alignment_bytes() > 1);
        assert!(direct || !device.is_direct());
        println!(
            "{}: alignment {}",
            folder.path().display(),
            device.alignment_bytes()
        );
    }
}

/// A loop device on a file; detached when dropped.
struct Loop(PathBuf);

impl Loop {
    fn attach(file: &Path, sector_bytes: u32) -> Result<Loop, String> {
        let output = std::process::Command::new("losetup")
            .args([
                "--find",
                "--show",
                "--sector-size",
                &sector_bytes.to_string(),
            ])
            .arg(file)
            .output()
            .map_err(|e| format!("losetup: {e}"))?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        Ok(Loop(PathBuf::from(
            String::from_utf8_lossy(&output.stdout).trim(),
        )))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = std::process::Command::new("losetup")
            .arg("--detach")
            .arg(&self.0)
            .status();
    }
}

#[test]
fn a_block_device_works_alike() {
    let folder = folder();
    let backing = folder.path().join("backing");
    std::fs::File::create(&backing)
        .unwrap()
        .set_len(8 * MIB)
        .unwrap();
    let disk = match Loop::attach(&backing, 512) {
        Ok(disk) => disk,
        Err(why) => return println!("skipped: no loop device ({why})"),
    };
    let config = FileConfig {
        kind: FileKind::Block,
        ..config(disk.0.clone(), None)
    };
    let said = refusal(&FileConfig {
        kind: FileKind::Regular,
        ..config.clone()
    });
    assert!(said.contains("is not a regular file"), "{said}");
    let said = refusal(&FileConfig {
        size_bytes: Some(16 * MIB),
        ..config.clone()
    });
    assert!(said.contains("has 8388608 bytes"), "{said}");

    let device = FileDevice::open_path(&config).unwrap();
    assert_eq!(device.geometry().size_bytes(), 8 * MIB);
    let said = refusal(&config);
    assert!(said.contains("in use"), "{said}");
    let there = Arc::clone(&device);
    on_reactor(move || async move {
        let io = Bytes::new(there.clone().open().unwrap());
        io.write(0, &pattern(9, 4 << 20), true).await.unwrap();
        io.op(Op::Deallocate, 0, 2048).await.unwrap();
        let zeroes = Op::WriteZeroes {
            fua: true,
            may_deallocate: false,
        };
        io.op(zeroes, 2048, 2048).await.unwrap();
        io.op(Op::Flush, 0, 0).await.unwrap();
        let all = io.read(0, 8192).await.unwrap();
        assert!(all[1 << 20..2 << 20].iter().all(|b| *b == 0));
        if there.geometry().deallocate {
            assert!(all[..1 << 20].iter().all(|b| *b == 0));
        }
        assert!(all[2 << 20..] == pattern(9, 4 << 20)[2 << 20..]);
    });
    let mut sector = [0; 512];
    let disk_file = std::fs::File::open(&backing).unwrap();
    disk_file.read_exact_at(&mut sector, 2 << 20).unwrap();
    assert_eq!(sector, pattern(9, 4 << 20)[2 << 20..(2 << 20) + 512]);
}

#[test]
fn blocks_smaller_than_sectors_go_through_the_page_cache() {
    let folder = folder();
    let backing = folder.path().join("backing");
    std::fs::File::create(&backing)
        .unwrap()
        .set_len(4 * MIB)
        .unwrap();
    let disk = match Loop::attach(&backing, 4096) {
        Ok(disk) => disk,
        Err(why) => return println!("skipped: no loop device ({why})"),
    };
    let small = FileConfig {
        kind: FileKind::Block,
        ..config(disk.0.clone(), None)
    };
    let large = FileConfig {
        block_size: BlockSize::B4096,
        ..small.clone()
    };
    let device = FileDevice::open_path(&large).unwrap();
    assert_eq!(device.alignment_bytes(), 4096);
    drop(device);
    let device = FileDevice::open_path(&small).unwrap();
    assert!(!device.is_direct());
    on_reactor(move || async move {
        let io = Bytes::new(device.open().unwrap());
        io.write(0, &pattern(3, 8192), true).await.unwrap();
        let zeroes = Op::WriteZeroes {
            fua: true,
            may_deallocate: true,
        };
        io.op(zeroes, 1, 3).await.unwrap();
        io.op(Op::Deallocate, 9, 1).await.unwrap();
        let all = io.read(0, 9).await.unwrap();
        let expected = pattern(3, 8192);
        assert!(all[..512] == expected[..512] && all[2048..] == expected[2048..4608]);
        assert!(all[512..2048].iter().all(|b| *b == 0));
    });
}

/// What the model test does; returns where file and model differ.
async fn run_steps(device: Arc<FileDevice>, steps: Vec<(u8, u64, u64, u64)>) -> Result<(), String> {
    const BLOCKS: u64 = 2048;
    let io = Bytes::new(device.open().map_err(|e| e.to_string())?);
    let mut model = vec![0_u8; size(BLOCKS) * 512];
    for (n, (what, lba, blocks, seed)) in steps.into_iter().enumerate() {
        let inside = lba + blocks <= BLOCKS;
        let (from, len) = (size(lba) * 512, size(blocks) * 512);
        let flag = seed % 2 == 0;
        let bytes = if what < 2 {
            pattern(seed, len)
        } else {
            vec![0; len]
        };
        let result = match what {
            0 | 1 => io.write(lba, &bytes, flag).await,
            2 => io.op(Op::Deallocate, lba, blocks).await,
            3 | 4 => {
                let op = Op::WriteZeroes {
                    fua: flag,
                    may_deallocate: what == 3,
                };
                io.op(op, lba, blocks).await
            }
            _ => match io.read(lba, blocks).await {
                Ok(read) if read != model[from..from + len] => {
                    return Err(format!("step {n}: read something else"));
                }
                other => other.map(|_| ()),
            },
        };
        match (inside, result) {
            (true, Ok(())) if what < 5 => model[from..from + len].copy_from_slice(&bytes),
            (true, Ok(())) | (false, Err(BlockError::OutOfRange)) => {}
            (_, other) => return Err(format!("step {n}: {other:?}")),
        }
    }
    let all = io.read(0, BLOCKS).await.map_err(|e| e.to_string())?;
    if all == model {
        Ok(())
    } else {
        Err("the end differs".to_owned())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn behaves_as_an_array_of_bytes(
        steps in prop::collection::vec((0_u8..7, 0_u64..2100, 1_u64..300, any::<u64>()), 1..60),
    ) {
        for (folder, direct) in places() {
            let config = FileConfig { direct, ..config(folder.path().join("a"), Some(MIB)) };
            let device = FileDevice::open_path(&config).unwrap();
            let steps = steps.clone();
            let result = on_reactor(move || run_steps(device, steps));
            prop_assert_eq!(result, Ok(()), "in {:?} direct {}", folder, direct);
        }
    }
}
