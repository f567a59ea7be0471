//! Waiting for operations, with a line that tells what they wait for.

use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use penstock_api::v1::Operation;

use crate::api::Api;
use crate::failure::{Exit, Failure, Outcome};
use crate::output::note;
use crate::quantity::duration;

/// How often the line is brought up to date.
const STEP: Duration = Duration::from_secs(1);
/// Before a server that did not answer is asked again.
const PAUSE: Duration = Duration::from_millis(500);

/// Waits until the operation has ended, and fails where it failed or the time is over.
pub async fn wait(api: &Api, operation: Operation) -> Outcome<Operation> {
    let longest = api.settings().wait_timeout();
    let line = Line::new();
    let began = Instant::now();
    let mut operation = operation;
    while !operation.done {
        line.tell(&operation);
        let left = longest.saturating_sub(began.elapsed());
        if left.is_zero() {
            line.clear();
            return Err(time_over(&operation, longest));
        }
        match api.wait(&operation.name, left.min(STEP)).await {
            Ok(newer) => operation = newer,
            // The operation goes on without this program: a server that is away comes back.
            Err(failure) if may_pass(&failure) && began.elapsed() < longest => {
                line.away(&failure);
                api.forget();
                tokio::time::sleep(PAUSE.min(left)).await;
            }
            Err(failure) => {
                line.clear();
                return Err(failure);
            }
        }
    }
    line.clear();
    match &operation.error {
        None => Ok(operation),
        Some(error) => Err(failed(&operation, &error.message, &error.reason)),
    }
}

fn may_pass(failure: &Failure) -> bool {
    let code = failure.code();
    failure.exit == Exit::Unreachable
        || code == Some(tonic::Code::Unavailable)
        || code == Some(tonic::Code::DeadlineExceeded)
}

fn failed(operation: &Operation, message: &str, reason: &str) -> Failure {
    let told = format!("{}: {} failed: {message}", operation.target, operation.verb);
    match reason {
        "" => Failure::other(told),
        reason => Failure::other(format!("{told}\n  [{reason}]")),
    }
}

fn time_over(operation: &Operation, longest: Duration) -> Failure {
    let waits = match operation.progress.as_str() {
        "" => String::new(),
        progress => format!(": {progress}"),
    };
    let told = format!(
        "{}: {} is not done after {}{waits}\n  it goes on; wait longer with `penstock operation \
         wait {}`, or look with `penstock operation describe`",
        operation.target,
        operation.verb,
        duration(longest),
        operation.name.trim_start_matches("operations/"),
    );
    Failure::new(Exit::TimeOver, told)
}

/// On a terminal a line that turns; elsewhere a line whenever something else is waited for.
struct Line {
    bar: Option<ProgressBar>,
    last: std::cell::RefCell<String>,
}

impl Line {
    fn new() -> Self {
        let bar = stderr().is_terminal().then(ProgressBar::new_spinner);
        if let Some(bar) = &bar {
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(100));
        }
        Self {
            bar,
            last: std::cell::RefCell::default(),
        }
    }

    fn tell(&self, operation: &Operation) {
        let progress = match operation.progress.as_str() {
            "" => "waiting",
            progress => progress,
        };
        self.say(format!(
            "{}: {}: {progress}",
            operation.target, operation.verb
        ));
    }

    fn away(&self, failure: &Failure) {
        let why = failure.message.lines().next().unwrap_or_default();
        self.say(format!("{why}; trying again"));
    }

    fn say(&self, text: String) {
        if *self.last.borrow() == text {
            return;
        }
        match &self.bar {
            Some(bar) => bar.set_message(text.clone()),
            None => note(&text),
        }
        self.last.replace(text);
    }

    fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
