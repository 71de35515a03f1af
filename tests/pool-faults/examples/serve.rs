//! A scripted target that does everything right, and a relay before it, to be tried with any host by hand. They end
//! with their standard input.
#![forbid(unsafe_code)]

use std::io::Read as _;

use nvme_spec::AdminOpcode;
use pool_faults::{Command, Relay, ScriptedTarget};

fn main() {
    let target = ScriptedTarget::new();
    let relay = Relay::to(target.address());
    println!("subsystem {} at {}, relayed at {}", target.nqn(), target.address(), relay.address());
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    for command in target.commands().iter().filter(|command| !command.is_any_io()) {
        let Command { connection, qid, sqe, .. } = command;
        let opcode = AdminOpcode(sqe.opcode);
        match command.fctype() {
            Some(fctype) => println!("{connection} q{qid} {opcode:?} {fctype:?}"),
            None => println!("{connection} q{qid} {opcode:?} dword 10 {:#010x} nsid {:#x}", sqe.cdw10, sqe.nsid),
        }
    }
}
