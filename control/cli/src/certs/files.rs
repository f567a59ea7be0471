//! The authority's folder. Keys are for their owner only, and nothing is overwritten.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use super::authority::Pair;
use crate::failure::{Failure, Outcome};

/// Makes the folder, for its owner only.
pub fn make_folder(folder: &Path) -> Outcome {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|error| Failure::other(format!("cannot make {}: {error}", folder.display())))
}

/// Refuses where one of these pairs is there already.
pub fn refuse_overwriting(folder: &Path, stems: &[&str]) -> Outcome {
    for stem in stems {
        for path in [
            folder.join(format!("{stem}.pem")),
            folder.join(format!("{stem}.key")),
        ] {
            if fs::symlink_metadata(&path).is_ok() {
                let told = format!(
                    "{} exists and is not overwritten: move it away, or use another folder or name",
                    path.display()
                );
                return Err(Failure::other(told));
            }
        }
    }
    Ok(())
}

/// Writes `stem.key` (mode 0600) and `stem.pem`.
pub fn write_pair(folder: &Path, stem: &str, pair: &Pair) -> Outcome {
    write(&folder.join(format!("{stem}.key")), &pair.key, 0o600)?;
    write(
        &folder.join(format!("{stem}.pem")),
        &pair.certificate,
        0o644,
    )
}

/// Writes a file that is for all to read, unless it is there.
pub fn write_if_missing(path: &Path, text: &str) -> Outcome {
    if path.exists() {
        Ok(())
    } else {
        write(path, text, 0o644)
    }
}

fn write(path: &Path, text: &str, mode: u32) -> Outcome {
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())
                .and_then(|()| file.sync_all())
        });
    written.map_err(|error| Failure::other(format!("cannot write {}: {error}", path.display())))
}

/// Reads a file of the folder.
pub fn read(path: &Path) -> Outcome<String> {
    fs::read_to_string(path).map_err(|error| {
        let remedy = match error.kind() {
            ErrorKind::NotFound => "; `penstock certs init` makes an authority",
            _ => "",
        };
        Failure::other(format!("cannot read {}: {error}{remedy}", path.display()))
    })
}
