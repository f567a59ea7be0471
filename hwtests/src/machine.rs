//! What a guest's machine has beside the usual: drives of its own behind an IOMMU, programs of ours.

use crate::cpio::Archive;
use crate::error::{IoContext, Result};
use crate::lab::Choice;
use crate::process;
use crate::root::Root;
use crate::spdk;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the programs are in the guest.
const PLACE: &str = "penstock";

/// Unpacks the programs in the guest; they come as an archive on a disk.
pub(crate) const UNPACK: &str =
    "load virtio_blk && until [ -b /dev/vda ]; do sleep 0.05; done && cd / && cpio -id </dev/vda";

/// An emulated NVMe drive, in a slot that can be emptied while the guest runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drive {
    /// Its name in QEMU, and its serial number.
    pub id: &'static str,
    /// Its size in MiB.
    pub size_mib: u64,
    /// Its controller memory buffer in MiB; 0 for none.
    pub cmb_mib: u32,
    /// Whether the buffer is as before NVMe 1.4: addressed where the bus has it.
    pub legacy_cmb: bool,
}

/// A program of ours that runs in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Program {
    /// Its name; the guest has it in `/penstock/bin`.
    pub name: &'static str,
    /// Names the file outright.
    pub variable: &'static str,
    /// The package that it is built from.
    pub package: &'static str,
    /// Whether SPDK's driver must be in it; it is built for that, where SPDK is installed.
    pub spdk: bool,
}

/// What is added to a guest's machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// The kernel.
    pub kernel: Choice,
    /// Drives. With any, the machine has an IOMMU and the guest's kernel uses it.
    pub drives: &'static [Drive],
    /// Programs.
    pub programs: &'static [Program],
    /// How many NUMA nodes it has, each with two processors and its share of memory and drives;
    /// 0 for a machine without NUMA.
    pub numa_nodes: u32,
}

/// How far NUMA nodes are from each other, as the firmware tells; 10 is local.
pub(crate) const NUMA_DISTANCE: u32 = 21;

/// Processors of a NUMA node, and of a machine without.
const PROCESSORS: u32 = 2;
const MEMORY_MIB: u32 = 1024;

impl Machine {
    /// Nothing beside the usual.
    pub const PLAIN: Machine = Machine {
        kernel: Choice::Stable,
        drives: &[],
        programs: &[],
        numa_nodes: 0,
    };

    pub(crate) fn kernel_line(&self) -> &'static str {
        if self.drives.is_empty() {
            ""
        } else {
            // A busy host can be too slow for the kernel's check of the timer, which then panics.
            "intel_iommu=on no_timer_check"
        }
    }

    /// Processors and memory, for QEMU's command line.
    pub(crate) fn size_arguments(&self) -> Vec<String> {
        let nodes = self.numa_nodes;
        // A socket a node: the kernel warns of caches that are shared across nodes.
        let sockets = nodes.max(1);
        let processors = PROCESSORS * sockets;
        let shape = format!("{processors},sockets={sockets},cores={PROCESSORS},threads=1");
        let mut words = vec!["-smp".into(), shape];
        words.extend(["-m".into(), MEMORY_MIB.to_string()]);
        for node in 0..nodes {
            let (first, last) = (PROCESSORS * node, PROCESSORS * (node + 1) - 1);
            let mib = MEMORY_MIB / nodes;
            words.extend([
                "-object".into(),
                format!("memory-backend-ram,id=memory-{node},size={mib}M"),
                "-numa".into(),
                format!("node,nodeid={node},cpus={first}-{last},memdev=memory-{node}"),
            ]);
        }
        let pairs = (0..nodes).flat_map(|from| (0..nodes).map(move |to| (from, to)));
        for (from, to) in pairs.filter(|(from, to)| from != to) {
            let distance = format!("dist,src={from},dst={to},val={NUMA_DISTANCE}");
            words.extend(["-numa".into(), distance]);
        }
        words
    }

    /// Adds the devices to QEMU's command line; their files go into `dir`.
    pub(crate) fn add_to(&self, command: &mut Command, dir: &Path) -> Result<()> {
        if !self.drives.is_empty() {
            // Before everything that is to be behind it.
            // With as many address bits as a process has, which SPDK needs.
            command.args(["-device", "intel-iommu,intremap=on,aw-bits=48"]);
            let socket = monitor_socket(dir);
            command.arg("-qmp");
            command.arg(format!("unix:{},server=on,wait=off", socket.display()));
        }
        for node in 0..self.numa_nodes {
            // A root of its own, whose firmware entry names the node. Buses of a root go on from its own.
            let bus = 64 * (node + 1);
            let root = format!("pxb-pcie,id=root-{node},bus=pcie.0,bus_nr={bus},numa_node={node}");
            command.args(["-device", &root]);
        }
        for (index, drive) in self.drives.iter().enumerate() {
            let node = u32::try_from(index).ok();
            let node = node.and_then(|index| index.checked_rem(self.numa_nodes));
            let path = dir.join(format!("{}.img", drive.id));
            let file = File::create(&path).and_then(|file| file.set_len(drive.size_mib << 20));
            file.doing(|| format!("make {}", path.display()))?;
            command.args(drive_arguments(drive, index, node, &path));
        }
        if !self.programs.is_empty() {
            let path = dir.join("programs");
            write_programs(self.programs, &path)?;
            let file = format!(
                "file={},if=none,format=raw,id=programs,readonly=on",
                path.display()
            );
            command.args([
                "-drive",
                &file,
                "-device",
                "virtio-blk-pci,drive=programs,bus=pcie.0",
            ]);
        }
        Ok(())
    }
}

fn drive_arguments(drive: &Drive, index: usize, node: Option<u32>, path: &Path) -> [String; 6] {
    let (id, slot) = (drive.id, index + 1);
    let memory = match drive.cmb_mib {
        0 => String::new(),
        mib if drive.legacy_cmb => format!(",cmb_size_mb={mib},legacy-cmb=on"),
        mib => format!(",cmb_size_mb={mib}"),
    };
    let root = node.map_or_else(String::new, |node| format!(",bus=root-{node}"));
    [
        "-drive".into(),
        format!("file={},if=none,format=raw,id=blocks-{id}", path.display()),
        "-device".into(),
        format!("pcie-root-port,id=slot-{id},chassis={slot},slot={slot}{root}"),
        "-device".into(),
        format!("nvme,id={id},serial={id},drive=blocks-{id},bus=slot-{id}{memory}"),
    ]
}

/// Where QEMU's monitor listens for the machine whose files are in `dir`.
pub(crate) fn monitor_socket(dir: &Path) -> PathBuf {
    dir.join("monitor")
}

/// Packs `programs` and what this machine's loader needs for them, which is another than the guest's.
fn write_programs(programs: &[Program], path: &Path) -> Result<()> {
    let here = Root::new("/".into());
    let mut libraries = BTreeMap::new();
    let mut archive = Archive::new(Vec::new());
    let read = |file: &Path| std::fs::read(file).doing(|| format!("read {}", file.display()));
    for program in programs {
        let name = program.name;
        let file = if program.spdk {
            spdk::program(program)?
        } else {
            process::beside(name, program.variable, program.package)?
        };
        for library in here.libraries(&file)? {
            libraries.insert(library.name, library.file);
        }
        archive.file(&format!("{PLACE}/program/{name}"), 0o755, &read(&file)?)?;
        archive.file(
            &format!("{PLACE}/bin/{name}"),
            0o755,
            start_script(name).as_bytes(),
        )?;
    }
    libraries.insert("loader".into(), here.loader()?);
    for (name, file) in libraries {
        archive.file(&format!("{PLACE}/lib/{name}"), 0o755, &read(&file)?)?;
    }
    let mut bytes = archive.finish()?;
    // A disk has whole sectors.
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    std::fs::write(path, bytes).doing(|| format!("write {}", path.display()))
}

fn start_script(name: &str) -> String {
    format!(
        "#!/bin/sh\nexec /{PLACE}/lib/loader --library-path /{PLACE}/lib --argv0 {name} \
         /{PLACE}/program/{name} \"$@\"\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drive_sits_in_a_slot_of_its_own() {
        let drive = Drive {
            id: "one",
            size_mib: 64,
            cmb_mib: 32,
            legacy_cmb: false,
        };
        let words = drive_arguments(&drive, 0, None, Path::new("/x/one.img")).join(" ");
        for part in [
            "file=/x/one.img",
            "bus=slot-one",
            "serial=one",
            "cmb_size_mb=32",
            "slot=1",
        ] {
            assert!(words.contains(part), "{part} in {words}");
        }
        let bare = Drive {
            cmb_mib: 0,
            ..drive
        };
        let words = drive_arguments(&bare, 1, Some(1), Path::new("/x")).join(" ");
        assert!(
            !words.contains("cmb") && words.contains("slot=2,bus=root-1"),
            "{words}"
        );
    }

    #[test]
    fn the_nodes_of_a_machine_share_its_memory() {
        assert_eq!(
            Machine::PLAIN.size_arguments(),
            ["-smp", "2,sockets=1,cores=2,threads=1", "-m", "1024"].map(str::to_owned)
        );
        let two = Machine {
            numa_nodes: 2,
            ..Machine::PLAIN
        };
        let words = two.size_arguments().join(" ");
        for part in [
            "-smp 4,sockets=2,cores=2,",
            "memory-backend-ram,id=memory-1,size=512M",
            "nodeid=1,cpus=2-3,memdev=memory-1",
            "dist,src=1,dst=0,val=21",
        ] {
            assert!(words.contains(part), "{part} in {words}");
        }
    }

    #[test]
    fn a_plain_machine_adds_nothing() {
        let mut command = Command::new("x");
        Machine::PLAIN
            .add_to(&mut command, Path::new("/nonexistent"))
            .unwrap();
        assert_eq!(command.get_args().count(), 0);
        assert_eq!(Machine::PLAIN.kernel_line(), "");
    }
}
