//! The connection: to the first endpoint that answers, made anew where it broke.

use std::cell::RefCell;
use std::future::Future;
use std::time::Duration;

use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Response, Status};

use crate::failure::{Exit, Failure, Outcome, root_cause};
use crate::settings::Settings;

/// How long one endpoint has for the connection before the next is tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Pauses before a request that a server could not take now is sent again. Changes carry a request
/// id, so a repetition has no second effect.
const PAUSES: [Duration; 3] = [
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_millis(1500),
];

/// The control server, as a client sees it.
pub struct Api {
    settings: Settings,
    connected: RefCell<Option<Connected>>,
}

#[derive(Clone)]
struct Connected {
    channel: Channel,
    endpoint: String,
}

impl Api {
    /// Nothing is connected before the first request.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            connected: RefCell::new(None),
        }
    }

    /// What it was told.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Who is connected, or would be tried first.
    pub fn endpoint(&self) -> String {
        let connected = self.connected.borrow();
        let first = || self.settings.endpoints.first().cloned().unwrap_or_default();
        connected
            .as_ref()
            .map_or_else(first, |c| c.endpoint.clone())
    }

    /// The next request connects anew.
    pub fn forget(&self) {
        self.connected.replace(None);
    }

    async fn channel(&self) -> Outcome<Connected> {
        let known = self.connected.borrow().clone();
        if let Some(connected) = known {
            return Ok(connected);
        }
        let mut failures = Vec::new();
        for endpoint in &self.settings.endpoints {
            match self.connect(endpoint).await {
                Ok(channel) => {
                    let endpoint = endpoint.clone();
                    let connected = Connected { channel, endpoint };
                    self.connected.replace(Some(connected.clone()));
                    return Ok(connected);
                }
                Err(why) => failures.push(format!("{endpoint}: {why}")),
            }
        }
        Err(unreachable_server(&failures))
    }

    async fn connect(&self, endpoint: &str) -> Result<Channel, String> {
        let timeout = CONNECT_TIMEOUT.min(self.settings.request_timeout());
        let mut target = Endpoint::from_shared(endpoint.to_owned())
            .map_err(|error| error.to_string())?
            .connect_timeout(timeout)
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_while_idle(true);
        if let Some(ca) = &self.settings.ca {
            let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca));
            if let Some((cert, key)) = &self.settings.identity {
                tls = tls.identity(Identity::from_pem(cert, key));
            }
            target = target.tls_config(tls).map_err(|error| {
                format!("the certificates cannot be used: {}", root_cause(&error))
            })?;
        }
        match tokio::time::timeout(timeout, target.connect()).await {
            Ok(connected) => connected.map_err(|error| root_cause(&error)),
            Err(_) => Err(format!(
                "no answer within {}",
                crate::quantity::duration(timeout)
            )),
        }
    }

    /// Sends a request, again after a pause where the server could not take it now.
    pub async fn call<T, U, F, Sent>(&self, message: T, send: F) -> Outcome<U>
    where
        T: Clone,
        F: Fn(Channel, Request<T>) -> Sent,
        Sent: Future<Output = Result<Response<U>, Status>>,
    {
        let timeout = self.settings.request_timeout();
        self.call_within(timeout, message, send).await
    }

    /// As `call`, each try with this time.
    pub async fn call_within<T, U, F, Sent>(
        &self,
        timeout: Duration,
        message: T,
        send: F,
    ) -> Outcome<U>
    where
        T: Clone,
        F: Fn(Channel, Request<T>) -> Sent,
        Sent: Future<Output = Result<Response<U>, Status>>,
    {
        let mut pauses = PAUSES.iter();
        loop {
            let connected = self.channel().await?;
            let mut request = Request::new(message.clone());
            request.set_timeout(timeout);
            let failure = match send(connected.channel, request).await {
                Ok(response) => return Ok(response.into_inner()),
                Err(status) => Failure::from_status(status, &connected.endpoint),
            };
            let again =
                failure.code() == Some(Code::Unavailable) || failure.exit == Exit::Unreachable;
            let Some(pause) = pauses.next().filter(|_| again) else {
                return Err(failure);
            };
            self.forget();
            tokio::time::sleep(*pause).await;
        }
    }

    /// Opens a stream, once.
    pub async fn open<T, U, F, Sent>(&self, message: T, send: F) -> Outcome<U>
    where
        F: FnOnce(Channel, Request<T>) -> Sent,
        Sent: Future<Output = Result<Response<U>, Status>>,
    {
        let connected = self.channel().await?;
        match send(connected.channel, Request::new(message)).await {
            Ok(response) => Ok(response.into_inner()),
            Err(status) => Err(Failure::from_status(status, &connected.endpoint)),
        }
    }
}

fn unreachable_server(failures: &[String]) -> Failure {
    let told = format!(
        "no control server answers\n  {}\n  \
         start one with `penstock up` or `penstock-control`, or name another with --endpoint or \
         PENSTOCK_ENDPOINT (https:// and --ca where it speaks TLS)",
        failures.join("\n  ")
    );
    Failure::new(Exit::Unreachable, told)
}
