//! Log pages of an I/O controller (Base 2.1, 5.1.12).

use std::time::Duration;

use penstock_client::{ClientError, LogPart};
use penstock_nvme::command::{GetLogPage, SetFeatures};
use penstock_nvme::event::AsyncEvent;
use penstock_nvme::feature::{AsyncEventConfig, FeatureId};
use penstock_nvme::log::{
    ANA_GROUPS_ONLY, AnaState, ChangedNamespaceList, EFFECT_CONTENT, EFFECT_SUPPORTED, EffectsLog,
    ErrorEntry, FirmwareSlotLog, HealthLog, LogPage, SupportedLogPages, ana_groups,
};
use penstock_nvme::sqe::NSID_BROADCAST;
use penstock_nvme::{AdminOpcode, FromBytes, IoOpcode, Status};

use crate::daemon::memory;
use crate::rig::{Rig, Session, pattern, refusal, within};

/// How long an event that must not come is waited for.
const QUIET: Duration = Duration::from_millis(200);
const SOON: Duration = Duration::from_secs(10);

/// Entries of the error log.
const ENTRIES: usize = 128;

fn rig() -> Rig {
    Rig::new(&(memory(1, 4 << 20) + &memory(3, 1 << 20)))
}

async fn page(session: &Session, page: LogPage, len: u64) -> Result<Vec<u8>, ClientError> {
    session.controller.log_page(LogPart::start(page, len)).await
}

async fn health(session: &Session) -> Result<HealthLog, ClientError> {
    let bytes = page(session, LogPage::Health, 512).await?;
    Ok(HealthLog::read_from_bytes(&bytes).expect("a structure"))
}

#[test]
fn the_last_128_errors_are_told_the_latest_first() {
    rig().run(|session| async move {
        let before = health(&session).await?.error_entries.get();
        for lba in 0..130 {
            let read = session.disk(3, 4096).read(1000 + lba, 1).await;
            assert_eq!(refusal(read), Status::LBA_OUT_OF_RANGE.dnr());
        }
        let bytes = page(&session, LogPage::Error, 64 * ENTRIES as u64).await?;
        let entries: Vec<_> = bytes
            .chunks_exact(64)
            .map(|bytes| ErrorEntry::read_from_bytes(bytes).expect("an entry"))
            .collect();
        let count = health(&session).await?.error_entries.get();
        assert_eq!(count, before + 130);
        for (entry, age) in entries.iter().zip(0_u64..) {
            assert_eq!(u128::from(entry.error_count.get() + age), count);
            assert_eq!(entry.lba.get(), 1129 - age);
            assert_eq!((entry.nsid.get(), entry.sqid.get()), (3, 1));
            assert_eq!(entry.opcode, u8::from(IoOpcode::Read));
            let status = entry.status.get();
            assert_eq!(status, Status::LBA_OUT_OF_RANGE.dnr().wire());
        }
        assert_eq!(entries.len(), ENTRIES);
        // A piece from the middle, a whole page further than it is long, and beyond it.
        let mut part = LogPart::start(LogPage::Error, 128);
        part.offset = 640;
        assert!(session.controller.log_page(part).await? == bytes[640..768]);
        part.offset = 64 * ENTRIES as u64 - 64;
        let last = session.controller.log_page(part).await?;
        assert!(last[..64] == bytes[8128..] && last[64..] == [0; 64]);
        part.offset = 64 * ENTRIES as u64 + 4;
        let beyond = refusal(session.controller.log_page(part).await);
        assert_eq!(beyond, Status::INVALID_FIELD.dnr());
        Ok(())
    });
}

#[test]
fn smart_counts_what_hosts_do() {
    rig().run(|session| async move {
        let before = health(&session).await?;
        assert_eq!(before.host_writes.get(), 0);
        let disk = session.disk(1, 4096);
        // 250 blocks are two thousand times 512 bytes: two data units.
        for lba in (0..250).step_by(25) {
            disk.write(lba, &pattern(lba, 25 * 4096), false).await?;
        }
        for lba in (0..125).step_by(25) {
            disk.read(lba, 25).await?;
        }
        let after = health(&session).await?;
        assert_eq!(after.host_writes.get(), 10);
        assert_eq!(after.host_reads.get(), 5);
        assert_eq!(after.data_units_written.get(), 2);
        assert_eq!(after.data_units_read.get(), 1);
        assert_eq!(after.critical_warning, 0);
        assert_eq!(after.available_spare, 100);
        // LPA bit 0 is clear: there is none of a single namespace.
        let mut part = LogPart::start(LogPage::Health, 512);
        part.nsid = Some(crate::host::nsid(1));
        let status = refusal(session.controller.log_page(part).await);
        assert_eq!(status, Status::INVALID_FIELD.dnr());
        Ok(())
    });
}

#[test]
fn commands_supported_and_effects_are_true() {
    rig().run(|session| async move {
        let bytes = page(&session, LogPage::CommandEffects, 4096).await?;
        let log = EffectsLog::read_from_bytes(&bytes).expect("a structure");
        let io = |opcode: IoOpcode| log.io[usize::from(u8::from(opcode))].get();
        for opcode in [
            IoOpcode::Read,
            IoOpcode::Flush,
            IoOpcode::Compare,
            IoOpcode::Verify,
        ] {
            assert_eq!(io(opcode), EFFECT_SUPPORTED, "{opcode:?}");
        }
        for opcode in [
            IoOpcode::Write,
            IoOpcode::WriteZeroes,
            IoOpcode::DatasetManagement,
        ] {
            assert_eq!(io(opcode), EFFECT_SUPPORTED | EFFECT_CONTENT, "{opcode:?}");
        }
        for (opcode, effects) in log.io.iter().enumerate().filter(|(op, _)| op % 4 == 0) {
            // What the log does not name, the controller does not do.
            let mut sqe = penstock_nvme::Sqe::new(u8::try_from(opcode).expect("a byte"));
            sqe.nsid = penstock_nvme::Le32::new(1);
            let done = session.queue.raw(sqe, None).await;
            let unknown = match done {
                Ok(_) => false,
                error => refusal(error).code() == Status::INVALID_OPCODE,
            };
            assert_eq!(
                effects.get() & EFFECT_SUPPORTED == 0,
                unknown,
                "{opcode:#x}"
            );
        }
        let admin = |opcode: AdminOpcode| log.admin[usize::from(u8::from(opcode))].get() & 1;
        for opcode in [
            AdminOpcode::Identify,
            AdminOpcode::Abort,
            AdminOpcode::KeepAlive,
        ] {
            assert_eq!(admin(opcode), 1, "{opcode:?}");
        }
        assert_eq!(admin(AdminOpcode::FormatNvm), 0);
        Ok(())
    });
}

#[test]
fn one_ana_group_and_one_firmware_slot() {
    rig().run(|session| async move {
        let bytes = page(&session, LogPage::Ana, 512).await?;
        let groups: Vec<_> = ana_groups(&bytes).collect();
        assert_eq!(groups.len(), 1);
        assert_eq!(groups[0].state(), Some(AnaState::Optimized));
        assert_eq!(groups[0].nsids().collect::<Vec<_>>(), [1, 3]);
        let mut part = LogPart::start(LogPage::Ana, 512);
        part.specific = ANA_GROUPS_ONLY;
        let bytes = session.controller.log_page(part).await?;
        let groups: Vec<_> = ana_groups(&bytes).collect();
        assert!(groups.len() == 1 && groups[0].nsids().count() == 0);

        let bytes = page(&session, LogPage::FirmwareSlot, 512).await?;
        let log = FirmwareSlotLog::read_from_bytes(&bytes).expect("a structure");
        let identity = session.controller.identify_controller().await?;
        assert_eq!((log.afi, log.frs[0]), (1, identity.fr));
        assert_eq!(log.frs[1..], [[0; 8]; 6]);
        Ok(())
    });
}

#[test]
fn pages_are_there_exactly_where_the_list_says_so() {
    rig().run(|session| async move {
        let bytes = page(&session, LogPage::Supported, 1024).await?;
        let list = SupportedLogPages::read_from_bytes(&bytes).expect("a structure");
        for (lid, entry) in (0..=u8::MAX).zip(&list.pages) {
            let command = GetLogPage::new(lid, NSID_BROADCAST, 0, 64);
            let sqe = command.encode().expect("a command");
            let lease = session.pool.lease(64).await;
            let read = session.controller.raw(sqe, Some(lease)).await;
            if entry.get() & 1 == 1 {
                read?;
            } else {
                let status = refusal(read);
                assert_eq!(status, Status::INVALID_LOG_PAGE.dnr(), "{lid:#04x}");
            }
        }
        let mut odd = LogPart::start(LogPage::Health, 64);
        odd.offset = 2;
        let status = refusal(session.controller.log_page(odd).await);
        assert_eq!(status, Status::INVALID_FIELD.dnr());
        Ok(())
    });
}

/// The namespaces of the changed namespaces log.
async fn changed(session: &Session, retain: bool) -> Result<Vec<u32>, ClientError> {
    let mut part = LogPart::start(LogPage::ChangedNamespaces, 4096);
    part.retain_event = retain;
    let bytes = session.controller.log_page(part).await?;
    let list = ChangedNamespaceList::read_from_bytes(&bytes).expect("a list");
    let nsids = list.nsid.iter().map(|nsid| nsid.get());
    Ok(nsids.take_while(|nsid| *nsid != 0).collect())
}

#[test]
fn changed_namespaces_are_announced_once_until_they_are_read() {
    rig().run_with(|session, rig| async move {
        let notices = SetFeatures::new(FeatureId::AsyncEvents, AsyncEventConfig::NAMESPACE);
        session.controller.set_feature(notices, &[]).await?;
        assert!(changed(&session, false).await?.is_empty());
        let mut next = Box::pin(session.controller.next_event());
        assert!(within(&mut next, QUIET).await.is_none(), "nothing yet");

        let with_two = rig.config.clone() + &memory(2, 1 << 20);
        rig.daemon.reload(&with_two);
        let event = within(&mut next, SOON).await.expect("an event")?;
        assert_eq!(event, AsyncEvent::NAMESPACE_CHANGED);
        assert_eq!(changed(&session, true).await?, [2]);
        assert_eq!(changed(&session, true).await?, [2], "retained");

        let mut next = Box::pin(session.controller.next_event());
        let larger = with_two.replace("size_bytes = 4194304", "size_bytes = 8388608");
        rig.daemon.reload(&larger);
        assert!(within(&mut next, QUIET).await.is_none(), "not read yet");
        assert_eq!(changed(&session, false).await?, [1, 2]);
        assert!(changed(&session, false).await?.is_empty());
        assert!(within(&mut next, QUIET).await.is_none(), "read by now");

        let without_three = larger.replace(&memory(3, 1 << 20), "");
        rig.daemon.reload(&without_three);
        let event = within(&mut next, SOON).await.expect("an event")?;
        assert_eq!(event, AsyncEvent::NAMESPACE_CHANGED);
        assert_eq!(changed(&session, false).await?, [3]);
        let blocks = session
            .controller
            .identify_namespace(crate::host::nsid(1))
            .await?
            .blocks;
        assert_eq!(blocks, 2048);
        session
            .disk(1, 4096)
            .write(2047, &pattern(1, 4096), false)
            .await
    });
}
