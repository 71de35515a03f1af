//! An NVMe-oF host, sans-IO: it knows no socket, no thread and no memory of a guest.
//!
//! [`tcp`] is the wire of one NVMe/TCP connection, which is one queue pair: commands and received bytes go in, and
//! completions, places for data, and what to send come out. [`controller`] has the commands that set a controller up,
//! keep it and shut it down, over whatever carries them.
//!
//! The pool at the other end is hostile. It cannot make this crate panic, allocate, send a byte that is not the
//! command's, give out data for another command than the one that waits for it, or call a command successful whose
//! data did not come whole. `docs/nvme-host.md` tells what stands and what is to come.
#![forbid(unsafe_code)]

pub mod controller;
pub mod tcp;
