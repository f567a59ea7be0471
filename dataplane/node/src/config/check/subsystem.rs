//! Checks of `[[subsystem]]` and `[[subsystem.namespace]]`.

use std::path::PathBuf;

use penstock_nvme::nqn::{self, DISCOVERY_NQN};
use penstock_units::{BlockSize, ByteCount, Nsid};
use toml::Spanned;
use uuid::Uuid;

use super::super::schema::{self, Key};
use super::super::{BackendSettings, NamespaceSettings, SubsystemSettings};
use super::drive::DriveKeys;
use super::{Checker, offset};

/// Highest value that `namespaces_max` may take.
const NAMESPACES_MAX: u64 = 4096;

/// Largest namespace in bytes: what a file offset can reach.
const SIZE_BYTES_MAX: u64 = i64::MAX as u64;

impl Checker<'_> {
    pub(super) fn subsystems(
        &mut self,
        given: &[Spanned<schema::Subsystem>],
        paths: &mut Vec<(PathBuf, usize)>,
    ) -> Vec<SubsystemSettings> {
        let mut subsystems: Vec<SubsystemSettings> = Vec::new();
        for table in given {
            let Some(subsystem) = self.subsystem(table) else {
                continue;
            };
            if let Some(earlier) = subsystems.iter().find(|known| known.nqn == subsystem.nqn) {
                let what = format!(
                    "{} is defined on line {} already",
                    earlier.nqn, earlier.line
                );
                let remedy = "give every subsystem its own NQN";
                self.refuse(offset(table), "subsystem.nqn", what, remedy);
            }
            for namespace in &subsystem.namespaces {
                self.once(paths, "namespace", &namespace.backend, namespace.line);
            }
            subsystems.push(subsystem);
        }
        subsystems
    }

    /// Refuses a file or drive that is used twice.
    pub(super) fn once(
        &mut self,
        paths: &mut Vec<(PathBuf, usize)>,
        table: &str,
        backend: &BackendSettings,
        line: usize,
    ) {
        let (key, path) = match backend {
            BackendSettings::Nvme {
                address,
                drive_nsid,
            } => {
                let place = format!("namespace {drive_nsid} of drive {address}");
                (format!("{table}.pci_address"), PathBuf::from(place))
            }
            _ => match backend.path() {
                Some(path) => (format!("{table}.path"), path.to_owned()),
                None => return,
            },
        };
        // The same file under two names is still one file; a file not made yet has no other name.
        let real = path.canonicalize().unwrap_or_else(|_| path.clone());
        if let Some((_, earlier)) = paths.iter().find(|(known, _)| *known == real) {
            let what = format!("{} is kept by line {earlier} already", path.display());
            let remedy = "give every namespace and device its own file or drive".to_owned();
            let mut problem = self.source.problem(None, &key, what, remedy);
            problem.line = Some(line);
            self.problems.push(problem);
        }
        paths.push((real, line));
    }

    fn subsystem(&mut self, table: &Spanned<schema::Subsystem>) -> Option<SubsystemSettings> {
        let given = table.get_ref();
        let Some(nqn) = &given.nqn else {
            let remedy = "add nqn = \"nqn.2026-01.io.example:name\"";
            self.refuse(
                offset(table),
                "subsystem.nqn",
                "the NQN is missing".to_owned(),
                remedy,
            );
            return None;
        };
        self.valid_nqn("subsystem.nqn", nqn);
        if nqn.get_ref() == DISCOVERY_NQN {
            let what = "the discovery subsystem is built in".to_owned();
            self.refuse(
                offset(nqn),
                "subsystem.nqn",
                what,
                "remove this [[subsystem]]",
            );
        }
        let hosts = given
            .hosts
            .as_ref()
            .map(|hosts| hosts.get_ref().as_slice())
            .unwrap_or(&[]);
        for host in hosts {
            self.valid_nqn("subsystem.hosts", host);
        }
        let identity = Uuid::new_v5(&Uuid::NAMESPACE_URL, nqn.get_ref().as_bytes());
        let serial = identity.simple().to_string()[..20].to_owned();
        Some(SubsystemSettings {
            line: self.line(table),
            nqn: nqn.get_ref().clone(),
            serial: self.ascii("subsystem.serial", &given.serial, &serial, 20),
            model: self.ascii("subsystem.model", &given.model, "Penstock", 40),
            allow_any_host: given
                .allow_any_host
                .as_ref()
                .is_some_and(|yes| *yes.get_ref()),
            hosts: hosts.iter().map(|host| host.get_ref().clone()).collect(),
            namespaces_max: self.number(
                "subsystem.namespaces_max",
                &given.namespaces_max,
                256,
                1..=NAMESPACES_MAX,
            ),
            namespaces: self.namespaces(nqn.get_ref(), given),
        })
    }

    fn valid_nqn(&mut self, key: &str, given: &Spanned<String>) {
        if let Err(defect) = nqn::validate(given.get_ref()) {
            let what = format!("\"{}\" is no NQN: {defect}", given.get_ref());
            let remedy = "write nqn.YYYY-MM.reversed.domain:name, \
                          such as \"nqn.2026-01.io.example:training\"";
            self.refuse(offset(given), key, what, remedy);
        }
    }

    fn ascii(&mut self, key: &str, given: &Key<String>, default: &str, longest: usize) -> String {
        let Some(given) = given else {
            return default.to_owned();
        };
        let text = given.get_ref();
        let printable = text.bytes().all(|byte| (0x20..=0x7e).contains(&byte));
        if !printable || text.is_empty() || text.len() > longest {
            let what = format!("\"{text}\" is not 1 to {longest} printable ASCII characters");
            self.refuse(
                offset(given),
                key,
                what,
                "shorten it or use plain letters and digits",
            );
        }
        text.clone()
    }

    fn namespaces(&mut self, nqn: &str, given: &schema::Subsystem) -> Vec<NamespaceSettings> {
        let highest = given
            .namespaces_max
            .as_ref()
            .map_or(256, |max| *max.get_ref());
        let mut namespaces: Vec<NamespaceSettings> = Vec::new();
        for table in &given.namespace {
            let Some(namespace) = self.namespace(nqn, table) else {
                continue;
            };
            let key = "namespace.nsid";
            let at = table.get_ref().nsid.as_ref().and_then(offset);
            let earlier = namespaces.iter().find(|known| known.nsid == namespace.nsid);
            if let Some(line) = earlier.map(|known| known.line) {
                let what = format!(
                    "namespace id {} is used twice in {nqn} (first on line {line})",
                    namespace.nsid
                );
                self.refuse(
                    at,
                    key,
                    what,
                    "give every namespace of a subsystem its own nsid",
                );
            }
            if u64::from(namespace.nsid.get()) > highest {
                let what = format!("{} is above namespaces_max ({highest})", namespace.nsid);
                self.refuse(at, key, what, "lower the nsid or raise namespaces_max");
            }
            namespaces.push(namespace);
        }
        namespaces
    }

    fn namespace(
        &mut self,
        nqn: &str,
        table: &Spanned<schema::Namespace>,
    ) -> Option<NamespaceSettings> {
        let given = table.get_ref();
        let Some(nsid_key) = &given.nsid else {
            let what = "the namespace id is missing".to_owned();
            self.refuse(offset(table), "namespace.nsid", what, "add nsid = 1");
            return None;
        };
        let nsid = u32::try_from(*nsid_key.get_ref()).ok().and_then(Nsid::new);
        let Some(nsid) = nsid else {
            let what = format!("{} is no namespace id", nsid_key.get_ref());
            let remedy = "use a number from 1 to the subsystem's namespaces_max";
            self.refuse(offset(nsid_key), "namespace.nsid", what, remedy);
            return None;
        };
        let block_size = self.block_size("namespace.block_size_bytes", &given.block_size_bytes);
        let backend = self.backend(table, block_size)?;
        let own_name = format!("{nqn}/{nsid}");
        Some(NamespaceSettings {
            line: self.line(table),
            nsid,
            backend,
            block_size,
            uuid: self.uuid(&given.uuid, &own_name),
        })
    }

    fn uuid(&mut self, given: &Key<String>, own_name: &str) -> Uuid {
        let derived = Uuid::new_v5(&Uuid::NAMESPACE_URL, own_name.as_bytes());
        let Some(given) = given else { return derived };
        match Uuid::parse_str(given.get_ref()) {
            Ok(uuid) if !uuid.is_nil() => uuid,
            _ => {
                let what = format!("\"{}\" is no UUID", given.get_ref());
                let remedy = "write one such as \"f81d4fae-7dec-11d0-a765-00a0c91e6bf6\" \
                              (`uuidgen`), or leave the key out";
                self.refuse(offset(given), "namespace.uuid", what, remedy);
                derived
            }
        }
    }

    pub(super) fn block_size(&mut self, key: &str, given: &Key<u64>) -> BlockSize {
        let Some(given) = given else {
            return BlockSize::B4096;
        };
        match *given.get_ref() {
            512 => BlockSize::B512,
            4096 => BlockSize::B4096,
            other => {
                let what = format!("blocks of {other} bytes are not served");
                self.refuse(offset(given), key, what, "use 512 or 4096");
                BlockSize::B4096
            }
        }
    }

    fn backend(
        &mut self,
        table: &Spanned<schema::Namespace>,
        block_size: BlockSize,
    ) -> Option<BackendSettings> {
        let given = table.get_ref();
        let words = ["memory", "null", "file", "block", "nvme"];
        let Some(word) = &given.backend else {
            let what = "the backend is missing".to_owned();
            let remedy = format!("add backend = one of: {}", words.join(", "));
            self.refuse(offset(table), "namespace.backend", what, remedy);
            return None;
        };
        let before = self.problems.len();
        let kind = self.word("namespace.backend", &given.backend, &words);
        if self.problems.len() > before {
            return None;
        }
        self.keys_fit(kind, given);
        let latency_us = self.number("namespace.latency_us", &given.latency_us, 0, 0..=10_000_000);
        let size_bytes = self.size("namespace.size_bytes", &given.size_bytes, block_size);
        let path = given
            .path
            .as_ref()
            .map(|path| PathBuf::from(path.get_ref()));
        if kind == "nvme" {
            let keys = DriveKeys {
                prefix: "namespace",
                at: offset(word),
                address: &given.pci_address,
                nsid: &given.drive_nsid,
            };
            return self.drive(&keys);
        }
        match (kind, size_bytes, path) {
            ("memory", Some(size_bytes), _) => Some(BackendSettings::Memory { size_bytes }),
            ("null", Some(size_bytes), _) => Some(BackendSettings::Null {
                size_bytes,
                latency_us,
            }),
            ("memory" | "null", None, _) => {
                let what = format!("a {kind} namespace needs a size");
                self.refuse(offset(word), "namespace.size_bytes", what, "add size_bytes");
                None
            }
            ("file", size_bytes, Some(path)) => Some(BackendSettings::File { path, size_bytes }),
            ("block", _, Some(path)) => Some(BackendSettings::Block { path }),
            _ => {
                let what = format!("a {kind} namespace needs a path");
                self.refuse(offset(word), "namespace.path", what, "add path = \"...\"");
                None
            }
        }
    }

    /// Refuses keys that mean nothing to this backend: they would be ignored silently.
    fn keys_fit(&mut self, kind: &str, given: &schema::Namespace) {
        let present = [
            (
                "path",
                given.path.as_ref().map(|key| key.span().start),
                ["file", "block"].as_slice(),
            ),
            (
                "size_bytes",
                given.size_bytes.as_ref().map(|key| key.span().start),
                ["memory", "null", "file"].as_slice(),
            ),
            (
                "latency_us",
                given.latency_us.as_ref().map(|key| key.span().start),
                &["null"],
            ),
            (
                "pci_address",
                given.pci_address.as_ref().map(|key| key.span().start),
                &["nvme"],
            ),
            (
                "drive_nsid",
                given.drive_nsid.as_ref().map(|key| key.span().start),
                &["nvme"],
            ),
        ];
        for (key, at, kinds) in present {
            if at.is_some() && !kinds.contains(&kind) {
                let what = format!("{key} means nothing to a {kind} namespace");
                let remedy = format!("remove it (it belongs to: {})", kinds.join(", "));
                self.refuse(at, &format!("namespace.{key}"), what, remedy);
            }
        }
    }

    pub(super) fn size(
        &mut self,
        key: &str,
        given: &Key<u64>,
        block_size: BlockSize,
    ) -> Option<u64> {
        let given = given.as_ref()?;
        let value = *given.get_ref();
        if value == 0 || value > SIZE_BYTES_MAX {
            let what = format!("{value} bytes are no size to serve");
            let remedy = format!("give a size from {block_size} to {SIZE_BYTES_MAX} bytes");
            self.refuse(offset(given), key, what, remedy);
        } else if block_size.blocks_in(ByteCount(value)).is_none() {
            let below = value - value % block_size.bytes_u64();
            let what = format!("{value} is no multiple of the block size, {block_size} bytes");
            let near = if below == 0 {
                block_size.bytes_u64()
            } else {
                below
            };
            self.refuse(
                offset(given),
                key,
                what,
                format!("use {near}, or another block_size_bytes"),
            );
        }
        Some(value)
    }
}
