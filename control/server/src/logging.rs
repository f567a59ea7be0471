//! Logs through `tracing`, as text or JSON lines on standard error.

use tracing_subscriber::Layer;
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::LogSettings;

/// Environment variable whose filter directives win over the configuration's `log.level`.
pub const LEVEL_VARIABLE: &str = "PENSTOCK_LOG";

/// Starts logging. Call it once.
///
/// # Errors
/// Where logging was started before, or the filter of the environment variable is none.
pub fn start(settings: &LogSettings) -> anyhow::Result<()> {
    let directives = std::env::var(LEVEL_VARIABLE)
        .ok()
        .filter(|value| !value.is_empty())
        .unwrap_or_else(|| settings.level.clone());
    let filter = EnvFilter::builder().parse(&directives).map_err(|error| {
        anyhow::anyhow!(
            "\"{directives}\" ({LEVEL_VARIABLE}) is no log filter: {error}; use error, warn, info, \
             debug, trace, or directives such as \"info,penstock_control=debug\""
        )
    })?;
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    let lines = if settings.json {
        lines.json().flatten_event(true).boxed()
    } else {
        lines.boxed()
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init()?;
    Ok(())
}
