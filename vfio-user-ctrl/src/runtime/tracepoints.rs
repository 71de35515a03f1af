//! The steps of a command's way as SPDK's tracepoints; docs/tracing.md tells how to use them.

use spdk::trace::{Object, Point, TraceRecord};

use nvme_device::queue::{TraceStep, Traced};

/// The tracepoints of the controllers; their numbers are 0 to 15.
pub const POINTS: &[Point] = &[DOORBELL, TAKE, WAIT, GO_ON, COMPLETE, INTERRUPT];

const DOORBELL: Point =
    Point { number: 0, name: c"CTRL_DOORBELL", object: Object::None, arguments: [c"sqid", c"count", c"head"] };
const TAKE: Point = Point { number: 1, name: c"CTRL_TAKE", object: Object::New, arguments: [c"sqid", c"cid", c"nsid"] };
const WAIT: Point =
    Point { number: 2, name: c"CTRL_WAIT", object: Object::Known, arguments: [c"sqid", c"cid", c"reason"] };
const GO_ON: Point =
    Point { number: 3, name: c"CTRL_GO_ON", object: Object::Known, arguments: [c"sqid", c"cid", c"nsid"] };
const COMPLETE: Point =
    Point { number: 4, name: c"CTRL_COMPLETE", object: Object::Known, arguments: [c"sqid", c"cid", c"status"] };
const INTERRUPT: Point =
    Point { number: 5, name: c"CTRL_INTERRUPT", object: Object::None, arguments: [c"cqid", c"vector", c"count"] };

/// Records a step.
#[cold]
pub(super) fn record(step: TraceStep, what: Traced) {
    let point = match step {
        TraceStep::Doorbell => DOORBELL,
        TraceStep::Take => TAKE,
        TraceStep::Wait => WAIT,
        TraceStep::GoOn => GO_ON,
        TraceStep::Complete => COMPLETE,
        TraceStep::Interrupt => INTERRUPT,
    };
    let Traced { owner, command, bytes, arguments } = what;
    spdk::trace::record(&point, &TraceRecord { owner, size: bytes, object: command, arguments });
}
