//! Identify (Base 2.1, 5.1.13; NVM 1.1, 4.1.5): CNS 00h to 03h, 05h to 08h, the lists that hosts
//! ask for, and the status for the rest.

use penstock_client::ClientError;
use penstock_nvme::command::Identify;
use penstock_nvme::identify::{
    CSI_NVM, CSI_ZONED, Cns, ControllerList, IdentifyController, IdentifyIndependentNamespace,
    IdentifyNamespace, NSTAT_READY, NamespaceDescriptor, NamespaceList,
    decode_namespace_descriptors,
};
use penstock_nvme::{FromBytes, Status};

use crate::daemon::memory;
use crate::rig::{Rig, Session, block_size, refusal};

/// Namespaces 1 and 3, of 512 and 4096 bytes.
fn rig() -> Rig {
    Rig::new(&(memory(1, 1 << 20) + &block_size(512) + &memory(3, 2 << 20)))
}

async fn asked(session: &Session, asked: Identify) -> Result<Vec<u8>, ClientError> {
    let lease = session.pool.lease(4096).await;
    let (_, lease) = session.controller.raw(asked.encode(), Some(lease)).await?;
    Ok(lease.map_or(Vec::new(), |lease| lease.bytes().to_vec()))
}

fn list(bytes: &[u8]) -> Vec<u32> {
    let list = NamespaceList::ref_from_bytes(bytes).expect("a list");
    list.iter().collect()
}

#[test]
fn namespaces() {
    rig().run(|session| async move {
        let identify = |cns, nsid| session.controller.identify(cns, nsid);
        for cns in [Cns::Namespace, Cns::AllocatedNamespace] {
            for (nsid, blocks, shift) in [(1, 2048, 9), (3, 512, 12)] {
                let bytes = identify(cns, nsid).await?;
                let data = IdentifyNamespace::ref_from_bytes(&bytes).expect("a structure");
                assert_eq!(data.nsze.get(), blocks, "{nsid}");
                assert_eq!((data.ncap, data.nuse), (data.nsze, data.nsze));
                assert_eq!(data.lbaf[0].lbads, shift);
                assert_eq!(data.anagrpid.get(), 1);
            }
        }
        let of_one = [
            Cns::Namespace,
            Cns::AllocatedNamespace,
            Cns::CommandSetNamespace,
            Cns::IndependentNamespace,
        ];
        for cns in of_one {
            assert!(identify(cns, 2).await? == [0; 4096], "{cns:?}: not active");
            for nsid in [0, 257, u32::MAX] {
                let status = refusal(identify(cns, nsid).await);
                assert_eq!(status, Status::INVALID_NAMESPACE.dnr(), "{cns:?} {nsid}");
            }
        }
        let bytes = identify(Cns::IndependentNamespace, 3).await?;
        let data = IdentifyIndependentNamespace::ref_from_bytes(&bytes).expect("a structure");
        assert_eq!(data.nstat, NSTAT_READY);
        identify(Cns::CommandSetNamespace, 3).await.map(drop)
    });
}

#[test]
fn descriptors() {
    rig().run(|session| async move {
        let identify = |nsid| session.controller.identify(Cns::NamespaceDescriptors, nsid);
        let mut seen = Vec::new();
        for nsid in [1, 3] {
            let bytes = identify(nsid).await?;
            let all: Vec<_> = decode_namespace_descriptors(&bytes).collect();
            assert!(all.contains(&NamespaceDescriptor::Csi(CSI_NVM)), "{all:?}");
            let uuid = all.iter().find_map(|descriptor| match descriptor {
                NamespaceDescriptor::Uuid(uuid) => Some(*uuid),
                _ => None,
            });
            seen.push(uuid.expect("a UUID"));
        }
        assert_ne!(seen[0], seen[1]);
        for nsid in [0, 2, u32::MAX] {
            let status = refusal(identify(nsid).await);
            assert_eq!(status, Status::INVALID_NAMESPACE.dnr(), "{nsid}");
        }
        Ok(())
    });
}

#[test]
fn lists() {
    rig().run(|session| async move {
        let identify = |cns, nsid| session.controller.identify(cns, nsid);
        let of_namespaces = [
            Cns::ActiveNamespaces,
            Cns::CommandSetActiveNamespaces,
            Cns::AllocatedNamespaces,
            Cns::CommandSetAllocatedNamespaces,
        ];
        for cns in of_namespaces {
            assert_eq!(list(&identify(cns, 0).await?), [1, 3], "{cns:?}");
            assert_eq!(list(&identify(cns, 1).await?), [3], "{cns:?}");
            assert!(list(&identify(cns, 3).await?).is_empty(), "{cns:?}");
            for nsid in [u32::MAX - 1, u32::MAX] {
                let status = refusal(identify(cns, nsid).await);
                assert_eq!(status, Status::INVALID_NAMESPACE.dnr(), "{cns:?}");
            }
        }
        let id = session.controller.info().controller_id.0;
        for (cns, nsid) in [
            (Cns::NamespaceControllers, 1),
            (Cns::SubsystemControllers, 0),
        ] {
            let bytes = identify(cns, nsid).await?;
            let list = ControllerList::ref_from_bytes(&bytes).expect("a list");
            assert_eq!(list.iter().collect::<Vec<_>>(), [id], "{cns:?}");
            let after = Identify {
                cntid: id + 1,
                ..Identify::new(cns, nsid)
            };
            let bytes = asked(&session, after).await?;
            let list = ControllerList::ref_from_bytes(&bytes).expect("a list");
            assert_eq!(list.iter().count(), 0, "{cns:?}");
        }
        let of_this = Identify {
            cntid: 0xffff,
            ..Identify::new(Cns::CommandSetCombinations, 0)
        };
        let bytes = asked(&session, of_this).await?;
        assert_eq!(
            bytes[..16],
            [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        );
        Ok(())
    });
}

#[test]
fn the_controller() {
    rig().run(|session| async move {
        let bytes = session.controller.identify(Cns::Controller, 0).await?;
        let data = IdentifyController::ref_from_bytes(&bytes).expect("a structure");
        assert_eq!(data.transfer_bytes_max(0), Some(1 << 20));
        assert_eq!(data.in_capsule_data_bytes(), 8192);
        assert_eq!(data.nn.get(), 256);
        assert_eq!(data.tnvmcap.get(), 3 << 20);
        assert_eq!(data.cntlid.get(), session.controller.info().controller_id.0);
        assert_eq!(data.ver.get(), session.controller.info().version);
        assert_eq!((data.elpe, data.sqes, data.cqes), (127, 0x66, 0x44));
        session
            .controller
            .identify(Cns::CommandSetController, 0)
            .await
            .map(drop)
    });
}

#[test]
fn what_is_not_there_is_an_invalid_field() {
    const INVALID: Status = Status::INVALID_FIELD.dnr();
    rig().run(|session| async move {
        let absent = [
            0x04, 0x09, 0x0a, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x1d, 0x1e, 0x20,
        ];
        for cns in absent.into_iter().chain([0x0b, 0x7f, 0xff]) {
            let status = refusal(asked(&session, Identify::new(cns, 1)).await);
            assert_eq!(status, INVALID, "{cns:#04x}");
        }
        let of_a_set = [
            Cns::CommandSetNamespace,
            Cns::CommandSetController,
            Cns::CommandSetActiveNamespaces,
            Cns::CommandSetAllocatedNamespaces,
        ];
        for cns in of_a_set {
            let zoned = Identify {
                csi: CSI_ZONED,
                ..Identify::new(cns, 1)
            };
            assert_eq!(refusal(asked(&session, zoned).await), INVALID, "{cns:?}");
        }
        // Too little room for the answer.
        let lease = session.pool.lease(2048).await;
        let sqe = Identify::new(Cns::Controller, 0).encode();
        let status = refusal(session.controller.raw(sqe, Some(lease)).await);
        assert_eq!(status, Status::DATA_SGL_LENGTH_INVALID.dnr());
        session
            .controller
            .identify(Cns::Controller, 0)
            .await
            .map(drop)
    });
}
