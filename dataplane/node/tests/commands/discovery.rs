//! The discovery log: in pieces, with a generation that moves, and its event (Base 2.1,
//! 5.1.12.3.1).

use std::time::Duration;

use penstock_client::{ClientError, Controller, LogPart};
use penstock_nvme::command::SetFeatures;
use penstock_nvme::event::AsyncEvent;
use penstock_nvme::feature::{AsyncEventConfig, FeatureId};
use penstock_nvme::log::{DiscoveryHeader, LogPage};
use penstock_nvme::nqn::DISCOVERY_NQN;
use penstock_nvme::{FromBytes, Status};

use crate::daemon::{NQN, head, listener, memory, subsystem};
use crate::host::{self, Host};
use crate::rig::{Rig, refusal, within};

const OTHER: &str = "nqn.2026-01.io.penstock:other";

fn rig() -> Rig {
    Rig::with(|_| {
        head()
            + &listener("127.0.0.1:0")
            + &listener("127.0.0.1:0")
            + &subsystem(NQN)
            + &memory(1, 1 << 20)
    })
}

async fn part(controller: &Controller, offset: u64, len: u64) -> Result<Vec<u8>, ClientError> {
    let mut part = LogPart::start(LogPage::Discovery, len);
    part.offset = offset;
    controller.log_page(part).await
}

#[test]
fn the_log_read_in_pieces_is_the_log() {
    let rig = rig();
    let options = host::options_for(rig.address(), DISCOVERY_NQN);
    let work = move |pool: penstock_buffer::Pool| async move {
        let controller = Controller::connect(&options, &pool).await?;
        // Itself and the one subsystem, on two listeners.
        let log = controller.discovery_log().await?;
        assert_eq!(log.records.len(), 4);
        let offered = log.records.iter().filter(|one| one.subsystem_nqn == NQN);
        let mut ports: Vec<_> = offered.map(|one| one.service.clone()).collect();
        assert!(
            ports.contains(&options.address.port().to_string()),
            "{ports:?}"
        );
        ports.sort();
        ports.dedup();
        assert_eq!(ports.len(), 2, "{ports:?}");
        let len = 1024 * 5;
        let whole = part(&controller, 0, len).await?;
        for size in [4, 100, 512, 1020, 1024, 4096] {
            let mut pieces = Vec::new();
            while (pieces.len() as u64) < len {
                let done = pieces.len() as u64;
                let piece = part(&controller, done, size.min(len - done)).await?;
                pieces.extend_from_slice(&piece);
            }
            assert!(pieces == whole, "pieces of {size} bytes");
        }
        let beyond = refusal(part(&controller, len + 4, 4).await);
        assert_eq!(beyond, Status::INVALID_FIELD.dnr());
        Ok::<_, ClientError>(())
    };
    Host::new().run(work).expect("the log is read");
}

#[test]
fn a_change_moves_the_generation_and_is_announced() {
    let rig = rig();
    let options = host::options_for(rig.address(), DISCOVERY_NQN);
    let work = move |pool: penstock_buffer::Pool| async move {
        let controller = Controller::connect(&options, &pool).await?;
        let notices = SetFeatures::new(FeatureId::AsyncEvents, AsyncEventConfig::DISCOVERY);
        controller.set_feature(notices, &[]).await?;
        let header = async || {
            let bytes = part(&controller, 0, 1024).await?;
            let header = DiscoveryHeader::read_from_bytes(&bytes).expect("a header");
            Ok::<_, ClientError>((header.genctr.get(), header.numrec.get()))
        };
        let (first, records) = header().await?;
        assert_eq!(header().await?, (first, records), "it stands still");
        assert_eq!(records, 4);
        let mut next = Box::pin(controller.next_event());
        assert!(
            within(&mut next, Duration::from_millis(100))
                .await
                .is_none()
        );

        let more = rig.config.clone() + &subsystem(OTHER) + &memory(1, 1 << 20);
        rig.daemon.reload(&more);
        let event = within(&mut next, Duration::from_secs(10)).await;
        assert_eq!(event.expect("an event")?, AsyncEvent::DISCOVERY_CHANGED);
        let (second, records) = header().await?;
        assert!(second > first, "{first} {second}");
        assert_eq!(records, 6);
        let log = controller.discovery_log().await?;
        assert!(log.records.iter().any(|one| one.subsystem_nqn == OTHER));

        // Read without retaining: the next change is announced again.
        let mut next = Box::pin(controller.next_event());
        rig.daemon.reload(&rig.config);
        let event = within(&mut next, Duration::from_secs(10)).await;
        assert_eq!(event.expect("an event")?, AsyncEvent::DISCOVERY_CHANGED);
        let (third, records) = header().await?;
        assert!(third > second && records == 4, "{second} {third} {records}");
        Ok::<_, ClientError>(())
    };
    Host::new().run(work).expect("the change is told");
}
