//! A bdev as a test sees it: I/O that is waited for, with its data in pieces of any lengths.

use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use nvme_spec::Status;
use spdk::Errno;
use spdk::bdev_client::{BdevChannel, BdevDesc, BdevRequest, Op};
use spdk::dma::DmaBuf;
use spdk::thread::AppCell;

use super::harness::{PATIENCE, on_app};

/// What stands in a buffer where no piece is.
const GUARD: u8 = 0xa5;

/// Where the pieces of an I/O's data lie in its buffer.
#[derive(Debug, Clone)]
pub(crate) struct Layout(Vec<Range<usize>>);

impl Layout {
    /// Lays the data out as one piece at a multiple of 4096 bytes.
    pub(crate) fn whole(len: usize) -> Self {
        Self::of(&[len], 0)
    }

    /// Pieces of those lengths from the byte at `start` on, each an odd number of bytes from the end of the one before.
    pub(crate) fn of(lengths: &[usize], start: usize) -> Self {
        let mut at = start;
        let piece = |(index, &len): (usize, &usize)| {
            let range = at..at + len;
            at = range.end + 3 + 2 * (index % 7);
            range
        };
        Self(lengths.iter().enumerate().map(piece).collect())
    }

    /// `count` pieces that are `len` bytes together, of which every one but the last is `len / count`.
    pub(crate) fn pieces(count: usize, len: usize, start: usize) -> Self {
        let mut lengths = vec![len / count; count];
        lengths[count - 1] += len % count;
        Self::of(&lengths, start)
    }

    fn end(&self) -> usize {
        self.0.last().map_or(1, |last| last.end + 16).max(1)
    }

    fn len(&self) -> usize {
        self.0.iter().map(Range::len).sum()
    }
}

/// How an I/O ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) result: Result<(), Status>,
    /// What its pieces hold.
    pub(crate) data: Vec<u8>,
}

type Open = (Arc<BdevDesc>, Rc<BdevChannel>);

static OPEN: AppCell<BTreeMap<u64, Open>> = AppCell::new(BTreeMap::new);
static REQUESTS: AppCell<BTreeMap<u64, Rc<BdevRequest>>> = AppCell::new(BTreeMap::new);

/// Returns the number of the next entry in either.
fn next_id() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed)
}

/// An open bdev with a channel on the application's thread.
pub(crate) struct Disk {
    id: u64,
    pub(crate) block_size: usize,
    pub(crate) num_blocks: u64,
}

/// An I/O that is in flight.
pub(crate) struct Pending {
    id: u64,
    ended: Receiver<Outcome>,
}

impl Disk {
    pub(crate) fn open(name: &str) -> Self {
        let (id, name) = (next_id(), name.to_owned());
        let (block_size, num_blocks) = on_app(move || {
            let desc = Arc::new(BdevDesc::open(&name, |_| {}).expect("the bdev is there"));
            let geometry = (desc.block_size() as usize, desc.num_blocks());
            let channel = Rc::new(desc.channel().expect("it gives a channel"));
            OPEN.with(|open| open.borrow_mut().insert(id, (desc, channel)));
            geometry
        });
        Self { id, block_size, num_blocks }
    }

    /// Returns the open bdev, for channels on other threads.
    pub(crate) fn desc(&self) -> Arc<BdevDesc> {
        let id = self.id;
        on_app(move || OPEN.with(|open| Arc::clone(&open.borrow()[&id].0)))
    }

    /// Begins an I/O whose pieces hold `data` at first.
    pub(crate) fn start(
        &self,
        op: Op,
        offset: u64,
        blocks: u64,
        layout: &Layout,
        data: &[u8],
    ) -> Result<Pending, Errno> {
        self.start_after(|| {}, op, offset, blocks, layout, data)
    }

    /// Returns the same right after `before`, without a poll of the connection in between.
    pub(crate) fn start_after(
        &self,
        before: impl FnOnce() + Send + 'static,
        op: Op,
        offset: u64,
        blocks: u64,
        layout: &Layout,
        data: &[u8],
    ) -> Result<Pending, Errno> {
        let (tell, ended) = channel();
        let (disk, id) = (self.id, next_id());
        let (layout, data) = (layout.clone(), data.to_vec());
        on_app(move || {
            let request = request(layout, &data, tell)?;
            let channel = OPEN.with(|open| Rc::clone(&open.borrow()[&disk].1));
            before();
            channel.send(op, offset, blocks, &request)?;
            REQUESTS.with(|requests| requests.borrow_mut().insert(id, request));
            Ok(())
        })?;
        Ok(Pending { id, ended })
    }

    /// Does an I/O whose pieces hold `data` at first.
    pub(crate) fn run(&self, op: Op, offset: u64, blocks: u64, layout: &Layout, data: &[u8]) -> Result<Outcome, Errno> {
        self.start(op, offset, blocks, layout, data).map(|pending| pending.wait())
    }

    /// Does an I/O without data.
    pub(crate) fn bare(&self, op: Op, offset: u64, blocks: u64) -> Result<(), Status> {
        self.run(op, offset, blocks, &Layout(Vec::new()), &[]).expect("the I/O is taken").result
    }

    pub(crate) fn write(&self, offset: u64, layout: &Layout, data: &[u8]) -> Result<(), Status> {
        assert_eq!(layout.len(), data.len(), "the layout is of the data");
        let blocks = (data.len() / self.block_size) as u64;
        self.run(Op::Write, offset, blocks, layout, data).expect("the I/O is taken").result
    }

    pub(crate) fn read(&self, offset: u64, layout: &Layout) -> Result<Vec<u8>, Status> {
        let poison = vec![0xee; layout.len()];
        let blocks = (layout.len() / self.block_size) as u64;
        let outcome = self.run(Op::Read, offset, blocks, layout, &poison).expect("the I/O is taken");
        outcome.result.map(|()| outcome.data)
    }

    /// Asks for `pending` to be aborted.
    pub(crate) fn abort(&self, pending: &Pending) -> Result<(), Status> {
        let (tell, ended) = channel();
        let (disk, id) = (self.id, pending.id);
        on_app(move || {
            let by = request(Layout(Vec::new()), &[], tell)?;
            let channel = OPEN.with(|open| Rc::clone(&open.borrow()[&disk].1));
            let target = REQUESTS.with(|requests| Rc::clone(&requests.borrow()[&id]));
            channel.abort(&target, &by)
        })
        .expect("the abort is taken");
        ended.recv_timeout(PATIENCE).expect("the abort ends in time").result
    }
}

/// Returns a request that tells of its end with its data.
fn request(layout: Layout, data: &[u8], tell: Sender<Outcome>) -> Result<Rc<BdevRequest>, Errno> {
    let mut buffer = DmaBuf::zeroed(layout.end(), 4096)?;
    buffer.fill(GUARD);
    let mut at = 0;
    for piece in &layout.0 {
        buffer[piece.clone()].copy_from_slice(&data[at..at + piece.len()]);
        at += piece.len();
    }
    let pieces = layout.0.clone();
    BdevRequest::new(buffer, &pieces, move |request, result| {
        let outcome = request.with_buffer(|buffer| Outcome { result, data: gather(&layout, buffer) });
        let _ = tell.send(outcome.expect("the request is over"));
    })
}

/// Returns what the pieces hold, if nothing was written beside them; nothing otherwise, which no test takes for its
/// data.
fn gather(layout: &Layout, buffer: &[u8]) -> Vec<u8> {
    let mut data = Vec::with_capacity(layout.len());
    let mut untouched = true;
    let mut end = 0;
    for piece in &layout.0 {
        data.extend_from_slice(&buffer[piece.clone()]);
        untouched &= buffer[end..piece.start].iter().all(|&byte| byte == GUARD);
        end = piece.end;
    }
    if !untouched || buffer[end..].iter().any(|&byte| byte != GUARD) {
        eprintln!("an I/O wrote beside its pieces");
        data.clear();
    }
    data
}

impl Pending {
    /// Waits for the end.
    pub(crate) fn wait(&self) -> Outcome {
        self.ended.recv_timeout(PATIENCE).expect("the I/O ends in time")
    }

    /// Returns whether it is still in flight.
    pub(crate) fn is_pending(&self) -> bool {
        matches!(self.ended.try_recv(), Err(std::sync::mpsc::TryRecvError::Empty))
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let id = self.id;
        on_app(move || drop(REQUESTS.with(|requests| requests.borrow_mut().remove(&id))));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let id = self.id;
        on_app(move || drop(OPEN.with(|open| open.borrow_mut().remove(&id))));
    }
}
