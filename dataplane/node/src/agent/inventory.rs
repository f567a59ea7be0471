//! What the machine is made of, read from `/proc` and `/sys`. What the kernel does not tell is left
//! out: nothing here fails.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use penstock_api::v1::{DeviceInventory, Inventory, NetworkInterface, NumaNode, TransportAddress};

use crate::config::{Machine, core_list};

/// Where the kernel tells of itself; another folder in tests.
pub(super) struct Kernel {
    sys: PathBuf,
}

impl Default for Kernel {
    fn default() -> Kernel {
        Kernel {
            sys: PathBuf::from("/sys"),
        }
    }
}

/// The whole inventory. `boot_id` names this run of the daemon; `devices` are what volumes can be
/// placed on, `listeners` what the configuration asks for.
pub(super) fn inventory(
    boot_id: &str,
    devices: Vec<DeviceInventory>,
    listeners: Vec<TransportAddress>,
) -> Inventory {
    let kernel = Kernel::default();
    let machine = Machine::probe();
    let release = rustix::system::uname();
    Inventory {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        kernel: release.release().to_string_lossy().into_owned(),
        cores: u32::try_from(machine.cores_online.len()).unwrap_or(u32::MAX),
        numa_nodes: kernel.numa_nodes(),
        memory_bytes: match machine.memory_bytes {
            u64::MAX => 0,
            known => known,
        },
        network_interfaces: kernel.network_interfaces(&addresses()),
        devices,
        listeners,
        boot_id: boot_id.to_owned(),
    }
}

/// The IP addresses of each interface that is up.
pub(crate) fn addresses() -> BTreeMap<String, BTreeSet<IpAddr>> {
    use nix::net::if_::InterfaceFlags;
    let mut found: BTreeMap<String, BTreeSet<IpAddr>> = BTreeMap::new();
    let interfaces = match nix::ifaddrs::getifaddrs() {
        Ok(interfaces) => interfaces,
        Err(error) => {
            tracing::warn!(%error, "the network interfaces cannot be listed");
            return found;
        }
    };
    for interface in interfaces.filter(|one| one.flags.contains(InterfaceFlags::IFF_UP)) {
        let addresses = found.entry(interface.interface_name).or_default();
        let Some(address) = interface.address else {
            continue;
        };
        if let Some(ipv4) = address.as_sockaddr_in() {
            addresses.insert(ipv4.ip().into());
        } else if let Some(ipv6) = address.as_sockaddr_in6() {
            addresses.insert(ipv6.ip().into());
        }
    }
    found
}

impl Kernel {
    fn read(&self, path: impl AsRef<Path>) -> String {
        fs::read_to_string(self.sys.join(path)).unwrap_or_default()
    }

    fn names(&self, path: impl AsRef<Path>) -> Vec<String> {
        let entries = fs::read_dir(self.sys.join(path)).into_iter().flatten();
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    }

    fn numa_nodes(&self) -> Vec<NumaNode> {
        let folder = Path::new("devices/system/node");
        let numbered = |name: String| Some((name.strip_prefix("node")?.parse().ok()?, name));
        let mut nodes: Vec<NumaNode> = self
            .names(folder)
            .into_iter()
            .filter_map(numbered)
            .map(|(id, name): (u32, String)| {
                let cores = core_list(&self.read(folder.join(&name).join("cpulist")));
                let memory = self.read(folder.join(&name).join("meminfo"));
                NumaNode {
                    id,
                    cores: cores
                        .into_iter()
                        .filter_map(|core| u32::try_from(core).ok())
                        .collect(),
                    memory_bytes: memory_total(&memory),
                }
            })
            .collect();
        nodes.sort_by_key(|node| node.id);
        nodes
    }

    /// Loopback is left out: no host can come that way.
    fn network_interfaces(
        &self,
        addresses: &BTreeMap<String, BTreeSet<IpAddr>>,
    ) -> Vec<NetworkInterface> {
        let with_rdma = self.interfaces_with_rdma();
        let outward = addresses.iter().filter(|(name, _)| name.as_str() != "lo");
        outward
            .map(|(name, addresses)| {
                let folder = Path::new("class/net").join(name);
                let number = |file: &str| self.read(folder.join(file)).trim().parse::<i64>().ok();
                NetworkInterface {
                    name: name.clone(),
                    addresses: addresses.iter().map(ToString::to_string).collect(),
                    speed_mbps: number("speed")
                        .and_then(|speed| u64::try_from(speed).ok())
                        .unwrap_or(0),
                    numa_node: number("device/numa_node")
                        .and_then(|node| i32::try_from(node).ok())
                        .unwrap_or(-1),
                    rdma: with_rdma.contains(name),
                    mtu_bytes: number("mtu")
                        .and_then(|mtu| u32::try_from(mtu).ok())
                        .unwrap_or(0),
                }
            })
            .collect()
    }

    fn interfaces_with_rdma(&self) -> BTreeSet<String> {
        let devices = self.names("class/infiniband");
        devices
            .iter()
            .flat_map(|device| {
                let folder = Path::new("class/infiniband").join(device);
                self.names(folder.join("device/net"))
            })
            .collect()
    }
}

/// `MemTotal` of a NUMA node's meminfo, in bytes.
fn memory_total(meminfo: &str) -> u64 {
    let line = meminfo.lines().find(|line| line.contains("MemTotal:"));
    let kib = line.and_then(|line| line.split_whitespace().rev().nth(1)?.parse::<u64>().ok());
    kib.map_or(0, |kib| kib.saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        fs::write(path, text).expect("written");
    }

    #[test]
    fn reads_what_the_kernel_tells() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path();
        let node = "devices/system/node";
        write(root, &format!("{node}/node1/cpulist"), "2-3\n");
        let memory = "Node 1 MemTotal:       2048 kB\nNode 1 MemFree:        1 kB\n";
        write(root, &format!("{node}/node1/meminfo"), memory);
        write(root, &format!("{node}/node0/cpulist"), "0-1\n");
        write(root, &format!("{node}/possible"), "0-1\n");
        for (file, text) in [
            ("speed", "100000\n"),
            ("mtu", "9000\n"),
            ("device/numa_node", "1\n"),
        ] {
            write(root, &format!("class/net/eth1/{file}"), text);
        }
        write(root, "class/net/eth0/speed", "-1\n");
        write(
            root,
            "class/infiniband/mlx5_0/device/net/eth1/mtu",
            "9000\n",
        );

        let kernel = Kernel {
            sys: root.to_owned(),
        };
        let nodes = kernel.numa_nodes();
        assert_eq!(nodes.len(), 2);
        assert_eq!((nodes[0].id, &nodes[0].cores[..]), (0, &[0, 1][..]));
        assert_eq!(
            (nodes[1].memory_bytes, &nodes[1].cores[..]),
            (2048 << 10, &[2, 3][..])
        );

        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let addresses = BTreeMap::from([
            ("lo".to_owned(), BTreeSet::from([ip("127.0.0.1")])),
            ("eth0".to_owned(), BTreeSet::new()),
            (
                "eth1".to_owned(),
                BTreeSet::from([ip("192.0.2.1"), ip("2001:db8::1")]),
            ),
        ]);
        let interfaces = kernel.network_interfaces(&addresses);
        assert_eq!(interfaces.len(), 2, "without loopback");
        assert_eq!((interfaces[0].speed_mbps, interfaces[0].numa_node), (0, -1));
        assert!(!interfaces[0].rdma && interfaces[1].rdma);
        assert_eq!(
            (interfaces[1].speed_mbps, interfaces[1].mtu_bytes),
            (100_000, 9000)
        );
        assert_eq!(interfaces[1].addresses, ["192.0.2.1", "2001:db8::1"]);
        assert_eq!(interfaces[1].numa_node, 1);
    }

    #[test]
    fn this_machine_has_cores_memory_and_a_kernel() {
        let inventory = inventory("boot", Vec::new(), Vec::new());
        assert!(inventory.cores > 0 && inventory.memory_bytes > 1 << 20);
        assert!(!inventory.kernel.is_empty() && inventory.boot_id == "boot");
    }
}
