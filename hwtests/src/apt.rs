//! Debian packages, fetched with a private apt and unpacked (never installed) into the cache.

use crate::error::{IoContext, LabError, Result};
use crate::process;
use crate::sources::{self, Sources};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const UPDATE_LIMIT: Duration = Duration::from_secs(300);
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(900);
const UNPACK_LIMIT: Duration = Duration::from_secs(300);
const QUERY_LIMIT: Duration = Duration::from_secs(60);
const ATTEMPTS: u32 = 3;
const ETC: &str = "/etc/apt";

/// A private apt: its own sources, indexes and archives; the machine's package state is not touched.
#[derive(Debug)]
pub struct Apt {
    dir: PathBuf,
    config: PathBuf,
    sources: Sources,
    updated: bool,
}

impl Apt {
    /// Prepares the private configuration under `dir`; fetches nothing yet.
    ///
    /// # Errors
    /// This is no Debian on amd64, its sources cannot be used, or `dir` cannot be written.
    pub fn open(dir: &Path) -> Result<Self> {
        let codename = codename()?;
        let sources = sources::read(Path::new(ETC), &codename)?;
        Self::with(dir, sources)
    }

    /// The same for another `release` of Debian, from the mirror of this one.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_release(dir: &Path, release: &str) -> Result<Self> {
        let sources = sources::read_other(Path::new(ETC), &codename()?, release)?;
        Self::with(dir, sources)
    }

    fn with(dir: &Path, sources: Sources) -> Result<Self> {
        if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
            return Err(LabError::Skip("the lab needs Debian on amd64".into()));
        }
        for sub in ["state/lists/partial", "archives", "parts"] {
            let path = dir.join(sub);
            std::fs::create_dir_all(&path).doing(|| format!("create {}", path.display()))?;
        }
        let config = dir.join("apt.conf");
        write(&dir.join("state/status"), "")?;
        write(&dir.join("parts/lab.list"), &sources.list)?;
        write(&dir.join("parts/lab.sources"), &sources.deb822)?;
        write(&config, &configuration(dir))?;
        Ok(Self {
            dir: dir.to_owned(),
            config,
            sources,
            updated: false,
        })
    }

    fn tool(&self, name: &str) -> Command {
        let mut command = process::tied(name);
        command.arg("-q").arg("-c").arg(&self.config);
        command
            .env("LC_ALL", "C")
            .env("DEBIAN_FRONTEND", "noninteractive");
        command
    }

    fn update(&mut self) -> Result<()> {
        if !self.updated {
            let mut command = self.tool("apt-get");
            command.args(["--error-on=any", "update"]);
            again(|| process::run(&mut command, UPDATE_LIMIT)).map_err(|err| {
                LabError::Setup(format!(
                    "cannot fetch the package indexes of the mirror named in /etc/apt: {err}; \
                     check the network and that the mirror carries {}",
                    self.sources.backports.as_deref().unwrap_or("this release")
                ))
            })?;
            self.updated = true;
        }
        Ok(())
    }

    /// The newest package whose name starts with `prefix`, goes on with a number and ends with
    /// `suffix`, such as the kernel images of one series.
    ///
    /// # Errors
    /// The indexes cannot be fetched, or none is there.
    pub fn newest(&mut self, prefix: &str, suffix: &str) -> Result<String> {
        self.update()?;
        let mut command = self.tool("apt-cache");
        let names = process::run(command.args(["pkgnames", prefix]), QUERY_LIMIT)?;
        let mut known: Vec<(Vec<u64>, &str)> = names
            .lines()
            .filter_map(|name| Some((version_key(name, prefix, suffix)?, name)))
            .collect();
        known.sort();
        for (_, name) in known.iter().rev() {
            // A name may be known only because another package refers to it.
            let mut command = self.tool("apt-cache");
            let shown = process::run(
                command.args(["--no-all-versions", "show", name]),
                QUERY_LIMIT,
            );
            if shown.is_ok_and(|text| text.contains("Filename:")) {
                return Ok((*name).to_owned());
            }
        }
        Err(LabError::Setup(format!(
            "the mirror named in /etc/apt has no package {prefix}*{suffix}; it must carry {}",
            self.sources
                .backports
                .as_deref()
                .unwrap_or("that kernel series")
        )))
    }

    /// Downloads `packages` with everything they depend on and unpacks all of it under `root`.
    ///
    /// With `backports` set, versions from the backports suite are taken where it has them.
    ///
    /// # Errors
    /// Names the packages and what apt said.
    pub fn unpack_with_dependencies(
        &mut self,
        packages: &[&str],
        backports: bool,
        root: &Path,
    ) -> Result<()> {
        self.update()?;
        let archives = self.fresh_archives()?;
        let mut command = self.tool("apt-get");
        command.args([
            "install",
            "--yes",
            "--no-install-recommends",
            "--download-only",
        ]);
        if let Some(suite) = self.sources.backports.as_deref().filter(|_| backports) {
            command.args(["-t", suite]);
        }
        command.args(packages);
        again(|| process::run(&mut command, DOWNLOAD_LIMIT))
            .map_err(|err| failed("download", packages, &err))?;
        self.unpack_all(&archives, root)
    }

    /// Downloads `package` alone, without dependencies, and unpacks it under `root`.
    ///
    /// # Errors
    /// Names the package and what apt said.
    pub fn unpack_alone(&mut self, package: &str, root: &Path) -> Result<()> {
        self.update()?;
        let archives = self.fresh_archives()?;
        let mut command = self.tool("apt-get");
        command.args(["download", package]).current_dir(&archives);
        again(|| process::run(&mut command, DOWNLOAD_LIMIT))
            .map_err(|err| failed("download", &[package], &err))?;
        self.unpack_all(&archives, root)
    }

    fn fresh_archives(&self) -> Result<PathBuf> {
        let archives = self.dir.join("archives");
        if archives.exists() {
            std::fs::remove_dir_all(&archives).doing(|| format!("empty {}", archives.display()))?;
        }
        let partial = archives.join("partial");
        std::fs::create_dir_all(&partial).doing(|| format!("create {}", partial.display()))?;
        Ok(archives)
    }

    fn unpack_all(&self, archives: &Path, root: &Path) -> Result<()> {
        let entries =
            std::fs::read_dir(archives).doing(|| format!("list {}", archives.display()))?;
        let debs: Vec<PathBuf> = entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|end| end == "deb"))
            .collect();
        if debs.is_empty() {
            return Err(LabError::Setup(format!(
                "apt downloaded nothing into {}; remove {} and run again",
                archives.display(),
                self.dir.display()
            )));
        }
        for deb in debs {
            process::run(
                process::tied("dpkg").arg("-x").arg(&deb).arg(root),
                UNPACK_LIMIT,
            )?;
            // Unpacked, the archive is only in the way: a kernel is 100 MB.
            std::fs::remove_file(&deb).doing(|| format!("remove {}", deb.display()))?;
        }
        Ok(())
    }
}

fn failed(what: &str, packages: &[&str], err: &LabError) -> LabError {
    LabError::Setup(format!(
        "cannot {what} {} from the mirror named in /etc/apt: {err}",
        packages.join(", ")
    ))
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).doing(|| format!("write {}", path.display()))
}

fn configuration(dir: &Path) -> String {
    let dir = dir.display();
    // The hooks of the machine's own apt are for the machine's own state.
    format!(
        "#clear APT::Update::Post-Invoke;\n\
         #clear APT::Update::Post-Invoke-Success;\n\
         #clear DPkg::Post-Invoke;\n\
         #clear DPkg::Pre-Install-Pkgs;\n\
         Dir::State \"{dir}/state\";\n\
         Dir::State::lists \"{dir}/state/lists\";\n\
         Dir::State::status \"{dir}/state/status\";\n\
         Dir::Cache \"{dir}\";\n\
         Dir::Cache::archives \"{dir}/archives\";\n\
         Dir::Etc::sourcelist \"/dev/null\";\n\
         Dir::Etc::sourceparts \"{dir}/parts\";\n\
         APT::Architecture \"amd64\";\n\
         APT::Architectures {{ \"amd64\"; }};\n\
         APT::Install-Recommends \"false\";\n\
         APT::Keep-Downloaded-Packages \"true\";\n\
         APT::Sandbox::User \"root\";\n\
         Acquire::Languages \"none\";\n\
         Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n\
         Acquire::Retries \"3\";\n\
         Acquire::http::Timeout \"30\";\n\
         Acquire::https::Timeout \"30\";\n"
    )
}

/// The codename of the Debian release that this machine runs.
///
/// # Errors
/// It runs no Debian.
pub fn codename() -> Result<String> {
    let path = "/etc/os-release";
    let text = std::fs::read_to_string(path).doing(|| format!("read {path}"))?;
    let field = |name: &str| {
        let mut lines = text.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        value.map(|value| value.trim_matches('"').to_owned())
    };
    match (field("ID").as_deref(), field("VERSION_CODENAME")) {
        (Some("debian"), Some(codename)) => Ok(codename),
        _ => Err(LabError::Skip(
            "the lab takes its kernel and tools from Debian's packages, and this is no Debian"
                .into(),
        )),
    }
}

/// The numbers in the middle of `name`, or `None` if it is of another kind.
fn version_key(name: &str, prefix: &str, suffix: &str) -> Option<Vec<u64>> {
    let middle = name.strip_prefix(prefix)?.strip_suffix(suffix)?;
    let flavoured = |word: &str| middle.contains(word);
    if !middle.starts_with(|c: char| c.is_ascii_digit()) || flavoured("-cloud") || flavoured("-rt")
    {
        return None;
    }
    let numbers = middle.split(|c: char| !c.is_ascii_digit());
    Some(numbers.filter_map(|digits| digits.parse().ok()).collect())
}

fn again<T>(mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let mut last = attempt();
    for round in 1..ATTEMPTS {
        if last.is_ok() {
            break;
        }
        std::thread::sleep(Duration::from_secs(2 * u64::from(round)));
        last = attempt();
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_sort_by_number_and_flavours_are_left_out() {
        let key = |name| version_key(name, "linux-image-6.12.", "-amd64");
        assert!(key("linux-image-6.12.117+deb12-amd64") > key("linux-image-6.12.43+deb12-amd64"));
        assert!(key("linux-image-6.12.90+deb12.1-amd64") > key("linux-image-6.12.90+deb12-amd64"));
        assert!(key("linux-image-6.12.22+bpo-amd64").is_some());
        assert_eq!(key("linux-image-6.12.90+deb12-cloud-amd64"), None);
        assert_eq!(key("linux-image-6.12.90+deb12-rt-amd64"), None);
        assert_eq!(key("linux-image-6.1.0-50-amd64"), None);
    }

    #[test]
    fn configuration_keeps_everything_private() {
        let text = configuration(Path::new("/c/apt"));
        for line in text.lines().filter(|line| line.starts_with("Dir::")) {
            assert!(
                line.contains("/c/apt") || line.contains("/dev/null"),
                "{line}"
            );
        }
    }
}
