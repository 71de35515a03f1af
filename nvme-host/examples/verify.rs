//! Writes to a namespace of a pool over NVMe/TCP and reads it again, with digests and without. What was in the
//! namespace is lost: `cargo run --example verify -- 127.0.0.1:4420 nqn.2024-01.com.example:pool`.
#![forbid(unsafe_code)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::env;
use std::error::Error;

use common::{Data, Host};
use nvme_host::tcp::Digests;
use nvme_spec::Sqe;
use nvme_spec::nvm::BlockDw12;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let (Some(address), Some(nqn)) = (arguments.next(), arguments.next()) else {
        return Err("give the pool's address and port, and the name of its subsystem".into());
    };
    let address = address.parse()?;
    for (header, data) in [(false, false), (true, false), (false, true), (true, true)] {
        let digests = Digests { header, data };
        let mut host = Host::connect(address, &nqn, 1, digests, 64)?;
        let parameters = host.io.parameters.ok_or("the connection is not set up")?;
        println!("asked for {digests:?}: {parameters:?}; {} blocks of {} bytes", host.blocks, host.block_size);
        let most = usize::try_from(host.controller.max_transfer.unwrap_or(1 << 20))? / host.block_size;
        for blocks in [1, 2, 8, 16, 32, 64, 256].into_iter().filter(|blocks| usize::from(*blocks) <= most) {
            verify(&mut host, blocks)?;
        }
        host.admin.run(Sqe::keep_alive(), Data::None)?;
        host.shut_down()?;
    }
    println!("all that was written was read again");
    Ok(())
}

/// Writes with a full queue, and reads with one.
fn verify(host: &mut Host, blocks: u16) -> Result<(), Box<dyn Error>> {
    let (len, depth) = (usize::from(blocks) * host.block_size, 64_usize);
    let fit = usize::try_from(host.blocks / u64::from(blocks))?.min(depth);
    let bytes = |seed: usize| -> Vec<u8> { (0..len).map(|at| ((at + seed * 41) % 253).to_le_bytes()[0]).collect() };
    let place = |at: usize| (at as u64 * u64::from(blocks), BlockDw12::of(blocks - 1));
    let mut slots = Vec::new();
    for at in 0..fit {
        let (slba, dw12) = place(at);
        slots.push(host.io.start(Sqe::write(host.nsid, slba, dw12), Data::Write(bytes(at)))?);
    }
    for slot in slots {
        let (outcome, _) = host.io.finish(slot)?;
        let status = outcome?.status;
        if !status.is_success() {
            return Err(format!("a write of {len} bytes ended with {status}").into());
        }
    }
    let mut slots = Vec::new();
    for at in 0..fit {
        let (slba, dw12) = place(at);
        slots.push(host.io.start(Sqe::read(host.nsid, slba, dw12), Data::Read(len))?);
    }
    for (at, slot) in slots.into_iter().enumerate() {
        let (outcome, data) = host.io.finish(slot)?;
        let status = outcome?.status;
        if !status.is_success() || data != bytes(at) {
            return Err(format!("a read of {len} bytes ended with {status}, right: {}", data == bytes(at)).into());
        }
    }
    Ok(())
}
