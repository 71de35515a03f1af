//! Get Log Page (section 5.16) and what the logs hold.

use std::collections::VecDeque;
use std::time::Duration;

use zerocopy::little_endian::U16;
use zerocopy::{FromZeros, Immutable, IntoBytes};

use super::features::{Feature, TEMPERATURE};
use super::{ALL_NAMESPACES, Controller, Opcode, Outcome, high, low, page};
use crate::model::regs::Version;
use nvme_spec::{Sqe, Status};

/// Entries of the Error Information log, less one (ELPE).
pub(super) const ELPE: u8 = 63;

/// A field of the Error Information log for which there is nothing.
const NONE: u16 = 0xffff;

/// A log page that the controller has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Log {
    SupportedLogPages = 0x00,
    Error = 0x01,
    Smart = 0x02,
    FirmwareSlot = 0x03,
    ChangedNamespaces = 0x04,
    CommandEffects = 0x05,
    AsymmetricAccess = 0x0c,
    FeatureEffects = 0x12,
    MiCommandEffects = 0x13,
}

impl Log {
    const fn from_lid(lid: u8) -> Option<Self> {
        Some(match lid {
            0x00 => Self::SupportedLogPages,
            0x01 => Self::Error,
            0x02 => Self::Smart,
            0x03 => Self::FirmwareSlot,
            0x04 => Self::ChangedNamespaces,
            0x05 => Self::CommandEffects,
            0x0c => Self::AsymmetricAccess,
            0x12 => Self::FeatureEffects,
            0x13 => Self::MiCommandEffects,
            _ => return None,
        })
    }

    pub(super) const fn lid(self) -> u8 {
        self as u8
    }
}

/// A command that failed in a way that its status alone does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorEntry {
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
        Self { sqid: NONE, cid: NONE, status: Status::SUCCESS, lba: 0, nsid: 0 }
    }
}

/// An entry of the Error Information log (section 5.16.1.2).
#[derive(IntoBytes, Immutable, Debug)]
#[repr(C)]
struct ErrorInformation {
    error_count: u64,
    sqid: u16,
    cid: u16,
    status: Status,
    parameter_error_location: u16,
    lba: u64,
    nsid: u32,
    vendor_specific: u8,
    trtype: u8,
    reserved_30: [u8; 2],
    command_specific: u64,
    reserved_40: [u8; 24],
}

const _: () = assert!(size_of::<ErrorInformation>() == 64);

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
            parameter_error_location: NONE,
            lba: entry.lba,
            nsid: entry.nsid,
            vendor_specific: 0,
            trtype: 0,
            reserved_30: [0; 2],
            command_specific: 0,
            reserved_40: [0; 24],
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

/// SMART / Health Information (section 5.16.1.3). The reserved bytes include what an NVM drive without sensors, spare
/// flash and endurance groups does not have.
#[derive(FromZeros, IntoBytes, Immutable)]
#[repr(C)]
struct Smart {
    critical_warning: u8,
    composite_temperature: U16,
    available_spare: u8,
    available_spare_threshold: u8,
    percentage_used: u8,
    reserved_6: [u8; 26],
    data_units_read: [u64; 2],
    data_units_written: [u64; 2],
    host_read_commands: [u64; 2],
    host_write_commands: [u64; 2],
    controller_busy_time: [u64; 2],
    power_cycles: [u64; 2],
    power_on_hours: [u64; 2],
    unsafe_shutdowns: [u64; 2],
    media_errors: [u64; 2],
    error_log_entries: [u64; 2],
    reserved_192: [u8; 320],
}

const _: () = assert!(size_of::<Smart>() == 512);

/// Firmware Slot Information (section 5.16.1.4): one slot.
#[derive(FromZeros, IntoBytes, Immutable)]
#[repr(C)]
struct FirmwareSlot {
    afi: u8,
    reserved_1: [u8; 7],
    frs1: [u8; 8],
    reserved_16: [u8; 496],
}

const _: () = assert!(size_of::<FirmwareSlot>() == 512);

/// Bits of the effects logs: what they are about is supported, it changes blocks, its scope is a namespace, its scope
/// is the controller (sections 5.16.1.6 and 5.16.1.18).
const SUPPORTED: u32 = 1;
const CHANGES_BLOCKS: u32 = 1 << 1;
const OF_NAMESPACE: u32 = 1 << 20;
const OF_CONTROLLER: u32 = 1 << 21;

/// A table of 256 dwords.
fn table(entry: impl Fn(u8) -> u32) -> Vec<u8> {
    (0..=u8::MAX).flat_map(|index| entry(index).to_le_bytes()).collect()
}

impl Controller {
    /// Whether this command is answered with [`IoTotals`]: they are then to be counted before it is carried out.
    #[must_use]
    pub fn wants_io_totals(sqe: &Sqe) -> bool {
        sqe.opcode == Opcode::GetLogPage as u8 && low(sqe.cdw10).to_le_bytes()[0] == Log::Smart.lid()
    }

    /// What has been done so far, for the SMART / Health Information log.
    pub fn count_io(&mut self, totals: IoTotals) {
        self.totals = totals;
    }

    /// Adds an entry to the Error Information log.
    pub fn io_error(&mut self, entry: &ErrorEntry) {
        self.errors.add(entry);
    }

    /// Get Log Page (section 5.16).
    pub(super) fn get_log_page(&mut self, sqe: &Sqe, now: Duration) -> Result<Outcome, Status> {
        let [lid, parameters] = low(sqe.cdw10).to_le_bytes();
        let log = Log::from_lid(lid).filter(|log| self.has_log(*log)).ok_or(Status::INVALID_LOG_PAGE)?;
        let dwords = u64::from(u32::from(low(sqe.cdw11)) << 16 | u32::from(high(sqe.cdw10))) + 1;
        let offset = u64::from(sqe.cdw13) << 32 | u64::from(sqe.cdw12);
        // No log is of one namespace alone, and none has an index that an offset could be of (OT).
        let of_namespace = sqe.nsid != 0 && sqe.nsid != ALL_NAMESPACES;
        let by_index = sqe.cdw14 >> 23 & 1 != 0;
        if of_namespace || by_index || !offset.is_multiple_of(4) || dwords * 4 > self.limits.mdts_bytes() {
            return Err(Status::INVALID_FIELD);
        }
        let mut data = self.log(log, sqe, now)?;
        let start = usize::try_from(offset).ok().filter(|start| *start <= data.len()).ok_or(Status::INVALID_FIELD)?;
        data.drain(..start);
        data.truncate(usize::try_from(dwords * 4).unwrap_or(usize::MAX));
        // Retain Asynchronous Event.
        if parameters >> 7 == 0 {
            self.events.log_was_read(log);
            if log == Log::ChangedNamespaces {
                self.changes_were_read(start + data.len());
            }
        }
        Ok(Outcome::data(data))
    }

    /// The logs that tell of logs, features and scopes came with 2.0.
    fn has_log(&self, log: Log) -> bool {
        let later = matches!(log, Log::SupportedLogPages | Log::FeatureEffects | Log::MiCommandEffects);
        !later || self.identity.version != Version::V1_4
    }

    /// The host has read the Changed Namespace List up to a byte. What is behind that it does not know yet, and is told of again.
    fn changes_were_read(&mut self, end: usize) {
        if end >= self.namespaces.changed().len() * size_of::<u32>() {
            self.namespaces.forget_changes();
        } else {
            self.raise_conditions();
        }
    }

    fn log(&self, log: Log, sqe: &Sqe, now: Duration) -> Result<Vec<u8>, Status> {
        Ok(match log {
            Log::SupportedLogPages => table(|lid| Log::from_lid(lid).map_or(0, |_| SUPPORTED)),
            Log::Error => self.errors.page(),
            Log::Smart => self.smart(now),
            Log::FirmwareSlot => {
                page(&FirmwareSlot { afi: 1, frs1: *self.identity.firmware.as_bytes(), ..FirmwareSlot::new_zeroed() })
            }
            Log::ChangedNamespaces => {
                let mut data: Vec<u8> = self.namespaces.changed().iter().flat_map(|nsid| nsid.to_le_bytes()).collect();
                data.resize(4096, 0);
                data
            }
            Log::AsymmetricAccess => self.asymmetric_access(sqe),
            // The command set identifier: the NVM command set is the only one.
            Log::CommandEffects if sqe.cdw14 >> 24 != 0 => return Err(Status::INVALID_FIELD),
            Log::CommandEffects => self.command_effects(),
            Log::FeatureEffects => table(|fid| match Feature::from_fid(fid) {
                Some(feature) if feature.is_of_namespace() => SUPPORTED | OF_NAMESPACE,
                Some(_) => SUPPORTED | OF_CONTROLLER,
                None => 0,
            }),
            // LPA says by one bit that this one is there too. There is no management interface: it has no commands.
            Log::MiCommandEffects => vec![0; 4096],
        })
    }

    fn smart(&self, now: Duration) -> Vec<u8> {
        let up = self.first_enabled.map_or(Duration::ZERO, |since| now.saturating_sub(since));
        let totals = &self.totals;
        // In thousands of 512 bytes, rounded up.
        let units = |bytes: u64| [bytes.div_ceil(512 * 1000), 0];
        page(&Smart {
            critical_warning: self.features.critical_warning(),
            composite_temperature: TEMPERATURE.into(),
            available_spare: 100,
            available_spare_threshold: 10,
            data_units_read: units(totals.bytes_read),
            data_units_written: units(totals.bytes_written),
            host_read_commands: [totals.read_commands, 0],
            host_write_commands: [totals.write_commands, 0],
            controller_busy_time: [totals.busy.as_secs() / 60, 0],
            power_cycles: [1, 0],
            power_on_hours: [up.as_secs() / 3600, 0],
            media_errors: [totals.media_errors, 0],
            error_log_entries: [self.errors.count, 0],
            ..Smart::new_zeroed()
        })
    }

    /// Commands Supported and Effects: admin commands, then those of the NVM command set. Without their scopes, which may be
    /// left out: Linux warns of I/O commands that have one.
    fn command_effects(&self) -> Vec<u8> {
        let supports = self.namespaces.supports();
        let admin = table(|opcode| Opcode::parse(opcode).map_or(0, |_| SUPPORTED));
        let io = table(|opcode| match opcode {
            0x00 | 0x02 => SUPPORTED,
            0x01 => SUPPORTED | CHANGES_BLOCKS,
            0x04 if supports.write_uncorrectable => SUPPORTED | CHANGES_BLOCKS,
            0x05 if supports.compare => SUPPORTED,
            0x08 if supports.write_zeroes => SUPPORTED | CHANGES_BLOCKS,
            0x09 if supports.unmap => SUPPORTED | CHANGES_BLOCKS,
            0x0c if supports.verify => SUPPORTED,
            // What they do is not known. Those with data in both directions are refused.
            0x80.. if supports.vendor_specific && opcode & 0b11 != 0b11 => SUPPORTED | CHANGES_BLOCKS,
            _ => 0,
        });
        let mut data = [admin, io].concat();
        data.resize(4096, 0);
        data
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;

    #[test]
    fn fields_lie_where_the_specification_has_them() {
        assert_eq!(offset_of!(ErrorInformation, lba), 16);
        assert_eq!(offset_of!(ErrorInformation, command_specific), 32);
        assert_eq!(offset_of!(Smart, composite_temperature), 1);
        assert_eq!(offset_of!(Smart, data_units_read), 32);
        assert_eq!(offset_of!(Smart, power_on_hours), 128);
        assert_eq!(offset_of!(Smart, error_log_entries), 176);
        assert_eq!(offset_of!(FirmwareSlot, frs1), 8);
    }
}
