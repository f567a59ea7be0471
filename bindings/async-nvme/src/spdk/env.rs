//! SPDK's environment, DPDK: started once a process.
//!
//! It is told to have devices use this process's own addresses (IOVA as VA), which takes an IOMMU, so
//! that memory registered with it is contiguous for a drive as it is here.

use std::ffi::CStr;
use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use penstock_spdk_sys as sys;

use super::error::SpdkError;
use crate::driver::SpdkOptions;
use crate::pci::Host;

/// Addresses of a process on x86-64 and arm64 have as many bits.
const ADDRESS_BITS: u32 = 48;

/// How the start ended; `None` before it.
static STARTED: Mutex<Option<Result<(), String>>> = Mutex::new(None);

/// Starts it, where that was not done yet.
pub(super) fn start(host: &Host, options: SpdkOptions) -> Result<(), SpdkError> {
    let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
    if started.is_none() {
        check(host, options)?;
        // DPDK binds the thread that starts it to a core: one that ends right away.
        let thread = std::thread::Builder::new()
            .name("spdk-start".to_owned())
            .spawn(move || initialise(options))
            .map_err(SpdkError::Thread)?;
        let ended = thread
            .join()
            .unwrap_or_else(|_| Err("it panicked".to_owned()));
        *started = Some(ended);
    }
    match &*started {
        Some(Err(what)) => Err(SpdkError::Environment { what: what.clone() }),
        _ => Ok(()),
    }
}

/// What can be told before DPDK tells it in its own way.
fn check(host: &Host, options: SpdkOptions) -> Result<(), SpdkError> {
    if let Some(bits) = iommu_bits(&host.sysfs).filter(|bits| *bits < ADDRESS_BITS) {
        return Err(SpdkError::IommuWidth {
            bits,
            need_bits: ADDRESS_BITS,
        });
    }
    if !options.hugepages {
        return Ok(());
    }
    let need_bytes = u64::from(options.memory_mib) << 20;
    let free_bytes = free_hugepage_bytes(&host.sysfs);
    if free_bytes < need_bytes {
        return Err(SpdkError::Hugepages {
            need_bytes,
            free_bytes,
        });
    }
    let mounts = std::fs::read_to_string(host.proc.join("mounts")).unwrap_or_default();
    if mounts
        .lines()
        .any(|line| line.split(' ').nth(2) == Some("hugetlbfs"))
    {
        Ok(())
    } else {
        Err(SpdkError::Hugetlbfs)
    }
}

/// Free hugepages of all sizes, in bytes.
fn free_hugepage_bytes(sysfs: &Path) -> u64 {
    let folder = sysfs.join("kernel/mm/hugepages");
    let pools = std::fs::read_dir(folder).into_iter().flatten().flatten();
    pools
        .filter_map(|pool| {
            let name = pool.file_name();
            let kib: u64 = name
                .to_str()?
                .strip_prefix("hugepages-")?
                .strip_suffix("kB")?
                .parse()
                .ok()?;
            let free = std::fs::read_to_string(pool.path().join("free_hugepages")).ok()?;
            Some(kib * 1024 * free.trim().parse::<u64>().ok()?)
        })
        .sum()
}

/// Address bits of the narrowest of Intel's IOMMUs (VT-d 4.1, 11.4.2, MGAW); `None` where there is
/// none, or another maker's, which have as many as the processor.
fn iommu_bits(sysfs: &Path) -> Option<u32> {
    let units = std::fs::read_dir(sysfs.join("class/iommu")).ok()?;
    units
        .flatten()
        .filter_map(|unit| {
            let text = std::fs::read_to_string(unit.path().join("intel-iommu/cap")).ok()?;
            let cap = u64::from_str_radix(text.trim(), 16).ok()?;
            u32::try_from((cap >> 16 & 0x3f) + 1).ok()
        })
        .min()
}

/// The first processor this process may run on.
fn first_processor() -> Option<usize> {
    // SAFETY: a set of bits, for which zeroes are a value; the kernel fills it.
    let set = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        let rc = libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set);
        (rc == 0).then_some(set)?
    };
    let most = 8 * size_of::<libc::cpu_set_t>();
    // SAFETY: the number is within the set.
    (0..most).find(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) })
}

fn initialise(options: SpdkOptions) -> Result<(), String> {
    const NAME: &CStr = c"penstock";
    const IOVA_MODE: &CStr = c"va";
    let core = first_processor().unwrap_or(0);
    let core_mask = std::ffi::CString::new(format!("[{core}]")).map_err(|err| err.to_string())?;
    let mem_size = i32::try_from(options.memory_mib).map_err(|err| err.to_string())?;
    let mut opts = sys::spdk_env_opts {
        opts_size: size_of::<sys::spdk_env_opts>(),
        ..Default::default()
    };
    // SAFETY: the structure is as long as it says, and all its pointers live to the end of the calls,
    // which copy what they keep.
    let rc = unsafe {
        sys::spdk_log_set_print_level(sys::spdk_log_level_SPDK_LOG_WARN);
        sys::spdk_env_opts_init(&raw mut opts);
        opts.name = NAME.as_ptr();
        opts.core_mask = core_mask.as_ptr();
        opts.shm_id = -1;
        opts.mem_size = mem_size;
        opts.no_huge = !options.hugepages;
        if options.hugepages {
            // Without them SPDK asks for it by itself, and DPDK takes no word twice.
            opts.iova_mode = IOVA_MODE.as_ptr();
        }
        sys::spdk_env_init(&raw const opts)
    };
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(-rc).to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> (tempfile::TempDir, Host) {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let host = Host {
            sysfs: at("sys"),
            proc: at("proc"),
            dev: at("dev"),
        };
        std::fs::create_dir_all(&host.proc).unwrap();
        (folder, host)
    }

    fn put(host: &Host, name: &str, text: &str) {
        let path = host.sysfs.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn too_few_hugepages_are_told_with_the_figures_and_the_remedy() {
        let (_folder, host) = host();
        put(
            &host,
            "kernel/mm/hugepages/hugepages-2048kB/free_hugepages",
            "8\n",
        );
        put(
            &host,
            "kernel/mm/hugepages/hugepages-1048576kB/free_hugepages",
            "0\n",
        );
        let options = SpdkOptions {
            memory_mib: 64,
            hugepages: true,
        };
        let error = check(&host, options).unwrap_err().to_string();
        assert!(
            error.contains("67108864 bytes of free hugepages, 16777216 are free"),
            "{error}"
        );
        assert!(error.contains("vm.nr_hugepages") && error.contains("spdk_hugepages = false"));
        let small = SpdkOptions {
            hugepages: false,
            ..options
        };
        assert!(check(&host, small).is_ok());
    }

    #[test]
    fn hugepages_need_their_file_system() {
        let (_folder, host) = host();
        put(
            &host,
            "kernel/mm/hugepages/hugepages-2048kB/free_hugepages",
            "64",
        );
        std::fs::write(host.proc.join("mounts"), "proc /proc proc rw 0 0\n").unwrap();
        let error = check(&host, SpdkOptions::default())
            .unwrap_err()
            .to_string();
        assert!(error.contains("mount -t hugetlbfs"), "{error}");
        let mounts = "none /dev/hugepages hugetlbfs rw 0 0\n";
        std::fs::write(host.proc.join("mounts"), mounts).unwrap();
        assert!(check(&host, SpdkOptions::default()).is_ok());
    }

    #[test]
    fn a_narrow_iommu_is_refused() {
        let (_folder, host) = host();
        assert_eq!(iommu_bits(&host.sysfs), None);
        // MGAW 47 and 38, counted from 0.
        put(
            &host,
            "class/iommu/dmar0/intel-iommu/cap",
            "d2008c222f0686\n",
        );
        assert_eq!(iommu_bits(&host.sysfs), Some(48));
        put(
            &host,
            "class/iommu/dmar1/intel-iommu/cap",
            "d2008c22260686\n",
        );
        let options = SpdkOptions {
            memory_mib: 64,
            hugepages: false,
        };
        let error = check(&host, options).unwrap_err().to_string();
        assert!(error.contains("addresses of 39 bits"), "{error}");
    }
}
