//! A namespace of a pool as a bdev.

use std::fmt::Write as _;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use nvme_spec::{Cqe, IoOpcode, Status};
use serde_json::json;
use spdk::Errno;
use spdk::bdev::{Bdev, BdevIo, Device, DeviceInfo, IoStatus, IoType, ModuleHandle, Protection};
use spdk::io_device::{IoChannel, IoDevice};
use spdk::json::JsonWriter;
use spdk::nvme::{Limits, QueuePair, Rejected, is_queue_lost};

use crate::channel::{PoolChannel, PoolDevice, Target};
use crate::identify::{Descriptors, Namespace};
use crate::log_limit::LogLimit;
use crate::messages::PoolMessage;
use crate::params::BdevParams;
use crate::repeat::{Passthru, is_repeatable};
use crate::retry::{self, Action};
use crate::tracepoints;

/// The most blocks of a Write Zeroes command, whose count is 16 bits.
const MAX_WRITE_ZEROES: u32 = 65_536;

/// A namespace of a pool, which takes I/O from the bdev layer.
#[derive(Debug)]
pub(crate) struct Disk {
    params: BdevParams,
    device: IoDevice<PoolDevice<Self>>,
    nsid: u32,
    block_size: u32,
    limits: Limits,
    identity: Identity,
    /// A [`Gate`].
    gate: AtomicU8,
    /// A reset of this disk is in progress: what is lost with its queue is aborted, not sent again.
    resetting: AtomicBool,
    /// It is being deleted: nothing is held for it.
    removing: AtomicBool,
    log_limit: LogLimit,
    /// I/Os that had to wait for a free request.
    out_of_requests: AtomicU64,
}

/// Says whether a disk's I/O is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Gate {
    /// It is.
    Open = 0,
    /// It is held: it is not proved that the namespace is the one that the disk was made of.
    Held = 1,
    /// It fails: the namespace is another or has been gone for too long.
    Failing = 2,
}

/// By what a namespace is known from another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    block_size: u32,
    metadata_size: u32,
    uuid: Option<[u8; 16]>,
    nguid: Option<[u8; 16]>,
    eui64: Option<[u8; 8]>,
}

impl Identity {
    pub(crate) fn of(namespace: &Namespace, descriptors: Option<&Descriptors>) -> Self {
        let named = descriptors.copied().unwrap_or_default();
        Self {
            block_size: namespace.block_size,
            metadata_size: namespace.metadata_size,
            uuid: named.uuid,
            nguid: named.nguid.or(namespace.nguid),
            eui64: named.eui64.or(namespace.eui64),
        }
    }

    /// Returns whether a namespace can be told from others, by a controller that gives the list of names or does not.
    pub(crate) fn is_provable(&self, has_names: bool) -> bool {
        has_names || self.uuid.is_none()
    }

    /// Returns a UUID for the bdev: the namespace's own, or else one of its other names.
    fn bdev_uuid(&self) -> Option<[u8; 16]> {
        self.uuid.or(self.nguid).or_else(|| {
            let eui64 = self.eui64?;
            let mut uuid = [0; 16];
            uuid[8..].copy_from_slice(&eui64);
            Some(uuid)
        })
    }
}

impl Disk {
    /// Registers the bdev that `params` asks for.
    ///
    /// # Errors
    /// See [`Bdev::register`].
    pub(crate) fn register(
        module: ModuleHandle,
        params: &BdevParams,
        device: IoDevice<PoolDevice<Self>>,
        limits: &Limits,
        info: &Namespace,
        identity: &Identity,
    ) -> Result<Bdev<Self>, Errno> {
        let disk = Self {
            params: params.clone(),
            device,
            nsid: info.nsid,
            block_size: info.block_size,
            limits: *limits,
            identity: identity.clone(),
            gate: AtomicU8::new(Gate::Open as u8),
            resetting: AtomicBool::new(false),
            removing: AtomicBool::new(false),
            log_limit: LogLimit::default(),
            out_of_requests: AtomicU64::new(0),
        };
        let geometry = geometry(&params.name, limits, info, identity);
        Bdev::register(module, &geometry, disk)
    }

    /// Returns the name of the bdev.
    #[must_use]
    pub(crate) fn name(&self) -> &str {
        &self.params.name
    }

    /// Sets whether its I/O is sent from now on, as each reactor sees it by the next message that it gets.
    pub(crate) fn set_gate(&self, gate: Gate) {
        self.gate.store(gate as u8, Ordering::Release);
    }

    #[inline]
    fn is_open(&self) -> bool {
        self.gate.load(Ordering::Acquire) == Gate::Open as u8
    }

    /// Gives an I/O to the queue pair, or has it wait.
    #[inline]
    fn send(&self, channel: &PoolChannel<Self>, io: BdevIo<Self>) {
        let without_request = if channel.has_overflow() { Some(io) } else { self.give(channel, io) };
        if let Some(io) = without_request {
            self.wait_for_request(channel, io);
        }
    }

    #[cold]
    fn wait_for_request(&self, channel: &PoolChannel<Self>, io: BdevIo<Self>) {
        self.out_of_requests.fetch_add(1, Ordering::Relaxed);
        channel.join_overflow(io);
    }

    /// What becomes of an I/O while it is not proved that the namespace is this disk's.
    #[cold]
    fn not_sent(&self, channel: &PoolChannel<Self>, io: BdevIo<Self>) {
        if self.is_failing() {
            return io.complete(IoStatus::Failed);
        }
        channel.hold(io);
    }

    pub(crate) fn set_resetting(&self, resetting: bool) {
        self.resetting.store(resetting, Ordering::Release);
    }

    pub(crate) fn is_resetting(&self) -> bool {
        self.resetting.load(Ordering::Acquire)
    }

    pub(crate) fn set_removing(&self) {
        self.removing.store(true, Ordering::Release);
    }

    fn reset(&self, io: BdevIo<Self>) {
        self.device.shared().0.address().send(PoolMessage::Reset { nsid: self.nsid, io: io.carrier() });
    }

    fn admin(&self, io: BdevIo<Self>) {
        match self.device.shared().0.ctrlr().filter(|_| self.is_open()) {
            Some(ctrlr) => io.send_admin(&ctrlr, self.nsid, self.limits.max_transfer),
            None => io.complete(IoStatus::Failed),
        }
    }

    /// Returns what becomes of an I/O that the queue pair did not take. It is returned if no request is free for it.
    #[cold]
    fn rejected(channel: &PoolChannel<Self>, rejected: Rejected<BdevIo<Self>>) -> Option<BdevIo<Self>> {
        let Rejected { errno, command: io } = rejected;
        match errno {
            Errno::NOMEM => return Some(io),
            Errno::NXIO => channel.hold(io),
            errno => {
                log::error!("bdev '{}': an I/O could not be sent: {errno}", io.device().name());
                io.complete(IoStatus::Failed);
            }
        }
        None
    }

    /// What becomes of an I/O whose command failed.
    #[cold]
    fn failed(io: BdevIo<Self>, completion: Cqe) {
        // While the queue is connected, it is the pool that says so.
        if !is_queue_lost(completion.status) || io.channel().with_qpair(QueuePair::is_connected) == Some(true) {
            return Self::refused(io, completion);
        }
        if !io.channel().note_lost(&io) {
            log::error!("bdev '{}': an I/O has been lost too often with its connection; it fails", io.device().name());
            io.note_last();
        }
        // Whether the pool has carried it out is not known.
        let passthru = io.passthru_opcode().map(|(opcode, fused)| Passthru { opcode, fused });
        if !is_repeatable(io.io_type(), passthru) {
            io.note_last();
        }
        if !io.is_last() {
            io.device().device.shared().0.resent.fetch_add(1, Ordering::Relaxed);
        }
        io.with_channel(PoolChannel::hold);
    }
}

impl Disk {
    /// What becomes of an I/O that the pool answered with a failure.
    #[cold]
    fn refused(io: BdevIo<Self>, completion: Cqe) {
        let (status, action) = (completion.status, retry::action(completion.status));
        let passthru = io.passthru_opcode().map(|(opcode, fused)| Passthru { opcode, fused });
        let once = match action {
            Action::Tell => true,
            Action::AgainIfHarmless => !is_repeatable(io.io_type(), passthru),
            // One of a pair is not sent without the other.
            Action::Again | Action::Prove => passthru.is_some_and(|passthru| passthru.fused),
        };
        if once {
            return Self::tell(io, completion);
        }
        if Self::is_cancelled(&io) {
            return io.complete(IoStatus::Aborted);
        }
        let (failures, since) = io.count_failure();
        let (disk, limit) = (io.device(), io.device().device.shared().0.io_limit());
        let given_up = retry::is_given_up(status, since, limit, disk.limits.anatt);
        if given_up || retry::most_retries(status).is_some_and(|most| failures > most) {
            return Self::tell(io, completion);
        }
        if action == Action::Prove {
            let nsid = io.device().nsid;
            return io.with_channel(|channel, io| channel.doubt(nsid, io));
        }
        let delay = retry::delay(failures, status.crd(), io.device().limits.retry_delays);
        io.with_channel(|channel, io| channel.send_delayed(delay, io));
    }

    /// Whoever sent an I/O is told how it failed; so is the log, if that was not too recently.
    #[cold]
    fn tell(io: BdevIo<Self>, completion: Cqe) {
        let (disk, status) = (io.device(), completion.status);
        if let Some(suppressed) = disk.log_limit.take(status) {
            let (name, what, code) = (disk.name(), io.io_type(), status.code());
            log::warn!("bdev '{name}': {what:?} failed with status {code}; {suppressed} others since the last line");
        }
        io.complete_nvme(completion.dw0, status);
    }
}

impl Target for Disk {
    fn nsid(&self) -> u32 {
        self.nsid
    }

    fn is_held(&self) -> bool {
        self.gate.load(Ordering::Acquire) == Gate::Held as u8
    }

    fn is_failing(&self) -> bool {
        self.gate.load(Ordering::Acquire) == Gate::Failing as u8
    }

    fn is_removing(&self) -> bool {
        self.removing.load(Ordering::Acquire)
    }

    fn is_cancelled(io: &BdevIo<Self>) -> bool {
        io.was_aborted() || io.device().is_resetting() || io.device().is_removing()
    }

    #[inline]
    fn give(&self, channel: &PoolChannel<Self>, io: BdevIo<Self>) -> Option<BdevIo<Self>> {
        if !self.is_open() {
            self.not_sent(channel, io);
            return None;
        }
        let mut io = Some(io);
        let sent = channel.with_qpair(|qpair| {
            let Some(io) = io.take() else { return Ok(()) };
            channel.sends(&io);
            if spdk::trace::is_on() {
                let arguments = [self.nsid.into(), io.offset_blocks(), io.losses().into()];
                tracepoints::record(&tracepoints::SEND, &io, arguments);
            }
            match io.io_type() {
                IoType::Read | IoType::Write | IoType::Compare => io.send_blocks(qpair, self.nsid, self.block_size),
                IoType::CompareAndWrite => io.send_fused(qpair, self.nsid, self.block_size),
                IoType::WriteZeroes => io.send_write_zeroes(qpair, self.nsid),
                IoType::Unmap => io.send_unmap(qpair, self.nsid),
                IoType::Flush => io.send_flush(qpair, self.nsid),
                _ => io.send_passthru(qpair, self.nsid, self.limits.max_transfer),
            }
        });
        match (sent, io) {
            (Some(Err(rejected)), _) => {
                channel.ended(&rejected.command);
                Self::rejected(channel, rejected)
            }
            (None, Some(io)) => {
                channel.hold(io);
                None
            }
            _ => None,
        }
    }
}

impl Device for Disk {
    type Channel = PoolChannel<Self>;

    fn channel(&self) -> Result<IoChannel<PoolChannel<Self>>, Errno> {
        self.device.channel()
    }

    fn supports(&self, io_type: IoType) -> bool {
        match io_type {
            IoType::Read
            | IoType::Write
            | IoType::Flush
            | IoType::Reset
            | IoType::Abort
            | IoType::NvmeAdmin
            | IoType::NvmeIo => true,
            IoType::NvmeIoMd | IoType::NvmeIovMd => self.identity.metadata_size != 0,
            IoType::Unmap => self.limits.dataset_management,
            IoType::WriteZeroes => self.limits.write_zeroes,
            IoType::Compare => self.limits.compare,
            IoType::CompareAndWrite => self.limits.compare_and_write,
            IoType::NvmeCommand(IoOpcode::WRITE_UNCORRECTABLE) => self.limits.write_uncorrectable,
            IoType::NvmeCommand(IoOpcode::VERIFY) => self.limits.verify,
            IoType::NvmeCommand(_) | IoType::Other(_) => false,
        }
    }

    #[inline]
    fn submit(&self, channel: &PoolChannel<Self>, io: BdevIo<Self>) {
        match io.io_type() {
            IoType::Read if io.wants_buffer() => {
                let len = io.num_blocks().saturating_mul(u64::from(self.block_size));
                return io.get_buffer(len);
            }
            IoType::Flush if !self.limits.volatile_write_cache => return io.complete(IoStatus::Success),
            IoType::Reset => return self.reset(io),
            IoType::Abort => return channel.abort(io),
            IoType::NvmeAdmin => return self.admin(io),
            IoType::NvmeCommand(_) | IoType::Other(_) => return io.complete(IoStatus::Failed),
            _ => {}
        }
        self.send(channel, io);
    }

    fn resubmit(&self, channel: &PoolChannel<Self>, io: BdevIo<Self>) {
        self.send(channel, io);
    }

    #[inline]
    fn completed(io: BdevIo<Self>, completion: Cqe, _second: bool) {
        let (io, completion) = if io.io_type() == IoType::CompareAndWrite {
            match io.fused_done(completion) {
                Some(both) => both,
                None => return,
            }
        } else {
            (io, completion)
        };
        io.channel().ended(&io);
        if spdk::trace::is_on() {
            let (sct, sc) = (completion.status.sct().0, completion.status.sc());
            tracepoints::record(&tracepoints::DONE, &io, [io.device().nsid.into(), sct.into(), sc.into()]);
        }
        if completion.status.is_success() {
            io.complete_nvme(completion.dw0, Status::SUCCESS);
        } else {
            Self::failed(io, completion);
        }
    }

    fn describe(&self, out: &mut JsonWriter) {
        let text = json!({
            "pool": self.params.pool,
            "nsid": self.nsid,
            "uuid": self.identity.uuid.map(|id| hex(&id, &[4, 6, 8, 10])),
            "nguid": self.identity.nguid.map(|id| hex(&id, &[])),
            "eui64": self.identity.eui64.map(|id| hex(&id, &[])),
            "max_transfer_bytes": self.limits.max_transfer,
            "volatile_write_cache": self.limits.volatile_write_cache,
        });
        if let Err(error) = out.named("courier", &text) {
            log::error!("bdev '{}' could not be described: {error}", self.name());
        }
    }

    fn write_config(&self, out: &mut JsonWriter) {
        if let Err(error) = out.value(&json!({ "method": "bdev_courier_create", "params": self.params.saved() })) {
            log::error!("bdev '{}' could not be written to the configuration: {error}", self.name());
        }
    }

    fn write_stats(&self, out: &mut JsonWriter) {
        let shared = &self.device.shared().0;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let text = json!({
            "out_of_requests": count(&self.out_of_requests),
            "pool_losses": count(&shared.losses),
            "pool_held": count(&shared.held),
            "pool_resent": count(&shared.resent),
        });
        if let Err(error) = out.named("courier", &text) {
            log::error!("the statistics of bdev '{}' could not be written: {error}", self.name());
        }
    }

    fn reset_stats(&self) {
        self.out_of_requests.store(0, Ordering::Relaxed);
    }

    fn destructed(&self) {
        self.device.shared().0.address().send(PoolMessage::DiskGone { nsid: self.nsid });
    }
}

/// Returns what the bdev layer must know of a namespace.
fn geometry(name: &str, limits: &Limits, info: &Namespace, identity: &Identity) -> DeviceInfo {
    let atomic_blocks = u32::from(info.nawupf.unwrap_or(limits.awupf)).max(1);
    let granularity = info.preferred.map_or(1, |[granularity, ..]| granularity);
    let acwu = if limits.compare_and_write { info.nacwu.unwrap_or(limits.acwu) } else { 0 };
    DeviceInfo {
        name: name.to_owned(),
        product_name: "Courier disk",
        block_size: info.block_size,
        physical_block_size: info.data_size().saturating_mul(atomic_blocks.min(granularity)),
        blocks: info.blocks,
        uuid: identity.bdev_uuid(),
        nsid: info.nsid,
        write_cache: limits.volatile_write_cache,
        max_rw_blocks: max_rw_blocks(limits.max_transfer, info.block_size),
        max_segment_bytes: limits.max_transfer,
        max_segments: u32::from(limits.max_sges).max(1),
        io_boundary: info.optimal_io_boundary,
        max_unmap_blocks: u32::MAX,
        max_write_zeroes_blocks: if limits.write_zeroes { MAX_WRITE_ZEROES } else { 0 },
        acwu,
        preferred: info.preferred,
        metadata_size: info.metadata_size,
        metadata_interleaved: info.metadata_size != 0,
        protection: protection(info),
    }
}

fn protection(info: &Namespace) -> Option<Protection> {
    /// Base specification figure 97: protection information is type 1, 2 or 3.
    const KINDS: RangeInclusive<u32> = 1..=3;
    let (kind, at_start) = info.protection;
    let present = info.metadata_size != 0 && KINDS.contains(&kind);
    present.then_some(Protection { kind, at_start, format: info.protection_format })
}

/// Returns the most blocks that a command can carry.
fn max_rw_blocks(max_transfer: u32, block_size: u32) -> u32 {
    max_transfer.checked_div(block_size).unwrap_or(0).clamp(1, 65_536)
}

/// Writes bytes in hexadecimal, with a dash before each of the given places.
fn hex(bytes: &[u8], dashes: &[usize]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2 + dashes.len());
    for (at, byte) in bytes.iter().enumerate() {
        if dashes.contains(&at) {
            text.push('-');
        }
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}
