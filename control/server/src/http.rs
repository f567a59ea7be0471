//! `/metrics`, `/healthz` and `/readyz` over HTTP.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::env::Env;
use crate::keys::Keys;
use crate::mirror::Mirror;

/// How long the store may take to answer a question for readiness.
const STORE: Duration = Duration::from_secs(1);

/// Why a server is not ready to serve; empty where it is.
pub async fn not_ready(env: &Env, mirror: &Mirror) -> Vec<String> {
    let mut reasons = Vec::new();
    let progress = mirror.progress().get();
    if !progress.synced {
        let why = if progress.problem.is_empty() {
            "the store was not read yet"
        } else {
            &progress.problem
        };
        reasons.push(format!("state: {why}"));
    }
    let key = Keys::new(env.settings.prefix()).schema();
    match tokio::time::timeout(STORE, env.store.get(&key)).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => reasons.push(format!("store: {error}")),
        Err(_) => reasons.push(format!("store: no answer within {} ms", STORE.as_millis())),
    }
    reasons
}

/// What the pages tell of: empty until the store is open.
pub type Live = Arc<OnceLock<(Env, Mirror)>>;

/// The pages.
pub fn router(live: Live) -> Router {
    let measured = Arc::clone(&live);
    Router::new()
        .route(
            "/metrics",
            get(move || async move {
                page(
                    measured
                        .get()
                        .map_or(Ok(String::new()), |(env, _)| env.metrics.text()),
                )
            }),
        )
        .route("/healthz", get(|| async { "ok\n" }))
        .route(
            "/readyz",
            get(move || async move {
                let reasons = match live.get() {
                    Some((env, mirror)) => not_ready(env, mirror).await,
                    None => vec!["store: it is not open yet; the log says why".to_owned()],
                };
                if reasons.is_empty() {
                    return (StatusCode::OK, "ready\n".to_owned());
                }
                let text = format!("not ready\n{}\n", reasons.join("\n"));
                (StatusCode::SERVICE_UNAVAILABLE, text)
            }),
        )
}

fn page(text: prometheus::Result<String>) -> Response {
    match text {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
