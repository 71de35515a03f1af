//! The controller's registers (NVM Express Base Specification 2.0, section 3.1.3): the first page of BAR0.
//!
//! Two threads share them. The *control thread* answers the client: it alone reads and writes on the host's behalf. The
//! controller's *admin worker* owns the queues: it alone says how far the controller is. Neither waits for the other.
//!
//! | the host writes | the control thread | the admin worker |
//! |---|---|---|
//! | CC.EN = 1 | checks CC and AQA; passes [`RegEffect::Enable`] on, or sets CSTS.CFS | makes the admin queue, then [`Registers::set_ready`] or [`Registers::set_fatal`] |
//! | CC.EN = 0 | resets what a Controller Reset resets; passes [`RegEffect::Disable`] on | stops all queues, then [`Registers::reset_done`] |
//! | CC.EN = 0 and CC.SHN | the same, and CSTS.SHST says "occurring" | the same; then, as [`Registers::shutdown_is_occurring`], what CC.SHN asks for |
//! | CC.SHN | CSTS.SHST says "occurring"; passes [`RegEffect::Shutdown`] on | has caches written back, then [`Registers::set_shutdown_complete`] |
//! | function-level reset | [`Registers::function_reset`]; passes [`RegEffect::Disable`] on | as for CC.EN = 0 |
//!
//! The effects must reach the admin worker in the order in which they came. A host that enables the controller before
//! CSTS.RDY is 0 then gets both: the end of the old life and the new one. CSTS.RDY falls only by
//! [`Registers::reset_done`]: a host takes its memory back when it reads 0, so no I/O may touch that memory any more.
//!
//! CSTS has two parts for that reason, one of each thread: a status that the admin worker gives late, for a life that
//! is over, goes with `reset_done`, and does not overwrite what the control thread said of the next life. Only of a
//! life that never got ready the control thread takes it away.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use nvme_spec::register::{Aqa, Cap, Cc, CommandSetSelected, Csts, Register, ShutdownNotification, ShutdownStatus};

use super::pci::REGISTERS;

/// Where the dwords of registers are.
const CAP: usize = Register::CAP.offset();
const CAP_HIGH: usize = CAP + 4;
const VS: usize = Register::VS.offset();
const INTMS: usize = Register::INTMS.offset();
const INTMC: usize = Register::INTMC.offset();
const CC: usize = Register::CC.offset();
const CSTS: usize = Register::CSTS.offset();
const AQA: usize = Register::AQA.offset();
const ASQ: usize = Register::ASQ.offset();
const ASQ_HIGH: usize = ASQ + 4;
const ACQ: usize = Register::ACQ.offset();
const ACQ_HIGH: usize = ACQ + 4;
const CRTO: usize = Register::CRTO.offset();

/// A version of the specification that a controller says it follows. What came with a later one is not told, nor
/// answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Version {
    /// NVM Express 1.4.0.
    V1_4,
    /// NVM Express 2.0.0.
    #[default]
    V2_0,
}

impl Version {
    /// Returns the value of the Version register (VS), and of Identify Controller (VER).
    #[must_use]
    pub(crate) const fn number(self) -> nvme_spec::register::Version {
        match self {
            Self::V1_4 => nvme_spec::register::Version::V1_4,
            Self::V2_0 => nvme_spec::register::Version::V2_0,
        }
    }
}

const CC_EN: u32 = Cc::new().with_en(true).into_bits();
/// CC.CSS, CC.MPS and CC.AMS: 0 is the only value of each that this controller has, and none may change while enabled.
const CC_MODE: u32 = Cc::new().with_css(CommandSetSelected(0b111)).with_mps(0b1111).with_ams(0b111).into_bits();
const CC_SHN: u32 = Cc::new().with_shn(ShutdownNotification(0b11)).into_bits();
const CC_ENTRY_SIZES: u32 = Cc::new().with_iosqes(0b1111).with_iocqes(0b1111).into_bits();
const CC_WRITABLE: u32 = CC_EN | CC_MODE | CC_SHN | CC_ENTRY_SIZES;

const CSTS_RDY: u32 = Csts::new().with_rdy(true).into_bits();
const CSTS_CFS: u32 = Csts::new().with_cfs(true).into_bits();
const CSTS_SHST: u32 = Csts::new().with_shst(ShutdownStatus(0b11)).into_bits();
const CSTS_SHST_OCCURRING: u32 = Csts::new().with_shst(ShutdownStatus::OCCURRING).into_bits();
const CSTS_SHST_COMPLETE: u32 = Csts::new().with_shst(ShutdownStatus::COMPLETE).into_bits();

const AQA_WRITABLE: u32 = Aqa::new().with_asqs(0xfff).with_acqs(0xfff).into_bits();
/// Queues begin on a page, so the low bits of their addresses are reserved.
const QUEUE_BASE: u64 = !0xfff;

/// What the registers say of the controller's abilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CtrlLimits {
    /// The most entries of an I/O queue (CAP.MQES + 1), at least 2: less counts as 2.
    pub max_queue_entries: u16,
    /// How long the host is to wait for the controller to become ready or to stop (CAP.TO and CRTO.CRWMT), in units of
    /// 500 ms; 0 counts as 1.
    pub timeout_500ms: u8,
    /// The version that it says it follows.
    pub version: Version,
}

/// What the admin worker has to do because of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "the host waits for the admin worker's answer to it"]
pub enum RegEffect {
    /// Start with this admin queue.
    Enable(Enable),
    /// Stop, and forget all queues and what the host set. It comes also for a controller that was refused by
    /// CSTS.CFS or was never started.
    Disable,
    /// Get ready for the power to go. It comes also for a controller that was refused by CSTS.CFS.
    Shutdown {
        /// There is no time to finish what is in flight.
        abrupt: bool,
    },
}

/// The admin queue as AQA, ASQ and ACQ have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Enable {
    /// Guest address of the admin submission queue, on a page.
    pub asq: u64,
    /// Guest address of the admin completion queue, on a page.
    pub acq: u64,
    /// Entries of the admin submission queue: 2..=4096.
    pub asqs: u16,
    /// Entries of the admin completion queue: 2..=4096.
    pub acqs: u16,
}

/// The sizes of I/O queue entries that the host set, as powers of two of bytes. They may be wrong: a queue is created
/// only with 6 and 4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntrySizes {
    /// Submission queue entries (CC.IOSQES).
    pub iosqes: u8,
    /// Completion queue entries (CC.IOCQES).
    pub iocqes: u8,
}

/// The registers of one controller.
#[derive(Debug)]
pub struct Registers {
    cap: u64,
    vs: u32,
    crto: u32,
    intm: AtomicU32,
    cc: AtomicU32,
    aqa: AtomicU32,
    asq: AtomicU64,
    acq: AtomicU64,
    /// CFS and SHST as far as the control thread set them.
    csts_control: AtomicU32,
    /// RDY, CFS and SHST as far as the admin worker set them.
    csts_admin_worker: AtomicU32,
}

impl Registers {
    /// Returns the registers after power-on.
    #[must_use]
    pub fn new(limits: &CtrlLimits) -> Self {
        let mqes = limits.max_queue_entries.max(2) - 1;
        let timeout = limits.timeout_500ms.max(1);
        // Ready modes came with 2.0.
        let (crwms, crto) = if limits.version == Version::V1_4 { (false, 0) } else { (true, timeout) };
        // Queues are physically contiguous. There are neither other command sets nor a controller of admin commands
        // alone.
        let cap = Cap::new().with_mqes(mqes).with_cqr(true).with_to(timeout).with_css_nvm(true).with_crwms(crwms);
        Self {
            cap: cap.into_bits(),
            vs: limits.version.number().into_bits(),
            crto: u32::from(crto),
            intm: AtomicU32::new(0),
            cc: AtomicU32::new(0),
            aqa: AtomicU32::new(0),
            asq: AtomicU64::new(0),
            acq: AtomicU64::new(0),
            csts_control: AtomicU32::new(0),
            csts_admin_worker: AtomicU32::new(0),
        }
    }

    /// Reads at `offset`, any length and alignment. Each register that is touched is read once. Reserved registers and
    /// what lies behind them read as 0.
    pub fn read(&self, offset: usize, into: &mut [u8]) {
        let (mut at, mut rest) = (offset, into);
        while !rest.is_empty() && at < REGISTERS.end {
            let skip = at & 3;
            let (part, later) = rest.split_at_mut(rest.len().min(4 - skip));
            for (byte, value) in part.iter_mut().zip(self.dword(at - skip).to_le_bytes().into_iter().skip(skip)) {
                *byte = value;
            }
            at += part.len();
            rest = later;
        }
        rest.fill(0);
    }

    /// Writes at `offset`, any length and alignment; a part of a register changes only that part. Control thread only:
    /// two writers could lose each other's bits.
    pub fn write(&self, offset: usize, data: &[u8]) -> Option<RegEffect> {
        let (mut at, mut rest) = (offset, data);
        let mut effect = None;
        while !rest.is_empty() && at < REGISTERS.end {
            let skip = at & 3;
            let (part, later) = rest.split_at(rest.len().min(4 - skip));
            let (mut value, mut mask) = ([0; 4], [0; 4]);
            for ((value, mask), byte) in value.iter_mut().zip(&mut mask).skip(skip).zip(part) {
                (*value, *mask) = (*byte, 0xff);
            }
            let write = Write { value: u32::from_le_bytes(value), mask: u32::from_le_bytes(mask) };
            effect = self.write_dword(at - skip, write).or(effect);
            at += part.len();
            rest = later;
        }
        effect
    }

    /// Admin worker: commands are taken (CSTS.RDY = 1).
    pub fn set_ready(&self) {
        self.csts_admin_worker.fetch_or(CSTS_RDY, Ordering::Release);
    }

    /// Admin worker: the controller cannot go on and the host must reset it (CSTS.CFS = 1).
    pub fn set_fatal(&self) {
        self.csts_admin_worker.fetch_or(CSTS_CFS, Ordering::Release);
    }

    /// Admin worker: the shutdown that was asked for is done (CSTS.SHST = 10b).
    pub fn set_shutdown_complete(&self) {
        self.csts_admin_worker.fetch_or(CSTS_SHST_COMPLETE, Ordering::Release);
    }

    /// Admin worker: a [`RegEffect::Disable`] has been carried out, and nothing touches the host's memory any more
    /// (CSTS.RDY = 0).
    pub fn reset_done(&self) {
        self.csts_admin_worker.store(0, Ordering::SeqCst);
    }

    /// Admin worker, after [`reset_done`](Self::reset_done): whether the host asked for a shutdown with the reset. It
    /// waits for [`set_shutdown_complete`](Self::set_shutdown_complete).
    #[must_use]
    pub fn shutdown_is_occurring(&self) -> bool {
        self.csts_control.load(Ordering::SeqCst) & CSTS_SHST == CSTS_SHST_OCCURRING
    }

    /// Control thread: all registers as after power-on, but for what the admin worker says, which follows when it has
    /// carried out the effect.
    pub fn function_reset(&self) -> RegEffect {
        for register in [&self.intm, &self.cc, &self.aqa, &self.csts_control] {
            register.store(0, Ordering::Release);
        }
        self.forget_failure();
        self.asq.store(0, Ordering::Release);
        self.acq.store(0, Ordering::Release);
        RegEffect::Disable
    }

    /// CSTS.RDY.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.csts() & CSTS_RDY != 0
    }

    /// CSTS.CFS.
    #[cfg(test)]
    pub(crate) fn fatal(&self) -> bool {
        self.csts() & CSTS_CFS != 0
    }

    /// CC.EN.
    #[must_use]
    pub(crate) fn enabled(&self) -> bool {
        self.cc() & CC_EN != 0
    }

    /// Returns Controller Configuration (CC).
    #[must_use]
    pub(crate) fn cc(&self) -> u32 {
        self.cc.load(Ordering::Acquire)
    }

    /// Returns Controller Status (CSTS).
    #[must_use]
    pub(crate) fn csts(&self) -> u32 {
        let (control, admin_worker) =
            (self.csts_control.load(Ordering::Acquire), self.csts_admin_worker.load(Ordering::Acquire));
        // "Complete" is the greater value: whoever says so ends the other's "occurring".
        (control | admin_worker) & !CSTS_SHST | (control & CSTS_SHST).max(admin_worker & CSTS_SHST)
    }

    /// Returns Controller Capabilities (CAP).
    #[cfg(test)]
    pub(crate) fn cap(&self) -> u64 {
        self.cap
    }

    /// Returns the sizes of I/O queue entries as they are now: a host may set them when the controller already runs.
    #[must_use]
    pub fn entry_sizes(&self) -> EntrySizes {
        let cc = Cc::from_bits(self.cc());
        EntrySizes { iosqes: cc.iosqes(), iocqes: cc.iocqes() }
    }

    /// Returns whether the host masks the interrupt pin (bit 0 of INTMS).
    #[must_use]
    pub fn pin_is_masked(&self) -> bool {
        self.intm.load(Ordering::Acquire) & 1 != 0
    }

    fn dword(&self, at: usize) -> u32 {
        match at {
            CAP => low(self.cap),
            CAP_HIGH => high(self.cap),
            VS => self.vs,
            INTMS | INTMC => self.intm.load(Ordering::Acquire),
            CC => self.cc(),
            CSTS => self.csts(),
            AQA => self.aqa.load(Ordering::Acquire),
            ASQ => low(self.asq.load(Ordering::Acquire)),
            ASQ_HIGH => high(self.asq.load(Ordering::Acquire)),
            ACQ => low(self.acq.load(Ordering::Acquire)),
            ACQ_HIGH => high(self.acq.load(Ordering::Acquire)),
            CRTO => self.crto,
            _ => 0,
        }
    }

    fn write_dword(&self, at: usize, write: Write) -> Option<RegEffect> {
        match at {
            INTMS => {
                self.intm.fetch_or(write.value, Ordering::AcqRel);
            }
            INTMC => {
                self.intm.fetch_and(!write.value, Ordering::AcqRel);
            }
            CC => return self.write_cc(write.over(self.cc()) & CC_WRITABLE),
            AQA => self.aqa.store(write.over(self.dword(AQA)) & AQA_WRITABLE, Ordering::Release),
            ASQ => write_half(&self.asq, write, 0),
            ASQ_HIGH => write_half(&self.asq, write, 32),
            ACQ => write_half(&self.acq, write, 0),
            ACQ_HIGH => write_half(&self.acq, write, 32),
            _ => {}
        }
        None
    }

    fn write_cc(&self, new: u32) -> Option<RegEffect> {
        match (self.enabled(), new & CC_EN != 0) {
            (false, false) => {
                self.store_disabled(new);
                None
            }
            (true, false) => {
                // A Controller Reset. The other fields keep what this write gives them: a host that reads CC to set
                // EN again would lose the entry sizes.
                let csts = if asks_for_shutdown(new) { CSTS_SHST_OCCURRING } else { 0 };
                self.csts_control.store(csts, Ordering::Release);
                self.forget_failure();
                self.intm.store(0, Ordering::Release);
                self.cc.store(new, Ordering::Release);
                Some(RegEffect::Disable)
            }
            (false, true) => self.enable(new & !CC_SHN),
            (true, true) => self.notify(new & !CC_MODE | self.cc() & CC_MODE),
        }
    }

    /// A host that waits for CSTS.RDY = 0 does not wait for a controller that never got ready. What the admin worker
    /// said of that life is forgotten now: the host could take it for the next one's.
    fn forget_failure(&self) {
        let not_ready = |admin_worker| (admin_worker & CSTS_RDY == 0).then_some(0);
        // One that is ready goes by `reset_done`.
        let _ = self.csts_admin_worker.fetch_update(Ordering::AcqRel, Ordering::Acquire, not_ready);
    }

    /// CC for a controller that is disabled. One that has come to rest holds nothing that a shutdown could lose, so
    /// that is complete at once.
    fn store_disabled(&self, cc: u32) {
        if asks_for_shutdown(cc) && self.csts() & CSTS_SHST == 0 {
            // In this order: the admin worker says that it is at rest, and then looks whether a shutdown is asked for.
            self.csts_control.store(CSTS_SHST_OCCURRING, Ordering::SeqCst);
            if self.csts_admin_worker.load(Ordering::SeqCst) & CSTS_RDY == 0 {
                self.csts_control.store(CSTS_SHST_COMPLETE, Ordering::Release);
            }
        }
        self.cc.store(cc, Ordering::Release);
    }

    fn enable(&self, cc: u32) -> Option<RegEffect> {
        let aqa = Aqa::from_bits(self.dword(AQA));
        let (submission, completion) = (aqa.asqs(), aqa.acqs());
        // Sizes are 0's based, and a queue has at least two entries.
        let good = cc & CC_MODE == 0 && submission != 0 && completion != 0;
        self.csts_control.store(if good { 0 } else { CSTS_CFS }, Ordering::Release);
        // A shutdown that came with the reset before is over, too.
        self.forget_failure();
        self.cc.store(cc, Ordering::Release);
        good.then(|| {
            RegEffect::Enable(Enable {
                asq: self.asq.load(Ordering::Acquire),
                acq: self.acq.load(Ordering::Acquire),
                asqs: submission + 1,
                acqs: completion + 1,
            })
        })
    }

    /// CC for a controller that is and stays enabled.
    fn notify(&self, cc: u32) -> Option<RegEffect> {
        let asked = shn(cc) != shn(self.cc()) && asks_for_shutdown(cc);
        if asked {
            // The host must not read "normal operation" before the admin worker has heard of it.
            self.csts_control.fetch_or(CSTS_SHST_OCCURRING, Ordering::AcqRel);
        }
        self.cc.store(cc, Ordering::Release);
        asked.then(|| RegEffect::Shutdown { abrupt: shn(cc) == ShutdownNotification::ABRUPT })
    }
}

/// A write to a part of a dword: 0 in `value` where `mask` is 0.
#[derive(Clone, Copy)]
struct Write {
    value: u32,
    mask: u32,
}

impl Write {
    fn over(self, old: u32) -> u32 {
        old & !self.mask | self.value
    }
}

fn write_half(register: &AtomicU64, write: Write, shift: u32) {
    let old = register.load(Ordering::Acquire);
    let new = old & !(u64::from(write.mask) << shift) | u64::from(write.value) << shift;
    register.store(new & QUEUE_BASE, Ordering::Release);
}

fn asks_for_shutdown(cc: u32) -> bool {
    matches!(shn(cc), ShutdownNotification::NORMAL | ShutdownNotification::ABRUPT)
}

fn shn(cc: u32) -> ShutdownNotification {
    Cc::from_bits(cc).shn()
}

fn low(register: u64) -> u32 {
    (register & 0xffff_ffff) as u32
}

fn high(register: u64) -> u32 {
    (register >> 32) as u32
}

#[cfg(test)]
mod tests;
