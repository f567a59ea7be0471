//! Get Features and Set Features (Base 2.1, 5.1.11 and 5.1.25).

use std::collections::BTreeMap;

use penstock_nvme::command::{GetFeatures, SetFeatures};
use penstock_nvme::feature::{
    AsyncEventConfig, CAPABILITY_CHANGEABLE, CAPABILITY_NAMESPACE, ErrorRecovery, FeatureId,
    HOST_ID_EXTENDED, HostBehavior, NumberOfQueues, PowerManagement, Select, TemperatureThreshold,
    VWC_ENABLE, WRITE_ATOMICITY_DISABLE,
};
use penstock_nvme::sqe::NSID_BROADCAST;
use penstock_nvme::{FromBytes, IntoBytes, Status};
use penstock_seam::{Link, Reply};
use penstock_units::Nsid;

use super::{Admin, KEEP_ALIVE_GRANULARITY, success};
use crate::event::EventKind;
use crate::status::{Fail, at};
use crate::subsystem::SubsystemKind;
use crate::target::TargetConfig;

/// Over temperature thresholds start at the highest value: no temperature is known to exceed it.
const OVER_DEFAULT: u16 = 0xffff;

/// The features of one controller that are plain values.
#[derive(Debug, Default)]
pub struct Features {
    arbitration: u32,
    /// Thresholds of the composite temperature: over, under.
    temperature: [Option<u16>; 2],
    error_recovery: BTreeMap<Nsid, u32>,
    write_cache_disabled: bool,
    io_queues: Option<u16>,
    write_atomicity: u32,
    host_behavior: Option<Box<[u8; size_of::<HostBehavior>()]>>,
}

impl Features {
    /// Whether the host disabled the volatile write cache.
    pub fn write_through(&self) -> bool {
        self.write_cache_disabled
    }

    /// I/O queues the host may make.
    pub fn io_queues(&self, config: &TargetConfig) -> u16 {
        self.io_queues.unwrap_or(config.io_queues_max)
    }

    /// The value of a feature that is one dword kept here.
    fn value(&self, fid: FeatureId, nsid: u32, cdw11: u32, config: &TargetConfig) -> u32 {
        match fid {
            FeatureId::Arbitration => self.arbitration,
            FeatureId::TemperatureThreshold => {
                let asked = TemperatureThreshold::from_dword(cdw11);
                let default = [OVER_DEFAULT, 0];
                let index = usize::from(asked.under & 1);
                u32::from(self.temperature[index].unwrap_or(default[index]))
            }
            FeatureId::ErrorRecovery => {
                let nsid = Nsid::new(nsid);
                nsid.and_then(|nsid| self.error_recovery.get(&nsid))
                    .copied()
                    .unwrap_or(0)
            }
            FeatureId::VolatileWriteCache if self.write_cache_disabled => 0,
            FeatureId::VolatileWriteCache => VWC_ENABLE,
            FeatureId::NumberOfQueues => {
                let count = u32::from(self.io_queues(config));
                NumberOfQueues {
                    submission: count,
                    completion: count,
                }
                .dword()
            }
            FeatureId::WriteAtomicity => self.write_atomicity,
            _ => 0,
        }
    }
}

/// The features a controller of this kind has, for every command that lists or checks them.
pub(crate) fn supported(kind: SubsystemKind, fid: FeatureId) -> bool {
    match fid {
        FeatureId::KeepAliveTimer | FeatureId::AsyncEvents => true,
        FeatureId::Arbitration
        | FeatureId::PowerManagement
        | FeatureId::TemperatureThreshold
        | FeatureId::ErrorRecovery
        | FeatureId::VolatileWriteCache
        | FeatureId::NumberOfQueues
        | FeatureId::WriteAtomicity
        | FeatureId::HostBehavior
        | FeatureId::HostIdentifier => kind == SubsystemKind::Nvm,
        _ => false,
    }
}

/// Supported capabilities of a feature (Base 2.1, 5.1.11, SEL 011b). None is saveable.
pub(crate) fn capabilities(fid: FeatureId) -> u32 {
    match fid {
        FeatureId::ErrorRecovery => CAPABILITY_CHANGEABLE | CAPABILITY_NAMESPACE,
        FeatureId::HostIdentifier => 0,
        _ => CAPABILITY_CHANGEABLE,
    }
}

/// Bits of Asynchronous Event Configuration that mean something here: SMART's warnings and the
/// notices of OAES.
pub(crate) fn event_bits(kind: SubsystemKind) -> u32 {
    let notices = match kind {
        SubsystemKind::Discovery => EventKind::DiscoveryChanged.config_bits(),
        SubsystemKind::Nvm => {
            EventKind::NamespaceChanged.config_bits()
                | EventKind::AnaChanged.config_bits()
                | AsyncEventConfig::HEALTH
        }
    };
    notices | EventKind::Shutdown.config_bits()
}

impl Admin<'_> {
    fn kind(&self) -> SubsystemKind {
        self.controller.subsystem().kind()
    }

    fn feature(&self, fid: u8) -> Result<FeatureId, Fail> {
        FeatureId::try_from(fid)
            .ok()
            .filter(|fid| supported(self.kind(), *fid))
            .ok_or(Fail::invalid_field(at::CDW10))
    }

    pub(super) async fn get_features(&self) -> Result<Reply, Fail> {
        let asked = GetFeatures::decode(self.sqe);
        let fid = self.feature(asked.fid)?;
        let select = Select::try_from(asked.select)
            .map_err(|_| Fail::invalid_field(at::bit(at::CDW10 + 1, 0)))?;
        let changed = match select {
            Select::Capabilities => return Ok(success(u64::from(capabilities(fid)))),
            // Nothing is saveable: the saved value is the default (Base 2.1, 5.1.11).
            Select::Default | Select::Saved => false,
            Select::Current => true,
        };
        if fid == FeatureId::ErrorRecovery {
            self.existing_namespace(asked.nsid)?;
        }
        match fid {
            FeatureId::HostBehavior => {
                let kept = self.controller.with_features(|f| f.host_behavior.clone());
                let zero = Box::new([0; size_of::<HostBehavior>()]);
                let bytes = kept.filter(|_| changed).unwrap_or(zero);
                self.data(bytes.as_slice(), 0).await
            }
            FeatureId::HostIdentifier => {
                if asked.cdw11 & HOST_ID_EXTENDED == 0 {
                    return Err(Fail::invalid_field(at::CDW11));
                }
                self.data(&self.controller.host().id, 0).await
            }
            _ => Ok(success(u64::from(self.dword_feature(fid, &asked, changed)))),
        }
    }

    fn dword_feature(&self, fid: FeatureId, asked: &GetFeatures, changed: bool) -> u32 {
        let config = self.controller.subsystem().target();
        match fid {
            FeatureId::KeepAliveTimer if changed => self.controller.kato_ms(),
            FeatureId::AsyncEvents if changed => self.controller.with_events(|e| e.config()),
            _ if changed => self
                .controller
                .with_features(|f| f.value(fid, asked.nsid, asked.cdw11, config)),
            _ => Features::default().value(fid, asked.nsid, asked.cdw11, config),
        }
    }

    pub(super) async fn set_features<L: Link>(&self, link: &L) -> Result<Reply, Fail> {
        let asked = SetFeatures::decode(self.sqe);
        let fid = self.feature(asked.fid)?;
        if asked.save {
            return Err(Fail::field(
                Status::FEATURE_NOT_SAVEABLE.dnr(),
                at::bit(at::CDW10 + 3, 7),
            ));
        }
        let of_namespace = capabilities(fid) & CAPABILITY_NAMESPACE != 0;
        if !of_namespace && !matches!(asked.nsid, 0 | NSID_BROADCAST) {
            return Err(Fail::field(
                Status::FEATURE_NOT_NAMESPACE_SPECIFIC.dnr(),
                at::NSID,
            ));
        }
        match fid {
            FeatureId::HostBehavior => self.set_host_behavior(link).await,
            // Connect gave it; it stays (Base 2.1, 5.1.25.1.28).
            FeatureId::HostIdentifier => Err(Fail::new(Status::COMMAND_SEQUENCE_ERROR.dnr())),
            FeatureId::NumberOfQueues => self.set_number_of_queues(asked.cdw11),
            FeatureId::AsyncEvents => self.set_events(asked.cdw11),
            FeatureId::KeepAliveTimer => {
                // Rounded up to the granularity of Identify's KAS.
                let unit = 100 * u32::from(KEEP_ALIVE_GRANULARITY);
                let rounded = asked.cdw11.checked_next_multiple_of(unit);
                self.controller.set_kato_ms(rounded.unwrap_or(u32::MAX));
                Ok(success(0))
            }
            FeatureId::ErrorRecovery => self.set_error_recovery(&asked),
            FeatureId::PowerManagement => {
                // There is one power state.
                if PowerManagement::from_dword(asked.cdw11).state != 0 {
                    return Err(Fail::invalid_field(at::CDW11));
                }
                Ok(success(0))
            }
            FeatureId::TemperatureThreshold => self.set_temperature(asked.cdw11),
            _ => {
                self.controller.with_features(|features| match fid {
                    FeatureId::Arbitration => features.arbitration = asked.cdw11,
                    FeatureId::VolatileWriteCache => {
                        features.write_cache_disabled = asked.cdw11 & VWC_ENABLE == 0;
                    }
                    FeatureId::WriteAtomicity => {
                        features.write_atomicity = asked.cdw11 & WRITE_ATOMICITY_DISABLE;
                    }
                    _ => {}
                });
                Ok(success(0))
            }
        }
    }

    async fn set_host_behavior<L: Link>(&self, link: &L) -> Result<Reply, Fail> {
        let len = size_of::<HostBehavior>();
        if self.data_len as usize != len {
            return Err(Fail::field(
                Status::DATA_SGL_LENGTH_INVALID.dnr(),
                at::SGL1_LENGTH,
            ));
        }
        let bytes = self.session.host_data(link, len).await?;
        let behavior =
            HostBehavior::ref_from_bytes(&bytes).map_err(|_| Fail::new(Status::INTERNAL_ERROR))?;
        // Only advanced command retry can be honoured; the rest asks for what is not there.
        let reserved = behavior.acre > 1 || behavior.lbafee > 0 || behavior.hdisns > 0;
        if reserved || behavior.etdas > 1 {
            return Err(Fail::invalid_field(at::SGL1));
        }
        let mut kept = [0; size_of::<HostBehavior>()];
        kept.copy_from_slice(behavior.as_bytes());
        self.controller
            .with_features(|f| f.host_behavior = Some(Box::new(kept)));
        Ok(success(0))
    }

    fn set_number_of_queues(&self, cdw11: u32) -> Result<Reply, Fail> {
        let asked = NumberOfQueues::from_dword(cdw11);
        if asked.submission > 0xffff || asked.completion > 0xffff {
            return Err(Fail::invalid_field(at::CDW11));
        }
        if self.controller.io_queue_count() > 0 {
            return Err(Fail::new(Status::COMMAND_SEQUENCE_ERROR.dnr()));
        }
        let max = u32::from(self.controller.subsystem().target().io_queues_max);
        let count = asked.submission.min(asked.completion).min(max);
        let granted = u16::try_from(count).unwrap_or(u16::MAX);
        self.controller
            .with_features(|f| f.io_queues = Some(granted));
        let result = NumberOfQueues {
            submission: count,
            completion: count,
        }
        .dword();
        Ok(success(u64::from(result)))
    }

    fn set_events(&self, cdw11: u32) -> Result<Reply, Fail> {
        if cdw11 & !event_bits(self.kind()) != 0 {
            return Err(Fail::invalid_field(at::CDW11));
        }
        self.controller
            .with_events(|events| events.set_config(cdw11));
        Ok(success(0))
    }

    fn set_error_recovery(&self, asked: &SetFeatures) -> Result<Reply, Fail> {
        // Errors on deallocated blocks are not supported (Identify's NSFEAT bit 2 is 0).
        if ErrorRecovery::from_dword(asked.cdw11).dulbe {
            return Err(Fail::invalid_field(at::bit(at::CDW11 + 2, 0)));
        }
        let all = self.controller.subsystem().namespaces();
        let chosen: Vec<Nsid> = if asked.nsid == NSID_BROADCAST {
            all.keys().copied().collect()
        } else {
            vec![self.existing_namespace(asked.nsid)?]
        };
        self.controller.with_features(|features| {
            for nsid in chosen {
                features.error_recovery.insert(nsid, asked.cdw11);
            }
        });
        Ok(success(0))
    }

    fn set_temperature(&self, cdw11: u32) -> Result<Reply, Fail> {
        let asked = TemperatureThreshold::from_dword(cdw11);
        // One composite temperature, no sensors, no hysteresis.
        if !matches!(asked.sensor, 0 | 0xf) || asked.under > 1 {
            return Err(Fail::invalid_field(at::bit(at::CDW11 + 2, 0)));
        }
        let index = usize::from(asked.under);
        self.controller
            .with_features(|f| f.temperature[index] = Some(asked.kelvin));
        Ok(success(0))
    }

    /// The namespace, which must be there.
    pub(super) fn existing_namespace(&self, nsid: u32) -> Result<Nsid, Fail> {
        Nsid::new(nsid)
            .filter(|nsid| self.controller.subsystem().namespace(*nsid).is_some())
            .ok_or(Fail::field(Status::INVALID_NAMESPACE.dnr(), at::NSID))
    }
}
