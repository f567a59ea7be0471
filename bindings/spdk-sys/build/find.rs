//! Finds an installed SPDK.

use std::path::PathBuf;

/// The oldest release whose memory may be registered by pages of 4 KiB, which payload pools and queue
/// memory are made of.
pub const OLDEST: &str = "25.09";

/// An SPDK to declare and link.
#[derive(Debug)]
pub struct Found {
    /// Where its headers are.
    pub include: Vec<PathBuf>,
    /// Where libraries are.
    pub folders: Vec<PathBuf>,
    /// SPDK's and DPDK's own, to be linked whole: their parts register themselves at start.
    pub whole: Vec<String>,
    /// Those of the system that they use.
    pub system: Vec<String>,
}

/// The modules asked for, in the order in which static libraries must be linked.
const MODULES: [&str; 3] = ["spdk_nvme", "spdk_env_dpdk", "spdk_syslibs"];

/// Asks pkg-config. The message says what is missing and what to do.
pub fn find() -> Result<Found, String> {
    let mut found = Found {
        include: Vec::new(),
        folders: Vec::new(),
        whole: Vec::new(),
        system: Vec::new(),
    };
    for module in MODULES {
        let library = pkg_config::Config::new()
            .statik(true)
            .cargo_metadata(false)
            .env_metadata(false)
            .probe(module)
            .map_err(|error| missing(module, &error.to_string()))?;
        add(&mut found.include, library.include_paths);
        add(&mut found.folders, library.link_paths);
        let (whole, system): (Vec<_>, Vec<_>) = library
            .libs
            .into_iter()
            .partition(|name| name.starts_with("spdk_") || name.starts_with("rte_"));
        add(&mut found.whole, whole);
        add(&mut found.system, system);
    }
    Ok(found)
}

fn add<T: PartialEq>(to: &mut Vec<T>, more: Vec<T>) {
    for item in more {
        if !to.contains(&item) {
            to.push(item);
        }
    }
}

fn missing(module: &str, said: &str) -> String {
    let said = said.lines().map(str::trim).find(|line| !line.is_empty());
    format!(
        "no SPDK installed: pkg-config does not find `{module}` ({}). Install SPDK {OLDEST} or newer, \
         or name a built tree: \
         PKG_CONFIG_PATH=SPDK/build/lib/pkgconfig:SPDK/dpdk/build/lib/pkgconfig; or build without the \
         feature `spdk`",
        said.unwrap_or("it said nothing")
    )
}
