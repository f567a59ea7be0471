//! The configuration: read, checked, with defaults filled in.

mod settings;

pub use settings::{Quotas, Retention, Settings};
