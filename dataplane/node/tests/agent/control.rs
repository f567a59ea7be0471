//! A control that says what a test tells it to.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use penstock_api::v1::agent_service_server::{AgentService, AgentServiceServer};
use penstock_api::v1::{
    AgentMessage, ControlMessage, Desired, Hello, Report, Welcome, agent_message, control_message,
};
use tokio_stream::wrappers::{TcpListenerStream, UnboundedReceiverStream};
use tokio_stream::{Stream, StreamExt};
use tonic::transport::{Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};

/// How long anything may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A running control; its connections are cut when it is dropped.
pub struct Control {
    pub address: SocketAddr,
    sessions: Receiver<Session>,
    runtime: Option<tokio::runtime::Runtime>,
}

/// One stream of an agent.
pub struct Session {
    pub hello: Hello,
    says: tokio::sync::mpsc::UnboundedSender<Result<ControlMessage, Status>>,
    hears: Receiver<Report>,
    /// Everything that was reported.
    pub heard: Vec<Report>,
}

struct Service {
    sessions: Sender<Session>,
    /// Said to every agent instead of a welcome.
    refusal: Option<Status>,
}

type Answers = Pin<Box<dyn Stream<Item = Result<ControlMessage, Status>> + Send>>;

#[tonic::async_trait]
impl AgentService for Service {
    type SyncStream = Answers;

    async fn sync(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Answers>, Status> {
        if let Some(refusal) = &self.refusal {
            return Err(refusal.clone());
        }
        let mut messages = request.into_inner();
        let first = messages.message().await?.and_then(|first| first.message);
        let Some(agent_message::Message::Hello(hello)) = first else {
            return Err(Status::invalid_argument("Hello comes first"));
        };
        let (says, answers) = tokio::sync::mpsc::unbounded_channel();
        let (heard, hears) = mpsc::channel();
        let session = Session {
            hello,
            says: says.clone(),
            hears,
            heard: Vec::new(),
        };
        self.sessions.send(session).expect("the test listens");
        tokio::spawn(async move {
            while let Some(Ok(message)) = messages.next().await {
                if let Some(agent_message::Message::Report(report)) = message.message {
                    // The test may be over.
                    let _ = heard.send(report);
                }
            }
            // The agent has ended its half: so does control.
            let _ = says.send(Err(Status::ok("")));
        });
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(
            answers,
        ))))
    }
}

impl Control {
    /// Without TLS, on a port of 0's choice or the one given.
    pub fn start(address: SocketAddr) -> Control {
        Control::start_with(address, None, None)
    }

    pub fn refusing(refusal: Status) -> Control {
        Control::start_with(local(), None, Some(refusal))
    }

    pub fn start_with(
        address: SocketAddr,
        tls: Option<ServerTlsConfig>,
        refusal: Option<Status>,
    ) -> Control {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let (sessions, taken) = mpsc::channel();
        let listener = runtime.block_on(async {
            let deadline = Instant::now() + PATIENCE;
            loop {
                match tokio::net::TcpListener::bind(address).await {
                    Ok(listener) => return listener,
                    Err(error) => assert!(Instant::now() < deadline, "{address}: {error}"),
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        let address = listener.local_addr().expect("an address");
        let service = Service { sessions, refusal };
        let mut server = Server::builder();
        if let Some(tls) = tls {
            server = server.tls_config(tls).expect("sound TLS");
        }
        let serving = server
            .add_service(AgentServiceServer::new(service).max_decoding_message_size(64 << 20))
            .serve_with_incoming(TcpListenerStream::new(listener));
        runtime.spawn(serving);
        Control {
            address,
            sessions: taken,
            runtime: Some(runtime),
        }
    }

    /// The next agent that comes, with its Hello.
    pub fn session(&self) -> Session {
        self.sessions
            .recv_timeout(PATIENCE)
            .expect("an agent comes")
    }

    /// The next agent, let in and told of `desired`.
    pub fn welcome(&self, desired: Desired) -> Session {
        let session = self.session();
        session.welcome(&desired.store_id, desired.revision);
        session.want(desired);
        session
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Session {
    fn say(&self, message: control_message::Message) {
        let message = ControlMessage {
            message: Some(message),
        };
        self.says.send(Ok(message)).expect("the stream is there");
    }

    pub fn welcome(&self, store_id: &str, revision: i64) {
        self.say(control_message::Message::Welcome(Welcome {
            node_uid: "a node".to_owned(),
            store_id: store_id.to_owned(),
            revision,
        }));
    }

    pub fn want(&self, desired: Desired) {
        self.say(control_message::Message::Desired(desired));
    }

    /// Waits for a report that `wanted` finds what it looks for in.
    pub fn wait_for<T>(&mut self, what: &str, wanted: impl Fn(&Report) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(report) = self.hears.recv_timeout(left) else {
                panic!("no {what} in {:#?}", self.heard);
            };
            self.heard.push(report.clone());
            if let Some(found) = wanted(&report) {
                return found;
            }
        }
    }

    /// Waits until everything up to `revision` is carried out.
    pub fn wait_until_synced(&mut self, revision: i64) {
        let synced = |report: &Report| report.synced && report.accepted_revision == revision;
        if !self.heard.last().is_some_and(synced) {
            self.wait_for("synced", |report| synced(report).then_some(()));
        }
    }

    /// Waits until the agent has ended its half of the stream, and says whether it did in time.
    pub fn ends_within(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.hears.recv_timeout(left) {
                Ok(_) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return true,
                Err(mpsc::RecvTimeoutError::Timeout) => return false,
            }
        }
    }
}

pub fn local() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}
