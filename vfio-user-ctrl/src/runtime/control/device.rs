//! The device as the wire protocol asks for it: configuration space, registers, doorbells, the MSI-X table.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::model::pci::{self, Area, ConfigSpace, MsixTable, PciIdentity};
use crate::model::regs::RegEffect;
use crate::runtime::session::Session;
use crate::wire::{self, DeviceInfo};

/// A controller's PCI function, for one session.
#[derive(Debug)]
pub(super) struct Device {
    session: Arc<Session>,
    config: ConfigSpace,
    msix: MsixTable,
    effects: Vec<RegEffect>,
}

impl Device {
    pub(super) fn new(session: Arc<Session>) -> Self {
        let vectors = vectors(&session);
        Self {
            session,
            config: ConfigSpace::new(&PciIdentity::default(), vectors),
            msix: MsixTable::new(vectors),
            effects: Vec::new(),
        }
    }

    /// Its shape.
    pub(super) fn info(&self) -> DeviceInfo {
        DeviceInfo {
            bar0_size: pci::BAR0_SIZE as u64,
            doorbells: pci::DOORBELLS.start as u64..pci::DOORBELLS.end as u64,
            msix_vectors: vectors(&self.session),
            config_size: pci::CONFIG_SIZE as u64,
        }
    }

    /// Everything is as after power on, but for what the home still has to do, which is among the effects.
    pub(super) fn reset(&mut self) {
        self.config.reset();
        self.msix.reset();
        self.effects.push(self.session.registers.function_reset());
    }

    /// Takes what the home has to do, in order.
    pub(super) fn take_effects(&mut self) -> Vec<RegEffect> {
        std::mem::take(&mut self.effects)
    }
}

/// A vector for the admin queue and each I/O queue.
fn vectors(session: &Session) -> u16 {
    session.ctrl.max_queues.saturating_add(1)
}

impl wire::Device for Device {
    fn config_read(&mut self, offset: usize, into: &mut [u8]) {
        self.config.read(offset, into);
    }

    fn config_write(&mut self, offset: usize, data: &[u8]) {
        if self.config.write(offset, data).function_reset {
            self.reset();
        }
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
                Area::Registers => self.effects.extend(self.session.registers.write(piece.offset, part)),
                Area::Doorbells => self.session.doorbells.write_at(piece.offset, part),
                Area::Msix => self.msix.write(piece.offset, part),
            }
        }
    }

    fn doorbells(&self) -> Arc<OwnedFd> {
        self.session.doorbells.file()
    }
}
