//! Checks of `[[device]]`.

use std::path::PathBuf;

use penstock_api::names;
use penstock_units::BlockSize;
use toml::Spanned;

use super::super::schema;
use super::super::{BackendSettings, DeviceSettings};
use super::drive::DriveKeys;
use super::{Checker, offset};

impl Checker<'_> {
    /// `paths`: where namespaces of the file keep their blocks, with their lines.
    pub(super) fn devices(
        &mut self,
        given: &[Spanned<schema::Device>],
        paths: &mut Vec<(PathBuf, usize)>,
    ) -> Vec<DeviceSettings> {
        let mut devices: Vec<DeviceSettings> = Vec::new();
        for table in given {
            let Some(device) = self.device(table) else {
                continue;
            };
            if let Some(earlier) = devices.iter().find(|known| known.name == device.name) {
                let what = format!(
                    "\"{}\" is a device already (line {})",
                    device.name, earlier.line
                );
                let at = table.get_ref().name.as_ref().and_then(offset);
                let remedy = "give every device its own name";
                self.refuse(at, "device.name", what, remedy);
            }
            self.once(paths, "device", &device.backend, device.line);
            devices.push(device);
        }
        devices
    }

    fn device(&mut self, table: &Spanned<schema::Device>) -> Option<DeviceSettings> {
        let given = table.get_ref();
        let before = self.problems.len();
        let name = given.name.as_ref();
        let text = name.map_or("", |name| name.get_ref());
        let at = name.map_or_else(|| offset(table), offset);
        if let Err(error) = names::check_id(text) {
            let message = error.to_string();
            let (what, remedy) = message.split_once("; ").unwrap_or((&message, "rename it"));
            let what = format!("control could not know the device by this name: {what}");
            self.refuse(at, "device.name", what, remedy);
        }
        let block_size = self.block_size("device.block_size_bytes", &given.block_size_bytes);
        let backend = self.device_backend(table, block_size);
        if self.problems.len() > before {
            return None;
        }
        Some(DeviceSettings {
            line: self.line(table),
            name: text.to_owned(),
            backend: backend?,
            block_size,
        })
    }

    fn device_backend(
        &mut self,
        table: &Spanned<schema::Device>,
        block_size: BlockSize,
    ) -> Option<BackendSettings> {
        let given = table.get_ref();
        let words = ["file", "block", "memory", "nvme"];
        let Some(word) = &given.backend else {
            let remedy = format!("add backend = one of: {}", words.join(", "));
            let what = "the backend is missing".to_owned();
            self.refuse(offset(table), "device.backend", what, remedy);
            return None;
        };
        if !words.contains(&word.get_ref().as_str()) {
            self.word("device.backend", &given.backend, &words);
            return None;
        }
        let size_bytes = self.size("device.size_bytes", &given.size_bytes, block_size);
        let path = given.path.as_ref().map(|p| PathBuf::from(p.get_ref()));
        let mut unfit = |key: &str, at: Option<usize>, fits: &str| {
            let what = format!("{key} means nothing to a {} device", word.get_ref());
            let remedy = format!("remove it (it belongs to: {fits})");
            self.refuse(at, &format!("device.{key}"), what, remedy);
        };
        let drive_key = [
            ("pci_address", given.pci_address.as_ref().and_then(offset)),
            ("drive_nsid", given.drive_nsid.as_ref().and_then(offset)),
        ];
        let other_key = [
            ("path", given.path.as_ref().and_then(offset), "file, block"),
            (
                "size_bytes",
                given.size_bytes.as_ref().and_then(offset),
                "file, memory",
            ),
        ];
        if word.get_ref() == "nvme" {
            for (key, at, fits) in other_key.into_iter().filter(|(_, at, _)| at.is_some()) {
                unfit(key, at, fits);
            }
            return self.drive(&DriveKeys {
                prefix: "device",
                at: offset(word),
                address: &given.pci_address,
                nsid: &given.drive_nsid,
            });
        }
        if let Some((key, at)) = drive_key.into_iter().find(|(_, at)| at.is_some()) {
            unfit(key, at, "nvme");
            return None;
        }
        match (word.get_ref().as_str(), size_bytes, path) {
            ("memory", Some(size_bytes), None) => Some(BackendSettings::Memory { size_bytes }),
            ("file", size_bytes, Some(path)) => Some(BackendSettings::File { path, size_bytes }),
            ("block", None, Some(path)) => Some(BackendSettings::Block { path }),
            ("memory", Some(_), Some(_)) => {
                unfit("path", given.path.as_ref().and_then(offset), "file, block");
                None
            }
            ("block", Some(_), Some(_)) => {
                let at = given.size_bytes.as_ref().and_then(offset);
                unfit("size_bytes", at, "file, memory");
                None
            }
            ("memory", None, _) => {
                let what = "a memory device needs a size".to_owned();
                self.refuse(offset(word), "device.size_bytes", what, "add size_bytes");
                None
            }
            (kind, _, _) => {
                let what = format!("a {kind} device needs a path");
                self.refuse(offset(word), "device.path", what, "add path = \"...\"");
                None
            }
        }
    }
}
