//! Features (Base 2.1, 5.1.11 and 5.1.25).

use std::collections::HashMap;

use penstock_nvme::command::{GetFeatures, SetFeatures};
use penstock_nvme::event::AsyncEvent;
use penstock_nvme::feature::{
    self, AsyncEventConfig, FeatureId, NumberOfQueues, Select, TemperatureThreshold, Timestamp,
    VWC_ENABLE,
};
use penstock_nvme::log::{WARNING_RELIABILITY, WARNING_SPARE, WARNING_TEMPERATURE};
use penstock_nvme::{FromZeros, IntoBytes, Sqe, Status, identify};

use super::config::SoftConfig;
use super::machine::{Answer, Machine};

/// Threshold of over temperature at first, in kelvin.
const OVER_KELVIN: u16 = 343;

/// Values as they are now. A reset forgets them.
pub(super) struct Features {
    values: HashMap<(FeatureId, u32), u32>,
    write_cache: bool,
    /// Milliseconds set, and when, in nanoseconds of the model.
    timestamp: Option<(u64, u64)>,
}

impl Features {
    pub(super) fn new(config: &SoftConfig) -> Features {
        Features {
            values: HashMap::new(),
            write_cache: config.write_cache,
            timestamp: None,
        }
    }

    /// Whether writes may stay in the volatile cache.
    pub(super) fn write_cache(&self) -> bool {
        let on = self.values.get(&(FeatureId::VolatileWriteCache, 0));
        self.write_cache && on.is_none_or(|value| value & VWC_ENABLE != 0)
    }

    /// Asynchronous Event Configuration.
    pub(super) fn events(&self) -> AsyncEventConfig {
        let value = self.values.get(&(FeatureId::AsyncEvents, 0));
        AsyncEventConfig(value.copied().unwrap_or(0))
    }

    /// Over and under temperature thresholds of the composite temperature in kelvin.
    pub(super) fn temperatures(&self) -> (u16, u16) {
        let of = |selector, default| {
            let value = self
                .values
                .get(&(FeatureId::TemperatureThreshold, selector));
            let threshold = value.map(|dword| TemperatureThreshold::from_dword(*dword).kelvin);
            threshold.unwrap_or(default)
        };
        (of(0, OVER_KELVIN), of(1 << 20, 0))
    }
}

/// What the drive says of its health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SoftHealth {
    /// Composite temperature in kelvin.
    pub temperature_kelvin: u16,
    /// Available spare in percent.
    pub available_spare: u8,
    /// Percentage used.
    pub percentage_used: u8,
    /// Reliability is degraded.
    pub degraded: bool,
}

/// Available spare below this percentage is a warning.
pub(super) const SPARE_THRESHOLD: u8 = 10;

impl Default for SoftHealth {
    fn default() -> SoftHealth {
        SoftHealth {
            temperature_kelvin: 310,
            available_spare: 100,
            percentage_used: 1,
            degraded: false,
        }
    }
}

impl Machine {
    /// The part of dword 11 that chooses one of several values, and the value before it is set;
    /// `None` where there is no such feature.
    fn default_value(&self, id: FeatureId, cdw11: u32) -> Option<(u32, u32)> {
        let plain = |value| Some((0, value));
        match id {
            FeatureId::Arbitration
            | FeatureId::PowerManagement
            | FeatureId::ErrorRecovery
            | FeatureId::InterruptCoalescing
            | FeatureId::WriteAtomicity
            | FeatureId::AsyncEvents => plain(0),
            FeatureId::TemperatureThreshold => {
                let selector = cdw11 & 0x003f_0000;
                let under = selector >> 20 & 3 != 0;
                Some((selector, if under { 0 } else { u32::from(OVER_KELVIN) }))
            }
            FeatureId::VolatileWriteCache if self.config.write_cache => plain(VWC_ENABLE),
            FeatureId::NumberOfQueues => plain(self.queues_dword()),
            FeatureId::InterruptVector => {
                let vector = cdw11 & 0xffff;
                (vector < u32::from(self.config.vectors)).then_some((vector, vector))
            }
            _ => None,
        }
    }

    fn queues_dword(&self) -> u32 {
        let queues = u32::from(*self.queue_ids().end());
        NumberOfQueues {
            submission: queues,
            completion: queues,
        }
        .dword()
    }

    pub(super) fn get_features(&mut self, sqe: &Sqe) -> Answer {
        let command = GetFeatures::decode(sqe);
        let id = FeatureId::try_from(command.fid).map_err(|_| Status::INVALID_FIELD)?;
        let select = Select::try_from(command.select).map_err(|_| Status::INVALID_FIELD)?;
        if select == Select::Capabilities {
            let known = self.default_value(id, command.cdw11).is_some() || self.is_timestamp(id);
            return match known {
                true => Ok(feature::CAPABILITY_CHANGEABLE),
                false => Err(Status::INVALID_FIELD),
            };
        }
        if self.is_timestamp(id) {
            let mut timestamp = Timestamp::new(self.now / 1_000_000, 0);
            if let (Some((millis, at)), Select::Current) = (self.features.timestamp, select) {
                let passed = (self.now - at) / 1_000_000;
                timestamp = Timestamp::new(millis + passed, Timestamp::ORIGIN_SET);
            }
            self.reply(sqe, timestamp.as_bytes())?;
            return Ok(0);
        }
        let found = self.default_value(id, command.cdw11);
        let (selector, default) = found.ok_or(Status::INVALID_FIELD)?;
        let current = self.features.values.get(&(id, selector)).copied();
        Ok(match select {
            Select::Current => current.unwrap_or(default),
            _ => default,
        })
    }

    fn is_timestamp(&self, id: FeatureId) -> bool {
        id == FeatureId::Timestamp && self.config.oncs & identify::ONCS_TIMESTAMP != 0
    }

    pub(super) fn set_features(&mut self, sqe: &Sqe) -> Answer {
        let command = SetFeatures::decode(sqe);
        let id = FeatureId::try_from(command.fid).map_err(|_| Status::INVALID_FIELD)?;
        if command.save {
            return Err(Status::FEATURE_NOT_SAVEABLE);
        }
        if self.is_timestamp(id) {
            let mut timestamp = Timestamp::new_zeroed();
            self.receive(sqe, timestamp.as_mut_bytes())?;
            self.features.timestamp = Some((timestamp.millis(), self.now));
            return Ok(0);
        }
        let found = self.default_value(id, command.cdw11);
        let (selector, _) = found.ok_or(Status::INVALID_FIELD)?;
        match id {
            FeatureId::NumberOfQueues => return self.set_queues(command.cdw11),
            FeatureId::VolatileWriteCache if command.cdw11 & VWC_ENABLE == 0 => {
                self.media.values_mut().for_each(|media| media.flush());
            }
            FeatureId::PowerManagement if command.cdw11 & 0x1f != 0 => {
                return Err(Status::INVALID_FIELD);
            }
            _ => {}
        }
        self.features.values.insert((id, selector), command.cdw11);
        self.tell_health();
        Ok(0)
    }

    /// Base 2.1, 5.1.25, Number of Queues: not once I/O queues are there.
    fn set_queues(&mut self, cdw11: u32) -> Answer {
        if cdw11 & 0xffff == 0xffff || cdw11 >> 16 == 0xffff {
            return Err(Status::INVALID_FIELD);
        }
        let cqs = self.cqs.iter().skip(1).flatten().count();
        if cqs + self.sqs.iter().skip(1).flatten().count() > 0 {
            return Err(Status::COMMAND_SEQUENCE_ERROR);
        }
        Ok(self.queues_dword())
    }

    /// Critical warnings as of now (Base 2.1, 5.1.12.1.3).
    pub(super) fn warnings(&self) -> u8 {
        let health = self.health;
        let (over, under) = self.features.temperatures();
        let kelvin = health.temperature_kelvin;
        let mut warnings = 0;
        if health.available_spare < SPARE_THRESHOLD {
            warnings |= WARNING_SPARE;
        }
        if kelvin >= over || kelvin <= under {
            warnings |= WARNING_TEMPERATURE;
        }
        if health.degraded {
            warnings |= WARNING_RELIABILITY;
        }
        warnings
    }

    /// Events for the warnings that the host wants to hear of and did not yet.
    pub(super) fn tell_health(&mut self) {
        let now = self.warnings();
        let new = now & !self.warned;
        self.warned = now;
        let enabled = self.features.events().0.to_le_bytes()[0];
        for (bit, event) in [
            (WARNING_SPARE, AsyncEvent::SPARE_BELOW_THRESHOLD),
            (WARNING_TEMPERATURE, AsyncEvent::TEMPERATURE_THRESHOLD),
            (WARNING_RELIABILITY, AsyncEvent::SUBSYSTEM_RELIABILITY),
        ] {
            if new & enabled & bit != 0 {
                self.events.add(event);
            }
        }
    }
}
