//! Writes the `newc` cpio archive that the kernel unpacks as its first file system
//! (Linux, Documentation/driver-api/early-userspace/buffer-format.rst).

use crate::error::{IoContext, LabError, Result};
use std::collections::BTreeSet;
use std::io::Write;

const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

/// An archive being written.
pub struct Archive<W: Write> {
    out: W,
    inode: u32,
    directories: BTreeSet<String>,
}

impl<W: Write> Archive<W> {
    /// Begins an archive on `out`.
    pub fn new(out: W) -> Self {
        Self {
            out,
            inode: 0,
            directories: BTreeSet::new(),
        }
    }

    /// Adds a directory, and those above it where missing.
    ///
    /// # Errors
    /// The output refuses.
    pub fn directory(&mut self, path: &str) -> Result<()> {
        if path.is_empty() || !self.directories.insert(path.to_owned()) {
            return Ok(());
        }
        self.parents(path)?;
        self.entry(path, DIRECTORY | 0o755, &[])
    }

    /// Adds a file of permission bits `mode`.
    ///
    /// # Errors
    /// The output refuses, or the file is larger than the format can say (4 GiB).
    pub fn file(&mut self, path: &str, mode: u32, data: &[u8]) -> Result<()> {
        self.parents(path)?;
        self.entry(path, FILE | mode, data)
    }

    /// Adds a symbolic link.
    ///
    /// # Errors
    /// The output refuses.
    pub fn link(&mut self, path: &str, target: &str) -> Result<()> {
        self.parents(path)?;
        self.entry(path, LINK | 0o777, target.as_bytes())
    }

    /// Writes the end mark and returns the output.
    ///
    /// # Errors
    /// The output refuses.
    pub fn finish(mut self) -> Result<W> {
        self.entry("TRAILER!!!", 0, &[])?;
        self.out.flush().doing(|| "write the initramfs".into())?;
        Ok(self.out)
    }

    fn parents(&mut self, path: &str) -> Result<()> {
        match path.rsplit_once('/') {
            Some((above, _)) => self.directory(above),
            None => Ok(()),
        }
    }

    fn entry(&mut self, path: &str, mode: u32, data: &[u8]) -> Result<()> {
        let too_large = || LabError::Check(format!("{path} does not fit into a cpio archive"));
        let size = u32::try_from(data.len()).map_err(|_| too_large())?;
        let name_size = u32::try_from(path.len() + 1).map_err(|_| too_large())?;
        self.inode += 1;
        let links = if mode & 0o170_000 == DIRECTORY { 2 } else { 1 };
        let mut record = b"070701".to_vec();
        // inode, mode, uid, gid, links, mtime, size, device (4), name size, checksum (unused)
        let fields = [
            self.inode, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name_size, 0,
        ];
        for field in fields {
            record.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        record.extend_from_slice(path.as_bytes());
        record.push(0);
        pad(&mut record);
        // The header is a multiple of four by now, so padding the data alone keeps the alignment.
        let filler = [0; 3];
        let rest = data.len().next_multiple_of(4) - data.len();
        let written = self
            .out
            .write_all(&record)
            .and_then(|()| self.out.write_all(data))
            .and_then(|()| self.out.write_all(&filler[..rest]));
        written.doing(|| format!("write {path} into the initramfs"))
    }
}

fn pad(record: &mut Vec<u8>) {
    record.resize(record.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads an archive back: names, modes and data.
    fn read(mut bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut entries = Vec::new();
        loop {
            assert_eq!(&bytes[..6], b"070701");
            let field = |index: usize| {
                let at = 6 + index * 8;
                let digits = std::str::from_utf8(&bytes[at..at + 8]).unwrap();
                u32::from_str_radix(digits, 16).unwrap()
            };
            let (mode, size, name_size) = (field(1), field(6) as usize, field(11) as usize);
            let name = String::from_utf8(bytes[110..110 + name_size - 1].to_vec()).unwrap();
            let at = (110 + name_size).next_multiple_of(4);
            let data = bytes[at..at + size].to_vec();
            bytes = &bytes[(at + size).next_multiple_of(4)..];
            if name == "TRAILER!!!" {
                assert!(bytes.is_empty());
                return entries;
            }
            entries.push((name, mode, data));
        }
    }

    #[test]
    fn parents_come_first_and_once() {
        let mut archive = Archive::new(Vec::new());
        archive.file("lab/bin/a", 0o755, b"abcde").unwrap();
        archive.file("lab/bin/b", 0o644, b"").unwrap();
        archive.link("lab/c", "bin/a").unwrap();
        let entries = read(&archive.finish().unwrap());
        let names: Vec<_> = entries.iter().map(|(name, ..)| name.as_str()).collect();
        assert_eq!(names, ["lab", "lab/bin", "lab/bin/a", "lab/bin/b", "lab/c"]);
        assert_eq!(
            entries[2],
            ("lab/bin/a".into(), 0o100_755, b"abcde".to_vec())
        );
        assert_eq!(entries[4], ("lab/c".into(), 0o120_777, b"bin/a".to_vec()));
    }

    proptest::proptest! {
        #[test]
        fn any_file_reads_back(
            name in "[a-z]{1,20}",
            data in proptest::collection::vec(proptest::num::u8::ANY, 0..50),
        ) {
            let mut archive = Archive::new(Vec::new());
            archive.file(&name, 0o600, &data).unwrap();
            let entries = read(&archive.finish().unwrap());
            proptest::prop_assert_eq!(entries, vec![(name, 0o100_600, data)]);
        }
    }
}
