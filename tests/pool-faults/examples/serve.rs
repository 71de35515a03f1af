//! A scripted target that does everything right, and a relay before it, to be tried with any host by hand. They end
//! with their standard input.
#![forbid(unsafe_code)]

use std::io::Read as _;

use pool_faults::{Relay, ScriptedTarget};

fn main() {
    let target = ScriptedTarget::new();
    let relay = Relay::to(target.address());
    println!("subsystem {} at {}, relayed at {}", target.nqn(), target.address(), relay.address());
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    for command in target.commands().iter().filter(|command| command.qid == 0 || command.is_fabrics()) {
        let on = if command.is_fabrics() { command.fctype } else { command.cdw[0].to_le_bytes()[0] };
        println!(
            "{} q{} opcode {:#04x} {on:#04x} nsid {:#x}",
            command.connection, command.qid, command.opcode, command.nsid
        );
    }
}
