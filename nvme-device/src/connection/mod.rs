//! A client's connection, as far as something is decided about it: when requests are answered, when memory that it
//! unmaps is let go, who is let in. Without a socket, a clock, a thread or SPDK: the control thread carries out what is
//! decided here, and says what time it is.

mod accept_queue;
mod replies;
mod transfers;
mod unmaps;

pub use accept_queue::{AcceptQueue, Occupant, Situation, Verdict};
pub use replies::Replies;
pub use transfers::{Ask, Ended, GivenUp, Transfers};
pub use unmaps::{Released, Unmaps};
