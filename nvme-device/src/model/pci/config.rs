//! Configuration space of the function (PCI Express Base Specification, sections 7.5 to 7.7).
//!
//! A type 0 header with one 64-bit memory BAR and an interrupt pin, and the capabilities power management, MSI-X and
//! PCI Express. There are no extended capabilities. No error is ever recorded, so the status bits that software clears
//! by writing 1 always read 0.

use super::{BAR0_SIZE, CONFIG_SIZE, MAX_VECTORS, MSIX_PBA, MSIX_TABLE, PciIdentity};

const VENDOR: usize = 0x00;
const DEVICE: usize = 0x02;
const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const REVISION: usize = 0x08;
const CLASS: usize = 0x09;
const CACHE_LINE_SIZE: usize = 0x0c;
const BAR0: usize = 0x10;
const BAR0_HIGH: usize = 0x14;
const SUBSYSTEM_VENDOR: usize = 0x2c;
const SUBSYSTEM: usize = 0x2e;
const CAPABILITIES: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3c;
const INTERRUPT_PIN: usize = 0x3d;

const PM: usize = 0x40;
const PMC: usize = PM + 2;
const PMCSR: usize = PM + 4;

const MSIX: usize = 0x50;
const MSIX_CONTROL: usize = MSIX + 2;
const MSIX_TABLE_OFFSET: usize = MSIX + 4;
const MSIX_PBA_OFFSET: usize = MSIX + 8;

const EXPRESS: usize = 0x60;
const EXPRESS_FLAGS: usize = EXPRESS + 2;
const DEVICE_CAPABILITIES: usize = EXPRESS + 0x04;
const DEVICE_CONTROL: usize = EXPRESS + 0x08;
const LINK_CAPABILITIES: usize = EXPRESS + 0x0c;
const LINK_CONTROL: usize = EXPRESS + 0x10;
const LINK_STATUS: usize = EXPRESS + 0x12;
const DEVICE_CAPABILITIES_2: usize = EXPRESS + 0x24;
const DEVICE_CONTROL_2: usize = EXPRESS + 0x28;
const LINK_CAPABILITIES_2: usize = EXPRESS + 0x2c;
const LINK_CONTROL_2: usize = EXPRESS + 0x30;

/// Capability IDs.
const PM_ID: u8 = 0x01;
const EXPRESS_ID: u8 = 0x10;
const MSIX_ID: u8 = 0x11;

/// Mass storage, non-volatile memory, NVM Express I/O controller; lowest byte first.
const CLASS_NVME: [u8; 3] = [0x02, 0x08, 0x01];
const STATUS_INTERRUPT: u16 = 1 << 3;
const STATUS_CAPABILITIES_LIST: u16 = 1 << 4;
/// INTA#.
const PIN_A: u8 = 1;
const COMMAND_BUS_MASTER: u16 = 1 << 2;
const COMMAND_INTERRUPT_DISABLE: u16 = 1 << 10;
/// Memory space, bus master, parity error response, SERR#, interrupt disable. There is no I/O space.
const COMMAND_WRITABLE: u32 = 0x0546;
/// Memory, not prefetchable, anywhere in 64 bits.
const BAR_TYPE: u32 = 0b0100;
/// The bits that hold an address: those that are not below the size. Software sizes the BAR by writing ones.
#[expect(clippy::cast_possible_truncation, reason = "16 KiB")]
const BAR_WRITABLE: u32 = !(BAR0_SIZE as u32 - 1);

/// Version 3; neither D1 nor D2, no PME#.
const PMC_VALUE: u16 = 3;
/// Going from D3hot to D0 loses nothing, so no software needs to bring the function up again after it.
const PMCSR_NO_SOFT_RESET: u16 = 1 << 3;
const PMCSR_STATE: u16 = 0b11;

const MSIX_ENABLE: u16 = 1 << 15;
const MSIX_FUNCTION_MASK: u16 = 1 << 14;

/// Version 2, endpoint.
const EXPRESS_ENDPOINT: u16 = 2;
/// Extended tags, role-based error reporting, function-level reset; payloads of 128 bytes.
const DEVICE_CAPABILITIES_VALUE: u32 = 1 << 28 | 1 << 15 | 1 << 5;
/// Relaxed ordering, no snoop, read requests of 512 bytes.
const DEVICE_CONTROL_VALUE: u16 = 2 << 12 | 1 << 11 | 1 << 4;
/// Error reporting, relaxed ordering, extended tags, no snoop, size of read requests.
const DEVICE_CONTROL_WRITABLE: u32 = 0x791f;
/// The upper byte of Device Control holds the bit that starts a function-level reset. It always reads 0.
const FUNCTION_RESET: (usize, u8) = (DEVICE_CONTROL + 1, 1 << 7);
/// 16 GT/s and 4 lanes, as a drive of these days has: nothing is as slow as the link says, but hosts print it.
const LINK: u16 = 4 << 4 | 4;
/// Optional ASPM, of which there is none.
const LINK_CAPABILITIES_VALUE: u32 = 1 << 22 | LINK as u32;
/// ASPM control, read completion boundary, common clock, extended synch.
const LINK_CONTROL_WRITABLE: u32 = 0x00cb;
const LINK_STATUS_SLOT_CLOCK: u16 = 1 << 12;
/// The completion time-out can be disabled.
const COMPLETION_TIMEOUT_DISABLE: u32 = 1 << 4;
/// 2.5, 5, 8 and 16 GT/s.
const LINK_CAPABILITIES_2_VALUE: u32 = 0b1111 << 1;

/// The bits that software can change, by dword. All others are read-only.
const WRITABLE: [(usize, u32); 10] = [
    (COMMAND, COMMAND_WRITABLE),
    (CACHE_LINE_SIZE, 0xff),
    (BAR0, BAR_WRITABLE),
    (BAR0_HIGH, u32::MAX),
    (INTERRUPT_LINE, 0xff),
    (PMCSR, PMCSR_STATE as u32),
    (MSIX, ((MSIX_ENABLE | MSIX_FUNCTION_MASK) as u32) << 16),
    (DEVICE_CONTROL, DEVICE_CONTROL_WRITABLE),
    (LINK_CONTROL, LINK_CONTROL_WRITABLE),
    (DEVICE_CONTROL_2, COMPLETION_TIMEOUT_DISABLE),
];

/// What a write changed that others must know of. A field is set only when its value changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[must_use = "a reset that nobody carries out leaves the host with a running controller"]
pub struct PciEffects {
    /// A function-level reset was asked for: [`ConfigSpace::reset`], the registers and the MSI-X table are to be reset.
    pub function_reset: bool,
    /// If that has changed: whether the function may now access memory and send interrupts.
    pub bus_master: Option<bool>,
    /// The MSI-X enable and mask bits.
    pub msix: Option<MsixControl>,
    /// The power state.
    pub power_state: Option<PowerState>,
}

/// What the MSI-X capability says of all vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MsixControl {
    /// Interrupts are sent by MSI-X.
    pub enabled: bool,
    /// All vectors are masked, whatever their own mask bits say.
    pub function_masked: bool,
}

/// A power state of the function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerState {
    /// At work.
    D0,
    /// Off but for configuration space. Registers and queues stay as they are.
    D3hot,
}

/// The configuration space of one function: 4096 bytes.
#[derive(Debug)]
pub struct ConfigSpace {
    identity: PciIdentity,
    vectors: u16,
    image: Box<[u8; CONFIG_SIZE]>,
}

impl ConfigSpace {
    /// Returns a function as it is after power-on, with `vectors` MSI-X vectors, held to 1..=256.
    #[must_use]
    pub fn new(identity: &PciIdentity, vectors: u16) -> Self {
        let mut space =
            Self { identity: *identity, vectors: vectors.clamp(1, MAX_VECTORS), image: Box::new([0; CONFIG_SIZE]) };
        space.put_header();
        space.put_capabilities();
        space
    }

    /// Reads at `offset`, any length and alignment. What lies past the end reads as ones, as where no function answers.
    pub fn read(&self, offset: usize, into: &mut [u8]) {
        into.fill(0xff);
        for (byte, field) in into.iter_mut().zip(self.image.get(offset..).unwrap_or_default()) {
            *byte = *field;
        }
    }

    /// Writes at `offset`, any length and alignment. Only writable bits change, and what lies past the end is dropped.
    pub fn write(&mut self, offset: usize, data: &[u8]) -> PciEffects {
        let (bus_master, msix, power) = (self.bus_master(), self.msix(), self.pmcsr());
        let mut function_reset = false;
        for ((at, byte), new) in self.image.iter_mut().enumerate().skip(offset).zip(data) {
            function_reset |= at == FUNCTION_RESET.0 && new & FUNCTION_RESET.1 != 0;
            let mask = writable(at);
            *byte = *byte & !mask | new & mask;
        }
        if power_state(self.pmcsr()).is_none() {
            // A state that the function does not have: the write completes, and the state stays.
            self.put(PMCSR, power.to_le_bytes());
        }
        PciEffects {
            function_reset,
            bus_master: changed(bus_master, self.bus_master()),
            msix: changed(msix, self.msix()),
            power_state: changed(power, self.pmcsr()).and_then(power_state),
        }
    }

    /// What a function-level reset does (PCI Express Base Specification, section 6.6.2): all is as after power-on, but
    /// for what belongs to the link.
    pub fn reset(&mut self) {
        let link_control = self.word(LINK_CONTROL);
        *self = Self::new(&self.identity, self.vectors);
        self.put(LINK_CONTROL, link_control.to_le_bytes());
    }

    /// Returns the MSI-X enable and mask bits.
    #[must_use]
    pub(crate) fn msix(&self) -> MsixControl {
        let control = self.word(MSIX_CONTROL);
        MsixControl { enabled: control & MSIX_ENABLE != 0, function_masked: control & MSIX_FUNCTION_MASK != 0 }
    }

    /// Returns whether the host lets the function access memory and send interrupts (Bus Master Enable).
    #[must_use]
    pub(crate) fn bus_master(&self) -> bool {
        self.word(COMMAND) & COMMAND_BUS_MASTER != 0
    }

    /// Returns whether the function may access memory: Bus Master Enable is set, and the power state is D0.
    #[must_use]
    pub fn may_access_memory(&self) -> bool {
        self.bus_master() && power_state(self.pmcsr()) == Some(PowerState::D0)
    }

    /// Returns whether the host forbids the function to raise its interrupt pin (Interrupt Disable).
    #[must_use]
    pub fn pin_disabled(&self) -> bool {
        self.word(COMMAND) & COMMAND_INTERRUPT_DISABLE != 0
    }

    /// Sets whether there is a reason to raise the interrupt pin (Interrupt Status), whether or not it may be raised.
    pub fn set_interrupt_status(&mut self, pending: bool) {
        let status = STATUS_CAPABILITIES_LIST | if pending { STATUS_INTERRUPT } else { 0 };
        self.put(STATUS, status.to_le_bytes());
    }

    /// Returns how many MSI-X vectors the function has.
    #[cfg(test)]
    pub(crate) fn vectors(&self) -> u16 {
        self.vectors
    }

    fn put_header(&mut self) {
        let identity = self.identity;
        self.put(VENDOR, identity.vendor.to_le_bytes());
        self.put(DEVICE, identity.device.to_le_bytes());
        self.put(STATUS, STATUS_CAPABILITIES_LIST.to_le_bytes());
        self.put(REVISION, [identity.revision]);
        self.put(CLASS, CLASS_NVME);
        self.put(BAR0, BAR_TYPE.to_le_bytes());
        self.put(SUBSYSTEM_VENDOR, identity.subsystem_vendor.to_le_bytes());
        self.put(SUBSYSTEM, identity.subsystem.to_le_bytes());
        self.put(INTERRUPT_PIN, [PIN_A]);
    }

    #[expect(clippy::cast_possible_truncation, reason = "offsets in the first 256 bytes, and in BAR0")]
    fn put_capabilities(&mut self) {
        self.put(CAPABILITIES, [PM as u8]);
        self.put(PM, [PM_ID, MSIX as u8]);
        self.put(PMC, PMC_VALUE.to_le_bytes());
        self.put(PMCSR, PMCSR_NO_SOFT_RESET.to_le_bytes());

        self.put(MSIX, [MSIX_ID, EXPRESS as u8]);
        self.put(MSIX_CONTROL, (self.vectors - 1).to_le_bytes());
        // The low three bits name the BAR: 0.
        self.put(MSIX_TABLE_OFFSET, (MSIX_TABLE.start as u32).to_le_bytes());
        self.put(MSIX_PBA_OFFSET, (MSIX_PBA.start as u32).to_le_bytes());

        self.put(EXPRESS, [EXPRESS_ID, 0]);
        self.put(EXPRESS_FLAGS, EXPRESS_ENDPOINT.to_le_bytes());
        self.put(DEVICE_CAPABILITIES, DEVICE_CAPABILITIES_VALUE.to_le_bytes());
        self.put(DEVICE_CONTROL, DEVICE_CONTROL_VALUE.to_le_bytes());
        self.put(LINK_CAPABILITIES, LINK_CAPABILITIES_VALUE.to_le_bytes());
        self.put(LINK_STATUS, (LINK_STATUS_SLOT_CLOCK | LINK).to_le_bytes());
        self.put(DEVICE_CAPABILITIES_2, COMPLETION_TIMEOUT_DISABLE.to_le_bytes());
        self.put(LINK_CAPABILITIES_2, LINK_CAPABILITIES_2_VALUE.to_le_bytes());
        self.put(LINK_CONTROL_2, (LINK & 0xf).to_le_bytes());
    }

    fn put<const N: usize>(&mut self, at: usize, value: [u8; N]) {
        for (byte, part) in self.image.iter_mut().skip(at).zip(value) {
            *byte = part;
        }
    }

    fn word(&self, at: usize) -> u16 {
        let mut word = [0; 2];
        self.read(at, &mut word);
        u16::from_le_bytes(word)
    }

    fn pmcsr(&self) -> u16 {
        self.word(PMCSR)
    }
}

/// Returns the bits of the byte at this offset that software can change.
fn writable(at: usize) -> u8 {
    let mask = WRITABLE.iter().find(|(dword, _)| *dword == at & !3).map_or(0, |(_, mask)| *mask);
    mask.to_le_bytes()[at & 3]
}

fn power_state(pmcsr: u16) -> Option<PowerState> {
    match pmcsr & PMCSR_STATE {
        0 => Some(PowerState::D0),
        3 => Some(PowerState::D3hot),
        _ => None,
    }
}

fn changed<T: Copy + PartialEq>(old: T, new: T) -> Option<T> {
    (old != new).then_some(new)
}

#[cfg(test)]
mod tests;
