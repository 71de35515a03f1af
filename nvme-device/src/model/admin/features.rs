//! Get Features and Set Features (sections 5.15 and 5.27; section 4.1 of the NVM Command Set Specification 1.0).
//!
//! No feature can be saved: a controller reset brings back every default.

use std::collections::BTreeMap;
use std::time::Duration;

use super::identity::Limits;
use super::{Controller, Outcome, PendingFeature};
use nvme_spec::admin::{GetFeaturesDw10, SetFeaturesDw10};
use nvme_spec::feature::{
    self, Arbitration, AsyncEventConfiguration, ErrorRecovery, FeatureCapabilities, FeatureId, FeatureSelect,
    InterruptCoalescing, InterruptVectorConfiguration, NumberOfQueues, PowerManagement, TemperatureThreshold,
    TimestampOrigin, VolatileWriteCache, WriteAtomicity,
};
use nvme_spec::log::CriticalWarning;
use nvme_spec::{ALL_NAMESPACES, Sqe, Status};

/// The composite temperature that the controller reports, in kelvins: 35 °C. It has no sensor.
pub(super) const TEMPERATURE: u16 = 308;

/// The temperature from which the host is warned (WCTEMP), in kelvins: 70 °C.
pub(super) const WARNING_TEMPERATURE: u16 = 343;

/// The granularity of the Keep Alive Timer in units of 100 ms (KAS).
pub(super) const KAS: u16 = 10;

/// The same in milliseconds.
pub(super) const KEEP_ALIVE_MS: u32 = KAS as u32 * 100;

/// The notices that the host is told of (OAES). Of Asymmetric Namespace Access Change Notices there never is one: the
/// state does not change, and that a namespace comes or goes is told by a namespace notice alone (section 5.2.1, event
/// 03h).
pub(super) const NOTICES: AsyncEventConfiguration = AsyncEventConfiguration::new().with_nan(true).with_anacn(true);

/// What the host can choose in Asynchronous Event Configuration: five critical warnings and the notices.
const EVENTS: u32 = NOTICES
    .with_smart(CriticalWarning::new().with_ascbt(true).with_ttc(true).with_ndr(true).with_amro(true).with_vmbf(true))
    .into_bits();

/// Timestamps count milliseconds in 48 bits.
const TIMESTAMP_MASK: u64 = feature::Timestamp::new().with_milliseconds(!0 >> 16).into_bits();

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
    pub(super) const fn from_fid(fid: FeatureId) -> Option<Self> {
        Some(match fid {
            FeatureId::ARBITRATION => Self::Arbitration,
            FeatureId::POWER_MANAGEMENT => Self::PowerManagement,
            FeatureId::TEMPERATURE_THRESHOLD => Self::TemperatureThreshold,
            FeatureId::ERROR_RECOVERY => Self::ErrorRecovery,
            FeatureId::VOLATILE_WRITE_CACHE => Self::VolatileWriteCache,
            FeatureId::NUMBER_OF_QUEUES => Self::NumberOfQueues,
            FeatureId::INTERRUPT_COALESCING => Self::InterruptCoalescing,
            FeatureId::INTERRUPT_VECTOR_CONFIGURATION => Self::InterruptVectorConfiguration,
            FeatureId::WRITE_ATOMICITY => Self::WriteAtomicity,
            FeatureId::ASYNC_EVENT_CONFIGURATION => Self::AsynchronousEventConfiguration,
            FeatureId::TIMESTAMP => Self::Timestamp,
            FeatureId::KEEP_ALIVE_TIMER => Self::KeepAliveTimer,
            FeatureId::HOST_BEHAVIOR_SUPPORT => Self::HostBehaviorSupport,
            _ => return None,
        })
    }

    /// Returns whether each namespace has a value of its own.
    pub(super) const fn is_of_namespace(self) -> bool {
        matches!(self, Self::ErrorRecovery)
    }

    /// Returns the bytes that Set Features carries.
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
    origin: TimestampOrigin,
}

impl Timestamp {
    fn read(&self, now: Duration) -> [u8; 8] {
        let elapsed = now.saturating_sub(self.since).as_millis();
        let value = (u128::from(self.base) + elapsed) & u128::from(TIMESTAMP_MASK);
        let milliseconds = u64::try_from(value).unwrap_or(TIMESTAMP_MASK);
        let timestamp = feature::Timestamp::new().with_milliseconds(milliseconds).with_origin(self.origin);
        timestamp.into_bits().to_le_bytes()
    }
}

/// When a completion queue's interrupts are put together (feature 08h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CoalescingSetting {
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
    coalescing: InterruptCoalescing,
    /// Coalescing Disable of each vector.
    coalescing_disable: Vec<bool>,
    disable_normal: bool,
    events: u32,
    timestamp: Timestamp,
    kato: u32,
    acre: u8,
}

impl Features {
    /// Returns the defaults, from the time `now`.
    pub(super) fn new(limits: Limits, now: Duration) -> Self {
        let queues = limits.max_queues.saturating_sub(1);
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
            queues: NumberOfQueues::new().with_nsq(queues).with_ncq(queues).into_bits(),
            coalescing: InterruptCoalescing::new(),
            coalescing_disable,
            disable_normal: false,
            events: 0,
            timestamp: Timestamp { base: 0, since: now, origin: TimestampOrigin::RESET },
            kato: 0,
            acre: 0,
        }
    }

    pub(super) fn forget_namespace(&mut self, nsid: u32) {
        self.error_recovery.remove(&nsid);
    }

    pub(super) const fn notifies_namespace_changes(&self) -> bool {
        AsyncEventConfiguration::from_bits(self.events).nan()
    }

    pub(super) const fn notifies_temperature(&self) -> bool {
        AsyncEventConfiguration::from_bits(self.events).smart().ttc()
    }

    /// Returns the Critical Warning field of the SMART / Health Information log.
    pub(super) const fn critical_warning(&self) -> CriticalWarning {
        let is_outside = TEMPERATURE >= self.over_temperature || TEMPERATURE <= self.under_temperature;
        CriticalWarning::new().with_ttc(is_outside)
    }

    /// Dword 0 of Get Features.
    fn get(&self, feature: Feature, sqe: &Sqe) -> Result<u32, Status> {
        Ok(match feature {
            Feature::Arbitration => self.arbitration,
            Feature::PowerManagement => self.workload_hint,
            Feature::TemperatureThreshold => match (threshold(sqe).tmpsel(), threshold(sqe).thsel()) {
                (0, 0) => self.over_temperature.into(),
                (0, 1) => self.under_temperature.into(),
                _ => return Err(Status::INVALID_FIELD),
            },
            Feature::ErrorRecovery => self.error_recovery.get(&sqe.nsid).copied().unwrap_or(0).into(),
            Feature::VolatileWriteCache => self.write_cache.into(),
            Feature::NumberOfQueues => self.queues,
            Feature::InterruptCoalescing => reported(self.coalescing),
            Feature::InterruptVectorConfiguration => {
                let vector = InterruptVectorConfiguration::from_bits(sqe.cdw11).iv();
                let disable = self.coalescing_disable.get(usize::from(vector)).ok_or(Status::INVALID_FIELD)?;
                InterruptVectorConfiguration::new().with_iv(vector).with_cd(*disable).into_bits()
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
            Feature::Arbitration => {
                let asked = Arbitration::from_bits(value);
                let kept = Arbitration::new().with_ab(asked.ab()).with_lpw(asked.lpw()).with_mpw(asked.mpw());
                self.arbitration = kept.with_hpw(asked.hpw()).into_bits();
            }
            // There is one power state only.
            Feature::PowerManagement if PowerManagement::from_bits(value).ps() != 0 => {
                return Err(Status::INVALID_FIELD);
            }
            Feature::PowerManagement => {
                let hint = PowerManagement::from_bits(value).wh();
                self.workload_hint = PowerManagement::new().with_wh(hint).into_bits();
            }
            Feature::TemperatureThreshold => match (threshold(sqe).tmpsel(), threshold(sqe).thsel()) {
                (0 | 0xf, 0) => self.over_temperature = threshold(sqe).tmpth(),
                (0 | 0xf, 1) => self.under_temperature = threshold(sqe).tmpth(),
                _ => return Err(Status::INVALID_FIELD),
            },
            Feature::VolatileWriteCache => self.write_cache = VolatileWriteCache::from_bits(value).wce(),
            Feature::NumberOfQueues => {
                let asked = NumberOfQueues::from_bits(value);
                let is_valid = asked.nsq() != u16::MAX && asked.ncq() != u16::MAX;
                return if is_valid { Ok(self.queues) } else { Err(Status::INVALID_FIELD) };
            }
            Feature::InterruptCoalescing => self.coalescing = InterruptCoalescing::from_bits(value),
            Feature::InterruptVectorConfiguration => {
                let asked = InterruptVectorConfiguration::from_bits(value);
                let disable = self.coalescing_disable.get_mut(usize::from(asked.iv()));
                *disable.ok_or(Status::INVALID_FIELD)? = asked.cd();
            }
            Feature::WriteAtomicity => self.disable_normal = WriteAtomicity::from_bits(value).dn(),
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

/// Returns the threshold that a command is about.
const fn threshold(sqe: &Sqe) -> TemperatureThreshold {
    TemperatureThreshold::from_bits(sqe.cdw11)
}

/// Returns the value of Interrupt Coalescing without its reserved bits.
const fn reported(value: InterruptCoalescing) -> u32 {
    InterruptCoalescing::new().with_thr(value.thr()).with_time(value.time()).into_bits()
}

impl Controller {
    /// Get Features (section 5.15).
    pub(super) fn get_features(&self, sqe: &Sqe, now: Duration) -> Result<Outcome, Status> {
        let dw10 = GetFeaturesDw10::from_bits(sqe.cdw10);
        let feature = Feature::from_fid(dw10.fid()).ok_or(Status::INVALID_FIELD)?;
        let defaults;
        let from = match dw10.sel() {
            FeatureSelect::CURRENT => &self.features,
            // What cannot be saved has its default as its saved value.
            FeatureSelect::DEFAULT | FeatureSelect::SAVED => {
                defaults = Features::new(self.limits, now);
                &defaults
            }
            // Capabilities: changeable, maybe of a namespace, not saveable.
            FeatureSelect::SUPPORTED => {
                let capabilities = FeatureCapabilities::new().with_changeable(true);
                let capabilities = capabilities.with_namespace_specific(feature.is_of_namespace());
                return Ok(Outcome::done(capabilities.into_bits()));
            }
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
        let asked = SetFeaturesDw10::from_bits(sqe.cdw10);
        let feature = Feature::from_fid(asked.fid()).ok_or(Status::INVALID_FIELD)?;
        if asked.sv() {
            return Err(Status::FEATURE_NOT_SAVEABLE);
        }
        if feature.is_of_namespace() {
            return self.set_error_recovery(sqe);
        }
        if sqe.nsid != 0 && sqe.nsid != ALL_NAMESPACES {
            return Err(Status::FEATURE_NOT_NAMESPACE_SPECIFIC);
        }
        if feature.data_len() != 0 {
            return Ok(Outcome::Need { len: feature.data_len(), pending: PendingFeature { feature } });
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
        let asked = ErrorRecovery::from_bits(sqe.cdw11);
        if asked.dulbe() {
            return Err(Status::INVALID_FIELD);
        }
        if sqe.nsid == ALL_NAMESPACES {
            let all = self.namespaces.iter().map(|namespace| (namespace.nsid, asked.tler()));
            self.features.error_recovery = all.collect();
        } else if self.namespaces.lookup(sqe.nsid)?.is_some() {
            self.features.error_recovery.insert(sqe.nsid, asked.tler());
        } else {
            return Err(Status::INVALID_FIELD);
        }
        Ok(Outcome::done(0))
    }

    /// Returns the data that a command with [`Outcome::Need`] carries.
    #[expect(clippy::needless_pass_by_value, reason = "a command is carried out once")]
    pub(crate) fn supply(&mut self, pending: PendingFeature, data: &[u8], now: Duration) -> Outcome {
        self.set_from_data(pending.feature, data, now).unwrap_or_else(Outcome::failed)
    }

    fn set_from_data(&mut self, feature: Feature, data: &[u8], now: Duration) -> Result<Outcome, Status> {
        let data = data.get(..feature.data_len()).ok_or(Status::DATA_TRANSFER_ERROR)?;
        match (feature, data) {
            (Feature::Timestamp, data) => {
                let value = data.try_into().map_err(|_| Status::DATA_TRANSFER_ERROR)?;
                let base = u64::from_le_bytes(value) & TIMESTAMP_MASK;
                self.features.timestamp = Timestamp { base, since: now, origin: TimestampOrigin::SET_FEATURES };
            }
            // Advanced Command Retry may be enabled; no LBA formats beyond the first 16 (CTRATT.ELBAS is 0).
            (Feature::HostBehaviorSupport, &[acre @ 0..=1, _, 0, ..]) => self.features.acre = acre,
            _ => return Err(Status::INVALID_FIELD),
        }
        Ok(Outcome::done(0))
    }

    /// When interrupts are put together (feature 08h).
    #[must_use]
    pub(crate) fn coalescing(&self) -> CoalescingSetting {
        let value = self.features.coalescing;
        CoalescingSetting {
            entries: u16::from(value.thr()) + 1,
            time: Duration::from_micros(100) * value.time().into(),
        }
    }

    /// Returns whether interrupts of this vector are put together (feature 09h).
    #[must_use]
    pub(crate) fn coalesces(&self, vector: u16) -> bool {
        self.features.coalescing_disable.get(usize::from(vector)).is_some_and(|disable| !disable)
    }

    /// Returns whether volatile write caches are on (feature 06h): without, a write is complete only when it is
    /// durable.
    #[must_use]
    pub(crate) fn volatile_write_cache(&self) -> bool {
        self.features.write_cache
    }

    /// Returns whether the host has been silent for longer than it promised (section 3.9): the controller then fails
    /// (CSTS.CFS).
    #[must_use]
    pub(crate) fn keep_alive_expired(&self, now: Duration) -> bool {
        let timeout = Duration::from_millis(self.features.kato.into());
        !timeout.is_zero() && now.saturating_sub(self.alive_at) >= timeout
    }
}
