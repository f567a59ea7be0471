//! Metrics and health over HTTP.

pub mod http;
