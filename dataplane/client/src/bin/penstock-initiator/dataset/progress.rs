//! Shows how far the work is: a bar for people, lines of JSON for programs.

use std::io::IsTerminal;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::pump::Progress;
use crate::table;

/// How progress is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Show {
    /// A bar where standard error is a terminal, nothing otherwise
    #[default]
    Auto,
    /// A bar on standard error
    Bar,
    /// One JSON object a line on standard output, and one for the result at the end
    Json,
    /// Nothing
    None,
}

/// What is going on.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// `write` or `read`.
    pub phase: &'static str,
    pub epochs: u32,
    /// Over all epochs.
    pub samples: u64,
    pub bytes: u64,
}

/// A line of `--progress json`.
#[derive(Debug, Serialize)]
struct Line {
    event: &'static str,
    phase: &'static str,
    epoch: u32,
    epochs: u32,
    samples_done: u64,
    samples_total: u64,
    bytes_done: u64,
    bytes_total: u64,
    elapsed_s: f64,
}

/// Shows progress now and then.
pub struct Display {
    show: Show,
    extent: Extent,
    bar: Option<ProgressBar>,
    begun: Instant,
    last_line: Option<Instant>,
}

/// How often lines are written.
const LINE_INTERVAL: Duration = Duration::from_millis(500);
const TEMPLATE: &str =
    "{prefix} [{bar:40}] {bytes}/{total_bytes} {msg} {binary_bytes_per_sec} eta {eta}";

impl Display {
    pub fn new(show: Show, extent: Extent) -> anyhow::Result<Display> {
        let wants_bar = match show {
            Show::Auto => std::io::stderr().is_terminal(),
            Show::Bar => true,
            Show::Json | Show::None => false,
        };
        let bar = if wants_bar {
            let bar =
                ProgressBar::with_draw_target(Some(extent.bytes), ProgressDrawTarget::stderr());
            bar.set_style(ProgressStyle::with_template(TEMPLATE)?.progress_chars("=> "));
            bar.set_prefix(extent.phase);
            Some(bar)
        } else {
            None
        };
        Ok(Display {
            show,
            extent,
            bar,
            begun: Instant::now(),
            last_line: None,
        })
    }

    /// Shows where things are, if it is time again.
    pub fn update(&mut self, progress: &Progress) -> anyhow::Result<()> {
        let (bytes, samples, epoch) = read(progress);
        if let Some(bar) = &self.bar {
            bar.set_position(bytes);
            bar.set_message(format!("sample {samples}/{}", self.extent.samples));
            if self.extent.epochs > 1 {
                bar.set_prefix(format!("{} epoch {epoch}", self.extent.phase));
            }
        }
        let due = self
            .last_line
            .is_none_or(|at| at.elapsed() >= LINE_INTERVAL);
        if self.show == Show::Json && due {
            self.last_line = Some(Instant::now());
            self.line(progress)?;
        }
        Ok(())
    }

    /// The last word.
    pub fn finish(&mut self, progress: &Progress) -> anyhow::Result<()> {
        self.update(progress)?;
        if let Some(bar) = self.bar.take() {
            bar.finish();
        }
        if self.show == Show::Json {
            self.line(progress)?;
        }
        Ok(())
    }

    fn line(&self, progress: &Progress) -> anyhow::Result<()> {
        let (bytes_done, samples_done, epoch) = read(progress);
        let line = Line {
            event: "progress",
            phase: self.extent.phase,
            epoch,
            epochs: self.extent.epochs,
            samples_done,
            samples_total: self.extent.samples,
            bytes_done,
            bytes_total: self.extent.bytes,
            elapsed_s: self.begun.elapsed().as_secs_f64(),
        };
        table::print(&(serde_json::to_string(&line)? + "\n"));
        Ok(())
    }
}

fn read(progress: &Progress) -> (u64, u64, u32) {
    let load = Ordering::Relaxed;
    (
        progress.bytes.load(load),
        progress.samples.load(load),
        progress.epoch.load(load),
    )
}
