//! A node's agent that does at once whatever it is told, and remembers it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use futures::StreamExt;
use penstock_api::v1::agent_message::Message as FromAgent;
use penstock_api::v1::control_message::Message as ToAgent;
use penstock_api::v1::{
    AgentMessage, Desired, DesiredListener, DesiredNamespace, DesiredSubsystem, DesiredVolume,
    DeviceInventory, Hello, Inventory, ObservedObject, ObservedVolume, RemotePort, Report,
    TransportAddress, VolumeState,
};
use penstock_control::control::Control;
use penstock_control::identity::Caller;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Status;

/// What an agent knows; it outlives streams.
#[derive(Default)]
pub struct Memory {
    /// What it was told, by identity, but for what is gone.
    pub volumes: BTreeMap<String, DesiredVolume>,
    pub subsystems: BTreeMap<String, DesiredSubsystem>,
    pub namespaces: BTreeMap<String, DesiredNamespace>,
    pub listeners: BTreeMap<String, DesiredListener>,
    pub ports: Vec<RemotePort>,
    /// Messages with something in them since the last connection.
    pub messages: usize,
    /// Identities that it does nothing about.
    pub ignores: BTreeSet<String>,
    pub revision: i64,
    pub store_id: String,
}

/// An agent of memory.
#[derive(Clone)]
pub struct Agent {
    pub node: String,
    pub memory: Arc<Mutex<Memory>>,
    pub inventory: Inventory,
}

/// A device of this many bytes.
pub fn device(id: &str, size_bytes: u64) -> DeviceInventory {
    DeviceInventory {
        id: id.to_owned(),
        kind: "file".to_owned(),
        path: format!("/dev/{id}"),
        size_bytes,
        block_size_bytes: 4096,
        numa_node: -1,
        persistent: true,
        ..DeviceInventory::default()
    }
}

impl Agent {
    /// An agent with one device of this many bytes and a listener of its own.
    pub fn new(node: &str, size_bytes: u64) -> Agent {
        Agent {
            node: node.to_owned(),
            memory: Arc::default(),
            inventory: Inventory {
                version: "test".to_owned(),
                cores: 2,
                devices: vec![device("d0", size_bytes)],
                listeners: vec![TransportAddress {
                    transport: "tcp".to_owned(),
                    address: "192.0.2.1".to_owned(),
                    port: 4420,
                }],
                ..Inventory::default()
            },
        }
    }

    pub fn with<R>(&self, look: impl FnOnce(&mut Memory) -> R) -> R {
        look(&mut self.memory.lock().unwrap())
    }

    /// Connects; the stream's end is the task's result. Dropping the handle does not end it, aborting
    /// does.
    pub fn connect(&self, control: &Control) -> JoinHandle<Option<Status>> {
        self.connect_as(control, Caller::local())
    }

    pub fn connect_as(&self, control: &Control, caller: Caller) -> JoinHandle<Option<Status>> {
        let (say, heard) = mpsc::unbounded_channel();
        let hello = self.with(|memory| {
            memory.messages = 0;
            Hello {
                node: format!("nodes/{}", self.node),
                inventory: Some(self.inventory.clone()),
                accepted_revision: memory.revision,
                store_id: memory.store_id.clone(),
                volumes: memory.volumes.values().cloned().collect(),
                deleted_volume_uids: Vec::new(),
            }
        });
        say.send(Ok(AgentMessage {
            message: Some(FromAgent::Hello(hello)),
        }))
        .unwrap();
        let mut told = control
            .agents
            .open(caller, UnboundedReceiverStream::new(heard));
        let agent = self.clone();
        tokio::spawn(async move {
            while let Some(message) = told.next().await {
                match message {
                    Err(status) => return Some(status),
                    Ok(message) => {
                        if let Some(ToAgent::Desired(desired)) = message.message {
                            let report = agent.with(|memory| memory.accept(desired));
                            let message = Some(FromAgent::Report(report));
                            say.send(Ok(AgentMessage { message })).ok();
                        }
                    }
                }
            }
            None
        })
    }
}

impl Memory {
    /// Carries a desired state out, and reports that.
    fn accept(&mut self, desired: Desired) -> Report {
        self.revision = desired.revision;
        self.store_id.clone_from(&desired.store_id);
        self.messages += 1;
        let mut report = Report {
            accepted_revision: desired.revision,
            synced: true,
            ..Report::default()
        };
        for volume in desired.volumes {
            if !self.ignores.contains(&volume.name) {
                report.volumes.push(observed_volume(&volume));
            }
            let deleted = volume.deleted;
            let uid = volume.uid.clone();
            self.volumes.insert(uid.clone(), volume);
            if deleted {
                self.volumes.remove(&uid);
            }
        }
        for subsystem in desired.subsystems {
            if subsystem.deleted {
                self.subsystems.remove(&subsystem.uid);
            } else {
                self.subsystems.insert(subsystem.uid.clone(), subsystem);
            }
        }
        for namespace in desired.namespaces {
            let known = self.subsystems.contains_key(&namespace.subsystem_uid)
                && self.volumes.contains_key(&namespace.volume_uid);
            assert!(known, "a namespace came before what it needs");
            let size = self.volumes[&namespace.volume_uid].size_bytes;
            report.namespaces.push(ObservedObject {
                uid: namespace.uid.clone(),
                generation: namespace.generation,
                ready: !namespace.deleted,
                gone: namespace.deleted,
                size_bytes: size,
                ..ObservedObject::default()
            });
            if namespace.deleted {
                self.namespaces.remove(&namespace.uid);
            } else {
                self.namespaces.insert(namespace.uid.clone(), namespace);
            }
        }
        for listener in desired.listeners {
            report.listeners.push(ObservedObject {
                uid: listener.uid.clone(),
                generation: listener.generation,
                ready: !listener.deleted,
                gone: listener.deleted,
                ..ObservedObject::default()
            });
            if listener.deleted {
                self.listeners.remove(&listener.uid);
            } else {
                self.listeners.insert(listener.uid.clone(), listener);
            }
        }
        if desired.remote_ports_told {
            self.ports = desired.remote_ports;
        }
        report
    }
}

fn observed_volume(volume: &DesiredVolume) -> ObservedVolume {
    let state = if volume.deleted {
        VolumeState::Deleting
    } else {
        VolumeState::Ready
    };
    ObservedVolume {
        uid: volume.uid.clone(),
        generation: volume.generation,
        epoch: volume.layout.as_ref().map_or(0, |layout| layout.epoch),
        state: state.into(),
        gone: volume.deleted,
        size_bytes: volume.size_bytes,
        ..ObservedVolume::default()
    }
}
