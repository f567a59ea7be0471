//! Facts of the machine, for the record.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde::Serialize;

/// What a table must name so that it can be judged later.
#[derive(Clone, Debug, Serialize)]
pub struct Facts {
    /// The command line.
    pub command: String,
    /// Coordinated universal time.
    pub date: String,
    /// Kernel release.
    pub kernel: String,
    /// Processors and their model.
    pub cpu: String,
    /// Our revision.
    pub revision: String,
}

impl Facts {
    /// Of now and here.
    pub fn gather() -> Facts {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        Facts {
            command: command_line(std::env::args()),
            date: output_of("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
            kernel: kernel.trim().to_owned(),
            cpu: cpu(&cpuinfo),
            revision: output_of("git", &["describe", "--always", "--dirty"]),
        }
    }
}

/// The command line, without the folder that the program is in.
fn command_line(arguments: impl Iterator<Item = String>) -> String {
    let mut words: Vec<String> = arguments.collect();
    if let Some(program) = words.first_mut() {
        let name = Path::new(program.as_str()).file_name();
        *program = name.map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    }
    words.join(" ")
}

fn cpu(cpuinfo: &str) -> String {
    let values = || {
        let lines = cpuinfo.lines().filter_map(|line| line.split_once(':'));
        lines.filter(|(key, _)| key.trim() == "model name")
    };
    let model = values()
        .next()
        .map_or("model not told", |(_, value)| value.trim());
    format!("{} x {model}", values().count())
}

fn output_of(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().ok();
    let text = output
        .filter(|o| o.status.success())
        .map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned());
    text.unwrap_or_else(|| "unknown".to_owned())
}

const HUGEPAGES: &str = "/proc/sys/vm/nr_hugepages";

/// Hugepages raised for the measurement; put back when this is dropped.
pub struct Hugepages {
    before: Option<u64>,
    /// Whether as many as wished are free.
    pub enough: bool,
}

impl Hugepages {
    /// Has at least `wanted` free hugepages of 2 MiB, raising their number where that is allowed.
    pub fn at_least(wanted: u64) -> Hugepages {
        let mut pages = Hugepages {
            before: None,
            enough: false,
        };
        let free = meminfo("HugePages_Free:").unwrap_or(0);
        let total = fs::read_to_string(HUGEPAGES)
            .ok()
            .and_then(|text| text.trim().parse::<u64>().ok());
        if let Some(total) = total.filter(|_| free < wanted)
            && fs::write(HUGEPAGES, (total + wanted - free).to_string()).is_ok()
        {
            pages.before = Some(total);
        }
        let of_2_mib = meminfo("Hugepagesize:") == Some(2048);
        let mounted =
            fs::read_to_string("/proc/mounts").is_ok_and(|text| text.contains(" hugetlbfs "));
        pages.enough =
            of_2_mib && mounted && meminfo("HugePages_Free:").is_some_and(|free| free >= wanted);
        pages
    }
}

impl Drop for Hugepages {
    fn drop(&mut self) {
        if let Some(before) = self.before {
            // Pages still in use stay; the kernel takes them back as they are freed.
            let _ = fs::write(HUGEPAGES, before.to_string());
        }
    }
}

fn meminfo(key: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_names_no_folder() {
        let words = ["/a/b/penstock-perf", "tcp", "--runs", "1"].map(str::to_owned);
        assert_eq!(
            command_line(words.into_iter()),
            "penstock-perf tcp --runs 1"
        );
    }

    #[test]
    fn processors_are_counted() {
        let text = "processor : 0\nmodel name : Fast One\nprocessor : 1\nmodel name : Fast One\n";
        assert_eq!(cpu(text), "2 x Fast One");
    }
}
