//! Rings: wrap and phase, room, doorbells.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use guest_memory::{CompletionRing, MemView};
use nvme_device::queue::QueueErrorEvent;
use nvme_spec::{Cqe, Sqe, Status, StatusCodeType};
use zerocopy::IntoBytes;

use super::common::guest::{HostSq, LISTS, PAGE, Rig, flush, read};
use super::common::ram::Disk;

const BLOCKS: usize = 64;

#[test]
fn the_phase_changes_with_each_round_and_sqhd_follows() {
    let disk = Disk::instant(BLOCKS, 9);
    let rig = Rig::with(&disk);
    // Rings of different sizes wrap at different times.
    let mut cq = rig.create_cq(1, 5, None);
    let mut sq = rig.create_sq(1, 3, 1);
    for cid in 0..60 {
        rig.run(&mut sq, &[flush(cid)]);
        let cqes = rig.reap(&mut cq);
        assert_eq!(cqes.len(), 1);
        assert_eq!((cqes[0].cid, cqes[0].sqid, cqes[0].sqhd), (cid, 1, (cid + 1) % 3));
    }
}

#[test]
fn a_full_completion_queue_holds_commands_back_until_it_is_drained() {
    let disk = Disk::instant(BLOCKS, 9);
    let rig = Rig::with(&disk);
    let mut cq = rig.create_cq(1, 4, None);
    let mut sq = rig.create_sq(1, 32, 1);
    let sqes: Vec<_> = (0..20).map(flush).collect();
    rig.run(&mut sq, &sqes);
    rig.queues.poll();
    assert_eq!(disk.submitted.get(), 3, "one entry of a queue is never used");
    let before = rig.get(cq.base, 64);
    rig.queues.poll();
    assert_eq!(rig.get(cq.base, 64), before, "what the host has not taken is not overwritten");
    let mut seen = Vec::new();
    for _ in 0..20 {
        let cqes = rig.take(&mut cq, 2);
        rig.doorbells.store(3, cq.head.into());
        seen.extend(cqes.iter().map(|cqe| cqe.cid));
        rig.queues.poll();
    }
    assert_eq!(seen, (0..20).collect::<Vec<_>>());
}

#[test]
fn entries_that_are_reserved_count_as_filled() {
    let disk = Disk::new(BLOCKS, 9);
    let rig = Rig::with(&disk);
    let mut cq = rig.create_cq(1, 4, None);
    let mut sq = rig.create_sq(1, 32, 1);
    rig.run(&mut sq, &(0..10).map(flush).collect::<Vec<_>>());
    assert_eq!(disk.held(), 3);
    disk.finish(2);
    rig.queues.poll();
    assert_eq!((disk.held(), rig.peek(&cq).map(|cqe| cqe.cid)), (2, Some(2)));
    rig.reap(&mut cq);
    rig.queues.poll();
    assert_eq!(disk.held(), 3);
}

#[test]
fn two_submission_queues_share_a_completion_queue() {
    let disk = Disk::new(BLOCKS, 9);
    let rig = Rig::with(&disk);
    let mut cq = rig.create_cq(1, 4, None);
    let (mut first, mut second) = (rig.create_sq(1, 8, 1), rig.create_sq(2, 8, 1));
    rig.submit(&mut first, &[flush(1), flush(2), flush(3), flush(4)]);
    rig.submit(&mut second, &[flush(1), flush(2)]);
    rig.queues.poll();
    assert_eq!(disk.held(), 3);
    let mut seen = Vec::new();
    for _ in 0..6 {
        disk.finish(0);
        seen.extend(rig.reap(&mut cq).iter().map(|cqe| (cqe.sqid, cqe.cid)));
        rig.queues.poll();
    }
    seen.sort_unstable();
    assert_eq!(seen, [(1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2)]);
}

#[test]
fn no_more_than_a_burst_of_one_queue_is_taken_in_a_row() {
    let disk = Disk::new(BLOCKS, 9);
    let rig = Rig::with(&disk);
    let (mut sq, _) = rig.create(1, 1024);
    let (mut other, _) = rig.create(2, 4);
    rig.submit(&mut sq, &(0..1000).map(flush).collect::<Vec<_>>());
    rig.submit(&mut other, &[read(1, 9, 1)]);
    rig.queues.poll();
    assert_eq!(disk.held(), 129, "128 of the first queue, and the second has its turn");
    for _ in 0..7 {
        rig.queues.poll();
    }
    assert_eq!(disk.held(), 1001);
}

#[test]
fn each_of_many_busy_queues_has_its_turn() {
    let disk = Disk::instant(BLOCKS, 9);
    let rig = Rig::with(&disk);
    let mut queues: Vec<_> = (1..=7).map(|qid| (rig.create(qid, 1024), 0)).collect();
    for _ in 0..40 {
        for ((sq, cq), done) in &mut queues {
            let cqes = rig.reap(cq);
            *done += cqes.len();
            // As many again as were taken: the queue is always full.
            let count = if *done == 0 && sq.tail == 0 { 1000 } else { cqes.len() };
            rig.submit(sq, &vec![flush(1); count]);
        }
        rig.queues.poll();
    }
    let (least, most) =
        queues.iter().fold((usize::MAX, 0), |(least, most), (_, done)| (least.min(*done), most.max(*done)));
    assert!(least > 0 && most - least <= 256, "from {least} to {most} commands");
}

#[test]
fn a_burst_that_fills_at_the_last_queue_leaves_no_poll_empty() {
    let disk = Disk::instant(BLOCKS, 9);
    let rig = Rig::with(&disk);
    let mut queues: Vec<_> = (1..=2).map(|qid| rig.create(qid, 1024)).collect();
    for (sq, _) in &mut queues {
        rig.submit(sq, &vec![flush(1); 1000]);
    }
    for poll in 1..=7 {
        rig.queues.poll();
        assert_eq!(disk.submitted.get(), poll * 256, "128 of each queue");
    }
}

#[test]
fn a_head_outside_of_the_queue_is_told_though_there_is_room() {
    let rig = Rig::with(&Disk::instant(BLOCKS, 9));
    let (mut sq, _) = rig.create(1, 8);
    rig.run(&mut sq, &[flush(1)]);
    for bad in [2, 8, u32::MAX] {
        rig.doorbells.store(3, bad);
        rig.queues.poll();
        assert_eq!(rig.queues.take_error_events(), []);
        rig.queues.look_at_heads();
        rig.queues.look_at_heads();
        assert_eq!(rig.queues.take_error_events(), [QueueErrorEvent::InvalidDoorbell { qid: 1 }], "{bad:#x}");
    }
}

#[test]
fn commands_that_fail_for_their_data_count_as_media_errors() {
    let disk = Disk::new(BLOCKS, 9);
    let rig = Rig::with(&disk);
    let (mut sq, _) = rig.create(1, 16);
    let statuses = [(2, 0x81), (2, 0x80), (2, 0x82), (2, 0x85), (2, 0x86), (0, 0x04), (0, 0x07)];
    rig.run(&mut sq, &vec![read(1, 0, 1); statuses.len()]);
    for (sct, sc) in statuses {
        disk.fail(0, Status::new(StatusCodeType(sct), sc));
    }
    assert_eq!((rig.queues.take_media_errors(), rig.queues.take_media_errors()), (3, 0));
}

#[test]
fn a_tail_outside_of_the_queue_is_told_once_and_takes_nothing() {
    let disk = Disk::instant(BLOCKS, 9);
    let rig = Rig::with(&disk);
    let (mut sq, mut cq) = rig.create(1, 8);
    for bad in [8, 0xffff, 0x1_0000, u32::MAX] {
        rig.doorbells.store(2, bad);
        rig.queues.poll();
        rig.queues.poll();
        assert_eq!(rig.queues.take_error_events(), [QueueErrorEvent::InvalidDoorbell { qid: 1 }], "{bad:#x}");
    }
    assert_eq!(disk.submitted.get(), 0);
    rig.run(&mut sq, &[flush(1)]);
    assert_eq!(rig.statuses(&mut cq), [(1, 0)], "the queue goes on with a good value");
}

#[test]
fn a_head_that_passes_the_tail_is_told_and_gives_no_room() {
    let disk = Disk::instant(BLOCKS, 9);
    let rig = Rig::with(&disk);
    let cq = rig.create_cq(1, 4, None);
    let mut sq = rig.create_sq(1, 32, 1);
    rig.run(&mut sq, &(0..10).map(flush).collect::<Vec<_>>());
    let before = rig.get(cq.base, 64);
    for bad in [4, 0x1_0001, u32::MAX] {
        rig.doorbells.store(3, bad);
        rig.queues.poll();
        assert_eq!(rig.queues.take_error_events(), [QueueErrorEvent::InvalidDoorbell { qid: 1 }], "{bad:#x}");
    }
    assert_eq!((disk.submitted.get(), rig.get(cq.base, 64)), (3, before));
    rig.doorbells.store(3, 2);
    rig.queues.poll();
    assert_eq!(disk.submitted.get(), 5);
}

#[test]
fn an_empty_slot_of_a_namespace_is_an_invalid_namespace() {
    let rig = Rig::with(&Disk::instant(BLOCKS, 9));
    let (mut sq, mut cq) = rig.create(1, 8);
    for (cid, nsid) in [(1, 0), (2, 2), (3, 257), (4, u32::MAX)] {
        let mut sqe = flush(cid);
        sqe.nsid = nsid;
        rig.run(&mut sq, &[sqe]);
    }
    let invalid = Status::INVALID_NAMESPACE.into_bits();
    assert_eq!(rig.statuses(&mut cq), [(1, invalid), (2, invalid), (3, invalid), (4, invalid)]);
}

#[test]
fn an_entry_whose_phase_a_guest_has_seen_is_whole() {
    const ENTRIES: u64 = 4;
    const ROUNDS: u32 = 20_000;
    let memory = Arc::new(Rig::new().memory);
    let ring = CompletionRing::resolve(&MemView::new(Arc::clone(&memory)), 0, ENTRIES as u16).expect("a ring");
    let word = |view: &MemView, gpa| {
        let mut bytes = [0; 8];
        view.read(gpa, &mut bytes).expect("mapped");
        u64::from_le_bytes(bytes)
    };
    let (tell, taken) = std::sync::mpsc::sync_channel(ENTRIES as usize - 1);
    let guest = std::thread::spawn(move || {
        let view = MemView::new(memory);
        for round in 0..ROUNDS {
            let phase = 1 ^ u64::from(round) & 1;
            for index in 0..ENTRIES {
                while word(&view, index * 16 + 8) >> 48 & 1 != phase {
                    std::thread::yield_now();
                }
                fence(Ordering::Acquire);
                let number = u64::from(round) * ENTRIES + index;
                assert_eq!((word(&view, index * 16), word(&view, index * 16 + 8) & 0xffff), (number, number & 0xffff));
                tell.send(()).expect("the device is there");
            }
        }
    });
    let mut ahead = 0;
    for number in 0..ROUNDS * ENTRIES as u32 {
        // As with a head doorbell: no entry is used again before the guest has taken it.
        if ahead == ENTRIES - 1 {
            taken.recv().expect("the guest goes on");
            ahead -= 1;
        }
        ahead += 1;
        let phase = (number / ENTRIES as u32).is_multiple_of(2);
        let cqe = Cqe { dw0: number, sqhd: number as u16, status: Status::SUCCESS.with_phase(phase), ..Cqe::default() };
        ring.post((number % ENTRIES as u32) as u16, cqe).expect("an entry");
    }
    guest.join().expect("every entry was whole");
}

/// Pages for shadow doorbells and event indexes.
const SHADOW: (u64, u64) = (LISTS.0, LISTS.0 + PAGE);

/// Moves a submission queue's tail as Linux does: the shadow first, then the doorbell if the event index asks for it.
fn ring_as_linux(rig: &Rig, sq: &mut HostSq, sqes: &[Sqe]) {
    for sqe in sqes {
        rig.put(sq.base + u64::from(sq.tail) * 64, sqe.as_bytes());
        sq.tail = (sq.tail + 1) % sq.entries;
    }
    let at = u64::from(sq.qid) * 8;
    let half = |gpa| u16::from_le_bytes(rig.get(gpa, 2).try_into().expect("2 bytes"));
    let old = half(SHADOW.0 + at);
    rig.put(SHADOW.0 + at, &u32::from(sq.tail).to_le_bytes());
    let event_index = half(SHADOW.1 + at);
    if sq.tail.wrapping_sub(event_index).wrapping_sub(1) < sq.tail.wrapping_sub(old) {
        rig.ring(sq);
    }
}

#[test]
fn shadow_doorbells_are_used_for_i_o_queues_from_where_the_doorbells_stand() {
    let disk = Disk::instant(BLOCKS, 9);
    let rig = Rig::with(&disk);
    let (mut sq, mut cq) = rig.create(1, 8);
    rig.submit(&mut sq, &[flush(1)]);
    rig.queues.set_shadow_doorbells(Some(SHADOW));
    rig.queues.poll();
    assert_eq!(rig.statuses(&mut cq), [(1, 0)], "what the doorbell told is not lost");
    rig.submit(&mut sq, &[flush(2)]);
    rig.queues.poll();
    assert_eq!(rig.statuses(&mut cq), [(2, 0)], "the doorbell counts until the host uses the shadow");
    ring_as_linux(&rig, &mut sq, &[flush(3)]);
    rig.queues.poll();
    assert_eq!(rig.statuses(&mut cq), [(3, 0)]);
    let event_index = rig.get(SHADOW.1 + 8, 4);
    assert_eq!(event_index, 2_u32.to_le_bytes(), "the host need not ring for the next value");
    rig.submit(&mut sq, &[flush(4)]);
    rig.queues.poll();
    assert_eq!(rig.statuses(&mut cq), [], "the doorbell itself is not looked at any more");
}

/// Whether a thread takes what has been set early or late, the host goes on as soon as the command is completed.
#[test]
fn no_command_is_lost_whenever_a_thread_hears_of_shadow_doorbells() {
    for (before, polled, told_again) in (0..6)
        .flat_map(|count| [(count, false, false), (count, true, false), (count, true, true), (count, false, true)])
    {
        let disk = Disk::instant(BLOCKS, 9);
        let rig = Rig::with(&disk);
        let (mut sq, mut cq) = rig.create(1, 4);
        let mut sent = 0;
        let mut next = || {
            sent += 1;
            flush(sent)
        };
        let mut seen = Vec::new();
        for _ in 0..before {
            rig.run(&mut sq, &[next()]);
            seen.extend(rig.reap(&mut cq));
        }
        rig.queues.set_shadow_doorbells(Some(SHADOW));
        if polled {
            rig.queues.poll();
        }
        for count in [1, 2, 1, 3, 1, 1, 1, 2, 3] {
            ring_as_linux(&rig, &mut sq, &(0..count).map(|_| next()).collect::<Vec<_>>());
            if told_again {
                rig.queues.set_shadow_doorbells(Some(SHADOW));
            }
            rig.queues.poll();
            assert_eq!(rig.get(SHADOW.0 + 8, 4), u32::from(sq.tail).to_le_bytes(), "the host's value stays");
            seen.extend(rig.take(&mut cq, usize::MAX));
            rig.put(SHADOW.0 + 12, &u32::from(cq.head).to_le_bytes());
        }
        let cids: Vec<u16> = seen.iter().map(|cqe| cqe.cid).collect();
        assert_eq!(cids, (1..=sent).collect::<Vec<_>>(), "{before} before, {polled}, {told_again}");
    }
}

#[test]
fn a_queue_that_is_made_anew_begins_with_shadows_of_zero() {
    let disk = Disk::instant(BLOCKS, 9);
    let rig = Rig::with(&disk);
    rig.queues.set_shadow_doorbells(Some(SHADOW));
    for round in 0..3 {
        // Of a queue that was there before, or of another use of the page.
        rig.put(SHADOW.0 + 8, &[5_u32.to_le_bytes(), 3_u32.to_le_bytes()].concat());
        let (mut sq, mut cq) = rig.create(1, 8);
        rig.put(cq.base, &[0; 8 * 16]);
        assert_eq!(rig.get(SHADOW.0 + 8, 8), [0; 8]);
        rig.queues.poll();
        assert_eq!((rig.statuses(&mut cq), disk.submitted.get()), (vec![], round), "there is no command");
        ring_as_linux(&rig, &mut sq, &[flush(7)]);
        rig.queues.poll();
        assert_eq!(rig.statuses(&mut cq), [(7, 0)]);
        rig.queues.delete_submission(1);
        rig.queues.delete_completion(1);
    }
}

#[test]
fn shadow_doorbells_of_any_value_are_borne() {
    let disk = Disk::instant(BLOCKS, 9);
    let rig = Rig::with(&disk);
    let (_, mut cq) = rig.create(1, 8);
    rig.queues.set_shadow_doorbells(Some(SHADOW));
    for value in [8_u32, 0xffff_ffff, 0x1_0000] {
        rig.put(SHADOW.0, &[value.to_le_bytes(); 16].concat());
        rig.queues.poll();
        assert_eq!(rig.queues.take_error_events(), [QueueErrorEvent::InvalidDoorbell { qid: 1 }]);
    }
    assert_eq!((rig.statuses(&mut cq), disk.submitted.get()), (vec![], 0));
}

#[test]
fn a_shadow_that_is_not_mapped_rings_nothing() {
    let disk = Disk::instant(BLOCKS, 9);
    let mut rig = Rig::with(&disk);
    let (mut sq, mut cq) = rig.create(1, 8);
    rig.run(&mut sq, &(0..5).map(flush).collect::<Vec<_>>());
    rig.queues.set_shadow_doorbells(Some(SHADOW));
    rig.reap(&mut cq);
    rig.put(SHADOW.0 + 12, &5_u32.to_le_bytes());
    for tail in [7_u32, 2] {
        for cid in 5..8 {
            rig.put(sq.base + u64::from(cid) * 64, flush(cid).as_bytes());
        }
        rig.put(SHADOW.0 + 8, &tail.to_le_bytes());
        rig.queues.poll();
        rig.put(SHADOW.0 + 12, &tail.to_le_bytes());
    }
    assert_eq!(disk.submitted.get(), 10);
    rig.unmap(LISTS);
    rig.queues.poll();
    assert_eq!(disk.submitted.get(), 10, "the doorbell says 5, which was long ago");
    rig.map(LISTS);
    rig.put(SHADOW.0 + 8, &3_u32.to_le_bytes());
    rig.queues.poll();
    assert_eq!(disk.submitted.get(), 11);
}

#[test]
fn a_poll_takes_no_more_than_there_is_room_for_and_the_rest_comes_with_the_next() {
    let disk = Disk::new(64, 9);
    let rig = Rig::with(&disk);
    let (mut sq, mut cq) = rig.create(1, 8);
    rig.submit(&mut sq, &[flush(1), flush(2), flush(3), flush(4), flush(5)]);
    for (room, held) in [(0, 0), (2, 2), (0, 2), (1, 3), (9, 5)] {
        rig.queues.set_room(room);
        rig.queues.poll();
        assert_eq!((disk.held(), rig.queues.in_flight()), (held, held));
    }
    disk.finish_all();
    assert_eq!((rig.statuses(&mut cq).len(), rig.queues.in_flight()), (5, 0));
}
