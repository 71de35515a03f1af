//! The steps of an I/O's way to a pool as SPDK's tracepoints; docs/tracing.md tells how to use them.

use spdk::bdev::{BdevIo, Device};
use spdk::trace::{Object, Point, TraceRecord};

/// The tracepoints of the pools; their numbers are 16 to 31.
pub const POINTS: &[Point] = &[SEND, HOLD, DONE];

/// An I/O is given to a queue pair, for the first time or once more.
pub(crate) const SEND: Point =
    Point { number: 16, name: c"POOL_SEND", object: Object::BdevLayer, arguments: [c"nsid", c"slba", c"losses"] };
/// An I/O is held: there is no connection, it is sent again after a delay, or no request is free.
pub(crate) const HOLD: Point =
    Point { number: 17, name: c"POOL_HOLD", object: Object::BdevLayer, arguments: [c"nsid", c"slba", c"reason"] };
/// The pool has answered it, or it was lost with its queue.
pub(crate) const DONE: Point =
    Point { number: 18, name: c"POOL_DONE", object: Object::BdevLayer, arguments: [c"nsid", c"sct", c"sc"] };

/// Why an I/O is held.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Reason {
    /// There is no connection, or what the namespace is has not been proved.
    Connection = 1,
    /// It is sent again after a delay.
    Delay = 2,
    /// No request is free.
    Request = 3,
}

/// Records a step of an I/O.
#[cold]
pub(crate) fn record<D: Device>(point: &Point, io: &BdevIo<D>, arguments: [u64; 3]) {
    let record = TraceRecord { owner: 0, size: 0, object: io.name(), arguments };
    spdk::trace::record(point, &record);
}
