//! What is fuzzed, and what must hold.
//!
//! | module | what comes in | what must hold |
//! |---|---|---|
//! | [`wire`] | what a client sends, in pieces, with files; what the caller answers | no panic; bounded buffers; every file is closed |
//! | [`controller`] | what a guest, its client, the backend and the operator do to a controller | no panic; nothing but the guest's memory is touched; memory is let go; a reset ends |
//! | [`pool`] | what a pool sends to an NVMe/TCP host; what the host does | no panic; data in order and whole |
//!
//! An input is a script of [steps](script): each begins with the byte that says what it is, and has a fixed form after
//! that, so that a change of a byte changes one thing. What is missing at the end reads as 0. `seeds` writes scripts
//! that reach far.

#![allow(clippy::cast_possible_truncation, reason = "numbers are the fuzzer's own")]
#![allow(clippy::missing_panics_doc, reason = "what must hold is asserted")]

pub mod controller;
pub mod pool;
#[expect(dead_code, reason = "shared with the tests")]
#[path = "../../../nvme-device/tests/common/ram.rs"]
mod ram;
pub mod script;
pub mod wire;

#[cfg(test)]
mod tests {
    use std::fs;

    fn run_corpus(target: &str, run: fn(&[u8])) {
        let folder = format!("{}/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
        let mut count = 0;
        for entry in fs::read_dir(folder).expect("there is a corpus") {
            run(&fs::read(entry.expect("an entry").path()).expect("a file"));
            count += 1;
        }
        assert!(count > 0, "there is something in the corpus");
    }

    #[test]
    fn the_corpus_of_the_wire_runs() {
        run_corpus("wire", super::wire::run);
    }

    #[test]
    fn the_corpus_of_the_pool_runs() {
        run_corpus("pool", super::pool::run);
    }

    #[test]
    fn the_corpus_of_the_controller_runs() {
        run_corpus("controller", super::controller::run);
    }
}
