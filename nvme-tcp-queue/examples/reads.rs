//! Reads of 4 KiB from namespace 1 of any pool, one queue deep as told: `reads ADDRESS:PORT SUBNQN DEPTH COUNT`.
//!
//! Prints reads per second. Under `perf stat -e instructions:u`, or callgrind, the difference of two counts is what a
//! read costs in instructions. The data is read and not looked at.

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::Instant;

use common::{Host, Memory};
use nvme_host::tcp::Digests;
use nvme_spec::Sqe;
use nvme_spec::nvm::BlockDw12;

/// Reads go to so many places in turn.
const PLACES: u64 = 1024;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, nqn, depth, count] = arguments.as_slice() else {
        eprintln!("usage: reads ADDRESS:PORT SUBNQN DEPTH COUNT");
        std::process::exit(2);
    };
    let address = address.parse().expect("the first argument is an address and a port");
    let depth = depth.parse().expect("the third argument is how many reads are in flight");
    let count: u64 = count.parse().expect("the fourth argument is how many reads there are");
    let mut host = Host::connect(address, nqn, depth, Digests::default());
    let memories: Vec<_> = (0..depth).map(|_| Memory::of(&[0; 4096], &[])).collect();
    let sqe = |at: u64| Sqe::read(1, at % PLACES * 8, BlockDw12::of(7));
    let (mut submitted, mut done, begin) = (0, 0, Instant::now());
    for memory in &memories {
        host.io.read(sqe(submitted), memory);
        submitted += 1;
    }
    while done < count {
        host.io.wait(|rig| !rig.ended.is_empty()).expect("the pool is right");
        for ended in std::mem::take(&mut host.io.ended) {
            assert!(ended.result.is_ok_and(|cqe| cqe.status.is_success()), "a read succeeds");
            done += 1;
            host.io.read(sqe(submitted), &ended.memory);
            submitted += 1;
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    assert!(host.admin.queue.parameters().is_some(), "the controller was there all the time");
    println!("{done} reads in {seconds:.3} s");
}
