//! The server with its sockets: over TLS with roles, its pages, health and reflection, and its state
//! over a restart.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where it must not go on"
)]

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use penstock_api::v1::agent_message::Message as FromAgent;
use penstock_api::v1::agent_service_client::AgentServiceClient;
use penstock_api::v1::host_service_client::HostServiceClient;
use penstock_api::v1::node_service_client::NodeServiceClient;
use penstock_api::v1::operation_service_client::OperationServiceClient;
use penstock_api::v1::volume_service_client::VolumeServiceClient;
use penstock_api::v1::watch_event::Resource as AnyResource;
use penstock_api::v1::watch_service_client::WatchServiceClient;
use penstock_api::v1::{
    AgentMessage, CreateHostRequest, CreateNodeRequest, CreateVolumeRequest, Hello, Host, HostSpec,
    ListHostsRequest, ListNodesRequest, Node, Volume, VolumeSpec, WaitOperationRequest,
    WatchEventType, WatchRequest,
};
use penstock_control::config::Config;
use penstock_control::serve;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::Code;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic_types::StatusExt;

/// A running server.
struct Served {
    api: SocketAddr,
    pages: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Served {
    async fn start(text: &str) -> Served {
        let file = Path::new("control.toml");
        let config = Config::parse(file, text).unwrap_or_else(|problems| panic!("{problems}"));
        let bound = serve::bind(config).await.expect("bound");
        let api = bound.api_address().unwrap();
        let pages = bound.http_address().unwrap().unwrap();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(bound.run(async move {
            stopped.await.ok();
        }));
        let served = Served {
            api,
            pages,
            stop,
            task,
        };
        for _ in 0..500 {
            if served.page("/readyz").await.contains(" 200 ") {
                return served;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("never ready: {}", served.page("/readyz").await);
    }

    async fn page(&self, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(self.pages).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.api)).unwrap();
        endpoint.connect().await.unwrap()
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        let ended = tokio::time::timeout(Duration::from_secs(10), self.task).await;
        ended.expect("stops in time").unwrap().expect("no error");
    }
}

fn plain(folder: &Path) -> String {
    format!(
        "[control]\nlisten = \"127.0.0.1:0\"\n[metrics]\nlisten = \"127.0.0.1:0\"\n\
         [store]\npath = \"{}\"\n",
        folder.join("control.redb").display()
    )
}

fn node(id: &str) -> CreateNodeRequest {
    CreateNodeRequest {
        node_id: id.to_owned(),
        node: Some(Node::default()),
        ..CreateNodeRequest::default()
    }
}

#[tokio::test]
async fn serves_its_pages_and_keeps_its_state_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let served = Served::start(&plain(folder.path())).await;
    assert!(served.page("/healthz").await.ends_with("ok\n"));
    let mut nodes = NodeServiceClient::new(served.channel().await);
    nodes.create_node(node("n1")).await.expect("created");
    let refused = nodes.create_node(node("N 1")).await.expect_err("bad name");
    assert_eq!(refused.code(), Code::InvalidArgument);
    drop(nodes);
    let metrics = served.page("/metrics").await;
    for part in [
        "penstock_control_requests_total{code=\"OK\",method=\"CreateNode\"} 1",
        "penstock_control_requests_total{code=\"INVALID_ARGUMENT\",method=\"CreateNode\"} 1",
        "penstock_control_request_duration_seconds_count{method=\"CreateNode\"} 2",
        "penstock_control_requests_in_flight 0",
        "penstock_control_store_duration_seconds_count{operation=\"txn\"}",
    ] {
        assert!(metrics.contains(part), "{part} is not in\n{metrics}");
    }
    served.stop().await;

    let served = Served::start(&plain(folder.path())).await;
    let mut nodes = NodeServiceClient::new(served.channel().await);
    let listed = nodes.list_nodes(ListNodesRequest::default()).await.unwrap();
    let names: Vec<String> = listed
        .into_inner()
        .nodes
        .into_iter()
        .map(|n| n.name)
        .collect();
    assert_eq!(names, ["nodes/n1"]);
    drop(nodes);
    served.stop().await;
}

/// Reason of a failure.
fn reason(status: &tonic::Status) -> String {
    let info = status.get_error_details().error_info().cloned();
    info.map(|info| info.reason).unwrap_or_default()
}

/// Makes a volume where there is no device, and waits for it.
async fn volume_without_a_place(channel: Channel) -> Result<(), tonic::Status> {
    let create = CreateVolumeRequest {
        volume_id: "v1".to_owned(),
        volume: Some(Volume {
            spec: Some(VolumeSpec {
                size_bytes: 1 << 20,
                ..VolumeSpec::default()
            }),
            ..Volume::default()
        }),
        ..CreateVolumeRequest::default()
    };
    let mut volumes = VolumeServiceClient::new(channel.clone());
    let creation = volumes.create_volume(create).await?.into_inner();
    let wait = WaitOperationRequest {
        name: creation.name,
        timeout: None,
    };
    let mut operations = OperationServiceClient::new(channel);
    operations.wait_operation(wait).await.map(drop)
}

#[tokio::test]
async fn open_streams_end_at_once_when_it_stops_and_go_on_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let served = Served::start(&plain(folder.path())).await;
    let channel = served.channel().await;
    let mut nodes = NodeServiceClient::new(channel.clone());
    nodes.create_node(node("n1")).await.expect("created");
    let hosts = WatchRequest {
        kinds: vec!["host".to_owned()],
        ..WatchRequest::default()
    };
    let mut watches = WatchServiceClient::new(channel.clone());
    let mut watch = watches.watch(hosts.clone()).await.unwrap().into_inner();
    let synced = watch.message().await.unwrap().expect("what exists");
    assert!(!synced.resume_token.is_empty());
    let mut agents = AgentServiceClient::new(channel.clone());
    let mut agent = agents.sync(hello("n1")).await.unwrap().into_inner();
    agent.message().await.unwrap().expect("welcome");
    let waiting = tokio::spawn(volume_without_a_place(channel));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!waiting.is_finished(), "there is no place for it");

    let began = std::time::Instant::now();
    let stopped = tokio::spawn(served.stop());
    let ended = watch.message().await.expect_err("the watch ends");
    assert_eq!(ended.code(), Code::Unavailable);
    assert_eq!(reason(&ended), "SERVER_STOPPING");
    let ended = loop {
        match agent.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the agent is not told why"),
            Err(status) => break status,
        }
    };
    assert_eq!(reason(&ended), "SERVER_STOPPING");
    let ended = waiting.await.unwrap().expect_err("waiting ends");
    assert_eq!(reason(&ended), "SERVER_STOPPING");
    // The limit is 3 s; nothing comes near it.
    stopped.await.unwrap();
    let took = began.elapsed();
    assert!(took < Duration::from_millis(1_500), "{took:?}");

    let served = Served::start(&plain(folder.path())).await;
    let mut made = HostServiceClient::new(served.channel().await);
    made.create_host(host("h1")).await.expect("created");
    let mut watches = WatchServiceClient::new(served.channel().await);
    let resume = WatchRequest {
        resume_token: synced.resume_token,
        ..hosts
    };
    let mut watch = watches.watch(resume).await.unwrap().into_inner();
    let next = watch.message().await.unwrap().expect("what was missed");
    assert_eq!(next.r#type(), WatchEventType::Added);
    assert!(matches!(next.resource, Some(AnyResource::Host(host)) if host.name == "hosts/h1"));
    drop((watch, watches, made));
    served.stop().await;
}

#[tokio::test]
async fn tells_its_health_and_its_methods() {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    let folder = tempfile::tempdir().unwrap();
    let served = Served::start(&plain(folder.path())).await;
    let mut health = HealthClient::new(served.channel().await);
    for service in ["", "penstock.v1.VolumeService"] {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let mut status = 0;
        for _ in 0..250 {
            let checked = health.check(request.clone()).await;
            status = checked.map_or(0, |checked| checked.into_inner().status);
            if status == 1 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(status, 1, "{service} is serving");
    }
    let mut reflection = ServerReflectionClient::new(served.channel().await);
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let asked = tokio_stream::once(request);
    let mut answers = reflection
        .server_reflection_info(asked)
        .await
        .unwrap()
        .into_inner();
    let answer = format!("{:?}", answers.message().await.unwrap().unwrap());
    for service in ["penstock.v1.VolumeService", "penstock.v1.WatchService"] {
        assert!(answer.contains(service), "{service} is not in {answer}");
    }
    drop((answers, reflection, health));
    served.stop().await;
}

/// A private authority and certificates of it.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let key = KeyPair::generate().unwrap();
        let issuer = CertifiedIssuer::self_signed(params, key).unwrap();
        Authority { issuer }
    }

    fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A certificate and its key, in PEM.
    fn certificate(&self, role: &str, name: &str) -> (String, String) {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let subject = &mut params.distinguished_name;
        subject.push(DnType::OrganizationName, format!("penstock:{role}"));
        subject.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let signed = params.signed_by(&key, &self.issuer).unwrap();
        (signed.pem(), key.serialize_pem())
    }

    async fn connect(
        &self,
        served: &Served,
        own: Option<(String, String)>,
    ) -> Result<Channel, tonic::transport::Error> {
        let mut tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(self.pem()))
            .domain_name("localhost");
        if let Some((certificate, key)) = own {
            tls = tls.identity(Identity::from_pem(certificate, key));
        }
        let endpoint = Endpoint::from_shared(format!("https://{}", served.api)).unwrap();
        endpoint.tls_config(tls).unwrap().connect().await
    }
}

fn host(id: &str) -> CreateHostRequest {
    CreateHostRequest {
        host_id: id.to_owned(),
        host: Some(Host {
            spec: Some(HostSpec {
                nqn: format!("nqn.2014-08.org.example:{id}"),
            }),
            ..Host::default()
        }),
        ..CreateHostRequest::default()
    }
}

/// What an agent of this node says that goes on listening.
fn hello(node: &str) -> impl tokio_stream::Stream<Item = AgentMessage> + use<> {
    let hello = Hello {
        node: format!("nodes/{node}"),
        ..Hello::default()
    };
    let message = AgentMessage {
        message: Some(FromAgent::Hello(hello)),
    };
    tokio_stream::StreamExt::chain(tokio_stream::once(message), tokio_stream::pending())
}

/// The code with which an agent of this node is sent away.
async fn agent_code(channel: Channel, node: &str) -> Code {
    let mut client = AgentServiceClient::new(channel);
    match client.sync(hello(node)).await {
        Err(status) => status.code(),
        Ok(stream) => match stream.into_inner().message().await {
            Ok(_) => Code::Ok,
            Err(status) => status.code(),
        },
    }
}

#[tokio::test]
async fn certificates_give_roles() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let (certificate, key) = authority.certificate("control", "control");
    let put = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    put("ca.pem", &authority.pem());
    put("control.pem", &certificate);
    put("control.key", &key);
    let shown = folder.path().display();
    let text = format!(
        "{}[tls]\nca_file = \"{shown}/ca.pem\"\ncert_file = \"{shown}/control.pem\"\n\
         key_file = \"{shown}/control.key\"\n",
        plain(folder.path())
    );
    let served = Served::start(&text).await;
    let connect = async |role: &str, name: &str| {
        let own = authority.certificate(role, name);
        authority.connect(&served, Some(own)).await.unwrap()
    };

    let admin = connect("admin", "root").await;
    let mut nodes = NodeServiceClient::new(admin);
    nodes.create_node(node("n1")).await.expect("admin");
    let mut hosts = HostServiceClient::new(connect("operator", "alice").await);
    hosts.create_host(host("h1")).await.expect("operator");
    let mut nodes = NodeServiceClient::new(connect("operator", "alice").await);
    let refused = nodes.create_node(node("n2")).await.expect_err("operator");
    assert_eq!(refused.code(), Code::PermissionDenied);
    let mut hosts = HostServiceClient::new(connect("viewer", "bob").await);
    let refused = hosts.create_host(host("h2")).await.expect_err("viewer");
    assert_eq!(refused.code(), Code::PermissionDenied);
    hosts
        .list_hosts(ListHostsRequest::default())
        .await
        .expect("viewer");
    let mut hosts = HostServiceClient::new(connect("king", "x").await);
    let refused = hosts.list_hosts(ListHostsRequest::default()).await;
    assert_eq!(refused.expect_err("no role").code(), Code::Unauthenticated);

    assert_eq!(
        agent_code(connect("node", "n1").await, "n1").await,
        Code::Ok
    );
    let code = agent_code(connect("node", "n1").await, "n2").await;
    assert_eq!(code, Code::PermissionDenied);
    let code = agent_code(connect("node", "n9").await, "n9").await;
    assert_eq!(code, Code::NotFound);
    let code = agent_code(connect("admin", "root").await, "n1").await;
    assert_eq!(code, Code::PermissionDenied);

    // Without a certificate, and with one of another authority, nothing is to be had.
    let stranger = Authority::new().certificate("admin", "root");
    for own in [None, Some(stranger)] {
        if let Ok(channel) = authority.connect(&served, own).await {
            let mut hosts = HostServiceClient::new(channel);
            let refused = hosts.list_hosts(ListHostsRequest::default()).await;
            // The connection ends in the handshake: the call has no answer of the server.
            let code = refused.expect_err("refused").code();
            assert!(
                matches!(code, Code::Unavailable | Code::Unknown),
                "{code:?}"
            );
        }
    }
    served.stop().await;
}
