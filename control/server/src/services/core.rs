//! What all services share: entering a call, changing things once and only once, listing.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use penstock_api::resource::Resource;
use penstock_api::v1;
use penstock_api::well_known::{Empty, Timestamp};
use penstock_store::{Revision, StoreError};
use prost::Message;
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use tonic::{Code, Request, Response, Status};

use crate::audit::{self, Trail};
use crate::env::Env;
use crate::fault::{Fault, Result};
use crate::identity::{Caller, METHODS, Method};
use crate::mirror::Mirror;
use crate::ops;
use crate::quota::Quota;
use crate::repo::{Change, Repo, decode, etag};
use crate::shared_lease::SharedLease;
use crate::validate;

/// How often a change is tried where others change the same.
const ROUNDS: u32 = 16;
/// First pause between two tries; doubles up to the longest.
const PAUSE: Duration = Duration::from_millis(2);
/// Longest pause between two tries.
const PAUSE_MAX: Duration = Duration::from_millis(100);
/// What is left of a deadline for the answer itself.
const ANSWER_TIME: Duration = Duration::from_millis(5);

/// What the services have in common.
pub struct Core {
    /// The world.
    pub env: Env,
    /// Resources in the store.
    pub repo: Repo,
    /// Leases of request ids and of operations that have ended.
    pub leases: SharedLease,
    /// How much there may be.
    pub quota: Quota,
}

/// A call that was let in.
pub struct Call {
    /// Who calls.
    pub caller: Caller,
    /// What.
    pub method: &'static Method,
    /// When the caller stops waiting.
    pub deadline: Option<Instant>,
    /// What the audit line is going to say.
    pub trail: Trail,
    told: AtomicBool,
}

impl Call {
    /// Does the work of a call, until its deadline.
    ///
    /// # Errors
    /// The work's; DEADLINE_EXCEEDED.
    pub async fn run<A>(
        &self,
        work: impl Future<Output = Result<A>>,
    ) -> Result<Response<A>, Status> {
        let result = match self.deadline {
            None => work.await,
            Some(deadline) => tokio::time::timeout_at(deadline, work)
                .await
                .unwrap_or_else(|_| Err(self.too_late())),
        };
        if self.method.changes {
            self.told.store(true, Ordering::Relaxed);
            audit::write(
                &self.caller,
                self.method,
                &self.trail.record(),
                result.as_ref().err(),
            );
        }
        Ok(Response::new(result?))
    }

    fn too_late(&self) -> Fault {
        let remedy = if self.method.changes {
            "whether anything was changed is not known: repeat the call with the same request_id, or read the resource"
        } else {
            "call again with a longer one"
        };
        Fault::new(
            Code::DeadlineExceeded,
            "DEADLINE_EXCEEDED",
            format!(
                "the call's deadline passed before {} was done; {remedy}",
                self.method.name
            ),
        )
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        // The client went away in the middle: what it began may have happened.
        if self.method.changes && !self.told.load(Ordering::Relaxed) {
            let mut record = self.trail.record();
            record.outcome = "abandoned";
            audit::write(&self.caller, self.method, &record, None);
        }
    }
}

/// A change as it was asked for.
pub struct Intent {
    request_id: String,
    fingerprint: Vec<u8>,
    validate_only: bool,
}

/// What a try to change something comes to.
pub enum Attempt<A> {
    /// All is as wanted already.
    Nothing(A),
    /// This is to be written, if nobody was faster.
    Write(Change, A),
}

/// What a changing method answers.
pub trait Answer: Message + Default + Clone + Send + Sync {
    /// The change was written at this revision.
    fn committed(&mut self, _revision: Revision) {}
    /// Nothing was written, for it was asked only.
    fn only_validated(&mut self) {}
    /// The answer to a repeated request: as things are now, where they still exist.
    fn renewed(self, repo: &Repo) -> impl Future<Output = Result<Self>> + Send;
}

macro_rules! resource_answer {
    ($($kind:ident),*) => {$(
        impl Answer for v1::$kind {
            fn committed(&mut self, revision: Revision) {
                *self.etag_mut() = etag(revision);
            }
            fn only_validated(&mut self) {
                self.etag_mut().clear();
            }
            async fn renewed(self, repo: &Repo) -> Result<Self> {
                Ok(match repo.named::<v1::$kind>(&self.name).await {
                    Ok(now) if now.resource.uid == self.uid => now.resource,
                    Err(fault) if fault.code != Code::NotFound => return Err(fault),
                    _ => self,
                })
            }
        }
    )*};
}

resource_answer!(Node, Device, Host, Subsystem, Namespace);

impl Answer for v1::Operation {
    fn only_validated(&mut self) {
        self.name.clear();
        self.target_uid.clear();
    }

    async fn renewed(self, repo: &Repo) -> Result<Self> {
        Ok(ops::find(repo, &self.name).await?.unwrap_or(self))
    }
}

impl Answer for Empty {
    async fn renewed(self, _repo: &Repo) -> Result<Self> {
        Ok(self)
    }
}

/// What a request id was used for, as the store keeps it.
#[derive(Clone, PartialEq, Eq, Message)]
struct RequestRecord {
    /// What was asked for.
    #[prost(bytes = "vec", tag = "1")]
    fingerprint: Vec<u8>,
    /// What was answered.
    #[prost(bytes = "vec", tag = "2")]
    answer: Vec<u8>,
    /// Unique, so that the store can tell this transaction from others.
    #[prost(string, tag = "3")]
    nonce: String,
}

impl Core {
    /// What services need of this environment. Reads of the API do not use the mirror.
    pub fn new(env: &Env, mirror: Option<Mirror>) -> Core {
        let retention = &env.settings.retention;
        Core {
            env: env.clone(),
            repo: Repo::new(env),
            leases: SharedLease::new(retention.operations.max(retention.requests)),
            quota: Quota::new(env.settings.quotas.clone(), mirror),
        }
    }

    /// Now, as resources carry it.
    pub fn now(&self) -> Timestamp {
        self.env.clock.now()
    }

    /// Lets a call in, if its caller may.
    ///
    /// # Errors
    /// UNAUTHENTICATED, PERMISSION_DENIED.
    pub fn enter<T>(&self, method: &'static str, request: &Request<T>) -> Result<Call, Status> {
        let method = METHODS
            .iter()
            .find(|known| known.name == method)
            .ok_or_else(|| Status::unimplemented(format!("there is no method {method}")))?;
        let caller = Caller::of(request)?;
        let call = Call {
            caller,
            method,
            deadline: deadline(request),
            trail: Trail::default(),
            told: AtomicBool::new(false),
        };
        if let Err(fault) = call.caller.may_call(method) {
            call.told.store(true, Ordering::Relaxed);
            if method.changes {
                audit::write(&call.caller, method, &call.trail.record(), Some(&fault));
            }
            return Err(fault.into());
        }
        Ok(call)
    }

    /// Begins a change: checks the request id and notes what is asked for.
    ///
    /// # Errors
    /// INVALID_ARGUMENT.
    pub fn intend(
        &self,
        call: &Call,
        resource: &str,
        request_id: &str,
        validate_only: bool,
        request: &impl Message,
    ) -> Result<Intent> {
        call.trail.note(|record| {
            resource.clone_into(&mut record.resource);
            request_id.clone_into(&mut record.request_id);
        });
        validate::request_id(request_id)?;
        let mut hash = Sha256::new();
        hash.update(call.method.name.as_bytes());
        hash.update([0]);
        hash.update(request.encode_to_vec());
        Ok(Intent {
            request_id: request_id.to_owned(),
            fingerprint: hash.finalize().to_vec(),
            validate_only,
        })
    }

    /// Makes a change happen once: tries with fresh reads until nobody was faster, and answers a
    /// repeated request id as the first time.
    ///
    /// # Errors
    /// The attempt's; ABORTED where others are faster again and again; the store's.
    pub async fn mutate<'a, A: Answer + 'a>(
        &'a self,
        call: &'a Call,
        intent: &Intent,
        mut attempt: impl FnMut(u32) -> BoxFuture<'a, Result<Attempt<A>>> + Send,
    ) -> Result<A> {
        for round in 0..ROUNDS {
            if let Some(answer) = self.repeated(intent).await? {
                call.trail.note(|record| record.outcome = "repeated");
                return Ok(answer);
            }
            let (change, mut answer) = match attempt(round).await? {
                Attempt::Nothing(answer) => {
                    call.trail.note(|record| record.outcome = "unchanged");
                    return Ok(answer);
                }
                Attempt::Write(change, answer) => (change, answer),
            };
            if intent.validate_only {
                call.trail.note(|record| record.outcome = "validated");
                answer.only_validated();
                return Ok(answer);
            }
            if let Some(revision) = self.write(intent, change, &answer).await? {
                call.trail.note(|record| record.outcome = "changed");
                answer.committed(revision);
                return Ok(answer);
            }
            self.pause(round).await;
        }
        Err(Fault::new(
            Code::Aborted,
            "CONTENTION",
            format!(
                "others change the same things at the same time, {ROUNDS} times in a row; nothing was changed: try again"
            ),
        ))
    }

    async fn repeated<A: Answer>(&self, intent: &Intent) -> Result<Option<A>> {
        if intent.request_id.is_empty() || intent.validate_only {
            return Ok(None);
        }
        let key = self.repo.keys().request(&intent.request_id);
        let Some(entry) = self.repo.entry(&key, None).await? else {
            return Ok(None);
        };
        let record: RequestRecord = decode(&entry)?;
        if record.fingerprint != intent.fingerprint {
            return Err(Fault::new(
                Code::InvalidArgument,
                "REQUEST_ID_REUSED",
                format!(
                    "request_id {:?} was used for another request within the last 24 hours; use a new one, best a UUID, for each new request",
                    intent.request_id
                ),
            )
            .with("request_id", &intent.request_id));
        }
        let answer =
            A::decode(record.answer.as_slice()).map_err(|error| Fault::damaged(&key, error))?;
        answer.renewed(&self.repo).await.map(Some)
    }

    /// Writes a change with the record of its request. `None` where somebody was faster.
    async fn write<A: Answer>(
        &self,
        intent: &Intent,
        mut change: Change,
        answer: &A,
    ) -> Result<Option<Revision>> {
        let unnamed = intent.request_id.is_empty();
        if !unnamed || !change.has_marker() {
            // Deletions leave nothing behind by which the store could tell, after a lost answer,
            // whether they happened: they always get a record.
            let nonce = self.env.ids.text();
            let key = if unnamed {
                change.keys().request(&format!("auto-{nonce}"))
            } else {
                let key = change.keys().request(&intent.request_id);
                change.unchanged(key.clone(), 0);
                key
            };
            let record = RequestRecord {
                fingerprint: intent.fingerprint.clone(),
                answer: answer.encode_to_vec(),
                nonce,
            };
            let lease = self.lease().await?;
            change.put(key.clone(), record.encode_to_vec(), Some(lease));
            change.marker(key);
        }
        match self.repo.store().txn(change.into_txn()).await {
            Ok(penstock_store::Committed::Yes(revision)) => Ok(Some(revision)),
            Ok(penstock_store::Committed::No(_)) => Ok(None),
            Err(StoreError::LeaseExpired) => {
                self.leases.forget_all().await;
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The lease of keys that are kept for a while only.
    ///
    /// # Errors
    /// The store's.
    pub async fn lease(&self) -> Result<penstock_store::LeaseId> {
        Ok(self.leases.get(self.repo.store().as_ref()).await?)
    }

    async fn pause(&self, round: u32) {
        let longest = PAUSE.saturating_mul(1 << round.min(8)).min(PAUSE_MAX);
        // Different for each of those who wait for the same, and repeated by a seed.
        let [spread, ..] = self.env.ids.uuid().into_bytes();
        tokio::time::sleep(longest.mul_f64(0.5 + f64::from(spread) / 512.0)).await;
    }
}

/// When the caller of this request stops waiting, by its `grpc-timeout`.
fn deadline<T>(request: &Request<T>) -> Option<Instant> {
    let text = request.metadata().get("grpc-timeout")?.to_str().ok()?;
    let wait = timeout(text)?;
    // A moment before the transport gives up, so that the caller learns why.
    let wait = wait.saturating_sub(ANSWER_TIME.min(wait / 10));
    Instant::now().checked_add(wait)
}

/// A duration as gRPC writes it: up to eight digits and a unit. `None` where it is not one.
fn timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count.saturating_mul(3_600)),
        "M" => Duration::from_secs(count.saturating_mul(60)),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read() {
        assert_eq!(timeout("5S"), Some(Duration::from_secs(5)));
        assert_eq!(timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(
            timeout("99999999H"),
            Some(Duration::from_secs(99_999_999 * 3_600))
        );
        for bad in ["", "S", "5", "5s", "-1S", "123456789S", "5 S", "ä"] {
            assert_eq!(timeout(bad), None, "{bad}");
        }
    }
}
