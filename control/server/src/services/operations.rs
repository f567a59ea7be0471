//! Operations.

use std::sync::Arc;
use std::time::Duration;

use penstock_api::names::Kind;
use penstock_api::v1::operation_service_server::OperationService;
use penstock_api::v1::{
    GetOperationRequest, ListOperationsRequest, ListOperationsResponse, Operation,
    WaitOperationRequest,
};
use penstock_api::well_known;
use penstock_store::{Change as Happened, Range, Revision, StoreError, WatchItem};
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::core::{Call, Core};
use crate::fault::{Fault, Result};
use crate::repo::decode;
use crate::validate;

/// How long to wait where the caller does not say.
const WAIT: Duration = Duration::from_secs(30);
/// Longest wait that can be asked for.
const WAIT_MAX: Duration = Duration::from_secs(600);
/// What is left of the call's deadline for the answer.
const ANSWER_TIME: Duration = Duration::from_millis(20);

/// The service of operations.
#[derive(Clone)]
pub struct Operations(pub(super) Arc<Core>);

impl Operations {
    /// The operation now, and the revision that is of.
    async fn get(&self, name: &str) -> Result<(Operation, String, Revision)> {
        let parsed = validate::name(Kind::Operation, "name", name)?;
        let key = self.0.repo.keys().operation(&parsed.key());
        let (entry, revision) = self.0.repo.store().get(&key).await?;
        let entry = entry.ok_or_else(|| forgotten(name))?;
        Ok((decode(&entry)?, key, revision))
    }

    async fn list(&self, request: ListOperationsRequest) -> Result<ListOperationsResponse> {
        let core = &self.0;
        let cursor = core
            .cursor(
                "operations".to_owned(),
                request.page_size,
                &request.page_token,
            )
            .await?;
        let prefix = core.repo.keys().operations();
        let page = core
            .repo
            .store()
            .list(Range {
                after: cursor.after.as_ref().map(|id| format!("{prefix}{id}")),
                prefix: prefix.clone(),
                limit: cursor.limit,
                revision: cursor.revision,
                keys_only: false,
            })
            .await
            .map_err(|error| cursor.explain(error.into()))?;
        let operations = page.entries.iter().map(decode).collect::<Result<_>>()?;
        let last = page.entries.last();
        let last = last.and_then(|entry| entry.key.strip_prefix(&prefix));
        let listed = cursor.finish(
            operations,
            last.map(str::to_owned),
            page.more,
            page.revision,
        );
        Ok(ListOperationsResponse {
            operations: listed.items,
            next_page_token: listed.next_page_token,
        })
    }

    async fn wait(&self, call: &Call, request: WaitOperationRequest) -> Result<Operation> {
        let mut until = Instant::now() + timeout(request.timeout.as_ref())?;
        if let Some(deadline) = call.deadline {
            until = until.min(deadline.checked_sub(ANSWER_TIME).unwrap_or(deadline));
        }
        let (mut last, key, mut revision) = self.get(&request.name).await?;
        while !last.done {
            let follow = self.follow(&key, revision, &mut last);
            let followed = tokio::select! {
                biased;
                _ = self.0.env.stop.wait_for(|stop| *stop) => return Err(Fault::stopping()),
                followed = tokio::time::timeout_at(until, follow) => followed,
            };
            match followed {
                Err(_) => break,
                Ok(Ok(())) => break,
                // History is gone, or the store was restored: look at how it stands now.
                Ok(Err(StoreError::Compacted { .. } | StoreError::Replaced { .. })) => {
                    let (now, _, at) = self.get(&request.name).await?;
                    (last, revision) = (now, at);
                }
                Ok(Err(error)) => return Err(error.into()),
            }
        }
        Ok(last)
    }

    /// Follows an operation until it has ended; `last` is as it was told last.
    async fn follow(
        &self,
        key: &str,
        revision: Revision,
        last: &mut Operation,
    ) -> Result<(), StoreError> {
        let mut watch = self.0.repo.store().watch(key, revision + 1).await?;
        loop {
            let WatchItem::Changes { changes, .. } = watch.next().await? else {
                continue;
            };
            for change in changes {
                match change {
                    Happened::Put { entry, .. } if entry.key == key => {
                        if let Ok(operation) = decode::<Operation>(&entry) {
                            *last = operation;
                        }
                    }
                    // Only operations that have ended are forgotten.
                    Happened::Delete { key: gone, .. } if gone == key => return Ok(()),
                    _ => {}
                }
            }
            if last.done {
                return Ok(());
            }
        }
    }
}

fn forgotten(name: &str) -> Fault {
    let mut fault = Fault::not_found(name);
    fault.message = format!(
        "{name} does not exist: operations are kept for 24 hours after their end; read the resource to see how it stands"
    );
    fault
}

/// How long to wait.
fn timeout(asked: Option<&well_known::Duration>) -> Result<Duration> {
    let Some(asked) = asked else {
        return Ok(WAIT);
    };
    let wait = u64::try_from(asked.seconds)
        .ok()
        .zip(u32::try_from(asked.nanos).ok())
        .map(|(seconds, nanos)| {
            Duration::from_secs(seconds).saturating_add(Duration::from_nanos(nanos.into()))
        });
    match wait {
        Some(wait) if wait <= WAIT_MAX => Ok(wait),
        _ => Err(Fault::field(
            "timeout",
            format!(
                "it is {} s {} ns; use 0 to {} s, or leave it out for {} s",
                asked.seconds,
                asked.nanos,
                WAIT_MAX.as_secs(),
                WAIT.as_secs()
            ),
        )),
    }
}

#[tonic::async_trait]
impl OperationService for Operations {
    async fn get_operation(
        &self,
        request: Request<GetOperationRequest>,
    ) -> Result<Response<Operation>, Status> {
        let call = self.0.enter("GetOperation", &request)?;
        let request = request.into_inner();
        call.run(async { Ok(self.get(&request.name).await?.0) })
            .await
    }

    async fn list_operations(
        &self,
        request: Request<ListOperationsRequest>,
    ) -> Result<Response<ListOperationsResponse>, Status> {
        let call = self.0.enter("ListOperations", &request)?;
        call.run(self.list(request.into_inner())).await
    }

    async fn wait_operation(
        &self,
        request: Request<WaitOperationRequest>,
    ) -> Result<Response<Operation>, Status> {
        let call = self.0.enter("WaitOperation", &request)?;
        call.run(self.wait(&call, request.into_inner())).await
    }
}
