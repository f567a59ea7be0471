//! Keep alive, counted by traffic (Base 2.1, 3.9.2 and 3.9.4).

use std::time::{Duration, Instant};

use penstock_client::ClientError;
use penstock_nvme::command::{GetFeatures, SetFeatures};
use penstock_nvme::feature::FeatureId;
use penstock_reactor::sleep;

use crate::daemon::memory;
use crate::host::{self, Host};
use crate::rig::{Rig, Session, pattern};

const TIMEOUT: Duration = Duration::from_millis(500);

/// Our initiator sends Keep Alive by itself unless it asked for no time-out: the time-out is set
/// behind its back.
async fn session_that_sends_none(
    address: std::net::SocketAddr,
    pool: penstock_buffer::Pool,
) -> Result<Session, ClientError> {
    let mut options = host::options(address);
    options.keep_alive_timeout_ms = 0;
    let (controller, queue) = host::connect(&options, &pool, 8).await?;
    let feature = SetFeatures::new(FeatureId::KeepAliveTimer, 500);
    controller.set_feature(feature, &[]).await?;
    Ok(Session {
        controller,
        queue,
        pool,
    })
}

#[test]
fn a_busy_host_stays_and_a_silent_one_goes() {
    let rig = Rig::new(&memory(1, 1 << 20));
    let address = rig.address();
    let silent_for = Host::new().run(move |pool| async move {
        let session = session_that_sends_none(address, pool).await?;
        let disk = session.disk(1, 4096);
        let begun = Instant::now();
        while begun.elapsed() < TIMEOUT * 4 {
            disk.write(0, &pattern(1, 4096), false).await?;
            sleep(Duration::from_millis(50)).await;
        }
        assert!(session.controller.closed().is_none());
        let silent = Instant::now();
        while session.controller.closed().is_none() || session.queue.closed().is_none() {
            assert!(silent.elapsed() < TIMEOUT * 20, "still connected");
            sleep(Duration::from_millis(10)).await;
        }
        Ok::<_, ClientError>(silent.elapsed())
    });
    let silent_for = silent_for.expect("I/O while busy");
    // The last write was a pause before; another pause for clocks that are not the same.
    let least = TIMEOUT - Duration::from_millis(100);
    assert!(silent_for > least, "gone after {silent_for:?}");
    assert!(silent_for < TIMEOUT * 6, "gone after {silent_for:?}");
    let line = rig.daemon.wait_for_log("keep alive timeout");
    assert!(line.contains("nqn.2014-08.org.nvmexpress:uuid:"), "{line}");
}

#[test]
fn an_idle_host_that_sends_keep_alive_stays() {
    let rig = Rig::new(&memory(1, 1 << 20));
    let address = rig.address();
    let work = move |pool: penstock_buffer::Pool| async move {
        let mut options = host::options(address);
        options.keep_alive_timeout_ms = 500;
        let (controller, queue) = host::connect(&options, &pool, 8).await?;
        let session = Session {
            controller,
            queue,
            pool,
        };
        sleep(TIMEOUT * 4).await;
        assert!(session.controller.closed().is_none());
        let get = GetFeatures {
            fid: FeatureId::KeepAliveTimer.into(),
            ..GetFeatures::default()
        };
        assert_eq!(session.controller.get_feature(get).await?, 500);
        session.disk(1, 4096).read(0, 1).await.map(drop)
    };
    Host::new().run(work).expect("it is still connected");
}
