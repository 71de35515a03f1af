use std::env;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::rc::Rc;
use std::sync::Arc;
use std::thread;

use super::super::host::to_usize;
use super::super::mapping::{Access, Mapping};
use super::super::region::Region;
use super::super::ring::SubmissionRing;
use super::super::slots::Slots;
use super::super::testing::{PAGE, file, patterned, region_of, view_of};
use super::super::{Fault, bytes};
use super::*;
use crate::dptr::PieceSink;

#[test]
fn reading_past_a_shrunk_file_fails_and_poisons_only_what_was_cut_off() {
    let (shrunk, sound) = (patterned(16), patterned(16));
    let bad = region_of(&shrunk, 0, 0, 16 * PAGE);
    let good = region_of(&sound, 0, 16 * PAGE, 16 * PAGE);
    let view = view_of([Arc::clone(&bad), Arc::clone(&good)]);
    let ring = SubmissionRing::resolve(&view, PAGE, 64).expect("within the region");
    shrunk.set_len(4 * PAGE).expect("shrunk");
    let mut data = [0xff; 64];
    assert_eq!(view.read(9 * PAGE + 8, &mut data), Err(Fault::Poisoned));
    assert!(bad.is_poisoned() && !bad.is_intact());
    assert_eq!(view.read(9 * PAGE, &mut data), Err(Fault::Poisoned));
    assert_eq!(view.write(15 * PAGE, &data), Err(Fault::Poisoned), "what was cut off goes as a whole");
    // What the file still holds stays as it was.
    assert_eq!(ring.read(0).map(|sqe| sqe.prp1), Ok(PAGE + 24));
    assert_eq!(view.read(3 * PAGE, &mut data), Ok(()));
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
    assert_eq!(view.write(PAGE, b"lost"), Err(Fault::Poisoned));
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
        assert_eq!(view_of([Arc::clone(&region)]).read(0, &mut [0; 8]), Err(Fault::Poisoned));
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
                    assert_eq!(view.read(PAGE, &mut data), Err(Fault::Poisoned));
                    assert!(region.is_poisoned());
                }
            });
        }
    });
}

/// Raises SIGBUS on this thread, as the kernel does for broken memory at `address`.
fn raise(code: c_int, address: usize) {
    // SAFETY: all zeros is a value of `siginfo_t`; a thread may send any to itself, and the handler takes it for the
    // kernel's.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        (info.si_signo, info.si_code) = (libc::SIGBUS, code);
        // The fault's address is the first of the fields that depend on the code.
        let fields = (&raw mut info).cast::<usize>();
        fields.add(2).write(address);
        assert_eq!(info.si_addr().addr(), address);
        let (pid, tid) = (libc::getpid(), libc::gettid());
        let sent = libc::syscall(libc::SYS_rt_tgsigqueueinfo, pid, tid, libc::SIGBUS, &raw const info);
        assert_eq!(sent, 0, "{}", io::Error::last_os_error());
    }
}

fn host_of(region: &Region) -> usize {
    region.host().expect("it has a file").0.addr().get()
}

#[test]
fn a_memory_error_costs_its_page_and_nothing_else() {
    let file = patterned(16);
    let region = region_of(&file, 0, 0, 16 * PAGE);
    let view = view_of([Arc::clone(&region)]);
    let mut data = [0xff; 64];
    raise(libc::BUS_MCEERR_AR, host_of(&region) + to_usize(5 * PAGE) + 100);
    assert!(region.is_poisoned() && region.is_intact());
    for (page, expected) in [(4, Ok(())), (5, Err(Fault::Poisoned)), (6, Ok(()))] {
        assert_eq!(view.read(page * PAGE, &mut data), expected, "page {page}");
    }
    assert_eq!(data[8..16], (6 * PAGE + 8).to_le_bytes());
    assert_eq!(view.translate(4 * PAGE, 2 * PAGE, false), Err(Fault::Poisoned));
    drop((view, region));
    let again = region_of(&file, 0, 0, 16 * PAGE);
    assert_eq!(view_of([again]).read(5 * PAGE, &mut data), Ok(()), "a new mapping begins anew");
}

#[test]
fn an_entry_of_a_queue_that_lies_in_a_broken_page_is_known_as_such() {
    let file = patterned(4);
    let region = region_of(&file, 0, 0, 4 * PAGE);
    let view = view_of([Arc::clone(&region)]);
    let commands = SubmissionRing::resolve(&view, 0, 128).expect("two pages");
    raise(libc::BUS_MCEERR_AR, host_of(&region) + to_usize(PAGE));
    assert_eq!(commands.read(63).map(|sqe| sqe.prp1), Ok(63 * 64 + 24));
    assert!(!commands.is_poisoned(63) && commands.is_poisoned(64));
    assert_eq!(commands.read(64).map(|sqe| (sqe.nsid, sqe.cid)), Ok((0, 0)));
}

#[test]
fn a_region_that_goes_on_losing_pages_goes_as_a_whole() {
    let file = patterned(64);
    let region = region_of(&file, 0, 0, 64 * PAGE);
    let view = view_of([Arc::clone(&region)]);
    for page in 0..=u64::from(PAGES) {
        assert!(region.is_intact(), "{page} pages are lost");
        raise(libc::BUS_MCEERR_AR, host_of(&region) + to_usize(2 * page * PAGE));
    }
    assert!(!region.is_intact());
    assert_eq!(view.read(63 * PAGE, &mut [0; 8]), Err(Fault::Poisoned));
}

#[test]
fn an_io_that_touched_a_broken_page_is_known_by_it() {
    let file = patterned(8);
    let region = region_of(&file, 0, 0, 8 * PAGE);
    let view = Rc::new(view_of([Arc::clone(&region)]));
    let slots = Slots::new(None, 4, (), || (), |_| {});
    let data = |page: u64, pages: u32| {
        let mut io = slots.take().expect("a place");
        io.add_data(&view, false, |sink| sink.push(page * PAGE, pages * 4096)).expect("mapped");
        io
    };
    let (before, across, behind) = (data(0, 3), data(2, 2), data(4, 4));
    assert!(!before.is_poisoned() && !across.is_poisoned() && !behind.is_poisoned());
    raise(libc::BUS_MCEERR_AR, host_of(&region) + to_usize(3 * PAGE));
    assert!(!before.is_poisoned() && across.is_poisoned() && !behind.is_poisoned());
}

/// What a child does that is not to come back.
const CASE: &str = "COURIER_SIGBUS_CASE";

fn child(case: &str) -> ExitStatus {
    let test = "guard::tests::child_that_dies";
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
    if case == "early" {
        // Somewhere in our own memory, which nobody has accessed since it broke.
        raise(libc::BUS_MCEERR_AO, ptr::from_ref(&case).addr());
        std::process::exit(44);
    } else if case == "sent" {
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
fn broken_memory_that_nobody_has_accessed_ends_nothing() {
    assert_eq!(child("early").code(), Some(44));
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
