//! Clients of the API that make things and wait for them.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use penstock_api::v1;
use penstock_api::well_known;
use tonic::transport::{Channel, Endpoint};
use v1::namespace_service_client::NamespaceServiceClient;
use v1::node_service_client::NodeServiceClient;
use v1::operation_service_client::OperationServiceClient;
use v1::subsystem_service_client::SubsystemServiceClient;
use v1::volume_service_client::VolumeServiceClient;

/// Size of each volume in bytes: the smallest.
const VOLUME_BYTES: i64 = 1 << 20;
/// Namespaces in each subsystem.
const NAMESPACES_A_SUBSYSTEM: usize = 500;
/// How long one object may take until it can be used.
const OBJECT_MAX: Duration = Duration::from_secs(120);

/// Connections to the control plane, one a client.
pub struct Clients {
    channels: Vec<Channel>,
}

/// When things were answered and carried out.
pub struct Timing {
    /// All of it.
    pub took: Duration,
    /// From each request to its answer, in milliseconds.
    pub answered_ms: Vec<f64>,
    /// From each request to the end of its operation, in milliseconds.
    pub carried_out_ms: Vec<f64>,
}

impl Clients {
    /// Connects `count` clients to `endpoint`.
    ///
    /// # Errors
    /// Nobody answers there.
    pub async fn connect(endpoint: &str, count: usize) -> Result<Clients> {
        let mut channels = Vec::new();
        for _ in 0..count {
            let endpoint = Endpoint::from_shared(endpoint.to_owned()).context("the endpoint")?;
            let channel = endpoint.connect().await.context("cannot reach control")?;
            channels.push(channel);
        }
        Ok(Clients { channels })
    }

    /// A connection.
    pub fn channel(&self) -> Channel {
        self.channels[0].clone()
    }

    /// Waits until the node is connected and has a usable device.
    ///
    /// # Errors
    /// It does not come.
    pub async fn wait_for_node(&self) -> Result<()> {
        let mut nodes = NodeServiceClient::new(self.channel());
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            let name = "nodes/perf".to_owned();
            let online = match nodes.get_node(v1::GetNodeRequest { name }).await {
                Ok(node) => is_online(&node.into_inner()),
                Err(_) => false,
            };
            if online {
                return Ok(());
            }
            ensure!(Instant::now() < until, "the node does not come online");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Makes volumes, each by the next free client, and waits for each.
    ///
    /// # Errors
    /// One is refused or not carried out.
    pub async fn make_volumes(&self, range: Range<usize>) -> Result<Timing> {
        self.spread(range, |channel, index| async move {
            make_volume(channel, &format!("v{index}")).await
        })
        .await
    }

    /// Makes the subsystems that so many namespaces need.
    ///
    /// # Errors
    /// One is refused.
    pub async fn make_subsystems(&self, namespaces: usize) -> Result<()> {
        let mut client = SubsystemServiceClient::new(self.channel());
        for index in 0..namespaces.div_ceil(NAMESPACES_A_SUBSYSTEM) {
            let spec = v1::SubsystemSpec {
                allow_any_host: true,
                ..v1::SubsystemSpec::default()
            };
            let request = v1::CreateSubsystemRequest {
                subsystem_id: format!("s{index}"),
                subsystem: Some(v1::Subsystem {
                    spec: Some(spec),
                    ..v1::Subsystem::default()
                }),
                ..v1::CreateSubsystemRequest::default()
            };
            client.create_subsystem(request).await?;
        }
        Ok(())
    }

    /// Makes a namespace on each of these volumes and waits for each.
    ///
    /// # Errors
    /// One is refused or not carried out.
    pub async fn make_namespaces(&self, range: Range<usize>) -> Result<Timing> {
        self.spread(range, |channel, index| async move {
            make_namespace(channel, index).await
        })
        .await
    }

    /// Makes volumes one after the other; how long each took until it was ready, in milliseconds.
    ///
    /// # Errors
    /// One is refused or not carried out.
    pub async fn single_changes(&self, count: usize, prefix: &str) -> Result<Vec<f64>> {
        let mut all = Vec::new();
        for index in 0..count {
            let (_, carried_out) = make_volume(self.channel(), &format!("{prefix}{index}")).await?;
            all.push(carried_out);
            remove_volume(self.channel(), &format!("{prefix}{index}")).await?;
        }
        Ok(all)
    }

    async fn spread<F, W>(&self, range: Range<usize>, work: W) -> Result<Timing>
    where
        W: Fn(Channel, usize) -> F + Clone + Send + 'static,
        F: Future<Output = Result<(f64, f64)>> + Send,
    {
        let next = Arc::new(AtomicUsize::new(range.start));
        let begun = Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        for channel in self.channels.clone() {
            let (next, work, end) = (Arc::clone(&next), work.clone(), range.end);
            tasks.spawn(async move {
                let mut times = Vec::new();
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= end {
                        return Ok::<_, anyhow::Error>(times);
                    }
                    times.push(work(channel.clone(), index).await?);
                }
            });
        }
        let mut times = Vec::new();
        while let Some(joined) = tasks.join_next().await {
            times.extend(joined.context("a client ended early")??);
        }
        Ok(Timing {
            took: begun.elapsed(),
            answered_ms: times.iter().map(|(answered, _)| *answered).collect(),
            carried_out_ms: times.iter().map(|(_, carried_out)| *carried_out).collect(),
        })
    }
}

fn is_online(node: &v1::Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| &status.conditions);
    conditions
        .filter(|condition| condition.r#type == "Online")
        .any(|condition| condition.status() == v1::ConditionStatus::True)
}

fn ms_since(begun: Instant) -> f64 {
    begun.elapsed().as_secs_f64() * 1e3
}

async fn make_volume(channel: Channel, id: &str) -> Result<(f64, f64)> {
    let mut client = VolumeServiceClient::new(channel.clone());
    let spec = v1::VolumeSpec {
        size_bytes: VOLUME_BYTES,
        ..v1::VolumeSpec::default()
    };
    let request = v1::CreateVolumeRequest {
        volume_id: id.to_owned(),
        volume: Some(v1::Volume {
            spec: Some(spec),
            ..v1::Volume::default()
        }),
        ..v1::CreateVolumeRequest::default()
    };
    let begun = Instant::now();
    let operation = client.create_volume(request).await?.into_inner();
    let answered = ms_since(begun);
    wait(channel, operation).await?;
    Ok((answered, ms_since(begun)))
}

async fn remove_volume(channel: Channel, id: &str) -> Result<()> {
    let mut client = VolumeServiceClient::new(channel.clone());
    let request = v1::DeleteVolumeRequest {
        name: format!("volumes/{id}"),
        ..v1::DeleteVolumeRequest::default()
    };
    let operation = client.delete_volume(request).await?.into_inner();
    wait(channel, operation).await
}

async fn make_namespace(channel: Channel, index: usize) -> Result<(f64, f64)> {
    let mut client = NamespaceServiceClient::new(channel.clone());
    let spec = v1::NamespaceSpec {
        volume: format!("volumes/v{index}"),
        ..v1::NamespaceSpec::default()
    };
    let request = v1::CreateNamespaceRequest {
        parent: format!("subsystems/s{}", index / NAMESPACES_A_SUBSYSTEM),
        namespace_id: format!("n{index}"),
        namespace: Some(v1::Namespace {
            spec: Some(spec),
            ..v1::Namespace::default()
        }),
        ..v1::CreateNamespaceRequest::default()
    };
    let begun = Instant::now();
    let operation = client.create_namespace(request).await?.into_inner();
    let answered = ms_since(begun);
    wait(channel, operation).await?;
    Ok((answered, ms_since(begun)))
}

/// Waits for an operation's end.
async fn wait(channel: Channel, mut operation: v1::Operation) -> Result<()> {
    let mut client = OperationServiceClient::new(channel);
    let until = Instant::now() + OBJECT_MAX;
    while !operation.done {
        if Instant::now() > until {
            bail!("{} is not done: {}", operation.target, operation.progress);
        }
        let request = v1::WaitOperationRequest {
            name: operation.name.clone(),
            timeout: Some(well_known::Duration {
                seconds: 30,
                nanos: 0,
            }),
        };
        operation = client.wait_operation(request).await?.into_inner();
    }
    if let Some(error) = operation.error {
        bail!("{}: {}", operation.target, error.message);
    }
    Ok(())
}
