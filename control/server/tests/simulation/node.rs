//! A simulated node: the real state machine of the agent, a modelled disk, a stream that can break.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use penstock_api::v1::{
    AgentMessage, ControlMessage, DesiredNamespace, DeviceInventory, Hello, Inventory,
    TransportAddress, agent_message, control_message,
};
use penstock_control::identity::Caller;
use penstock_plan::agent::{AgentState, Step, StepError};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::disk::Disk;
use crate::world::{Dice, Links, Story};

/// Devices of a node and their size in bytes.
pub const DEVICES: usize = 2;
const DEVICE_BYTES: u64 = 64 << 20;
/// How long a node waits before it connects again.
const RECONNECT: Duration = Duration::from_millis(200);
/// How often failed steps are tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What a node process holds.
pub struct Node {
    pub name: String,
    pub disk: Arc<Mutex<Disk>>,
    pub links: Links,
    pub dice: Dice,
    pub story: Story,
    /// What runs now, for the judge.
    pub view: Arc<Mutex<View>>,
    /// How many of a hundred steps fail.
    pub failing: Arc<AtomicU64>,
}

/// What the judge sees of a node.
#[derive(Debug, Default)]
pub struct View {
    /// Namespaces served: identity to volume.
    pub namespaces: BTreeMap<String, String>,
    /// Identifiers of namespaces served: identity to subsystem and number.
    numbers: BTreeMap<String, (String, u32)>,
    /// Subsystems served: identity to NQN.
    pub subsystems: BTreeMap<String, String>,
    /// Listeners: identity to address.
    pub listeners: BTreeMap<String, String>,
    /// Identities of volumes held, with their epochs.
    pub volumes: BTreeMap<String, u64>,
    /// Orphans.
    pub orphans: usize,
    /// Everything accepted is carried out.
    pub synced: bool,
}

impl Node {
    /// The process: boots from what is saved, then keeps in touch with control for ever.
    pub async fn run(mut self) {
        let saved = self.disk.lock().unwrap().saved.clone();
        let mut state = match saved {
            Some(bytes) => AgentState::decode(&bytes).expect("saved states are whole"),
            None => AgentState::new(),
        };
        *self.view.lock().unwrap() = View::default();
        state.set_inventory(self.inventory());
        self.work(&mut state).await;
        loop {
            if let Some((server, agents)) = self.links.pick(&self.name, &mut self.dice) {
                let (out, outbound) = mpsc::channel::<Result<AgentMessage, tonic::Status>>(16);
                let told = agents.open(Caller::local(), ReceiverStream::new(outbound));
                self.converse(&mut state, server, out, told).await;
                state.disconnected();
            }
            tokio::time::sleep(RECONNECT + self.dice.millis(0, 50)).await;
        }
    }

    async fn converse(
        &mut self,
        state: &mut AgentState,
        server: usize,
        out: mpsc::Sender<Result<AgentMessage, tonic::Status>>,
        mut told: penstock_control::agents::Told,
    ) {
        let (store_id, accepted_revision) = state.accepted();
        let hello = Hello {
            node: format!("nodes/{}", self.name),
            inventory: Some(self.inventory()),
            accepted_revision,
            store_id: store_id.to_owned(),
            volumes: state.hello_volumes(),
            deleted_volume_uids: state.deleted_uids(),
        };
        if !send(&out, agent_message::Message::Hello(hello)).await {
            return;
        }
        let mut complete = false;
        loop {
            tokio::select! {
                biased;
                () = self.links.broken(&self.name, server) => return,
                message = told.next() => match message {
                    Some(Ok(ControlMessage { message: Some(control_message::Message::Desired(desired)) })) => {
                        let full = desired.complete && !desired.more;
                        let accepted = state.accept(desired);
                        for refusal in accepted.refusals {
                            self.story.note(&format!("{}: {} refused: {}", self.name, refusal.uid, refusal.reason));
                        }
                        self.work(state).await;
                        complete |= full;
                        if complete
                            && let Some(report) = state.report(full)
                            && !send(&out, agent_message::Message::Report(report)).await
                        {
                            return;
                        }
                    }
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return,
                },
                () = tokio::time::sleep(RETRY) => {
                    state.retry();
                    self.work(state).await;
                    if complete
                        && let Some(report) = state.report(false)
                        && !send(&out, agent_message::Message::Report(report)).await
                    {
                        return;
                    }
                }
            }
        }
    }

    /// Saves and works until there is nothing left to do. A crash can come at every pause.
    async fn work(&mut self, state: &mut AgentState) {
        loop {
            if let Some(mark) = state.unsaved() {
                let bytes = state.encode();
                tokio::time::sleep(self.dice.millis(0, 10)).await;
                self.disk.lock().unwrap().saved = Some(bytes);
                tokio::time::sleep(self.dice.millis(0, 2)).await;
                state.saved(mark);
                continue;
            }
            let steps = state.steps();
            if steps.is_empty() {
                break;
            }
            for step in steps {
                tokio::time::sleep(self.dice.millis(0, 20)).await;
                let result = self.attempt(&step);
                tokio::time::sleep(self.dice.millis(0, 5)).await;
                state.done(&step, result);
            }
        }
        let mut view = self.view.lock().unwrap();
        view.synced = state.synced();
        view.orphans = state.orphans();
        view.volumes = state
            .hello_volumes()
            .into_iter()
            .map(|volume| (volume.uid, volume.layout.map_or(0, |layout| layout.epoch)))
            .collect();
    }

    /// Carries a step out, or fails. Clearing may fail after it cleared, all else changes nothing
    /// then.
    fn attempt(&mut self, step: &Step) -> Result<(), StepError> {
        if self.dice.below(100) >= self.failing.load(Ordering::Relaxed) {
            return self.carry_out(step);
        }
        let clears = matches!(
            step,
            Step::ClearVolume { .. } | Step::ClearExtents { .. } | Step::ClearDeleted { .. }
        );
        if clears && self.dice.below(2) == 0 {
            self.carry_out(step)?;
        }
        Err(StepError {
            reason: "DeviceError".to_owned(),
            message: "simulated".to_owned(),
        })
    }

    fn carry_out(&mut self, step: &Step) -> Result<(), StepError> {
        let mut disk = self.disk.lock().unwrap();
        let mut view = self.view.lock().unwrap();
        match step {
            Step::ClearVolume { volume } => {
                let lost = disk.clear(&volume.uid, layout(volume), "create");
                self.story.cleared(&self.name, &lost);
            }
            Step::ClearExtents { volume, extents } => {
                let lost = disk.clear(&volume.uid, extents, "grow");
                self.story.cleared(&self.name, &lost);
            }
            Step::ClearDeleted { volume } => {
                let mut lost = disk.clear(&volume.uid, layout(volume), "delete");
                lost.insert(volume.uid.clone());
                self.story.cleared(&self.name, &lost);
            }
            Step::OpenVolume { volume } => disk.open(volume),
            Step::GrowVolume { volume } => {
                disk.open(volume);
                if view.namespaces.values().any(|uid| *uid == volume.uid) {
                    disk.write(&volume.uid);
                }
            }
            Step::CloseVolume { uid } => {
                if view.namespaces.values().any(|volume| volume == uid) {
                    disk.wrong
                        .push(format!("{uid} is closed under its namespace"));
                }
                disk.close(uid);
            }
            Step::ServeNamespace { namespace } => serve(&mut disk, &mut view, namespace)?,
            Step::RemoveNamespace { uid } => {
                view.namespaces.remove(uid);
                view.numbers.remove(uid);
            }
            Step::ServeSubsystem { subsystem } => {
                take(&mut view.subsystems, &subsystem.uid, subsystem.nqn.clone())?;
            }
            Step::RemoveSubsystem { uid } => {
                if view.numbers.values().any(|(subsystem, _)| subsystem == uid) {
                    disk.wrong
                        .push(format!("subsystem {uid} goes under its namespaces"));
                }
                view.subsystems.remove(uid);
            }
            Step::AddListener { listener } => {
                let address = listener.address.as_ref();
                let address = address.map_or_else(String::new, |at| at.address.clone());
                take(&mut view.listeners, &listener.uid, address)?;
            }
            Step::RemoveListener { uid } => {
                view.listeners.remove(uid);
            }
            Step::SetRemotePorts { .. } => {}
        }
        Ok(())
    }

    fn inventory(&self) -> Inventory {
        let device = |index| DeviceInventory {
            id: format!("d{index}"),
            kind: "file".to_owned(),
            path: format!("d{index}.img"),
            size_bytes: DEVICE_BYTES,
            block_size_bytes: 4096,
            numa_node: -1,
            persistent: true,
            ..DeviceInventory::default()
        };
        Inventory {
            version: "sim".to_owned(),
            cores: 2,
            memory_bytes: 1 << 30,
            devices: (0..DEVICES).map(device).collect(),
            listeners: vec![TransportAddress {
                transport: "tcp".to_owned(),
                address: "192.0.2.1".to_owned(),
                port: 4420,
            }],
            boot_id: "sim".to_owned(),
            ..Inventory::default()
        }
    }
}

/// Serves a namespace, whose host writes all of its volume.
fn serve(disk: &mut Disk, view: &mut View, namespace: &DesiredNamespace) -> Result<(), StepError> {
    if !disk.open_volumes().any(|uid| *uid == namespace.volume_uid) {
        disk.wrong
            .push(format!("{} is served but not open", namespace.name));
    }
    let number = (namespace.subsystem_uid.clone(), namespace.nsid);
    if !view.subsystems.contains_key(&number.0) {
        disk.wrong
            .push(format!("{} has no subsystem", namespace.name));
    }
    let same = |uid: &String| {
        view.numbers.get(uid) == Some(&number)
            && view.namespaces.get(uid) == Some(&namespace.volume_uid)
    };
    // It takes over what another serves that differs in name only.
    if let Some(other) = view.numbers.keys().find(|uid| same(uid)).cloned() {
        view.numbers.remove(&other);
        view.namespaces.remove(&other);
    }
    take(&mut view.numbers, &namespace.uid, number)?;
    disk.write(&namespace.volume_uid);
    view.namespaces
        .insert(namespace.uid.clone(), namespace.volume_uid.clone());
    Ok(())
}

/// Gives something to `uid`, unless another has it.
fn take<V: PartialEq>(of: &mut BTreeMap<String, V>, uid: &str, what: V) -> Result<(), StepError> {
    let taken = of.iter().any(|(other, has)| other != uid && *has == what);
    if taken {
        return Err(StepError {
            reason: "InUse".to_owned(),
            message: "another has it".to_owned(),
        });
    }
    of.insert(uid.to_owned(), what);
    Ok(())
}

fn layout(volume: &penstock_api::v1::DesiredVolume) -> &[penstock_api::v1::Extent] {
    volume.layout.as_ref().map_or(&[], |layout| &layout.extents)
}

async fn send(
    out: &mpsc::Sender<Result<AgentMessage, tonic::Status>>,
    message: agent_message::Message,
) -> bool {
    out.send(Ok(AgentMessage {
        message: Some(message),
    }))
    .await
    .is_ok()
}
