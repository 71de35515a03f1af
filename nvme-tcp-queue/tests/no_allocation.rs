//! No allocation per I/O: the thread that polls a queue asks for no memory while reads and writes go over it.

mod common;

use common::{Host, Memory};
use counting_allocator::{Counting, calls};
use nvme_host::tcp::Digests;
use nvme_spec::Sqe;
use nvme_spec::nvm::BlockDw12;
use pool_faults::{Namespace, Options, ScriptedTarget};

#[global_allocator]
static COUNTING: Counting = Counting;

/// Returns what the thread asked for during rounds of 16 reads and 16 writes of so many bytes.
fn calls_during(len: u16, pieces: &[usize], digests: Digests) -> u64 {
    let options = Options { in_capsule: 0, ..Options::default() };
    let pool = ScriptedTarget::with(options, [(1, Namespace::new(512, 16 << 10, 1))]);
    let mut host = Host::connect(pool.address(), &pool.nqn(), 32, digests);
    let memory = Memory::of(&vec![7; len.into()], pieces);
    let dw12 = BlockDw12::of(len / 512 - 1);
    host.io.ended.reserve(64);
    let before = calls();
    for _ in 0..20 {
        for at in 0..16 {
            host.io.read(Sqe::read(1, at * 64, dw12), &memory);
            host.io.write(Sqe::write(1, (16 + at) * 64, dw12), &memory);
        }
        host.io.wait(|rig| rig.ended.len() == 32).expect("the target is right");
        for ended in host.io.ended.drain(..) {
            assert!(ended.result.is_ok_and(|cqe| cqe.status.is_success()));
        }
    }
    let calls = calls() - before;
    assert!(before > 0, "setting up did allocate");
    assert!(host.admin.queue.parameters().is_some(), "the controller was there all the time");
    calls
}

#[test]
fn reads_and_writes_allocate_nothing() {
    let none = Digests { header: false, data: false };
    assert_eq!(calls_during(4096, &[], none), 0);
    assert_eq!(calls_during(32 << 10, &[511, 513, 1024], Digests { header: true, data: true }), 0);
}
