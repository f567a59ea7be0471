//! A leader's write that lingers on its way to etcd while the leader's lease runs out.
//!
//! A leader whose renewals do not arrive steps down by its own clock before etcd gives its place to
//! another, so a program that is only stopped and resumed hardly ever sends a stale write. The
//! network can: here a proxy holds what the leader has sent, and lets the one transaction through
//! when the lease is over, but not what the leader says after it, such as that it wants no answer.
//! What etcd answers is read off the wire, and each condition of the transaction is looked up in
//! etcd at the revision at which it was refused.

use super::Times;
use super::cases::{LIMIT, check_places};
use super::stack::{MEMORY, NODE, Stack};
use crate::cluster::{Etcd, Exchange, Proxy, until};
use crate::error::{LabError, Result, check};
use penstock_api::v1;
use prost::Message;
use std::time::Instant;

/// What the key ends with that the engine's leader holds.
const ELECTION: &str = "/elect/engine";

/// Index of the control server behind the proxy, and of the other.
const STALE: usize = 1;
const OTHER: usize = 0;

/// The part of etcd's `TxnRequest` (rpc.proto) that tells on what it depends.
#[derive(Clone, PartialEq, Message)]
struct TxnRequest {
    #[prost(message, repeated, tag = "1")]
    compare: Vec<Compare>,
}

/// etcd's `Compare`, without the targets that control does not use.
#[derive(Clone, PartialEq, Message)]
struct Compare {
    #[prost(int32, tag = "1")]
    result: i32,
    #[prost(int32, tag = "2")]
    target: i32,
    #[prost(bytes = "vec", tag = "3")]
    key: Vec<u8>,
    #[prost(int64, tag = "5")]
    create_revision: i64,
    #[prost(int64, tag = "6")]
    mod_revision: i64,
}

/// The part of etcd's `TxnResponse` that tells what became of it.
#[derive(Clone, PartialEq, Message)]
struct TxnResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
    #[prost(bool, tag = "2")]
    succeeded: bool,
}

#[derive(Clone, PartialEq, Message)]
struct ResponseHeader {
    #[prost(int64, tag = "3")]
    revision: i64,
}

impl Compare {
    fn key(&self) -> String {
        String::from_utf8_lossy(&self.key).into_owned()
    }

    /// Whether it held when the store was at `revision`.
    fn held(&self, etcd: &Etcd, revision: i64) -> Result<bool> {
        let key = etcd.key_at(&self.key(), revision)?.unwrap_or_default();
        let (is, wanted) = match self.target {
            1 => (key.create_revision, self.create_revision),
            2 => (key.mod_revision, self.mod_revision),
            other => {
                let why = format!("{} is compared in a way not known: {other}", self.key());
                return Err(LabError::Check(why));
            }
        };
        match self.result {
            0 => Ok(is == wanted),
            1 => Ok(is > wanted),
            other => Err(LabError::Check(format!("a comparison not known: {other}"))),
        }
    }
}

/// Whether the other server leads when the stale write arrives.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Other {
    /// It is stopped: nobody leads, and nothing but the election has changed since.
    Stopped,
    /// It leads, and has done what the stale write was to do.
    Leads,
}

pub(super) fn stale_write(stack: &mut Stack, times: &mut Times) -> Result<()> {
    stack.add_control()?;
    one_stale_write(stack, times, "lingers-1", Other::Stopped)?;
    one_stale_write(stack, times, "lingers-2", Other::Leads)?;
    times.add("in sync after", stack.wait_synced(LIMIT)?);
    check_places(&stack.api()?)
}

fn one_stale_write(stack: &mut Stack, times: &mut Times, volume: &str, other: Other) -> Result<()> {
    stack.note(&format!("a stale write for {volume}"));
    stack.controls[OTHER].service.stop()?;
    until("the server behind the proxy to lead", LIMIT, || {
        stack.controls[STALE].is_leader()
    })?;
    stack.controls[OTHER].launch()?;
    stack.wait_synced(LIMIT)?;
    // What a leader gets itself for its first write is not to be waited for with the next.
    let first = stack
        .api()?
        .create_volume(&format!("{volume}-before"), 1, NODE, MEMORY)?;
    stack.api()?.finish(&first, LIMIT)?;

    proxy(stack)?.pass_requests(Some(Instant::now()));
    let made = stack.api()?.create_volume(volume, 1, NODE, MEMORY)?;
    until("the leader to send its write", LIMIT, || {
        Ok(leaders_write(proxy(stack)?, volume).is_some())
    })?;
    let sent = Instant::now();
    if other == Other::Stopped {
        stack.controls[OTHER].service.signal("STOP")?;
    }
    let (request, _) = wanted(leaders_write(proxy(stack)?, volume))?;
    wait_term_over(stack, &request)?;
    let before = match other {
        Other::Stopped => None,
        Other::Leads => {
            stack.api()?.finish(&made, LIMIT)?;
            check(stack.controls[OTHER].is_leader()?, || {
                "the volume was made and the other server does not lead".into()
            })?;
            Some(place(stack, volume)?)
        }
    };
    proxy(stack)?.pass_requests(Some(sent));
    until("etcd to answer the held write", LIMIT, || {
        let write = leaders_write(proxy(stack)?, volume);
        Ok(write.is_some_and(|(_, answer)| answer.is_some()))
    })?;
    times.add("stale write answered after", sent.elapsed());
    let (_, answer) = wanted(leaders_write(proxy(stack)?, volume))?;
    check_refused(stack, &request, &wanted(answer)?, other)?;

    proxy(stack)?.pass_requests(None);
    if other == Other::Stopped {
        stack.controls[OTHER].service.signal("CONT")?;
    }
    stack.api()?.finish(&made, LIMIT)?;
    let after = place(stack, volume)?;
    check(before.is_none_or(|before| before == after), || {
        format!("{volume} lies elsewhere after the stale write")
    })?;
    check(!stack.controls[STALE].is_leader()?, || {
        "the server whose write was refused says that it leads".into()
    })?;
    check(stack.control_said("no longer leads"), || {
        "the old leader does not say that it leads no more".into()
    })
}

/// Waits until etcd has ended the term that a held write goes by: nothing renews its lease.
fn wait_term_over(stack: &Stack, request: &TxnRequest) -> Result<()> {
    let election = request.compare.iter().find(|c| c.key().ends_with(ELECTION));
    let election = wanted(election)?;
    let term = stack.etcd.key(&election.key())?.unwrap_or_default();
    check(term.create_revision == election.create_revision, || {
        format!("the held write is not of the leader's term: {election:?}, {term:?}")
    })?;
    until("the leader's term to end in etcd", LIMIT, || {
        Ok(stack.etcd.key(&election.key())? != Some(term))
    })
    .map(drop)
}

/// etcd must have refused it, and the election key must be a reason: the only one, where nobody
/// else could do anything.
fn check_refused(
    stack: &Stack,
    request: &TxnRequest,
    answer: &TxnResponse,
    other: Other,
) -> Result<()> {
    check(!answer.succeeded, || {
        "etcd took the write of a leader whose term was over".into()
    })?;
    let revision = answer.header.as_ref().map_or(0, |header| header.revision);
    let mut failed = Vec::new();
    for compare in &request.compare {
        if !compare.held(&stack.etcd, revision)? {
            failed.push(compare.key());
        }
    }
    stack.note(&format!(
        "refused at revision {revision}; of {} conditions these did not hold: {failed:?}",
        request.compare.len()
    ));
    check(failed.iter().any(|key| key.ends_with(ELECTION)), || {
        format!("the write was refused, but not for the election: {failed:?}")
    })?;
    check(other == Other::Leads || failed.len() == 1, || {
        format!("the write was refused not for the election alone: {failed:?}")
    })
}

/// The leader's transaction for a volume, and its answer.
fn leaders_write(proxy: &Proxy, volume: &str) -> Option<(TxnRequest, Option<TxnResponse>)> {
    let ours = format!("/volume/{volume}");
    let about = |request: &TxnRequest| {
        let has = |end: &str| request.compare.iter().any(|c| c.key().ends_with(end));
        has(ELECTION) && has(&ours)
    };
    proxy.exchanges().iter().find_map(|call: &Exchange| {
        let request = TxnRequest::decode(call.requests.first()?.as_slice()).ok()?;
        let answer = call.answers.first();
        about(&request).then_some(())?;
        let answer = answer.and_then(|bytes| TxnResponse::decode(bytes.as_slice()).ok());
        Some((request, answer))
    })
}

fn place(stack: &Stack, volume: &str) -> Result<v1::Layout> {
    let status = stack.api()?.volume(volume)?.status;
    wanted(status.and_then(|status| status.layout))
}

fn proxy(stack: &Stack) -> Result<&Proxy> {
    wanted(stack.store_proxy.as_ref())
}

fn wanted<T>(found: Option<T>) -> Result<T> {
    found.ok_or_else(|| LabError::Check("a part of the stale write is not there".into()))
}
