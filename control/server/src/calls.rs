//! Counting calls: a layer around all services that notes each call's method, code and time.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{HeaderMap, Request, Response};
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::Instant;
use tonic::Code;
use tonic::body::Body;
use tower::{Layer, Service};

use crate::identity::Method;
use crate::metrics::Metrics;

/// Counts calls around a service.
#[derive(Clone)]
pub struct Calls {
    metrics: Arc<Metrics>,
}

impl Calls {
    /// Counts in `metrics`.
    pub fn new(metrics: Arc<Metrics>) -> Calls {
        Calls { metrics }
    }
}

impl<S> Layer<S> for Calls {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted {
            inner,
            metrics: Arc::clone(&self.metrics),
        }
    }
}

/// A service whose calls are counted.
#[derive(Clone)]
pub struct Counted<S> {
    inner: S,
    metrics: Arc<Metrics>,
}

impl<S> Service<Request<Body>> for Counted<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let mut call = Call::begin(&self.metrics, method_of(request.uri().path()));
        let answer = self.inner.call(request);
        Box::pin(async move {
            let response = answer.await?;
            call.see(response.headers());
            Ok(response.map(|body| {
                let ended = body.is_end_stream();
                let body = CountedBody { body, call };
                if ended {
                    // Everything was in the headers; nobody may ask this body for more.
                    drop(body);
                    return Body::empty();
                }
                Body::new(body)
            }))
        })
    }
}

/// The method as the metrics call it. Those that the API does not have are one, so that callers
/// cannot make up labels.
fn method_of(path: &str) -> &'static str {
    let own = path.strip_prefix("/penstock.v1.");
    let name = own.and_then(|path| path.split_once('/'));
    name.and_then(|(_, name)| Method::find(name))
        .map_or("other", |method| method.name)
}

/// A call that has begun, and is counted when it is dropped.
struct Call {
    metrics: Arc<Metrics>,
    method: &'static str,
    began: Instant,
    code: Option<Code>,
}

impl Call {
    fn begin(metrics: &Arc<Metrics>, method: &'static str) -> Call {
        metrics.requests_in_flight.inc();
        Call {
            metrics: Arc::clone(metrics),
            method,
            began: Instant::now(),
            code: None,
        }
    }

    /// Notes how it ended, where headers or trailers say so.
    fn see(&mut self, headers: &HeaderMap) {
        if let Some(code) = headers.get("grpc-status") {
            self.code = Some(Code::from_bytes(code.as_bytes()));
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        // A caller that went away before the end cancelled the call.
        let code = self.code.unwrap_or(Code::Cancelled);
        self.metrics.requests_in_flight.dec();
        let word = word(code);
        let labels = [self.method, word];
        self.metrics.requests.with_label_values(&labels).inc();
        // Streams last as long as their callers like; their time says nothing.
        if !matches!(self.method, "Sync" | "Watch" | "other") {
            self.metrics
                .request_duration
                .with_label_values(&[self.method])
                .observe(self.began.elapsed().as_secs_f64());
        }
    }
}

/// The code as gRPC writes it.
const fn word(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// An answer whose end is noted.
struct CountedBody {
    body: Body,
    call: Call,
}

impl http_body::Body for CountedBody {
    type Data = <Body as http_body::Body>::Data;
    type Error = <Body as http_body::Body>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &frame
            && let Some(trailers) = frame.trailers_ref()
        {
            self.call.see(trailers);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_those_of_the_api() {
        assert_eq!(
            method_of("/penstock.v1.VolumeService/GetVolume"),
            "GetVolume"
        );
        assert_eq!(method_of("/penstock.v1.VolumeService/Made/Up"), "other");
        assert_eq!(method_of("/grpc.health.v1.Health/Check"), "other");
    }
}
