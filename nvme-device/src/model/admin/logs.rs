//! Get Log Page (section 5.16) and what the logs hold.

use std::collections::VecDeque;
use std::time::Duration;

use zerocopy::little_endian::U128;
use zerocopy::{FromZeros, Immutable, IntoBytes};

use super::features::{Feature, TEMPERATURE};
use super::{Controller, Opcode, Outcome, page};
use crate::model::regs::Version;
use nvme_spec::admin::{GetLogPageDw10, GetLogPageDw11, GetLogPageDw14, log_page_dwords_of};
use nvme_spec::feature::FeatureId;
use nvme_spec::identify::CommandSet;
use nvme_spec::log::{
    ActiveFirmware, CommandEffects, DATA_UNIT, ErrorInformation, FeatureEffects, FirmwareSlots, LogId,
    NO_ERROR_LOCATION, Scope, Smart, SupportedLogPage,
};
use nvme_spec::{ALL_NAMESPACES, IoOpcode, PAGE, Sqe, Status};

/// Entries of the Error Information log, less one (ELPE).
pub(super) const ELPE: u8 = 63;

/// A log page that the controller has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Log {
    SupportedLogPages = LogId::SUPPORTED_LOG_PAGES.0,
    Error = LogId::ERROR_INFORMATION.0,
    Smart = LogId::SMART.0,
    FirmwareSlot = LogId::FIRMWARE_SLOT.0,
    ChangedNamespaces = LogId::CHANGED_NAMESPACE_LIST.0,
    CommandEffects = LogId::COMMAND_EFFECTS.0,
    AsymmetricAccess = LogId::ANA.0,
    FeatureEffects = LogId::FEATURE_EFFECTS.0,
    MiCommandEffects = LogId::MI_COMMAND_EFFECTS.0,
}

impl Log {
    const fn from_lid(lid: LogId) -> Option<Self> {
        Some(match lid {
            LogId::SUPPORTED_LOG_PAGES => Self::SupportedLogPages,
            LogId::ERROR_INFORMATION => Self::Error,
            LogId::SMART => Self::Smart,
            LogId::FIRMWARE_SLOT => Self::FirmwareSlot,
            LogId::CHANGED_NAMESPACE_LIST => Self::ChangedNamespaces,
            LogId::COMMAND_EFFECTS => Self::CommandEffects,
            LogId::ANA => Self::AsymmetricAccess,
            LogId::FEATURE_EFFECTS => Self::FeatureEffects,
            LogId::MI_COMMAND_EFFECTS => Self::MiCommandEffects,
            _ => return None,
        })
    }

    pub(super) const fn lid(self) -> LogId {
        LogId(self as u8)
    }
}

/// A command that failed in a way that its status alone does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ErrorEntry {
    /// Its submission queue.
    pub sqid: u16,
    /// Its command identifier.
    pub cid: u16,
    /// The status that it was completed with.
    pub status: Status,
    /// The first block that failed, or 0.
    pub lba: u64,
    /// The namespace, or 0.
    pub nsid: u32,
}

impl ErrorEntry {
    pub(super) const fn of_no_command() -> Self {
        Self { sqid: NO_ERROR_LOCATION, cid: NO_ERROR_LOCATION, status: Status::SUCCESS, lba: 0, nsid: 0 }
    }
}

/// The newest errors, newest first.
#[derive(Debug, Default)]
pub(super) struct ErrorLog {
    entries: VecDeque<ErrorInformation>,
    count: u64,
}

impl ErrorLog {
    fn add(&mut self, entry: &ErrorEntry) {
        self.count = self.count.saturating_add(1);
        self.entries.truncate(ELPE.into());
        self.entries.push_front(ErrorInformation {
            error_count: self.count,
            sqid: entry.sqid,
            cid: entry.cid,
            status: entry.status,
            parameter_error_location: NO_ERROR_LOCATION,
            lba: entry.lba,
            nsid: entry.nsid,
            ..ErrorInformation::new_zeroed()
        });
    }

    fn page(&self) -> Vec<u8> {
        let mut data: Vec<u8> = self.entries.iter().flat_map(IntoBytes::as_bytes).copied().collect();
        data.resize((usize::from(ELPE) + 1) * size_of::<ErrorInformation>(), 0);
        data
    }
}

/// What the controller has done for the host since it was made. The runtime sums it up from the queues.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IoTotals {
    /// Bytes that the host read; those of Compare count.
    pub bytes_read: u64,
    /// Bytes that the host wrote.
    pub bytes_written: u64,
    /// Read and Compare commands completed.
    pub read_commands: u64,
    /// Write commands completed.
    pub write_commands: u64,
    /// The time in which any command was outstanding.
    pub busy: Duration,
    /// Commands that failed because the data could not be had or kept.
    pub media_errors: u64,
}

/// A command that is supported.
const SUPPORTED: CommandEffects = CommandEffects::new().with_csupp(true);

/// Returns a table with an entry for each opcode or identifier.
fn table<T: IntoBytes + Immutable>(entry: impl Fn(u8) -> T) -> Vec<u8> {
    (0..=u8::MAX).flat_map(|index| page(&entry(index))).collect()
}

impl Controller {
    /// Returns whether this command is answered with [`IoTotals`]: they are then to be counted before it is carried
    /// out.
    #[must_use]
    pub fn wants_io_totals(sqe: &Sqe) -> bool {
        let lid = GetLogPageDw10::from_bits(sqe.cdw10).lid();
        sqe.opcode == Opcode::GetLogPage as u8 && lid == Log::Smart.lid()
    }

    /// What has been done so far, for the SMART / Health Information log.
    pub(crate) fn count_io(&mut self, totals: IoTotals) {
        self.totals = totals;
    }

    /// Adds an entry to the Error Information log.
    pub(crate) fn io_error(&mut self, entry: &ErrorEntry) {
        self.errors.add(entry);
    }

    /// Get Log Page (section 5.16).
    pub(super) fn get_log_page(&mut self, sqe: &Sqe, now: Duration) -> Result<Outcome, Status> {
        let (dw10, dw11) = (GetLogPageDw10::from_bits(sqe.cdw10), GetLogPageDw11::from_bits(sqe.cdw11));
        let log = Log::from_lid(dw10.lid()).filter(|log| self.has_log(*log)).ok_or(Status::INVALID_LOG_PAGE)?;
        let dwords = log_page_dwords_of(dw10, dw11);
        let offset = u64::from(sqe.cdw13) << 32 | u64::from(sqe.cdw12);
        // No log is of one namespace alone, and none has an index that an offset could be of (OT).
        let of_namespace = sqe.nsid != 0 && sqe.nsid != ALL_NAMESPACES;
        let by_index = GetLogPageDw14::from_bits(sqe.cdw14).ot();
        if of_namespace || by_index || !offset.is_multiple_of(4) || dwords * 4 > self.limits.mdts_bytes() {
            return Err(Status::INVALID_FIELD);
        }
        let mut data = self.log(log, sqe, now)?;
        let start = usize::try_from(offset).ok().filter(|start| *start <= data.len()).ok_or(Status::INVALID_FIELD)?;
        data.drain(..start);
        data.truncate(usize::try_from(dwords * 4).unwrap_or(usize::MAX));
        if !dw10.rae() {
            self.events.log_was_read(log);
            if log == Log::ChangedNamespaces {
                self.changes_were_read(start + data.len());
            }
        }
        Ok(Outcome::data(data))
    }

    /// Returns whether the controller has this log page: some came with version 2.0.
    fn has_log(&self, log: Log) -> bool {
        let later = matches!(log, Log::SupportedLogPages | Log::FeatureEffects | Log::MiCommandEffects);
        !later || self.identity.version != Version::V1_4
    }

    /// The host has read the Changed Namespace List up to a byte. What is behind that it does not know yet, and is told
    /// of again.
    fn changes_were_read(&mut self, end: usize) {
        if end >= self.namespaces.changed().len() * size_of::<u32>() {
            self.namespaces.forget_changes();
        } else {
            self.raise_conditions();
        }
    }

    fn log(&self, log: Log, sqe: &Sqe, now: Duration) -> Result<Vec<u8>, Status> {
        Ok(match log {
            Log::SupportedLogPages => {
                table(|lid| SupportedLogPage::new().with_lsupp(Log::from_lid(LogId(lid)).is_some()))
            }
            Log::Error => self.errors.page(),
            Log::Smart => self.smart(now),
            Log::FirmwareSlot => {
                let mut slots = FirmwareSlots::new_zeroed();
                slots.afi = ActiveFirmware::new().with_active(1);
                slots.frs[0] = *self.identity.firmware.as_bytes();
                page(&slots)
            }
            Log::ChangedNamespaces => {
                let mut data: Vec<u8> = self.namespaces.changed().iter().flat_map(|nsid| nsid.to_le_bytes()).collect();
                data.resize(PAGE, 0);
                data
            }
            Log::AsymmetricAccess => self.asymmetric_access(sqe),
            // The command set identifier: the NVM command set is the only one.
            Log::CommandEffects if GetLogPageDw14::from_bits(sqe.cdw14).csi() != CommandSet::NVM => {
                return Err(Status::INVALID_FIELD);
            }
            Log::CommandEffects => self.command_effects(),
            Log::FeatureEffects => table(|fid| match Feature::from_fid(FeatureId(fid)) {
                Some(feature) => {
                    let of_namespace = feature.is_of_namespace();
                    let scope = Scope::new().with_namespace(of_namespace).with_controller(!of_namespace);
                    FeatureEffects::new().with_fsupp(true).with_fsp(scope)
                }
                None => FeatureEffects::new(),
            }),
            // LPA says by one bit that this one is there too. There is no management interface: it has no commands.
            Log::MiCommandEffects => vec![0; PAGE],
        })
    }

    fn smart(&self, now: Duration) -> Vec<u8> {
        let up = self.first_enabled.map_or(Duration::ZERO, |since| now.saturating_sub(since));
        let totals = &self.totals;
        let count = |value: u64| U128::from(u128::from(value));
        let units = |bytes: u64| count(bytes.div_ceil(DATA_UNIT));
        page(&Smart {
            critical_warning: self.features.critical_warning(),
            composite_temperature: TEMPERATURE.into(),
            available_spare: 100,
            available_spare_threshold: 10,
            data_units_read: units(totals.bytes_read),
            data_units_written: units(totals.bytes_written),
            host_read_commands: count(totals.read_commands),
            host_write_commands: count(totals.write_commands),
            controller_busy_time: count(totals.busy.as_secs() / 60),
            power_cycles: count(1),
            power_on_hours: count(up.as_secs() / 3600),
            media_errors: count(totals.media_errors),
            error_log_entries: count(self.errors.count),
            ..Smart::new_zeroed()
        })
    }

    /// Returns the Commands Supported and Effects log: admin commands, then those of the NVM command set. Without their
    /// scopes, which may be left out: Linux warns of I/O commands that have one.
    fn command_effects(&self) -> Vec<u8> {
        let supports = self.namespaces.supports();
        let changes = SUPPORTED.with_lbcc(true);
        let admin = table(|opcode| SUPPORTED.with_csupp(self.opcode(opcode).is_some()));
        let io = table(|opcode| match IoOpcode(opcode) {
            other if !supports.has_command(other) => CommandEffects::new(),
            IoOpcode::FLUSH | IoOpcode::READ | IoOpcode::COMPARE | IoOpcode::VERIFY => SUPPORTED,
            // What vendor specific ones do is not known.
            _ => changes,
        });
        let mut data = [admin, io].concat();
        data.resize(PAGE, 0);
        data
    }
}
