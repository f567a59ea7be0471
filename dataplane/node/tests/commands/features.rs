//! Get Features and Set Features (Base 2.1, 5.1.11 and 5.1.25).

use penstock_client::{ClientError, Controller};
use penstock_nvme::Status;
use penstock_nvme::command::{GetFeatures, SetFeatures};
use penstock_nvme::feature::{
    AsyncEventConfig, CAPABILITY_CHANGEABLE, FeatureId, HOST_ID_EXTENDED, NumberOfQueues, Select,
};

use crate::daemon::memory;
use crate::host::{self, Host};
use crate::rig::{Rig, Session, pattern, refusal};

const INVALID: Status = Status::INVALID_FIELD.dnr();

fn get(fid: FeatureId) -> GetFeatures {
    GetFeatures {
        fid: fid.into(),
        ..GetFeatures::default()
    }
}

async fn set(session: &Session, fid: FeatureId, value: u32) -> Result<u32, ClientError> {
    let feature = SetFeatures::new(fid, value);
    session.controller.set_feature(feature, &[]).await
}

async fn value(session: &Session, fid: FeatureId) -> Result<u32, ClientError> {
    session.controller.get_feature(get(fid)).await
}

fn rig() -> Rig {
    Rig::new(&memory(1, 1 << 20))
}

#[test]
fn number_of_queues() {
    let rig = rig();
    let address = rig.address();
    let work = move |pool: penstock_buffer::Pool| async move {
        let controller = Controller::connect(&host::options(address), &pool).await?;
        for (asked, granted) in [(4, 4), (200, 128), (1, 1), (65535, 128), (2, 2)] {
            assert_eq!(
                controller.request_io_queues(asked).await?,
                granted.min(asked)
            );
            let told = controller
                .get_feature(get(FeatureId::NumberOfQueues))
                .await?;
            assert_eq!(
                NumberOfQueues::from_dword(told).submission,
                u32::from(granted)
            );
        }
        let too_many = SetFeatures::new(FeatureId::NumberOfQueues, 0xffff_0001);
        assert_eq!(
            refusal(controller.set_feature(too_many, &[]).await),
            INVALID
        );
        Ok::<_, ClientError>(())
    };
    Host::new().run(work).expect("queues are granted");
    // Not once there are some.
    rig.run(|session| async move {
        let status = refusal(session.controller.request_io_queues(4).await);
        assert_eq!(status, Status::COMMAND_SEQUENCE_ERROR.dnr());
        Ok(())
    });
}

#[test]
fn values_are_kept_and_told_with_default_and_capabilities() {
    rig().run(|session| async move {
        assert_eq!(value(&session, FeatureId::KeepAliveTimer).await?, 30_000);
        let events = AsyncEventConfig::NAMESPACE | AsyncEventConfig::ANA;
        let values = [
            (FeatureId::KeepAliveTimer, 12_345, 12_400),
            (FeatureId::AsyncEvents, events, events),
            (FeatureId::Arbitration, 0x0102_0303, 0x0102_0303),
            (FeatureId::VolatileWriteCache, 0, 0),
            (FeatureId::WriteAtomicity, 1, 1),
            (FeatureId::TemperatureThreshold, 350, 350),
            (FeatureId::PowerManagement, 0, 0),
        ];
        for (fid, given, kept) in values {
            set(&session, fid, given).await?;
            assert_eq!(value(&session, fid).await?, kept, "{fid:?}");
            let capabilities = GetFeatures {
                select: Select::Capabilities.into(),
                ..get(fid)
            };
            let told = session.controller.get_feature(capabilities).await?;
            assert_eq!(told, CAPABILITY_CHANGEABLE, "{fid:?}");
        }
        let default = GetFeatures {
            select: Select::Default.into(),
            ..get(FeatureId::VolatileWriteCache)
        };
        assert_eq!(session.controller.get_feature(default).await?, 1);
        // Without the cache every write is durable, and works.
        let disk = session.disk(1, 4096);
        disk.write(0, &pattern(1, 8192), false).await?;
        assert!(disk.read(0, 2).await? == pattern(1, 8192));
        set(&session, FeatureId::VolatileWriteCache, 1).await?;
        assert_eq!(value(&session, FeatureId::VolatileWriteCache).await?, 1);
        Ok(())
    });
}

#[test]
fn features_with_data() {
    rig().run(|session| async move {
        let controller = &session.controller;
        let identifier = GetFeatures {
            cdw11: HOST_ID_EXTENDED,
            ..get(FeatureId::HostIdentifier)
        };
        let told = controller.get_feature_data(identifier, 16).await?;
        assert_eq!(told, b"penstock-test-16");
        let short = get(FeatureId::HostIdentifier);
        assert_eq!(
            refusal(controller.get_feature_data(short, 8).await),
            INVALID
        );
        let other = SetFeatures::new(FeatureId::HostIdentifier, HOST_ID_EXTENDED);
        let status = refusal(controller.set_feature(other, &[7; 16]).await);
        assert_eq!(status, Status::COMMAND_SEQUENCE_ERROR.dnr());

        let behaviour = SetFeatures::new(FeatureId::HostBehavior, 0);
        let mut data = [0; 512];
        let known = controller.get_feature_data(get(FeatureId::HostBehavior), 512);
        assert_eq!(known.await?, data);
        data[0] = 1;
        controller.set_feature(behaviour, &data).await?;
        let known = controller.get_feature_data(get(FeatureId::HostBehavior), 512);
        assert_eq!(known.await?, data);
        // Neither a reserved value nor a format that is not there.
        for (byte, bad) in [(0, 2), (2, 1)] {
            let mut data = data;
            data[byte] = bad;
            let status = refusal(controller.set_feature(behaviour, &data).await);
            assert_eq!(status, INVALID, "byte {byte}");
        }
        let status = refusal(controller.set_feature(behaviour, &data[..256]).await);
        assert_eq!(status, Status::DATA_SGL_LENGTH_INVALID.dnr());
        Ok(())
    });
}

#[test]
fn of_a_namespace_and_not() {
    rig().run(|session| async move {
        let of = |nsid| SetFeatures {
            nsid,
            ..SetFeatures::new(FeatureId::ErrorRecovery, 7)
        };
        session.controller.set_feature(of(1), &[]).await?;
        let asked = GetFeatures {
            nsid: 1,
            ..get(FeatureId::ErrorRecovery)
        };
        assert_eq!(session.controller.get_feature(asked).await?, 7);
        let status = refusal(session.controller.set_feature(of(9), &[]).await);
        assert_eq!(status, Status::INVALID_NAMESPACE.dnr());
        let one = SetFeatures {
            nsid: 1,
            ..SetFeatures::new(FeatureId::Arbitration, 0)
        };
        let status = refusal(session.controller.set_feature(one, &[]).await);
        assert_eq!(status, Status::FEATURE_NOT_NAMESPACE_SPECIFIC.dnr());
        let save = SetFeatures {
            save: true,
            ..SetFeatures::new(FeatureId::Arbitration, 0)
        };
        let status = refusal(session.controller.set_feature(save, &[]).await);
        assert_eq!(status, Status::FEATURE_NOT_SAVEABLE.dnr());
        Ok(())
    });
}

#[test]
fn what_is_not_there_is_an_invalid_field() {
    rig().run(|session| async move {
        let absent = [
            FeatureId::LbaRangeType,
            FeatureId::InterruptCoalescing,
            FeatureId::HostMemoryBuffer,
            FeatureId::WriteProtection,
        ];
        for fid in absent {
            assert_eq!(refusal(value(&session, fid).await), INVALID, "{fid:?}");
            assert_eq!(refusal(set(&session, fid, 0).await), INVALID, "{fid:?}");
        }
        // Values that no controller here has: a power state, a sensor, an event.
        let bad = [
            (FeatureId::PowerManagement, 1),
            (FeatureId::TemperatureThreshold, 1 << 16),
            (FeatureId::AsyncEvents, AsyncEventConfig::TELEMETRY),
            (FeatureId::AsyncEvents, AsyncEventConfig::DISCOVERY),
        ];
        for (fid, dword) in bad {
            assert_eq!(refusal(set(&session, fid, dword).await), INVALID, "{fid:?}");
        }
        Ok(())
    });
}
