//! Every change leaves a line, and every refused attempt.

use std::cell::RefCell;
use std::io::Write;
use std::sync::Once;

use serde_json::Value;

use super::*;
use crate::identity::{Caller, Role};

thread_local! {
    /// What this thread, so this test, has logged.
    static LOGGED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What happens in this thread, as JSON lines.
///
/// One subscriber serves the whole program: with one for each test, a test
/// beside it that comes to an event first has `tracing` remember that nobody
/// listens to it.
struct Lines;

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LOGGED.with_borrow_mut(|logged| logged.extend_from_slice(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn listen() -> Lines {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            let subscriber = tracing_subscriber::fmt()
                .json()
                .with_writer(|| Lines)
                .finish();
            tracing::subscriber::set_global_default(subscriber).unwrap();
            // An event may have been met while the subscriber was set.
            tracing::callsite::rebuild_interest_cache();
        });
        Lines
    }

    /// The audit lines since the last call.
    fn take(&self) -> Vec<Value> {
        let bytes = LOGGED.take();
        String::from_utf8(bytes)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .filter(|line| line["target"] == "audit")
            .map(|line| line["fields"].clone())
            .collect()
    }
}

#[tokio::test(start_paused = true)]
async fn changes_and_refusals_are_audited() {
    let lines = Lines::listen();
    let lab = Lab::new();
    let request = CreateVolumeRequest {
        request_id: "r1".to_owned(),
        ..volume_request("v1", MIB)
    };
    let by = |name: &str, role, request: CreateVolumeRequest| {
        let mut call = Request::new(request);
        let name = name.to_owned();
        call.extensions_mut().insert(Caller { name, role });
        lab.services.volumes.create_volume(call)
    };
    ok(by("otto", Role::Operator, request.clone()).await);
    let told = lines.take();
    assert_eq!(told.len(), 1);
    let line = &told[0];
    assert_eq!(
        (&line["who"], &line["role"]),
        (&"otto".into(), &"operator".into())
    );
    assert_eq!(line["method"], "CreateVolume");
    assert_eq!(line["resource"], "volumes/v1");
    assert_eq!(line["request_id"], "r1");
    assert_eq!(
        (&line["outcome"], &line["before"]),
        (&"changed".into(), &"".into())
    );
    let after: Value = serde_json::from_str(line["after"].as_str().unwrap()).unwrap();
    assert_eq!(after["spec"]["size_bytes"], "1048576");

    ok(by("otto", Role::Operator, request).await);
    assert_eq!(lines.take()[0]["outcome"], "repeated");
    ok(by("otto", Role::Operator, volume_request("v1", MIB)).await);
    assert_eq!(lines.take()[0]["outcome"], "unchanged");
    by("otto", Role::Operator, volume_request("v1", 0))
        .await
        .unwrap_err();
    let line = &lines.take()[0];
    assert_eq!(
        (&line["outcome"], &line["reason"]),
        (&"refused".into(), &"INVALID_FIELD".into())
    );
    by("vera", Role::Viewer, volume_request("v2", MIB))
        .await
        .unwrap_err();
    let line = &lines.take()[0];
    assert_eq!(
        (&line["who"], &line["reason"]),
        (&"vera".into(), &"ROLE_TOO_LOW".into())
    );
    ok(lab.delete_volume("v1").await);
    let line = &lines.take()[0];
    assert!(line["before"].as_str().unwrap().contains("volumes/v1"));
    assert_eq!(
        (&line["after"], &line["who"]),
        (&"".into(), &"local".into())
    );
}

#[tokio::test(start_paused = true)]
async fn who_goes_away_in_the_middle_is_told_of() {
    let lines = Lines::listen();
    let lab = Lab::new();
    let long = std::time::Duration::from_secs(1);
    lab.sim.set_latency(long, long);
    let gone = lab.create_volume(volume_request("v3", MIB));
    tokio::time::timeout(long / 2, gone).await.unwrap_err();
    let line = &lines.take()[0];
    assert_eq!(
        (&line["outcome"], &line["resource"]),
        (&"abandoned".into(), &"volumes/v3".into())
    );
}
