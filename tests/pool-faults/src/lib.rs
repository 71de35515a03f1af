#![forbid(unsafe_code)]
#![expect(clippy::missing_panics_doc, reason = "this is for tests, which fail by panic")]
//! For tests: storage pools over NVMe/TCP that hang, are late, lie, or go.
//!
//! There are two tools. A [`Relay`] stands before any target and does what a network, a switch or a dying machine does:
//! it delays, stalls, loses, cuts, refuses, or changes a byte, on one connection or on all, in one direction or in
//! both, while it runs. A [`ScriptedTarget`] is a target of its own, with its namespaces in memory; it does all that
//! an NVMe/TCP host needs of one, and does it right but where its script says otherwise ([`ScriptedTarget::on`]).
//! Either counts what comes, so that a test can wait for a condition instead of for a time, and can tell afterwards
//! what a host has sent, and in which order.
//!
//! Connections are numbered from 0 in the order in which they come. A host's first is its admin queue's, with the
//! I/O queues' behind it; after a loss the numbers go on.
//!
//! ```
//! use std::time::Duration;
//! use nvme_spec::{IoOpcode, Status};
//! use pool_faults::{Arrival, Do, Mode, On, Relay, ScriptedTarget, Way, Which};
//!
//! let target = ScriptedTarget::new();
//! let relay = Relay::to(target.address());
//! // A host connects to 127.0.0.1, port `relay.port()`, subsystem `target.nqn()`.
//!
//! // The next two reads of namespace 1 are answered with Namespace Not Ready, others rightly.
//! target.on(On::io(IoOpcode::READ).nsid(1).times(2), Do::Status(Status::NAMESPACE_NOT_READY));
//! // Connect of an I/O queue is never answered; writes are carried out when the test says `target.release()`.
//! target.on(On::connect_io(), Do::Nothing);
//! target.on(On::io(IoOpcode::WRITE), Do::Hold);
//! // The third thing that is asked on connection 0, its ICReq being the first, and all after it meet silence.
//! target.on(On::any().connection(0).after(2), Do::Silence);
//! // All is well again, for what comes from now on.
//! target.behave();
//!
//! // What the host sends on its second connection stays on the way, until `relay.release()`.
//! relay.set(Which::One(1), Way::ToTarget, Mode::Stall);
//! // SYNs are lost: a listener whose backlog is full.
//! relay.arrivals(Arrival::Drop);
//!
//! let came = target.wait_for(&On::io(IoOpcode::READ), 1, Duration::from_millis(1));
//! assert!(!came, "no host has connected here");
//! ```
//!
//! What it does not do: discovery, authentication, TLS, metadata and protection information, reservations, zones,
//! end of an association by keep-alive time-out, and Abort, which never aborts anything.

mod outbox;
pub mod pdu;
mod relay;
mod socket;
mod target;

pub use relay::{Arrival, Counts, Mode, Pdu, Relay, Verdict, Way, Which};
pub use socket::Cut;
pub use target::{Command, Do, Edit, EditPdus, Namespace, On, Options, ScriptedTarget, ana_log};
