//! A file system on a namespace.

use crate::bench::Bench;
use crate::error::Result;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);

/// Files of many sizes, from random data, with their checksums beside them; then a shuffle of
/// creation and removal, so that metadata is written too.
const FILL: &str = "
set -e
cd /mnt
mkdir -p a/b/c
size=1
index=0
while [ $size -lt 6000000 ]; do
    head -c $size /dev/urandom >a/b/file$index
    size=$((size * 3 + 7))
    index=$((index + 1))
done
for index in $(seq 200); do echo $index >a/b/c/small$index; done
for index in $(seq 1 2 200); do rm a/b/c/small$index; done
mv a/b/file3 a/b/c/moved
ln -s b/file4 a/link
find . -type f | sort | xargs sha256sum >/tmp/sums
sync
";

/// Reads every file again from the node rather than from memory.
const COMPARE: &str = "
set -e
echo 3 >/proc/sys/vm/drop_caches
cd /mnt
sha256sum -c /tmp/sums >/tmp/compared || { grep -v OK /tmp/compared; exit 1; }
[ \"$(find . -type f | sort)\" = \"$(sed 's/^[^ ]*  //' /tmp/sums)\" ]
[ \"$(readlink a/link)\" = b/file4 ]
";

pub(super) fn ext4(bench: &mut Bench) -> Result<()> {
    round(bench, "ext4", "mkfs.ext4 -q -F", "e2fsck -f -n")
}

pub(super) fn xfs(bench: &mut Bench) -> Result<()> {
    round(bench, "xfs", "mkfs.xfs -q -f", "xfs_repair -n")
}

fn round(bench: &mut Bench, kind: &str, make: &str, examine: &str) -> Result<()> {
    bench.connect("")?;
    let device = bench.disk(1)?;
    let guest = &mut bench.guest;
    guest.run(&format!("load {kind}"))?;
    guest.run_within(&format!("{make} {device}"), LIMIT)?;
    guest.run(&format!("mount -t {kind} {device} /mnt"))?;
    guest.run_within(FILL, LIMIT)?;
    guest.run_within(COMPARE, LIMIT)?;
    guest.run("umount /mnt")?;
    guest.run_within(&format!("{examine} {device}"), LIMIT)?;
    bench.note("over a new connection");
    bench.disconnect()?;
    bench.connect("")?;
    let device = bench.disk(1)?;
    let guest = &mut bench.guest;
    guest.run(&format!("mount -t {kind} {device} /mnt"))?;
    guest.run_within(COMPARE, LIMIT)?;
    guest.run("umount /mnt")?;
    bench.disconnect()
}
