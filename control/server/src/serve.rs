//! A server with its sockets: the API over gRPC, metrics and health over HTTP.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use penstock_api::v1;
use penstock_store::Store;
use penstock_store::StoreError;
use penstock_store::embedded::{EmbeddedConfig, EmbeddedStore};
use penstock_store::etcd::{EtcdConfig, EtcdStore};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::calls::Calls;
use crate::config::{Config, EtcdSettings, StoreSettings};
use crate::control::Control;
use crate::env::Env;
use crate::http::{self, Live};
use crate::mirror::Mirror;
use crate::schema;
use crate::tls::{self, Tls};

/// How often a silent connection is tested, and how long an answer may take: an agent that is gone
/// without a word is noticed after both.
const PING: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(5));

/// Largest message from a client in bytes. Reports of a node with many volumes are the largest.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Serves until `stop` resolves, then ends calls and sessions in good order.
///
/// # Errors
/// Where the configuration cannot be carried out: a port in use, a file that cannot be read, a store
/// that a newer server wrote.
pub async fn serve(config: Config, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    bind(config).await?.run(stop).await
}

/// A server whose sockets are open and which serves nothing yet.
pub struct Bound {
    config: Config,
    api: TcpListener,
    http: Option<TcpListener>,
    tls: Option<Tls>,
}

/// Opens the sockets.
///
/// # Errors
/// A port in use, or a file for TLS that cannot be read.
pub async fn bind(config: Config) -> anyhow::Result<Bound> {
    let tls = config.tls.as_ref().map(Tls::load).transpose()?;
    let api = listen(config.listen, "control.listen").await?;
    let http = match config.metrics_listen {
        Some(address) => Some(listen(address, "metrics.listen").await?),
        None => None,
    };
    Ok(Bound {
        config,
        api,
        http,
        tls,
    })
}

async fn listen(address: SocketAddr, key: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("{key}: cannot listen on {address}; another process may do so, choose another port")
    })
}

impl Bound {
    /// Where the API is served.
    ///
    /// # Errors
    /// The system's.
    pub fn api_address(&self) -> std::io::Result<SocketAddr> {
        self.api.local_addr()
    }

    /// Where metrics and health are served.
    ///
    /// # Errors
    /// The system's.
    pub fn http_address(&self) -> std::io::Result<Option<SocketAddr>> {
        self.http.as_ref().map(TcpListener::local_addr).transpose()
    }

    /// Opens the store and serves until `stop` resolves.
    ///
    /// # Errors
    /// A store that cannot be used.
    pub async fn run(self, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        let live = Live::default();
        let (stopping, stopped) = watch::channel(false);
        let mut pages = JoinSet::new();
        if let Some(listener) = &self.http {
            let listener = TcpListener::from_std(duplicate(listener)?)?;
            pages.spawn(serve_pages(listener, Arc::clone(&live)));
        }
        tokio::pin!(stop);
        let opened = tokio::select! {
            biased;
            () = &mut stop => return Ok(()),
            opened = open_store(&self.config.store) => opened?,
        };
        let env = Env::new(opened.store(), self.config.settings.clone());
        tokio::select! {
            biased;
            () = &mut stop => return Ok(()),
            checked = schema::check(&env) => checked?,
        }
        let control = Control::start(env);
        // Set once, here.
        let _ = live.set((control.env.clone(), control.mirror.clone()));
        let api = self.api(&control, stopped)?;
        tokio::pin!(api);
        let outcome = tokio::select! {
            biased;
            ended = &mut api => ended,
            () = stop => {
                tracing::info!("stopping: finishing the calls in flight");
                stopping.send_replace(true);
                control.begin_stop();
                // A client may not read what ends its streams.
                let limit = self.config.shutdown_timeout;
                tokio::time::timeout(limit, api).await.unwrap_or(Ok(()))
            }
        };
        control.stop(Duration::from_secs(2)).await;
        opened.close().await;
        outcome
    }

    fn api(
        &self,
        control: &Control,
        mut stop: watch::Receiver<bool>,
    ) -> anyhow::Result<impl Future<Output = anyhow::Result<()>> + use<>> {
        let server = Server::builder()
            .tcp_nodelay(true)
            .http2_keepalive_interval(Some(PING.0))
            .http2_keepalive_timeout(Some(PING.1));
        let (health, reporter) = health(control);
        let routes = routes(control)?.add_service(health);
        let listener = TcpListener::from_std(duplicate(&self.api)?)?;
        let address = self.api.local_addr()?;
        let tls = self.tls.clone();
        let calls = Calls::new(Arc::clone(&control.env.metrics));
        Ok(async move {
            tracing::info!(%address, tls = tls.is_some(), "serving the API");
            let stopped = async move {
                let _ = stop.wait_for(|stop| *stop).await;
            };
            let server = server.layer(calls).add_routes(routes);
            let served = match tls {
                Some(tls) => {
                    let incoming = tls.incoming(listener);
                    server.serve_with_incoming_shutdown(incoming, stopped).await
                }
                None => {
                    let incoming = tls::plain(listener);
                    server.serve_with_incoming_shutdown(incoming, stopped).await
                }
            };
            reporter.abort();
            served.context("the API can no longer be served")
        })
    }
}

async fn serve_pages(listener: TcpListener, live: Live) {
    if let Err(error) = axum::serve(listener, http::router(live)).await {
        tracing::error!(%error, "metrics and health are no longer served");
    }
}

fn duplicate(listener: &TcpListener) -> std::io::Result<std::net::TcpListener> {
    use std::os::fd::AsFd;
    let copy = listener.as_fd().try_clone_to_owned()?;
    Ok(std::net::TcpListener::from(copy))
}

/// All services of the API and reflection.
///
/// # Errors
/// Where the descriptors are damaged.
pub fn routes(control: &Control) -> anyhow::Result<Routes> {
    use v1::agent_service_server::AgentServiceServer;
    use v1::device_service_server::DeviceServiceServer;
    use v1::host_service_server::HostServiceServer;
    use v1::layout_service_server::LayoutServiceServer;
    use v1::listener_service_server::ListenerServiceServer;
    use v1::namespace_service_server::NamespaceServiceServer;
    use v1::node_service_server::NodeServiceServer;
    use v1::operation_service_server::OperationServiceServer;
    use v1::subsystem_service_server::SubsystemServiceServer;
    use v1::volume_service_server::VolumeServiceServer;
    use v1::watch_service_server::WatchServiceServer;
    let services = control.services.clone();
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(penstock_api::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let agents = AgentServiceServer::new(control.agents.clone())
        .max_decoding_message_size(MESSAGE_BYTES_MAX);
    Ok(Routes::new(agents)
        .add_service(DeviceServiceServer::new(services.devices))
        .add_service(HostServiceServer::new(services.hosts))
        .add_service(LayoutServiceServer::new(services.layouts))
        .add_service(ListenerServiceServer::new(services.listeners))
        .add_service(NamespaceServiceServer::new(services.namespaces))
        .add_service(NodeServiceServer::new(services.nodes))
        .add_service(OperationServiceServer::new(services.operations))
        .add_service(SubsystemServiceServer::new(services.subsystems))
        .add_service(VolumeServiceServer::new(services.volumes))
        .add_service(WatchServiceServer::new(services.watches))
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?))
}

/// The standard health service, for the whole server (an empty name) and each service.
fn health(
    control: &Control,
) -> (
    tonic_health::pb::health_server::HealthServer<impl tonic_health::pb::health_server::Health>,
    tokio::task::JoinHandle<()>,
) {
    let (reporter, service) = tonic_health::server::health_reporter();
    let (env, mirror) = (control.env.clone(), control.mirror.clone());
    (service, tokio::spawn(report_health(reporter, env, mirror)))
}

async fn report_health(reporter: HealthReporter, env: Env, mirror: Mirror) {
    let progress = mirror.progress();
    let mut services: Vec<String> = crate::identity::METHODS
        .iter()
        .map(|method| format!("penstock.v1.{}", method.service))
        .collect();
    services.push(String::new());
    services.dedup();
    loop {
        let ready = http::not_ready(&env, &mirror).await.is_empty();
        let status = if ready {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        for service in &services {
            reporter.set_service_status(service, status).await;
        }
        let synced = progress.get().synced;
        let soon = Duration::from_secs(2);
        // A store that stopped answering changes nothing here, and so is asked now and then.
        let _ = tokio::time::timeout(
            soon,
            progress.wait_for(|progress| progress.synced != synced),
        )
        .await;
    }
}

/// The store as it was opened.
enum Opened {
    Embedded(Arc<EmbeddedStore>),
    Etcd(Arc<EtcdStore>),
}

impl Opened {
    fn store(&self) -> Arc<dyn Store> {
        match self {
            Opened::Embedded(store) => Arc::clone(store) as Arc<dyn Store>,
            Opened::Etcd(store) => Arc::clone(store) as Arc<dyn Store>,
        }
    }

    async fn close(&self) {
        if let Opened::Embedded(store) = self {
            store.close().await;
        }
    }
}

/// Opens the store, waiting for an etcd that does not answer.
async fn open_store(settings: &StoreSettings) -> anyhow::Result<Opened> {
    match settings {
        StoreSettings::Embedded {
            path,
            history_revisions,
        } => {
            let mut config = EmbeddedConfig::new(path);
            config.history_revisions = *history_revisions;
            let store = EmbeddedStore::open(config)
                .await
                .with_context(|| format!("store.path: {} cannot be opened", path.display()))?;
            Ok(Opened::Embedded(Arc::new(store)))
        }
        StoreSettings::Etcd(settings) => {
            let config = etcd_config(settings)?;
            let mut told = false;
            loop {
                match EtcdStore::connect(config.clone()).await {
                    Ok(store) => return Ok(Opened::Etcd(Arc::new(store))),
                    Err(error @ (StoreError::Unavailable(_) | StoreError::Unknown(_))) => {
                        if !std::mem::replace(&mut told, true) {
                            tracing::warn!(%error, "waiting for etcd");
                        }
                        tokio::time::sleep(Duration::from_millis(500)).await;
                    }
                    Err(error) => return Err(error).context("store: etcd cannot be used"),
                }
            }
        }
    }
}

fn etcd_config(settings: &EtcdSettings) -> anyhow::Result<EtcdConfig> {
    let password = match &settings.password_file {
        None => None,
        Some(file) => {
            let text = std::fs::read_to_string(file).with_context(|| {
                format!("store.password_file: {} cannot be read", file.display())
            })?;
            Some(text.trim_end_matches(['\r', '\n']).to_owned())
        }
    };
    let mut config = EtcdConfig::new(settings.endpoints.clone());
    config.ca_file.clone_from(&settings.ca_file);
    config.cert_file.clone_from(&settings.cert_file);
    config.key_file.clone_from(&settings.key_file);
    config.user.clone_from(&settings.user);
    config.password = password;
    config.request_timeout = settings.request_timeout;
    config.connect_timeout = settings.connect_timeout;
    Ok(config)
}
