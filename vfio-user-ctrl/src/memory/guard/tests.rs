use std::env;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::thread;

use super::super::region::{Access, Mapping};
use super::super::ring::SubmissionRing;
use super::super::testing::{PAGE, file, patterned, region_of, view_of};
use super::super::{Fault, bytes};
use super::*;

#[test]
fn reading_past_a_shrunk_file_gives_zeros_and_poisons_only_that_region() {
    let (shrunk, sound) = (patterned(16), patterned(16));
    let bad = region_of(&shrunk, 0, 0, 16 * PAGE);
    let good = region_of(&sound, 0, 16 * PAGE, 16 * PAGE);
    let view = view_of([Arc::clone(&bad), Arc::clone(&good)]);
    let ring = SubmissionRing::resolve(&view, PAGE, 64).expect("within the region");
    shrunk.set_len(4 * PAGE).expect("shrunk");
    let mut data = [0xff; 64];
    view.read(9 * PAGE + 8, &mut data).expect("translated before the fault");
    assert_eq!(data, [0; 64]);
    assert!(bad.is_poisoned() && ring.is_poisoned() && view.memory().is_poisoned());
    assert_eq!(view.read(0, &mut data), Err(Fault::Poisoned));
    assert_eq!(view.write(0, &data), Err(Fault::Poisoned));
    // What the file still holds stays as it was, for what is in flight.
    assert_eq!(ring.read(0).map(|sqe| sqe.prp1), Ok(PAGE + 24));
    assert!(!good.is_poisoned());
    view.read(16 * PAGE, &mut data).expect("the other region is as before");
    assert_eq!(data[8..16], 8_u64.to_le_bytes());
}

#[test]
fn writing_past_a_shrunk_file_is_survived() {
    let file = file(4 * PAGE);
    let region = region_of(&file, 0, 0, 4 * PAGE);
    let view = view_of([Arc::clone(&region)]);
    file.set_len(0).expect("shrunk");
    view.write(PAGE, b"lost").expect("translated before the fault");
    assert!(region.is_poisoned());
    assert_eq!(file.metadata().map(|metadata| metadata.len()).ok(), Some(0));
}

#[test]
fn a_new_region_is_not_poisoned_by_the_one_whose_entry_it_gets() {
    for _ in 0..3 {
        let file = file(PAGE);
        let region = region_of(&file, 0, 0, PAGE);
        assert!(!region.is_poisoned());
        file.set_len(0).expect("shrunk");
        view_of([Arc::clone(&region)]).read(0, &mut [0; 8]).expect("survived");
        assert!(region.is_poisoned());
    }
}

#[test]
fn faults_on_many_threads_beside_mappings_that_come_and_go_are_survived() {
    let busy = file(PAGE);
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..4 {
                // More than a chunk of entries.
                let regions: Vec<_> = (0..300).map(|_| region_of(&busy, 0, 0, PAGE)).collect();
                assert!(regions.iter().all(|region| !region.is_poisoned()));
            }
        });
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..100 {
                    let file = patterned(2);
                    let region = region_of(&file, 0, 0, 2 * PAGE);
                    let view = view_of([Arc::clone(&region)]);
                    file.set_len(PAGE).expect("shrunk");
                    let mut data = [0xff; 8];
                    view.read(PAGE, &mut data).expect("survived");
                    assert_eq!(data, [0; 8]);
                    assert!(region.is_poisoned());
                }
            });
        }
    });
}

/// What a child does that is not to come back.
const CASE: &str = "COURIER_SIGBUS_CASE";

fn child(case: &str) -> ExitStatus {
    let test = "memory::guard::tests::child_that_dies";
    Command::new(env::current_exe().expect("a program"))
        .args(["--exact", test, "--ignored", "--quiet"])
        .env(CASE, case)
        .output()
        .expect("a child")
        .status
}

#[test]
#[ignore = "the tests below run it, each in a process of its own"]
fn child_that_dies() {
    let case = env::var(CASE).expect("run by the other tests");
    match case.as_str() {
        "no previous" => previous(libc::SIG_DFL, 0),
        "previous exits" => {
            previous(exits as extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) as usize, libc::SA_SIGINFO);
        }
        "previous returns" => previous(returns as extern "C" fn(c_int) as usize, 0),
        _ => {}
    }
    install().expect("a handler");
    install().expect("again");
    if case == "sent" {
        // SAFETY: no memory is involved.
        unsafe { libc::raise(libc::SIGBUS) };
    } else {
        let file = file(PAGE);
        let unguarded = Mapping::new(&file, PAGE, 0, PAGE, Access::ReadWrite).expect("a mapping");
        file.set_len(0).expect("shrunk");
        // SAFETY: the page is mapped; that it faults is what is tested.
        unsafe { bytes::load(unguarded.start.0, &mut [0; 8]) };
    }
    unreachable!("{case}: nothing has ended the process");
}

fn previous(handler: usize, flags: c_int) {
    // SAFETY: all zeros is a value of `sigaction`; the handlers fit their flags.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler;
        action.sa_flags = flags;
        assert_eq!(libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()), 0);
    }
}

extern "C" fn exits(signal: c_int, info: *mut libc::siginfo_t, _context: *mut c_void) {
    // SAFETY: the kernel's `info`; `_exit` may be called here.
    unsafe { libc::_exit(if signal == libc::SIGBUS && (*info).si_code == libc::BUS_ADRERR { 42 } else { 43 }) };
}

extern "C" fn returns(_signal: c_int) {}

#[test]
fn a_fault_elsewhere_kills() {
    assert_eq!(child("elsewhere").signal(), Some(libc::SIGBUS));
    assert_eq!(child("no previous").signal(), Some(libc::SIGBUS));
}

#[test]
fn a_signal_that_was_sent_kills() {
    assert_eq!(child("sent").signal(), Some(libc::SIGBUS));
}

#[test]
fn a_fault_elsewhere_goes_to_the_handler_that_was_there_before() {
    assert_eq!(child("previous exits").code(), Some(42));
}

#[test]
fn a_handler_that_mends_nothing_is_not_asked_for_ever() {
    assert_eq!(child("previous returns").signal(), Some(libc::SIGBUS));
}
