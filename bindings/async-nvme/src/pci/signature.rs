//! Whether a disk's blocks say that somebody keeps something there: partition tables, file systems,
//! volume managers, encryption, swap. Told by the marks each of them writes at places of its own
//! (as `wipefs` and `blkid` tell them).

use std::fmt;
use std::io::{self, Read, Seek, SeekFrom};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Looked at from the start: up to VMFS's second mark.
const HEAD: u64 = 2 * MIB + 4 * KIB;
/// Looked at from the end: two labels of ZFS, RAID and DRBD blocks, the spare partition table.
const TAIL: u64 = MIB;

/// A mark that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature {
    /// Whose it is.
    pub kind: &'static str,
    /// Where, in bytes from the disk's start.
    pub offset: u64,
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}", self.kind, self.offset)
    }
}

/// Where a mark stands.
#[derive(Clone, Copy)]
enum At {
    /// Bytes from the start.
    Start(u64),
    /// Bytes before the end.
    End(u64),
}
use At::{End, Start};

type Mark = (&'static str, At, &'static [u8]);

/// Marks at fixed places.
const MARKS: &[Mark] = &[
    ("a GPT partition table", Start(512), b"EFI PART"),
    ("a GPT partition table", Start(4 * KIB), b"EFI PART"),
    ("a spare GPT partition table", End(512), b"EFI PART"),
    ("a spare GPT partition table", End(4 * KIB), b"EFI PART"),
    (
        "an MBR partition table or boot sector",
        Start(510),
        b"\x55\xaa",
    ),
    (
        "an ext2, ext3 or ext4 file system",
        Start(1080),
        b"\x53\xef",
    ),
    ("an XFS file system", Start(0), b"XFSB"),
    ("a btrfs file system", Start(64 * KIB + 64), b"_BHRfS_M"),
    (
        "a bcachefs file system or bcache",
        Start(4 * KIB + 24),
        BCACHE,
    ),
    ("an F2FS file system", Start(1024), b"\x10\x20\xf5\xf2"),
    ("an EROFS file system", Start(1024), b"\xe2\xe1\xf5\xe0"),
    ("a squashfs file system", Start(0), b"hsqs"),
    ("a JFS file system", Start(32 * KIB), b"JFS1"),
    ("a ReiserFS file system", Start(64 * KIB + 52), b"ReIsEr"),
    ("a GFS2 file system", Start(64 * KIB), b"\x01\x16\x19\x70"),
    ("an OCFS2 file system", Start(KIB), b"OCFSV2"),
    ("an OCFS2 file system", Start(2 * KIB), b"OCFSV2"),
    ("an OCFS2 file system", Start(4 * KIB), b"OCFSV2"),
    ("an OCFS2 file system", Start(8 * KIB), b"OCFSV2"),
    ("an NTFS file system", Start(3), b"NTFS    "),
    ("an exFAT file system", Start(3), b"EXFAT   "),
    ("a BitLocker volume", Start(3), b"-FVE-FS-"),
    ("a FAT file system", Start(54), b"FAT1"),
    ("a FAT file system", Start(82), b"FAT32"),
    ("an HFS+ file system", Start(1024), b"H+\x00\x04"),
    ("an HFSX file system", Start(1024), b"HX\x00\x05"),
    ("an APFS container", Start(32), b"NXSB"),
    ("an ISO 9660 file system", Start(32 * KIB + 1), b"CD001"),
    ("a UDF file system", Start(32 * KIB + 1), b"BEA01"),
    ("a VMFS volume", Start(MIB), b"\x0d\xd0\x01\xc0"),
    ("a VMFS file system", Start(2 * MIB), b"\x5e\xf1\xab\x2f"),
    ("an LVM physical volume", Start(0), b"LABELONE"),
    ("an LVM physical volume", Start(512), b"LABELONE"),
    ("an LVM physical volume", Start(1024), b"LABELONE"),
    ("an LVM physical volume", Start(1536), b"LABELONE"),
    ("a member of an md RAID", Start(0), MD),
    ("a member of an md RAID", Start(4 * KIB), MD),
    (
        "a member of an Intel RAID",
        End(1024),
        b"Intel Raid ISM Cfg Sig. ",
    ),
    ("a member of a DDF RAID", End(512), b"\xde\x11\xde\x11"),
    ("a LUKS volume", Start(0), b"LUKS\xba\xbe"),
    ("a spare LUKS header", Start(16 * KIB), b"SKUL\xba\xbe"),
    ("a spare LUKS header", Start(32 * KIB), b"SKUL\xba\xbe"),
    ("a DRBD volume", End(4 * KIB - 60), b"\x83\x74\x02\x6b"),
    ("a DRBD volume", End(4 * KIB - 60), b"\x83\x74\x02\x6d"),
    (
        "a Stratis pool",
        Start(516),
        b"!Stra0tis\x86\xff\x02^\x41rh",
    ),
    ("a VDO volume", Start(0), b"dmvdo001"),
    (
        "a Ceph OSD (BlueStore)",
        Start(0),
        b"bluestore block device",
    ),
    ("an Oracle ASM disk", Start(32), b"ORCLDISK"),
    ("swap", Start(4 * KIB - 10), b"SWAPSPACE2"),
    ("swap", Start(8 * KIB - 10), b"SWAPSPACE2"),
    ("swap", Start(16 * KIB - 10), b"SWAPSPACE2"),
    ("swap", Start(64 * KIB - 10), b"SWAPSPACE2"),
    ("a hibernated system", Start(4 * KIB - 10), b"S1SUSPEND"),
];

const BCACHE: &[u8] = b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81";
const MD: &[u8] = b"\xfc\x4e\x2b\xa9";
const MD_OTHER_ENDIAN: &[u8] = b"\xa9\x2b\x4e\xfc";
const ZFS: &[u8] = b"\x0c\xb1\xba\x00\x00\x00\x00\x00";
const ZFS_OTHER_ENDIAN: &[u8] = b"\x00\x00\x00\x00\x00\xba\xb1\x0c";
const ZFS_LABEL: u64 = 256 * KIB;

/// Looks for marks on a disk of `size` bytes; in order of their place, one of a kind at a place.
///
/// # Errors
/// The disk cannot be read.
pub fn scan<D: Read + Seek>(disk: &mut D, size: u64) -> io::Result<Vec<Signature>> {
    let head_len = size.min(HEAD);
    let tail_at = size.saturating_sub(TAIL);
    let parts = Parts {
        head: part(disk, 0, head_len)?,
        tail: part(disk, tail_at, size - tail_at)?,
        tail_at,
    };
    let mut found: Vec<_> = MARKS
        .iter()
        .filter_map(|(kind, at, bytes)| {
            let offset = match at {
                Start(offset) => *offset,
                End(before) => size.checked_sub(*before)?,
            };
            parts
                .has(offset, bytes)
                .then_some(Signature { kind, offset })
        })
        .collect();
    found.extend(old_raid(&parts, size));
    found.extend(zfs(&parts, size));
    found.sort_by_key(|signature| signature.offset);
    found.dedup();
    Ok(found)
}

fn part<D: Read + Seek>(disk: &mut D, at: u64, len: u64) -> io::Result<Vec<u8>> {
    let len = usize::try_from(len).map_err(io::Error::other)?;
    let mut bytes = vec![0; len];
    disk.seek(SeekFrom::Start(at))?;
    disk.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// The disk's ends.
struct Parts {
    head: Vec<u8>,
    tail: Vec<u8>,
    tail_at: u64,
}

impl Parts {
    fn has(&self, offset: u64, mark: &[u8]) -> bool {
        let within = |part: &[u8], from: u64| {
            let at = offset
                .checked_sub(from)
                .and_then(|at| usize::try_from(at).ok());
            at.and_then(|at| part.get(at..)?.get(..mark.len())) == Some(mark)
        };
        within(&self.head, 0) || within(&self.tail, self.tail_at)
    }
}

/// md's formats 0.90 and 1.0, which stand near the end at a place that depends on the size.
fn old_raid(parts: &Parts, size: u64) -> Vec<Signature> {
    let chunk = 64 * KIB;
    let newer = size.checked_sub(8 * KIB).map(|at| at & !(4 * KIB - 1));
    let older = (size & !(chunk - 1)).checked_sub(chunk);
    [(newer, MD), (older, MD), (older, MD_OTHER_ENDIAN)]
        .into_iter()
        .filter_map(|(at, mark)| at.map(|at| (at, mark)))
        .filter(|(at, mark)| parts.has(*at, mark))
        .map(|(offset, _)| Signature {
            kind: "a member of an md RAID",
            offset,
        })
        .collect()
}

/// ZFS keeps four labels, each with a ring of uberblocks in its second half.
fn zfs(parts: &Parts, size: u64) -> Vec<Signature> {
    let end = size & !(ZFS_LABEL - 1);
    let labels = [
        Some(0),
        Some(ZFS_LABEL),
        end.checked_sub(2 * ZFS_LABEL),
        end.checked_sub(ZFS_LABEL),
    ];
    let ring = |label: u64| {
        (ZFS_LABEL / 2..ZFS_LABEL)
            .step_by(1024)
            .map(move |at| label + at)
    };
    let found = labels.into_iter().flatten().filter_map(|label| {
        ring(label).find(|at| parts.has(*at, ZFS) || parts.has(*at, ZFS_OTHER_ENDIAN))
    });
    found
        .map(|offset| Signature {
            kind: "a member of a ZFS pool",
            offset,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    const SIZE: u64 = 4 * MIB + 512;

    fn image(size: u64, marks: &[(u64, &[u8])]) -> Cursor<Vec<u8>> {
        let mut image = vec![0; usize::try_from(size).unwrap()];
        for (at, mark) in marks {
            let at = usize::try_from(*at).unwrap();
            image[at..at + mark.len()].copy_from_slice(mark);
        }
        Cursor::new(image)
    }

    fn kinds(size: u64, marks: &[(u64, &[u8])]) -> Vec<&'static str> {
        let found = scan(&mut image(size, marks), size).unwrap();
        found.iter().map(|signature| signature.kind).collect()
    }

    #[test]
    fn every_mark_of_the_table_is_found_at_its_place_and_nowhere_else() {
        for (kind, at, mark) in MARKS {
            let offset = match at {
                Start(offset) => *offset,
                End(before) => SIZE - before,
            };
            let found = scan(&mut image(SIZE, &[(offset, mark)]), SIZE).unwrap();
            assert_eq!(found, [Signature { kind, offset }]);
            // The middle of the disk belongs to nobody.
            assert_eq!(kinds(SIZE + 4 * MIB, &[(3 * MIB + 123, mark)]), [""; 0]);
        }
    }

    #[test]
    fn an_empty_disk_and_one_of_noise_without_marks_hold_nothing() {
        for size in [0, 1, 512, 4096, 64 * KIB, SIZE] {
            assert_eq!(kinds(size, &[]), [""; 0], "{size}");
        }
        assert_eq!(
            kinds(SIZE, &[(12_345, b"hello"), (0, b"\x01\x02\x03")]),
            [""; 0]
        );
    }

    #[test]
    fn raid_blocks_near_the_end_are_found_for_any_size() {
        for size in [SIZE, 8 * MIB, 16 * MIB - 4096] {
            let (newer, older) = ((size - 8 * KIB) & !4095, (size & !0xffff) - 0x1_0000);
            for (at, mark) in [(newer, MD), (older, MD), (older, MD_OTHER_ENDIAN)] {
                assert_eq!(
                    kinds(size, &[(at, mark)]),
                    ["a member of an md RAID"],
                    "{size}"
                );
            }
        }
    }

    #[test]
    fn any_uberblock_of_any_label_of_zfs_is_found() {
        let size = 8 * MIB + 3 * 4096;
        for at in [
            128 * KIB,
            255 * KIB,
            512 * KIB - 4096,
            8 * MIB - 4096,
            8 * MIB - 384 * KIB,
        ] {
            for mark in [ZFS, ZFS_OTHER_ENDIAN] {
                assert_eq!(
                    kinds(size, &[(at, mark)]),
                    ["a member of a ZFS pool"],
                    "{at}"
                );
            }
        }
        // The same bytes in the first half of a label are configuration.
        assert_eq!(kinds(size, &[(64 * KIB, ZFS)]), [""; 0]);
    }

    #[test]
    fn all_that_is_there_is_told_in_order() {
        let marks: [(u64, &[u8]); 3] = [(512, b"EFI PART"), (510, b"\x55\xaa"), (0, b"XFSB")];
        let found = scan(&mut image(SIZE, &marks), SIZE).unwrap();
        let texts: Vec<_> = found.iter().map(Signature::to_string).collect();
        let expected = [
            "an XFS file system at byte 0",
            "an MBR partition table or boot sector at byte 510",
            "a GPT partition table at byte 512",
        ];
        assert_eq!(texts, expected);
    }

    #[test]
    fn a_disk_shorter_than_told_is_an_error() {
        assert!(scan(&mut image(512, &[]), 4096).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_content_panics(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..2000)) {
            let size = bytes.len() as u64;
            scan(&mut Cursor::new(bytes), size).unwrap();
        }
    }
}
