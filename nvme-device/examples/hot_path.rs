//! The hot path alone: I/Os of 4 KiB through the queues of a controller, with a backend that does nothing.
//!
//! `hot_path IOS REGIONS` carries out `IOS` reads at queue depth 32 in a guest whose memory is `REGIONS` regions, each
//! I/O in another region than the one before. `scripts/instructions.sh` counts the instructions of [`poll`] under
//! callgrind.

use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use guest_memory::{Access, DoorbellPage, Extent, GuestMemory, IoToken, MemView, Region};
use nvme_device::model::io::{NsGeometry, PassthruCommand};
use nvme_device::queue::{
    AbortToken, Backend, BlockOp, CommandIo, Interrupts, NamespaceChannel, Queues, Refused, TraceStep, Traced, complete,
};
use nvme_spec::{IoOpcode, Sqe};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::io::pwrite;
use zerocopy::IntoBytes;

const PAGE: u64 = 4096;
const ENTRIES: u16 = 256;
const DEPTH: u16 = 32;
/// The queues, one page for the completions and four for the submissions, lie in the first region.
const CQ: u64 = 0;
const SQ: u64 = PAGE;
const DATA: u64 = 8 * PAGE;
const REGION: u64 = 16 * PAGE;
/// Regions do not touch one another.
const STRIDE: u64 = 2 * REGION;

/// Which steps are recorded: none.
static TRACED: AtomicU64 = AtomicU64::new(0);

/// A namespace of which every I/O is done as soon as it is sent.
enum Nothing {}

impl Backend for Nothing {
    type Channel = ();

    fn submit((): &(), _: BlockOp, _: u64, _: u64, io: CommandIo<Self>) -> Result<(), Refused<Self>> {
        complete(io, Ok(()));
        Ok(())
    }

    fn passthru((): &(), _: &PassthruCommand, io: CommandIo<Self>) -> Result<(), Refused<Self>> {
        complete(io, Ok(()));
        Ok(())
    }

    /// Returns what SPDK's tracepoints cost that are off.
    #[inline]
    fn trace(_: TraceStep, what: impl FnOnce() -> Traced) {
        if TRACED.load(Ordering::Relaxed) != 0 {
            std::hint::black_box(what());
        }
    }

    fn abort((): &(), _: IoToken, _: AbortToken) -> bool {
        false
    }
}

/// Does one round. It stays a function of its own, so that its instructions can be told from the rest.
#[inline(never)]
fn poll(queues: &Queues<Nothing>) -> usize {
    let done = queues.poll();
    queues.signal();
    done
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let numbers: Vec<u64> = arguments.iter().filter_map(|argument| argument.parse().ok()).collect();
    let [ios, regions @ 1..=4096] = numbers[..] else {
        eprintln!("usage: hot_path IOS REGIONS (1 to 4096), not {arguments:?}");
        return ExitCode::from(2);
    };
    // The compiler is not to know that nobody changes it.
    TRACED.store(std::hint::black_box(0), Ordering::Relaxed);
    match run(ios, regions) {
        Ok(done) => {
            println!("{done} I/Os in {regions} regions");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("hot_path: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(ios: u64, regions: u64) -> Result<u64, Box<dyn std::error::Error>> {
    let (memory, queues_file) = guest(regions)?;
    let doorbells = Arc::new(DoorbellPage::new()?);
    let view = Rc::new(MemView::new(Arc::new(memory)));
    let queues =
        Queues::<Nothing>::new(Arc::clone(&doorbells), Arc::new(Interrupts::default()), view, 128 * 1024, || 0);
    queues.add_namespace(NamespaceChannel::new(1, NsGeometry::new(1 << 20, 12)?, ()));
    queues.create_completion(1, CQ, ENTRIES, None);
    queues.create_submission(1, SQ, ENTRIES, 1);

    let (mut done, mut tail) = (0, 0_u16);
    while done < ios {
        for _ in 0..DEPTH {
            let at = u64::from(tail);
            let prp1 = done % regions * STRIDE + DATA;
            let sqe =
                Sqe { opcode: IoOpcode::READ.0, cid: tail, nsid: 1, prp1, cdw10: u32::from(tail), ..Sqe::default() };
            pwrite(&queues_file, sqe.as_bytes(), SQ + at * size_of::<Sqe>() as u64)?;
            tail = (tail + 1) % ENTRIES;
            done += 1;
        }
        doorbells.store(2, u32::from(tail));
        if poll(&queues) != usize::from(DEPTH) {
            return Err("a round did not take all commands".into());
        }
        // Everything was completed within the round: as many completions as commands.
        doorbells.store(3, u32::from(tail));
    }
    Ok(done)
}

/// Guest memory of so many regions, and the file of the first.
fn guest(regions: u64) -> Result<(GuestMemory, OwnedFd), Box<dyn std::error::Error>> {
    let mut memory = GuestMemory::new();
    let mut first = None;
    for region in 0..regions {
        let file = memfd_create("hot-path", MemfdFlags::CLOEXEC)?;
        ftruncate(&file, REGION)?;
        if region == 0 {
            first = Some(file.try_clone()?);
        }
        memory = memory.with(Arc::new(
            Extent::new(0, region * STRIDE, REGION, Access::ReadWrite).and_then(|of| Region::map(file, of, |_| {}))?,
        ))?;
    }
    Ok((memory, first.ok_or("no region")?))
}
