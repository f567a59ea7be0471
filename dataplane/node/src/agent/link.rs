//! The way to control: one stream at a time, made anew for as long as anybody listens to it.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use penstock_api::v1::agent_service_client::AgentServiceClient;
use penstock_api::v1::{AgentMessage, ControlMessage, control_message};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use super::explain;
use crate::config::{ControlEndpoint, ControlSettings, TlsFiles};

/// How long one endpoint may take to let the node in.
const CONNECT_PATIENCE: Duration = Duration::from_secs(3);
/// How long control may take to answer Hello: it may have to ask its store.
const WELCOME_PATIENCE: Duration = Duration::from_secs(10);
/// How often control's host is asked whether it is alive, and how long it may take to answer: a dead
/// or stopped server is left within four seconds.
const PING_INTERVAL: Duration = Duration::from_secs(2);
const PING_PATIENCE: Duration = Duration::from_secs(2);
/// The first pause after nobody could be reached.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// Messages that wait to be sent.
const OUTBOUND_MAX: usize = 64;
/// Largest message of control: one part of a complete state.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// What happens on the way to control.
#[derive(Debug)]
pub(super) enum Event {
    /// A connection is there: what is sent here goes to control, Hello first.
    Open(mpsc::Sender<AgentMessage>),
    /// Control says something.
    Message(ControlMessage),
    /// The connection is gone.
    Lost,
}

/// Connects to the endpoints in turn.
pub(super) struct Link {
    settings: ControlSettings,
    events: mpsc::Sender<Event>,
}

/// How a session ended.
struct Ended {
    /// Control had let the node in.
    welcomed: bool,
    /// What is wrong, with a remedy.
    why: String,
}

impl Link {
    pub(super) fn new(settings: ControlSettings, events: mpsc::Sender<Event>) -> Link {
        Link { settings, events }
    }

    /// Keeps a stream to control until nobody listens to the events any more.
    pub(super) async fn run(self) {
        let mut backoff = Backoff::new(self.settings.reconnect_backoff_max);
        let mut last = String::new();
        loop {
            for endpoint in &self.settings.endpoints {
                let ended = self.session(endpoint).await;
                if self.events.send(Event::Lost).await.is_err() {
                    return;
                }
                if ended.welcomed {
                    // Another instance may have its place already: the next is tried at once.
                    backoff.reset();
                    last.clear();
                }
                tell(endpoint, &ended, &mut last);
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.next()) => {}
                () = self.events.closed() => return,
            }
        }
    }

    /// One connection to one endpoint, from its beginning to its end.
    async fn session(&self, endpoint: &ControlEndpoint) -> Ended {
        let mut welcomed = false;
        let why = match self.talk(endpoint, &mut welcomed).await {
            Ok(()) => "control ended the stream".to_owned(),
            Err(why) => why,
        };
        Ended { welcomed, why }
    }

    async fn talk(&self, endpoint: &ControlEndpoint, welcomed: &mut bool) -> Result<(), String> {
        let opening = self.open(endpoint)?;
        let channel = match timeout(CONNECT_PATIENCE, opening.connect()).await {
            Ok(channel) => channel.map_err(|error| explain::connection(&error))?,
            Err(_) => return Err(explain::silent(CONNECT_PATIENCE)),
        };
        let (outbound, messages) = mpsc::channel(OUTBOUND_MAX);
        self.tell(Event::Open(outbound)).await?;
        let mut client: AgentServiceClient<Channel> =
            AgentServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let answer = timeout(WELCOME_PATIENCE, client.sync(ReceiverStream::new(messages))).await;
        let mut inbound = match answer {
            Ok(answer) => answer
                .map_err(|status| explain::status(&status))?
                .into_inner(),
            Err(_) => return Err(explain::silent(WELCOME_PATIENCE)),
        };
        loop {
            let patience = if *welcomed {
                Duration::MAX
            } else {
                WELCOME_PATIENCE
            };
            let next = match timeout(patience, inbound.message()).await {
                Ok(next) => next.map_err(|status| explain::status(&status))?,
                Err(_) => return Err(explain::silent(WELCOME_PATIENCE)),
            };
            let Some(message) = next else { return Ok(()) };
            if matches!(message.message, Some(control_message::Message::Welcome(_))) {
                *welcomed = true;
                tracing::info!(endpoint = %endpoint, "control is connected");
            }
            self.tell(Event::Message(message)).await?;
        }
    }

    async fn tell(&self, event: Event) -> Result<(), String> {
        let told = self.events.send(event).await;
        told.map_err(|_| "the node is stopping".to_owned())
    }

    /// The endpoint with its TLS files as they are now: renewed certificates need no restart.
    fn open(&self, endpoint: &ControlEndpoint) -> Result<Endpoint, String> {
        let refused = |error: tonic::transport::Error| explain::connection(&error);
        let mut opening = Endpoint::from(endpoint.uri.clone())
            .connect_timeout(CONNECT_PATIENCE)
            .http2_keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_PATIENCE)
            .keep_alive_while_idle(true)
            .tcp_nodelay(true);
        if endpoint.is_tls() {
            let files = self.settings.tls.as_ref();
            let files = files.ok_or("https takes tls_ca_file and its kin; add them")?;
            let host = endpoint.uri.host().unwrap_or("");
            let bare = host.trim_start_matches('[').trim_end_matches(']');
            let name = self.settings.tls_server_name.as_deref().unwrap_or(bare);
            opening = opening.tls_config(tls(files, name)?).map_err(refused)?;
        }
        Ok(opening)
    }
}

/// Tells the log why there is no stream; the same only once in a row.
fn tell(endpoint: &ControlEndpoint, ended: &Ended, last: &mut String) {
    let why = format!("{endpoint}: {}", ended.why);
    if ended.welcomed {
        tracing::warn!("control is lost: {why}; the node serves on as it does");
    } else if why == *last {
        tracing::debug!("control is not reached: {why}");
    } else {
        tracing::warn!("control is not reached: {why}");
        *last = why;
    }
}

fn tls(files: &TlsFiles, name: &str) -> Result<ClientTlsConfig, String> {
    let read = |path: &std::path::Path, key: &str| {
        std::fs::read(path).map_err(|error| {
            let path = path.display();
            format!("{path} cannot be read: {error}; correct control.{key} or its permissions")
        })
    };
    let ca = read(&files.ca, "tls_ca_file")?;
    let certificate = read(&files.certificate, "tls_certificate_file")?;
    let key = read(&files.key, "tls_key_file")?;
    explain::validity(&certificate, &files.certificate)?;
    Ok(ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(ca))
        .identity(Identity::from_pem(certificate, key))
        .domain_name(name))
}

/// Pauses that double up to a limit. Each is drawn at random, so that nodes that lost the same
/// control do not come back at the same moment.
struct Backoff {
    max: Duration,
    next: Duration,
}

impl Backoff {
    fn new(max: Duration) -> Backoff {
        Backoff {
            max,
            next: BACKOFF_FIRST.min(max),
        }
    }

    fn reset(&mut self) {
        self.next = BACKOFF_FIRST.min(self.max);
    }

    /// Half of the pause to all of it.
    fn next(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.max);
        let random = RandomState::new().build_hasher().finish();
        let share = (random % 1024) as f64 / 2048.0;
        pause.mul_f64(0.5 + share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_their_limit_and_vary() {
        let mut backoff = Backoff::new(Duration::from_secs(1));
        let pauses: Vec<Duration> = (0..50).map(|_| backoff.next()).collect();
        assert!(pauses[0] >= Duration::from_millis(50) && pauses[0] <= Duration::from_millis(100));
        for pause in &pauses[6..] {
            assert!(*pause >= Duration::from_millis(500) && *pause <= Duration::from_secs(1));
        }
        let longest = pauses[6..].iter().max().expect("some");
        assert!(pauses[6..].iter().any(|pause| pause < longest), "they vary");
        backoff.reset();
        assert!(backoff.next() <= Duration::from_millis(100));
    }
}
