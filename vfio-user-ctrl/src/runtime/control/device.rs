//! The device as the wire protocol asks for it: configuration space, registers, doorbells, the MSI-X table.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use vfio_user::DeviceInfo;

use crate::runtime::session::Session;
use nvme_device::model::pci::{self, Area, ConfigSpace, MsixTable, PciIdentity};
use nvme_device::model::regs::RegEffect;
use nvme_device::queue::PinMask;

/// A controller's PCI function, for one session.
#[derive(Debug)]
pub(super) struct Device {
    session: Arc<Session>,
    config: ConfigSpace,
    msix: MsixTable,
    effects: Vec<Effect>,
    /// The poll groups have to look at the session.
    changed: bool,
    /// A function-level reset is in progress that was answered for: the function is not ready.
    not_ready: bool,
}

/// What a write asks of others.
#[derive(Debug)]
pub(super) enum Effect {
    /// A write to registers.
    Registers(RegEffect),
    /// A function-level reset.
    FunctionReset,
}

impl Device {
    pub(super) fn new(session: Arc<Session>) -> Self {
        let vectors = vectors(&session);
        Self {
            session,
            config: ConfigSpace::new(&PciIdentity::default(), vectors),
            msix: MsixTable::new(vectors),
            effects: Vec::new(),
            changed: false,
            not_ready: false,
        }
    }

    /// Returns its shape.
    pub(super) fn info(&self) -> DeviceInfo {
        DeviceInfo {
            bar0_size: pci::BAR0_SIZE as u64,
            doorbells: pci::DOORBELLS.start as u64..pci::DOORBELLS.end as u64,
            msix_vectors: vectors(&self.session),
            config_size: pci::CONFIG_SIZE as u64,
        }
    }

    /// Everything is as after power on, but for what the admin worker has to do.
    pub(super) fn reset(&mut self) {
        self.config.reset();
        self.msix.reset();
        // The admin worker's part is another operation.
        let _ = self.session.registers.function_reset();
        self.look_at_config();
        self.look_at_registers();
    }

    /// Takes what the admin worker has to do, in order.
    pub(super) fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// Takes whether the poll groups have to look at the session.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Sets whether the function answers accesses to its configuration space, or is still being reset.
    pub(super) fn set_ready(&mut self, ready: bool) {
        self.not_ready = !ready;
    }

    fn look_at_config(&mut self) {
        self.changed |= self.session.bus.set(self.config.may_access_memory());
        self.changed |= self.session.interrupts.pin().set_mask(PinMask::Command, self.config.pin_disabled());
    }

    fn look_at_registers(&mut self) {
        let masked = self.session.registers.pin_is_masked();
        self.changed |= self.session.interrupts.pin().set_mask(PinMask::Register, masked);
    }
}

/// Returns a vector for the admin queue and each I/O queue.
fn vectors(session: &Session) -> u16 {
    session.ctrl.max_queues.saturating_add(1)
}

impl vfio_user::Device for Device {
    fn config_read(&mut self, offset: usize, into: &mut [u8]) {
        if self.not_ready {
            // As a function that is not ready after a reset: no completion of the request, which reads as ones.
            return into.fill(0xff);
        }
        self.config.set_interrupt_status(self.session.interrupts.pin().has_reason(&self.session.doorbells));
        self.config.read(offset, into);
    }

    fn config_write(&mut self, offset: usize, data: &[u8]) -> bool {
        let could_access = self.session.bus.is_allowed();
        let function_reset = self.config.write(offset, data).function_reset;
        if function_reset {
            self.reset();
            self.effects.push(Effect::FunctionReset);
        }
        self.look_at_config();
        function_reset || (could_access && !self.session.bus.is_allowed())
    }

    fn bar0_read(&mut self, offset: usize, into: &mut [u8]) {
        into.fill(0);
        for piece in pci::pieces(offset, into.len()) {
            let Some(part) = into.get_mut(piece.bytes.clone()) else { continue };
            match piece.area {
                Area::Registers => self.session.registers.read(piece.offset, part),
                Area::Doorbells => self.session.doorbells.read_at(piece.offset, part),
                Area::Msix => self.msix.read(piece.offset, part),
            }
        }
    }

    fn bar0_write(&mut self, offset: usize, data: &[u8]) {
        for piece in pci::pieces(offset, data.len()) {
            let Some(part) = data.get(piece.bytes.clone()) else { continue };
            match piece.area {
                Area::Registers => {
                    self.effects.extend(self.session.registers.write(piece.offset, part).map(Effect::Registers));
                    self.look_at_registers();
                }
                Area::Doorbells => self.session.doorbells.write_at(piece.offset, part),
                Area::Msix => self.msix.write(piece.offset, part),
            }
        }
    }

    fn doorbells(&self) -> Arc<OwnedFd> {
        self.session.doorbells.file()
    }
}
