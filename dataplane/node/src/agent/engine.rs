//! What the agent does all day: takes what control wants, saves it, carries it out, tells how it
//! went.
//!
//! It works in rounds. A round takes everything that has come by then, saves once, does all steps
//! that can be done, saves what came of them, and reports once: a burst of changes costs little more
//! than one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use penstock_api::v1::{AgentMessage, Desired, Hello, Inventory, agent_message, control_message};
use penstock_plan::agent::{AgentState, Step, StepError};
use tokio::sync::mpsc::{self, Receiver, UnboundedReceiver, UnboundedSender};
use tokio::time::{Instant, sleep_until};

use super::carry::{self, Finished};
use super::door::{Door, Leaving};
use super::folder::StateFolder;
use super::gauges::Gauges;
use super::inventory;
use super::link::Event;

/// Steps done on the daemon's thread at a stretch: signals wait for no more.
const STEPS_AT_ONCE: usize = 64;
/// First and longest pause before failed steps, and failed saves, are tried again.
const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(10);
/// How often the machine is looked at.
const INVENTORY_EVERY: Duration = Duration::from_secs(30);
/// How often devices that could not be opened are tried again.
const DEVICES_EVERY: Duration = Duration::from_secs(5);
/// How soon control is told what it had no room for.
const REPORT_AGAIN: Duration = Duration::from_millis(20);

/// Everything the agent's thread works on.
pub(super) struct Engine {
    pub(super) state: AgentState,
    pub(super) folder: Arc<StateFolder>,
    pub(super) door: Door,
    pub(super) gauges: Arc<Gauges>,
    /// `nodes/{node}`.
    pub(super) node: String,
    pub(super) boot_id: String,
    pub(super) events: Receiver<Event>,
    pub(super) finished: UnboundedReceiver<Finished>,
    pub(super) finish: UnboundedSender<Finished>,
    pub(super) stream: Stream,
    pub(super) timers: Timers,
    /// The last failure of each object's step: told once.
    pub(super) failures: BTreeMap<String, StepError>,
}

/// The stream to control, as far as the engine knows it.
#[derive(Default)]
pub(super) struct Stream {
    outbound: Option<mpsc::Sender<AgentMessage>>,
    /// Control has told everything that it wants: it may be told in turn.
    told: bool,
    /// The next report tells everything.
    full: bool,
    /// Control had no room for a report.
    held_up: bool,
}

/// When to do what nobody asks for.
pub(super) struct Timers {
    retry_pause: Duration,
    retry_at: Option<Instant>,
    inventory_at: Instant,
    devices_at: Instant,
}

impl Default for Timers {
    fn default() -> Timers {
        Timers {
            retry_pause: RETRY_FIRST,
            retry_at: None,
            inventory_at: Instant::now() + INVENTORY_EVERY,
            devices_at: Instant::now() + DEVICES_EVERY,
        }
    }
}

impl Engine {
    /// Works until the daemon leaves.
    pub(super) async fn run(mut self) -> Result<(), Leaving> {
        self.look_at_machine().await?;
        loop {
            self.settle().await?;
            let wake = self.next_wake();
            tokio::select! {
                event = self.events.recv() => match event {
                    Some(event) => self.on_event(event).await?,
                    None => return Ok(()),
                },
                Some((step, result)) = self.finished.recv() => self.ended(&step, result),
                () = sleep_until(wake) => self.on_time().await?,
            }
            self.take_what_has_come().await?;
        }
    }

    async fn take_what_has_come(&mut self) -> Result<(), Leaving> {
        while let Ok(event) = self.events.try_recv() {
            self.on_event(event).await?;
        }
        while let Ok((step, result)) = self.finished.try_recv() {
            self.ended(&step, result);
        }
        Ok(())
    }

    /// Saves and does steps until nothing is left to do now, then reports.
    async fn settle(&mut self) -> Result<(), Leaving> {
        loop {
            let saved = self.save().await;
            let steps = self.state.steps();
            // Asking for steps may end the life of something: that is to be saved, too.
            if steps.is_empty() && (!saved || self.state.unsaved().is_none()) {
                break;
            }
            self.carry_out(steps).await?;
            self.take_what_has_come().await?;
        }
        if self.state.failed() > 0 {
            let pause = self.timers.retry_pause;
            self.timers.retry_at.get_or_insert(Instant::now() + pause);
        }
        self.report();
        Ok(())
    }

    /// Makes everything durable that is not. Where the disk refuses (false), what depends on it
    /// waits.
    async fn save(&mut self) -> bool {
        let Some(mark) = self.state.unsaved() else {
            return true;
        };
        let (bytes, folder) = (self.state.encode(), Arc::clone(&self.folder));
        let saved = tokio::task::spawn_blocking(move || folder.save(&bytes)).await;
        let problem = match saved {
            Ok(Ok(())) => {
                self.state.saved(mark);
                return true;
            }
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        if self.gauges.save_errors.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::error!(
                "what control wants cannot be saved, and is not carried out: {problem}"
            );
        }
        let pause = self.timers.retry_pause;
        self.timers.retry_at.get_or_insert(Instant::now() + pause);
        false
    }

    async fn carry_out(&mut self, steps: Vec<Step>) -> Result<(), Leaving> {
        let mut steps = steps.into_iter().peekable();
        while steps.peek().is_some() {
            let some: Vec<Step> = steps.by_ref().take(STEPS_AT_ONCE).collect();
            let finish = self.finish.clone();
            let work = move |node: &mut crate::node::Node| {
                let begin = |step: Step| {
                    let result = carry::begin(node, &step, &finish);
                    (step, result)
                };
                some.into_iter().map(begin).collect::<Vec<_>>()
            };
            for (step, result) in self.door.run(work).await? {
                if let Some(result) = result {
                    self.ended(&step, result);
                }
            }
        }
        Ok(())
    }

    fn ended(&mut self, step: &Step, result: Result<(), StepError>) {
        ended(
            &mut self.state,
            &self.gauges,
            &mut self.failures,
            step,
            result,
        );
    }

    async fn on_event(&mut self, event: Event) -> Result<(), Leaving> {
        match event {
            Event::Open(outbound) => {
                let inventory = self.inventory().await?;
                self.state.set_inventory(inventory.clone());
                self.say_hello(outbound, inventory);
            }
            Event::Message(message) => match message.message {
                Some(control_message::Message::Welcome(welcome)) => {
                    tracing::info!(
                        store = welcome.store_id,
                        revision = welcome.revision,
                        "control has let the node in"
                    );
                    self.gauges.connected.store(true, Ordering::Relaxed);
                }
                Some(control_message::Message::Desired(desired)) => self.accept(desired),
                None => tracing::warn!("control said something that this version does not know"),
            },
            Event::Lost => {
                self.stream = Stream::default();
                self.gauges.connected.store(false, Ordering::Relaxed);
                self.state.disconnected();
            }
        }
        Ok(())
    }

    fn say_hello(&mut self, outbound: mpsc::Sender<AgentMessage>, inventory: Inventory) {
        let (store_id, accepted_revision) = self.state.accepted();
        let hello = Hello {
            node: self.node.clone(),
            inventory: Some(inventory),
            accepted_revision,
            store_id: store_id.to_owned(),
            volumes: self.state.hello_volumes(),
            deleted_volume_uids: self.state.deleted_uids(),
        };
        let message = AgentMessage {
            message: Some(agent_message::Message::Hello(hello)),
        };
        self.state.disconnected();
        self.stream = Stream {
            outbound: outbound.try_send(message).is_ok().then_some(outbound),
            full: true,
            ..Stream::default()
        };
    }

    fn accept(&mut self, desired: Desired) {
        let (revision, complete) = (desired.revision, desired.complete);
        let accepted = self.state.accept(desired);
        if accepted.incomplete {
            return;
        }
        if let Some(regression) = &accepted.regression {
            tracing::warn!("{regression}");
        }
        for refusal in &accepted.refusals {
            tracing::warn!(
                uid = refusal.uid,
                reason = refusal.reason,
                "refused: {}",
                refusal.message
            );
        }
        for uid in &accepted.new_orphans {
            tracing::warn!(
                volume = uid,
                "control's store does not know this volume: it is served on; decide with \
                 `penstock node resolve-orphan`"
            );
        }
        self.stream.told |= complete;
        tracing::info!(revision, complete, "accepted what control wants");
        self.gauges
            .accepted_revision
            .store(self.state.accepted().1, Ordering::Relaxed);
        self.gauges
            .orphans
            .store(self.state.orphans() as u64, Ordering::Relaxed);
        // What failed may do now.
        self.timers.retry_pause = RETRY_FIRST;
    }

    /// Tells control what changed; where it has no room, later. Without control the same is counted
    /// for the metrics.
    fn report(&mut self) {
        self.stream.held_up = false;
        if self.state.unsaved().is_some() {
            return;
        }
        let Some(outbound) = self.stream.outbound.as_ref().filter(|_| self.stream.told) else {
            if let Some(report) = self.state.report(false) {
                self.gauges.observe(&report, false);
            }
            return;
        };
        let permit = match outbound.try_reserve() {
            Ok(permit) => permit,
            Err(mpsc::error::TrySendError::Full(())) => {
                self.stream.held_up = true;
                return;
            }
            // The link tells of the end itself.
            Err(mpsc::error::TrySendError::Closed(())) => return,
        };
        let full = self.stream.full;
        if let Some(report) = self.state.report(full) {
            self.gauges.observe(&report, full);
            self.stream.full = false;
            permit.send(AgentMessage {
                message: Some(agent_message::Message::Report(report)),
            });
        }
    }

    fn next_wake(&self) -> Instant {
        let mut wake = self.timers.inventory_at.min(self.timers.devices_at);
        if let Some(retry) = self.timers.retry_at {
            wake = wake.min(retry);
        }
        if self.stream.held_up {
            wake = wake.min(Instant::now() + REPORT_AGAIN);
        }
        wake
    }

    async fn on_time(&mut self) -> Result<(), Leaving> {
        let now = Instant::now();
        if self.timers.retry_at.is_some_and(|at| at <= now) {
            self.timers.retry_at = None;
            self.timers.retry_pause = (self.timers.retry_pause * 2).min(RETRY_MAX);
            self.state.retry();
        }
        if self.timers.devices_at <= now {
            self.timers.devices_at = now + DEVICES_EVERY;
            if self.door.run(crate::node::Node::reopen_devices).await? {
                self.look_at_machine().await?;
                // Volumes that are on it can be served now.
                self.state.retry();
            }
        }
        if self.timers.inventory_at <= now {
            self.timers.inventory_at = now + INVENTORY_EVERY;
            self.look_at_machine().await?;
        }
        Ok(())
    }

    async fn look_at_machine(&mut self) -> Result<(), Leaving> {
        let inventory = self.inventory().await?;
        self.state.set_inventory(inventory);
        Ok(())
    }

    async fn inventory(&self) -> Result<Inventory, Leaving> {
        let look =
            |node: &mut crate::node::Node| (node.devices_inventory(), node.configured_listeners());
        let (devices, listeners) = self.door.run(look).await?;
        Ok(inventory::inventory(&self.boot_id, devices, listeners))
    }
}

/// The end of a step: counted, remembered, told in the log where it is new.
pub(super) fn ended(
    state: &mut AgentState,
    gauges: &Gauges,
    failures: &mut BTreeMap<String, StepError>,
    step: &Step,
    result: Result<(), StepError>,
) {
    gauges.step(step, result.is_ok());
    match &result {
        Ok(()) => {
            failures.remove(step.uid());
        }
        Err(error) if failures.get(step.uid()) == Some(error) => {}
        Err(error) => {
            tracing::warn!(
                step = step.name(),
                uid = step.uid(),
                "a step failed: {error}"
            );
            failures.insert(step.uid().to_owned(), error.clone());
        }
    }
    state.done(step, result);
}
