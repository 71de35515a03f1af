//! A client's connection, as far as something is decided about it: what its requests for memory, interrupts and resets
//! change, when they are answered, when memory that it unmaps is let go, who is let in. Without a socket, a clock, a
//! thread or SPDK: the control thread carries out what is decided here, and says what time it is.

mod accept_queue;
mod client;
mod irqs;
mod replies;
mod transfers;
mod unmaps;

pub use accept_queue::{AcceptQueue, Occupant, Situation, Verdict};
pub use client::{Client, ClientOutput, ClientWarning};
pub use irqs::{IrqChange, IrqError};
use replies::Replies;
pub use transfers::{Ask, Ended, GivenUp, Transfers};
use unmaps::Unmaps;
