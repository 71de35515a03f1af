//! Get Features and Set Features (sections 5.15 and 5.27; section 4.1 of the NVM Command Set Specification 1.0).
//!
//! No feature can be saved: a controller reset brings back every default.

use std::collections::BTreeMap;
use std::time::Duration;

use super::identity::Limits;
use super::{ALL_NAMESPACES, Controller, Outcome, Pending, high, low};
use nvme_spec::{Sqe, Status};

/// The composite temperature that the controller reports, in kelvins: 35 °C. It has no sensor.
pub(super) const TEMPERATURE: u16 = 308;

/// The temperature from which the host is warned (WCTEMP), in kelvins: 70 °C.
pub(super) const WARNING_TEMPERATURE: u16 = 343;

/// The granularity of the Keep Alive Timer in units of 100 ms (KAS).
pub(super) const KAS: u16 = 10;

/// The same in milliseconds.
pub(super) const KEEP_ALIVE_MS: u32 = KAS as u32 * 100;

/// The temperature, in the Critical Warning field and in Asynchronous Event Configuration.
pub(super) const TEMPERATURE_WARNING: u8 = 1 << 1;

/// Namespace Attribute Notices, in OAES and in Asynchronous Event Configuration.
pub(super) const NAMESPACE_NOTICES: u32 = 1 << 8;

/// Asymmetric Namespace Access Change Notices, likewise. There never is one: the state does not change, and that a namespace comes or
/// goes is told by a namespace notice alone (section 5.2.1, event 03h).
pub(super) const ANA_NOTICES: u32 = 1 << 11;

/// What the host can choose in Asynchronous Event Configuration: five critical warnings and two notices.
const EVENTS: u32 = 0b1_1111 | NAMESPACE_NOTICES | ANA_NOTICES;

/// Timestamps count milliseconds in 48 bits.
const TIMESTAMP_MASK: u64 = (1 << 48) - 1;

/// Timestamp Origin in the attributes of a timestamp: the host has set it.
const SET_BY_HOST: u8 = 0b001 << 1;

/// A feature that the controller has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Feature {
    Arbitration,
    PowerManagement,
    TemperatureThreshold,
    ErrorRecovery,
    VolatileWriteCache,
    NumberOfQueues,
    InterruptCoalescing,
    InterruptVectorConfiguration,
    WriteAtomicity,
    AsynchronousEventConfiguration,
    Timestamp,
    KeepAliveTimer,
    HostBehaviorSupport,
}

impl Feature {
    pub(super) const fn from_fid(fid: u8) -> Option<Self> {
        Some(match fid {
            0x01 => Self::Arbitration,
            0x02 => Self::PowerManagement,
            0x04 => Self::TemperatureThreshold,
            0x05 => Self::ErrorRecovery,
            0x06 => Self::VolatileWriteCache,
            0x07 => Self::NumberOfQueues,
            0x08 => Self::InterruptCoalescing,
            0x09 => Self::InterruptVectorConfiguration,
            0x0a => Self::WriteAtomicity,
            0x0b => Self::AsynchronousEventConfiguration,
            0x0e => Self::Timestamp,
            0x0f => Self::KeepAliveTimer,
            0x16 => Self::HostBehaviorSupport,
            _ => return None,
        })
    }

    /// Whether each namespace has a value of its own.
    pub(super) const fn is_of_namespace(self) -> bool {
        matches!(self, Self::ErrorRecovery)
    }

    /// The bytes that Set Features carries.
    const fn data_len(self) -> usize {
        match self {
            Self::Timestamp => 8,
            Self::HostBehaviorSupport => 512,
            _ => 0,
        }
    }
}

/// A clock that the host may set.
#[derive(Debug, Clone, Copy)]
struct Timestamp {
    /// Milliseconds at `since`.
    base: u64,
    since: Duration,
    origin: u8,
}

impl Timestamp {
    fn read(&self, now: Duration) -> [u8; 8] {
        let elapsed = now.saturating_sub(self.since).as_millis();
        let value = (u128::from(self.base) + elapsed) & u128::from(TIMESTAMP_MASK);
        let mut data = [0; 8];
        for (to, from) in data.iter_mut().zip(value.to_le_bytes()).take(6) {
            *to = from;
        }
        data[6] = self.origin;
        data
    }
}

/// When a completion queue's interrupts are put together (feature 08h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Coalescing {
    /// Aggregation Threshold: an interrupt is due when so many entries are new; 1 to 256.
    pub entries: u16,
    /// Aggregation Time: an interrupt is due after this time at the latest. Without a time nothing is put together.
    pub time: Duration,
}

/// The values of the features.
#[derive(Debug)]
pub(super) struct Features {
    arbitration: u32,
    workload_hint: u32,
    over_temperature: u16,
    under_temperature: u16,
    error_recovery: BTreeMap<u32, u16>,
    write_cache: bool,
    queues: u32,
    coalescing: u16,
    /// Coalescing Disable of each vector.
    coalescing_disable: Vec<bool>,
    disable_normal: bool,
    events: u32,
    timestamp: Timestamp,
    kato: u32,
    acre: u8,
}

impl Features {
    /// The defaults, from the time `now`.
    pub(super) fn new(limits: Limits, now: Duration) -> Self {
        let queues = u32::from(limits.max_queues.saturating_sub(1));
        let mut coalescing_disable = vec![false; limits.vectors.into()];
        // The vector of the admin queue: its interrupts are never held back.
        if let Some(admin) = coalescing_disable.first_mut() {
            *admin = true;
        }
        Self {
            arbitration: 0,
            workload_hint: 0,
            over_temperature: WARNING_TEMPERATURE,
            under_temperature: 0,
            error_recovery: BTreeMap::new(),
            write_cache: true,
            queues: queues << 16 | queues,
            coalescing: 0,
            coalescing_disable,
            disable_normal: false,
            events: 0,
            timestamp: Timestamp { base: 0, since: now, origin: 0 },
            kato: 0,
            acre: 0,
        }
    }

    pub(super) fn forget_namespace(&mut self, nsid: u32) {
        self.error_recovery.remove(&nsid);
    }

    pub(super) const fn notifies_namespace_changes(&self) -> bool {
        self.events & NAMESPACE_NOTICES != 0
    }

    pub(super) const fn notifies_temperature(&self) -> bool {
        self.events & TEMPERATURE_WARNING as u32 != 0
    }

    /// The Critical Warning field of the SMART / Health Information log.
    pub(super) const fn critical_warning(&self) -> u8 {
        if TEMPERATURE >= self.over_temperature || TEMPERATURE <= self.under_temperature {
            TEMPERATURE_WARNING
        } else {
            0
        }
    }

    /// Dword 0 of Get Features.
    fn get(&self, feature: Feature, sqe: &Sqe) -> Result<u32, Status> {
        Ok(match feature {
            Feature::Arbitration => self.arbitration,
            Feature::PowerManagement => self.workload_hint,
            Feature::TemperatureThreshold => match (sensor(sqe), threshold_type(sqe)) {
                (0, 0) => self.over_temperature.into(),
                (0, 1) => self.under_temperature.into(),
                _ => return Err(Status::INVALID_FIELD),
            },
            Feature::ErrorRecovery => self.error_recovery.get(&sqe.nsid).copied().unwrap_or(0).into(),
            Feature::VolatileWriteCache => self.write_cache.into(),
            Feature::NumberOfQueues => self.queues,
            Feature::InterruptCoalescing => self.coalescing.into(),
            Feature::InterruptVectorConfiguration => {
                let vector = low(sqe.cdw11);
                let disable = self.coalescing_disable.get(usize::from(vector)).ok_or(Status::INVALID_FIELD)?;
                u32::from(*disable) << 16 | u32::from(vector)
            }
            Feature::WriteAtomicity => self.disable_normal.into(),
            Feature::AsynchronousEventConfiguration => self.events,
            Feature::KeepAliveTimer => self.kato,
            // Their values are data.
            Feature::Timestamp | Feature::HostBehaviorSupport => 0,
        })
    }

    /// Set Features for what is in the command itself; dword 0 of its completion.
    fn set(&mut self, feature: Feature, sqe: &Sqe) -> Result<u32, Status> {
        let value = sqe.cdw11;
        match feature {
            Feature::Arbitration => self.arbitration = value & 0xffff_ff07,
            // There is one power state only.
            Feature::PowerManagement if value & 0x1f != 0 => return Err(Status::INVALID_FIELD),
            Feature::PowerManagement => self.workload_hint = value & 0xe0,
            Feature::TemperatureThreshold => match (sensor(sqe), threshold_type(sqe)) {
                (0 | 0xf, 0) => self.over_temperature = low(value),
                (0 | 0xf, 1) => self.under_temperature = low(value),
                _ => return Err(Status::INVALID_FIELD),
            },
            Feature::VolatileWriteCache => self.write_cache = value & 1 != 0,
            Feature::NumberOfQueues if low(value) == u16::MAX || high(value) == u16::MAX => {
                return Err(Status::INVALID_FIELD);
            }
            Feature::NumberOfQueues => return Ok(self.queues),
            Feature::InterruptCoalescing => self.coalescing = low(value),
            Feature::InterruptVectorConfiguration => {
                let disable = self.coalescing_disable.get_mut(usize::from(low(value)));
                *disable.ok_or(Status::INVALID_FIELD)? = value >> 16 & 1 != 0;
            }
            Feature::WriteAtomicity => self.disable_normal = value & 1 != 0,
            Feature::AsynchronousEventConfiguration => self.events = value & EVENTS,
            Feature::KeepAliveTimer => {
                let most = u32::MAX / KEEP_ALIVE_MS;
                self.kato = value.div_ceil(KEEP_ALIVE_MS).min(most) * KEEP_ALIVE_MS;
            }
            Feature::ErrorRecovery | Feature::Timestamp | Feature::HostBehaviorSupport => {
                return Err(Status::INTERNAL_ERROR);
            }
        }
        Ok(0)
    }
}

/// Threshold Temperature Select: 0 is the composite temperature, Fh all that there are.
const fn sensor(sqe: &Sqe) -> u32 {
    sqe.cdw11 >> 16 & 0xf
}

/// Threshold Type Select: 0 over, 1 under.
const fn threshold_type(sqe: &Sqe) -> u32 {
    sqe.cdw11 >> 20 & 3
}

impl Controller {
    /// Get Features (section 5.15).
    pub(super) fn get_features(&self, sqe: &Sqe, now: Duration) -> Result<Outcome, Status> {
        let feature = Feature::from_fid(low(sqe.cdw10).to_le_bytes()[0]).ok_or(Status::INVALID_FIELD)?;
        let defaults;
        let from = match sqe.cdw10 >> 8 & 7 {
            0 => &self.features,
            // What cannot be saved has its default as its saved value.
            1 | 2 => {
                defaults = Features::new(self.limits, now);
                &defaults
            }
            // Capabilities: changeable, maybe of a namespace, not saveable.
            3 => return Ok(Outcome::done(0b100 | u32::from(feature.is_of_namespace()) << 1)),
            _ => return Err(Status::INVALID_FIELD),
        };
        if feature.is_of_namespace() && self.namespaces.lookup(sqe.nsid)?.is_none() {
            return Err(Status::INVALID_FIELD);
        }
        Ok(match feature {
            Feature::Timestamp => Outcome::data(from.timestamp.read(now).to_vec()),
            Feature::HostBehaviorSupport => {
                let mut data = vec![from.acre];
                data.resize(feature.data_len(), 0);
                Outcome::data(data)
            }
            _ => Outcome::done(from.get(feature, sqe)?),
        })
    }

    /// Set Features (section 5.27).
    pub(super) fn set_features(&mut self, sqe: &Sqe, now: Duration) -> Result<Outcome, Status> {
        let feature = Feature::from_fid(low(sqe.cdw10).to_le_bytes()[0]).ok_or(Status::INVALID_FIELD)?;
        if sqe.cdw10 >> 31 != 0 {
            return Err(Status::FEATURE_NOT_SAVEABLE);
        }
        if feature.is_of_namespace() {
            return self.set_error_recovery(sqe);
        }
        if sqe.nsid != 0 && sqe.nsid != ALL_NAMESPACES {
            return Err(Status::FEATURE_NOT_NAMESPACE_SPECIFIC);
        }
        if feature.data_len() != 0 {
            return Ok(Outcome::Need { len: feature.data_len(), pending: Pending { feature } });
        }
        // Linux, Windows and FreeBSD ask before they create queues; the answer could not be kept to afterwards.
        if feature == Feature::NumberOfQueues && !self.queues.is_empty() {
            return Err(Status::COMMAND_SEQUENCE_ERROR);
        }
        let dw0 = self.features.set(feature, sqe)?;
        match feature {
            Feature::TemperatureThreshold | Feature::AsynchronousEventConfiguration => self.raise_conditions(),
            Feature::KeepAliveTimer => self.alive_at = now,
            Feature::VolatileWriteCache => return Ok(Outcome::WriteCache { on: self.volatile_write_cache() }),
            _ => {}
        }
        Ok(Outcome::done(dw0))
    }

    /// Error Recovery (section 4.1.3.2 of the NVM Command Set Specification): a time limit that a namespace may have.
    fn set_error_recovery(&mut self, sqe: &Sqe) -> Result<Outcome, Status> {
        // No namespace reports deallocated blocks as errors (DULBE).
        if sqe.cdw11 & 1 << 16 != 0 {
            return Err(Status::INVALID_FIELD);
        }
        if sqe.nsid == ALL_NAMESPACES {
            let all = self.namespaces.iter().map(|namespace| (namespace.nsid, low(sqe.cdw11)));
            self.features.error_recovery = all.collect();
        } else if self.namespaces.lookup(sqe.nsid)?.is_some() {
            self.features.error_recovery.insert(sqe.nsid, low(sqe.cdw11));
        } else {
            return Err(Status::INVALID_FIELD);
        }
        Ok(Outcome::done(0))
    }

    /// The data that a command with [`Outcome::Need`] carries.
    #[expect(clippy::needless_pass_by_value, reason = "a command is carried out once")]
    pub fn supply(&mut self, pending: Pending, data: &[u8], now: Duration) -> Outcome {
        self.set_from_data(pending.feature, data, now).unwrap_or_else(Outcome::failed)
    }

    fn set_from_data(&mut self, feature: Feature, data: &[u8], now: Duration) -> Result<Outcome, Status> {
        let data = data.get(..feature.data_len()).ok_or(Status::DATA_TRANSFER_ERROR)?;
        match (feature, data) {
            (Feature::Timestamp, data) => {
                let value = data.try_into().map_err(|_| Status::DATA_TRANSFER_ERROR)?;
                let base = u64::from_le_bytes(value) & TIMESTAMP_MASK;
                self.features.timestamp = Timestamp { base, since: now, origin: SET_BY_HOST };
            }
            // Advanced Command Retry may be enabled; no LBA formats beyond the first 16 (CTRATT.ELBAS is 0).
            (Feature::HostBehaviorSupport, &[acre @ 0..=1, _, 0, ..]) => self.features.acre = acre,
            _ => return Err(Status::INVALID_FIELD),
        }
        Ok(Outcome::done(0))
    }

    /// When interrupts are put together (feature 08h).
    #[must_use]
    pub fn coalescing(&self) -> Coalescing {
        let [threshold, time] = self.features.coalescing.to_le_bytes();
        Coalescing { entries: u16::from(threshold) + 1, time: Duration::from_micros(100) * time.into() }
    }

    /// Whether interrupts of this vector are put together (feature 09h).
    #[must_use]
    pub fn coalesces(&self, vector: u16) -> bool {
        self.features.coalescing_disable.get(usize::from(vector)).is_some_and(|disable| !disable)
    }

    /// Whether volatile write caches are on (feature 06h): without, a write is complete only when it is durable.
    #[must_use]
    pub fn volatile_write_cache(&self) -> bool {
        self.features.write_cache
    }

    /// Whether the host has been silent for longer than it promised (section 3.9): the controller then fails
    /// (CSTS.CFS).
    #[must_use]
    pub fn keep_alive_expired(&self, now: Duration) -> bool {
        let timeout = Duration::from_millis(self.features.kato.into());
        !timeout.is_zero() && now.saturating_sub(self.alive_at) >= timeout
    }
}
