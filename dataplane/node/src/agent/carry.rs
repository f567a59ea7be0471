//! Carrying out a step on the node, on the daemon's thread.

use penstock_plan::agent::{Step, StepError};
use tokio::sync::mpsc::UnboundedSender;

use crate::managed::{Done, ManagedError};
use crate::node::Node;

/// The end of a step that took its time.
pub(super) type Finished = (Step, Result<(), StepError>);

/// Begins `step`. What is done at once gives its result; the end of clearing goes to `finished`.
pub(super) fn begin(
    node: &mut Node,
    step: &Step,
    finished: &UnboundedSender<Finished>,
) -> Option<Result<(), StepError>> {
    let result = match step {
        Step::ClearVolume { volume } | Step::ClearDeleted { volume } => {
            let layout = volume.layout.clone().unwrap_or_default();
            node.clear_extents(&layout.extents, later(step, finished));
            return None;
        }
        Step::ClearExtents { extents, .. } => {
            node.clear_extents(extents, later(step, finished));
            return None;
        }
        Step::OpenVolume { volume } => node.open_volume(volume),
        Step::GrowVolume { volume } => node.grow_volume(volume),
        Step::CloseVolume { uid } => node.close_volume(uid),
        Step::ServeSubsystem { subsystem } => node.serve_subsystem(subsystem),
        Step::RemoveSubsystem { uid } => node.remove_subsystem(uid),
        Step::ServeNamespace { namespace } => node.serve_namespace(namespace),
        Step::RemoveNamespace { uid } => node.remove_namespace(uid),
        Step::AddListener { listener } => node.add_listener(listener).map(drop),
        Step::RemoveListener { uid } => {
            node.remove_listener(uid);
            Ok(())
        }
        Step::SetRemotePorts { ports } => {
            node.set_remote_ports(ports);
            Ok(())
        }
    };
    Some(result.map_err(step_error))
}

/// Tells the end of `step` from whatever thread it ends on.
fn later(step: &Step, finished: &UnboundedSender<Finished>) -> Done {
    let (step, finished) = (step.clone(), finished.clone());
    Box::new(move |result| {
        // Where the agent is gone, the next one begins the step anew.
        let _ = finished.send((step, result.map_err(step_error)));
    })
}

fn step_error(error: ManagedError) -> StepError {
    StepError {
        reason: error.reason.to_owned(),
        message: error.message,
    }
}
