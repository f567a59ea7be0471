//! Logs through `tracing`, as text or JSON lines on standard error.

use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt, reload};

use crate::config::LogSettings;

/// Environment variable whose filter directives win over the configuration's `log.level`.
pub const LEVEL_VARIABLE: &str = "PENSTOCK_LOG";

/// Changes the level of a running node.
pub struct LogControl {
    filter: reload::Handle<EnvFilter, Registry>,
}

/// Starts logging. Call it once.
///
/// # Errors
/// Where logging was started before, or the filter of the environment variable is none.
pub fn start(settings: &LogSettings) -> anyhow::Result<LogControl> {
    let (filter, handle) = reload::Layer::new(filter(settings)?);
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    let lines = if settings.json {
        lines.json().flatten_event(true).boxed()
    } else {
        lines.with_target(false).boxed()
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init()?;
    Ok(LogControl { filter: handle })
}

impl LogControl {
    /// Takes over the level of changed settings; the format stays.
    ///
    /// # Errors
    /// Where the filter of the environment variable is none.
    pub fn change(&self, settings: &LogSettings) -> anyhow::Result<()> {
        Ok(self.filter.reload(filter(settings)?)?)
    }
}

fn filter(settings: &LogSettings) -> anyhow::Result<EnvFilter> {
    let directives = match std::env::var(LEVEL_VARIABLE) {
        Ok(value) if !value.is_empty() => value,
        _ => settings.level.clone(),
    };
    EnvFilter::builder().parse(&directives).map_err(|error| {
        anyhow::anyhow!(
            "\"{directives}\" ({LEVEL_VARIABLE} or log.level) is no log filter: {error}; use error, \
             warn, info, debug, trace, or directives such as \"info,penstock_reactor=debug\""
        )
    })
}
