//! The guest's memory, and memory that is not the guest's.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use guest_memory::{Access, Extent, GuestMemory, MapError, MemView, Region, RegionId};
use nvme_device::connection::{Client, ClientOutput};
use nvme_device::queue::Interrupts;
use rustix::fs::MemfdFlags;
use vfio_user::{IrqRequest, UnmapRequest};

use super::session::{MAX_QUEUES, now};

pub(super) const PAGE: u64 = 4096;

/// What is in memory that nobody may touch.
const CANARY: u8 = 0xc5;

/// A region as the client maps it at first.
struct Part {
    gpa: u64,
    pages: u64,
    access: Access,
    with_file: bool,
}

const fn part(gpa: u64, pages: u64, access: Access) -> Part {
    Part { gpa, pages, access, with_file: true }
}

/// The last region but one ends a page before 2^64. The first two are neighbours.
const PARTS: [Part; 5] = [
    part(0, 64, Access::ReadWrite),
    part(0x4_0000, 16, Access::ReadWrite),
    part(0x10_0000, 8, Access::ReadOnly),
    part(u64::MAX - 0x1_0fff, 16, Access::WriteOnly),
    Part { gpa: 0x20_0000, pages: 4, access: Access::ReadWrite, with_file: false },
];

/// The part that the device must not write.
const READ_ONLY: usize = 2;

/// How many parts there are.
pub(super) const COUNT: usize = PARTS.len();

/// Makes a file with one page of canary before and behind the pages of a part.
fn memfd(pages: u64) -> File {
    let file = File::from(rustix::fs::memfd_create("courier-fuzz", MemfdFlags::CLOEXEC).expect("a memfd"));
    file.set_len((pages + 2) * PAGE).expect("room");
    for page in [0, pages + 1] {
        file.write_all_at(&[CANARY; PAGE as usize], page * PAGE).expect("room");
    }
    file
}

/// Reads what there is of a file.
fn read_at(file: &File, at: u64, into: &mut [u8]) {
    let (mut at, mut rest) = (at, into);
    while let Ok(count @ 1..) = file.read_at(rest, at) {
        at += count as u64;
        rest = &mut rest[count..];
    }
}

/// What has come of a request, or of a look.
#[derive(Default)]
pub(super) struct Outcome {
    /// The memory is another one.
    pub(super) published: bool,
    /// The poll group is to look at the session.
    pub(super) refresh: bool,
    /// I/O in memory that was unmapped is to be aborted.
    pub(super) abort: bool,
}

/// The memory of one client, which asks for it and for its interrupts, and a region of another's.
pub(super) struct Memory {
    client: Client<u64>,
    /// The requests that were not answered.
    asked: BTreeSet<u64>,
    next_token: u64,
    files: Vec<File>,
    /// Of no use to the guest, and mapped at the client's pleasure.
    scrap: File,
    read_only: Vec<u8>,
    neighbour: MemView,
    mapped: usize,
    dropped: Arc<AtomicUsize>,
}

impl Memory {
    /// All parts are mapped.
    pub(super) fn new() -> Self {
        let other = memfd(4);
        other.write_all_at(&[CANARY; 4 * PAGE as usize], PAGE).expect("room");
        let region = Extent::new(PAGE, 0, 4 * PAGE, Access::ReadWrite)
            .and_then(|of| Region::map(other.into(), of, |_| {}))
            .expect("a region");
        let neighbour = GuestMemory::new().with(Arc::new(region)).expect("room");
        let mut memory = Self {
            client: Client::new(MAX_QUEUES + 1),
            asked: BTreeSet::new(),
            next_token: 0,
            files: PARTS.iter().map(|part| memfd(part.pages)).collect(),
            scrap: memfd(8),
            read_only: vec![0; (PARTS[READ_ONLY].pages * PAGE) as usize],
            neighbour: MemView::new(Arc::new(neighbour)),
            mapped: 0,
            dropped: Arc::default(),
        };
        for index in 0..PARTS.len() {
            assert!(memory.map_part(index).published, "nothing is in the way");
        }
        memory
    }

    pub(super) fn view(&self) -> Rc<MemView> {
        Rc::new(MemView::new(Arc::new(self.client.memory().clone())))
    }

    /// Begins a request.
    fn ask(&mut self) -> u64 {
        let token = self.next_token;
        self.next_token += 1;
        self.asked.insert(token);
        token
    }

    /// Carries out what was decided. Devices take every second region.
    fn carry_out(&mut self, interrupts: Option<&Interrupts>) -> Outcome {
        let mut outcome = Outcome::default();
        while let Some(output) = self.client.next_output() {
            match output {
                ClientOutput::Register(region) => {
                    assert!(self.client.is_mapping() && region.has_file());
                    let result = if self.mapped.is_multiple_of(2) { Ok(()) } else { Err("no") };
                    drop(region);
                    self.client.registered(result);
                }
                ClientOutput::Publish(_) => outcome.published = true,
                ClientOutput::ChangeIrqs { token, changes } => {
                    let interrupts = interrupts.expect("interrupts were asked for");
                    for change in changes {
                        assert_eq!(change.apply(interrupts, |_| Ok(())), Ok(()));
                    }
                    assert!(self.asked.remove(&token), "a request is answered twice");
                }
                ClientOutput::Refresh => outcome.refresh = true,
                ClientOutput::Ask(request) => unreachable!("{request:?} is asked for elsewhere"),
                ClientOutput::AbortUnmapped => outcome.abort = true,
                ClientOutput::Warn(warning) => assert!(!warning.to_string().is_empty()),
                ClientOutput::Reply { token, .. } => assert!(self.asked.remove(&token), "a request is answered twice"),
            }
        }
        assert!(!self.client.is_mapping(), "devices have been told");
        outcome
    }

    fn notifier(&self) -> impl FnOnce(RegionId) + Send + 'static {
        let dropped = Arc::clone(&self.dropped);
        move |_| {
            dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn add(&mut self, region: Result<Region, MapError>) -> Outcome {
        self.mapped += usize::from(region.is_ok());
        let token = self.ask();
        self.client.map(token, region);
        self.carry_out(None)
    }

    /// Maps a part, if there is room.
    pub(super) fn map_part(&mut self, index: usize) -> Outcome {
        let (part, file) = (&PARTS[index], &self.files[index]);
        let len = part.pages * PAGE;
        let region = if part.with_file {
            let file = file.try_clone().expect("a descriptor").into();
            Extent::new(PAGE, part.gpa, len, part.access).and_then(|of| Region::map(file, of, self.notifier()))
        } else {
            Region::without_file(part.gpa, len, part.access, self.notifier())
        };
        self.add(region)
    }

    /// Maps what the client says, if that can be.
    pub(super) fn map_any(&mut self, gpa: u64, len: u64, offset: u64) -> Outcome {
        let file = self.scrap.try_clone().expect("a descriptor").into();
        let region =
            Extent::new(offset, gpa, len, Access::ReadWrite).and_then(|of| Region::map(file, of, self.notifier()));
        self.add(region)
    }

    /// Takes a range away.
    pub(super) fn unmap(&mut self, gpa: u64, len: u64) -> Outcome {
        self.unmap_this(UnmapRequest { addr: gpa, size: len, all: false })
    }

    pub(super) fn unmap_part(&mut self, index: usize) -> Outcome {
        self.unmap(PARTS[index].gpa, PARTS[index].pages * PAGE)
    }

    pub(super) fn unmap_all(&mut self) -> Outcome {
        self.unmap_this(UnmapRequest { addr: 0, size: 0, all: true })
    }

    fn unmap_this(&mut self, request: UnmapRequest) -> Outcome {
        let token = self.ask();
        self.client.unmap(token, request, now());
        self.carry_out(None)
    }

    /// The client sets its interrupts.
    pub(super) fn set_irqs(&mut self, request: IrqRequest, interrupts: &Interrupts) -> Outcome {
        let token = self.ask();
        self.client.set_irqs(token, request, interrupts.has_blocked());
        self.carry_out(Some(interrupts))
    }

    /// The client makes the file behind a part shorter, and as long as it was unless it is to `stay` so. The pages that
    /// go lose what is in them.
    pub(super) fn truncate(&mut self, index: usize, pages: u64, stay: bool) {
        let all = PARTS[index].pages + 2;
        let pages = pages % all + 1;
        let file = &self.files[index];
        file.set_len(pages * PAGE).expect("it can be cut");
        if !stay || pages == all {
            file.set_len(all * PAGE).expect("room");
            file.write_all_at(&[CANARY; PAGE as usize], (all - 1) * PAGE).expect("room");
        }
        if index == READ_ONLY {
            let left = ((pages - 1) * PAGE) as usize;
            if let Some(lost) = self.read_only.get_mut(left..) {
                lost.fill(0);
            }
        }
    }

    /// The guest writes its memory, mapped or not.
    pub(super) fn put(&mut self, gpa: u64, data: &[u8]) {
        for (index, part) in PARTS.iter().enumerate() {
            let offset = gpa.wrapping_sub(part.gpa);
            let len = part.pages * PAGE;
            if offset < len {
                let data = &data[..data.len().min((len - offset) as usize)];
                self.files[index].write_all_at(data, PAGE + offset).expect("within the file");
                if index == READ_ONLY {
                    self.read_only[offset as usize..][..data.len()].copy_from_slice(data);
                }
            }
        }
    }

    /// The guest reads its memory: zeroes where there is none.
    pub(super) fn get<const N: usize>(&self, gpa: u64) -> [u8; N] {
        let mut data = [0; N];
        for (part, file) in PARTS.iter().zip(&self.files) {
            let offset = gpa.wrapping_sub(part.gpa);
            if offset.saturating_add(N as u64) <= part.pages * PAGE {
                read_at(file, PAGE + offset, &mut data);
            }
        }
        data
    }

    /// Returns whether the client waits for regions that it has unmapped.
    pub(super) fn is_releasing(&self) -> bool {
        self.client.is_waiting()
    }

    /// Lets go of what nobody else holds.
    pub(super) fn release(&mut self) -> Outcome {
        let held =
            |regions: Vec<Arc<Region>>| regions.into_iter().filter(|region| Arc::strong_count(region) > 1).collect();
        self.client.look(|_| true, held, now());
        let outcome = self.carry_out(None);
        assert_eq!(self.asked.is_empty(), !self.client.is_waiting(), "what is over is answered");
        outcome
    }

    /// Nothing was touched that is not the guest's, or not to be written.
    pub(super) fn check(&self) {
        for (part, file) in PARTS.iter().zip(&self.files) {
            for page in [0, part.pages + 1] {
                let mut bytes = [CANARY; PAGE as usize];
                read_at(file, page * PAGE, &mut bytes);
                assert!(bytes == [CANARY; PAGE as usize], "beside the memory of {:#x}", part.gpa);
            }
        }
        let mut bytes = vec![0; self.read_only.len()];
        read_at(&self.files[READ_ONLY], PAGE, &mut bytes);
        assert!(bytes == self.read_only, "what is read-only was written");
        let mut bytes = [0; 4 * PAGE as usize];
        self.neighbour.read(0, &mut bytes).expect("mapped");
        assert!(bytes == [CANARY; 4 * PAGE as usize], "the memory of another guest was written");
    }

    /// All that was mapped is unmapped, once nothing else is there any more.
    pub(super) fn end(self) {
        let (mapped, dropped) = (self.mapped, Arc::clone(&self.dropped));
        let Self { client, neighbour: _neighbour, .. } = self;
        drop(client.into_regions());
        assert_eq!(dropped.load(Ordering::Relaxed), mapped, "nobody holds memory any more");
    }
}
