//! Commands with data in memory without a file, with a client and a backend that do what a test says.

mod rig;

use nvme_spec::{CommandFlags, IoOpcode};
use rig::{ClientGuest, FAR, FAR_LEN, LISTS, NEAR_DATA, PAGE, command, pattern, read, write};

use super::*;
use crate::queue::BlockOp;
use guest_memory::{Access, Region};

const DTE: Status = Status::DATA_TRANSFER_ERROR;

#[test]
fn a_write_and_a_read_by_a_list_of_prps_carry_the_data() {
    let guest = ClientGuest::new();
    let data = pattern(128 << 10);
    guest.client.put(FAR + 512, &data);
    // 33 pages, the first and the last in part.
    let list: Vec<u8> = (1..33).flat_map(|page| (FAR + page * PAGE).to_le_bytes()).collect();
    guest.put(LISTS, &list);
    guest.send(write(1, 8, 256, FAR + 512, LISTS));
    assert!(guest.disk.ops().is_empty(), "the data is not there yet");
    // The pages follow each other, and are one piece.
    assert_eq!(guest.client.works(), [DmaOperation::Read(vec![(FAR + 512, 128 << 10)])]);
    guest.answer();
    guest.disk.finish();
    assert_eq!(guest.completions(), [(1, Status::SUCCESS)]);
    assert_eq!(guest.disk.get(8, 256), data);

    guest.client.put(FAR, &vec![0; data.len() + 4096]);
    guest.send(read(2, 8, 256, FAR + 512, LISTS));
    guest.disk.finish();
    assert!(guest.completions().is_empty(), "the data is not with the guest yet");
    guest.answer();
    assert_eq!(guest.completions(), [(2, Status::SUCCESS)]);
    assert_eq!(guest.client.get(FAR + 512, data.len()), data);
    assert_eq!(guest.client.get(FAR, 512), [0; 512], "and nothing else was written");
    assert_eq!(guest.queues.take_bounced(), 2 * (128 << 10));
    guest.assert_idle();
}

#[test]
fn pieces_with_a_file_and_without_may_be_mixed() {
    let guest = ClientGuest::new();
    let pieces = [(NEAR_DATA + 5, 300), (FAR + 4000, 200), (FAR + 4200, 12), (NEAR_DATA + 4096, 500), (FAR + 77, 12)];
    let data = pattern(1024);
    let mut at = 0;
    for (gpa, len) in pieces {
        let part = &data[at..at + len as usize];
        if gpa >= FAR {
            guest.client.put(gpa, part);
        } else {
            guest.put(gpa, part);
        }
        at += part.len();
    }
    guest.send(guest.sgl(write(1, 3, 2, 0, 0), &pieces));
    assert_eq!(guest.client.works(), [DmaOperation::Read(vec![(FAR + 4000, 212), (FAR + 77, 12)])]);
    guest.answer();
    guest.disk.finish();
    assert_eq!(guest.disk.get(3, 2), data);

    guest.client.put(FAR, &[0; 8192]);
    guest.put(NEAR_DATA, &[0; 8192]);
    guest.send(guest.sgl(read(2, 3, 2, 0, 0), &pieces));
    guest.disk.finish();
    guest.answer();
    assert_eq!(guest.completions(), [(1, Status::SUCCESS), (2, Status::SUCCESS)]);
    let both = |(gpa, len): (u64, u32)| {
        if gpa >= FAR { guest.client.get(gpa, len as usize) } else { guest.get(gpa, len as usize) }
    };
    assert_eq!(pieces.map(both).concat(), data);
    assert_eq!(guest.queues.take_bounced(), 2 * (212 + 12));
    guest.assert_idle();
}

#[test]
fn a_fused_pair_compares_with_its_own_data_and_writes_its_own() {
    let guest = ClientGuest::new();
    let new = pattern(512);
    guest.client.put(FAR + PAGE, &new);
    let pair = |cid, near| {
        let compared = if near { NEAR_DATA } else { FAR };
        let first = command(IoOpcode::COMPARE.0, cid, 5, 1, compared, 0);
        [
            Sqe { flags: CommandFlags::FUSED_FIRST, ..first },
            Sqe { flags: CommandFlags::FUSED_SECOND, ..write(cid + 1, 5, 1, FAR + PAGE, 0) },
        ]
    };
    for near in [true, false] {
        guest.disk.put(5, &[0; 512]);
        guest.send_all(&pair(1, near));
        guest.answer();
        assert_eq!(guest.disk.ops(), [BlockOp::CompareAndWrite(1)]);
        guest.disk.finish();
        assert_eq!(guest.completions(), [(1, Status::SUCCESS), (2, Status::SUCCESS)]);
        assert_eq!(guest.disk.get(5, 1), new);
        guest.send_all(&pair(3, near));
        guest.answer();
        guest.disk.finish();
        assert_eq!(guest.completions(), [(3, rig::code(Status::COMPARE_FAILURE)), (4, Status::ABORTED_FAILED_FUSED)]);
    }
    guest.send_all(&pair(5, false));
    guest.refuse();
    assert_eq!(guest.completions(), [(5, Status::ABORTED_FAILED_FUSED), (6, DTE)], "nothing was compared");
    guest.assert_idle();
}

#[test]
fn commands_that_are_passed_on_carry_data_both_ways_and_the_backends_result() {
    let guest = ClientGuest::new();
    let data = pattern(512);
    guest.client.put(FAR + 64, &data);
    let passthru = |opcode, cid, at| Sqe { opcode, cid, nsid: 1, prp1: at, cdw10: 512 / 4, ..Sqe::default() };
    guest.send(passthru(0x81, 1, FAR + 64));
    guest.answer();
    assert_eq!((guest.completions(), guest.dw0(0)), (vec![(1, Status::SUCCESS)], 0x81));
    assert_eq!(guest.disk.get(0, 1), data);
    guest.send(passthru(0x82, 2, FAR + PAGE));
    assert!(guest.completions().is_empty(), "the data is not with the guest yet");
    guest.answer();
    assert_eq!((guest.completions(), guest.dw0(1)), (vec![(2, Status::SUCCESS)], 0x82));
    assert_eq!(guest.client.get(FAR + PAGE, 512), data);
    guest.assert_idle();
}

#[test]
fn ranges_to_deallocate_are_fetched_and_checked() {
    let guest = ClientGuest::new();
    let range = |slba: u64, blocks: u32| [&[0; 4][..], &blocks.to_le_bytes(), &slba.to_le_bytes()].concat();
    let dsm = |cid| Sqe {
        opcode: IoOpcode::DATASET_MANAGEMENT.0,
        cid,
        nsid: 1,
        prp1: FAR + 4080,
        prp2: FAR + PAGE,
        cdw10: 1,
        cdw11: 4,
        ..Default::default()
    };
    guest.disk.put(0, &[7; 4096]);
    guest.client.put(FAR + 4080, &[range(0, 2), range(4, 1)].concat());
    guest.send(dsm(1));
    guest.answer();
    guest.disk.finish();
    guest.disk.finish();
    assert_eq!(guest.completions(), [(1, Status::SUCCESS)]);
    let kept: Vec<bool> = (0..6).map(|block| guest.disk.get(block, 1) == [7; 512]).collect();
    assert_eq!(kept, [false, false, true, true, false, true]);
    guest.client.put(FAR + 4080, &[range(0, 2), range(1 << 40, 1)].concat());
    guest.send(dsm(2));
    guest.answer();
    assert_eq!(guest.completions(), [(2, rig::code(Status::LBA_OUT_OF_RANGE))]);
    guest.assert_idle();
}

#[test]
fn lists_without_a_file_and_places_that_may_not_be_touched_are_refused() {
    let guest = ClientGuest::new();
    let refused = [
        read(1, 0, 24, NEAR_DATA, FAR),
        read(2, 0, 24, FAR, FAR + PAGE),
        rig::sgl_at(FAR, read(3, 0, 2, 0, 0), 2),
        read(4, 0, 8, FAR + FAR_LEN, 0),
        read(5, 0, 16, FAR + FAR_LEN - PAGE, FAR + FAR_LEN),
        read(6, 0, 1, rig::READ_ONLY, 0),
    ];
    for sqe in refused {
        guest.send(sqe);
        assert_eq!(guest.completions(), [(sqe.cid, DTE)], "{sqe:?}");
    }
    guest.send(write(7, 0, 1, rig::READ_ONLY, 0));
    assert_eq!(guest.client.works().len(), 1, "what is read-only can be read");
    guest.answer();
    guest.disk.finish();
    assert_eq!(guest.completions(), [(7, Status::SUCCESS)]);
    guest.assert_idle();
}

#[test]
fn a_client_that_refuses_or_lies_fails_the_command_only() {
    let guest = ClientGuest::new();
    guest.send(write(1, 0, 1, FAR, 0));
    guest.refuse();
    guest.send(read(2, 0, 1, FAR, 0));
    guest.disk.finish();
    guest.refuse();
    guest.send(write(3, 0, 1, FAR, 0));
    let id = guest.client.take().id;
    guest.queues.transferred(id, Ok(vec![vec![0; 511]]));
    guest.queues.transferred(id, Ok(vec![vec![0; 512]]));
    guest.queues.transferred(u64::MAX, Ok(Vec::new()));
    assert_eq!(guest.completions(), [(1, DTE), (2, DTE), (3, DTE)]);
    assert_eq!(guest.queues.take_error_events().len(), 3);
    assert!(guest.disk.ops().is_empty());
    guest.send(read(4, 0, 1, NEAR_DATA, 0));
    guest.disk.finish();
    assert_eq!(guest.completions(), [(4, Status::SUCCESS)]);
    guest.assert_idle();
}

#[test]
fn a_backend_that_fails_sends_nothing() {
    let guest = ClientGuest::new();
    guest.send(read(1, 0, 1, FAR, 0));
    guest.disk.fail(Status::INTERNAL_ERROR);
    assert_eq!(guest.completions(), [(1, Status::INTERNAL_ERROR)]);
    assert_eq!((guest.client.works().len(), guest.queues.take_bounced()), (0, 0));
    guest.assert_idle();
}

#[test]
fn without_a_way_to_the_client_the_command_fails() {
    let guest = ClientGuest::without_client();
    guest.send(write(1, 0, 1, FAR, 0));
    assert_eq!(guest.completions(), [(1, DTE)]);
    let told = rig::Recorder::default();
    guest.queues.fetch_data(&read(2, 0, 1, FAR, 0), 16, told.then());
    assert_eq!(told.take(), [Err(DTE)]);
}

#[test]
fn a_command_is_aborted_at_once_while_its_data_is_fetched() {
    let guest = ClientGuest::new();
    guest.send(write(1, 0, 1, FAR, 0));
    assert_eq!(guest.abort(1), Some(true));
    assert_eq!(guest.completions(), [(1, Status::ABORT_REQUESTED)]);
    assert_eq!(guest.client.cancelled(), 1);
    guest.answer();
    assert!(guest.disk.ops().is_empty() && guest.completions().is_empty(), "what comes late is ignored");
    guest.assert_idle();
}

#[test]
fn a_command_is_aborted_when_nothing_is_written_any_more_of_what_it_sends() {
    let guest = ClientGuest::new();
    for (cid, goes_through) in [(1, false), (2, true)] {
        guest.send(read(cid, 0, 1, FAR, 0));
        guest.disk.finish();
        assert_eq!(guest.abort(cid), None);
        assert_eq!((guest.client.cancelled(), guest.completions().len()), (1, 0));
        guest.queues.abort_some(|| true);
        if goes_through {
            guest.answer();
        } else {
            guest.refuse();
        }
        let (status, aborted) = if goes_through { (Status::SUCCESS, false) } else { (Status::ABORT_REQUESTED, true) };
        assert_eq!(guest.completions(), [(cid, status)]);
        assert_eq!(guest.aborted(), [aborted]);
        assert_eq!(guest.client.cancelled(), 0, "it is cancelled once");
    }
    guest.assert_idle();
}

#[test]
fn queues_are_deleted_without_waiting_for_a_client_that_gives_nothing() {
    let guest = ClientGuest::new();
    guest.send_all(&[write(1, 0, 1, FAR, 0), write(2, 1, 1, FAR + PAGE, 0)]);
    assert!(guest.queues.delete_submission(1));
    assert!(guest.queues.is_ended(1));
    assert_eq!(guest.completions(), [(1, Status::ABORTED_SQ_DELETION), (2, Status::ABORTED_SQ_DELETION)]);
    guest.queues.delete_all();
    assert!(guest.queues.is_quiet());
    guest.client.drop_all();
    guest.assert_idle();
}

#[test]
fn a_reset_waits_for_what_is_being_written_unless_the_client_is_gone() {
    for gone in [false, true] {
        let guest = ClientGuest::new();
        guest.send_all(&[read(1, 0, 1, FAR, 0), read(2, 0, 1, FAR, 0), write(3, 0, 1, FAR, 0)]);
        guest.disk.finish();
        guest.queues.delete_all();
        assert_eq!(guest.client.cancelled(), 2, "one is being written, one is being read");
        // The backend ends the other read: nothing of it is sent any more.
        guest.disk.finish();
        assert!(!guest.queues.is_quiet());
        if gone {
            guest.queues.give_up_transfers();
        } else {
            guest.client.drop_reads();
            guest.refuse();
        }
        assert!(guest.queues.is_quiet() && guest.completions().is_empty());
        guest.client.drop_all();
        guest.assert_idle();
    }
}

#[test]
fn what_finds_no_room_waits_until_there_is_some() {
    let guest = ClientGuest::with_budget(3 * PAGE);
    guest.client.put(FAR, &pattern(1024));
    guest.send_all(&[write(1, 0, 8, FAR, 0), write(2, 8, 16, FAR, FAR + PAGE), write(3, 24, 1, FAR, 0)]);
    guest.queues.poll();
    assert_eq!(guest.client.works().len(), 2, "the third has no room, and none is taken behind it");
    guest.answer();
    guest.disk.finish();
    guest.queues.poll();
    assert_eq!(guest.client.works().len(), 2);
    guest.answer();
    guest.answer();
    guest.disk.finish();
    guest.disk.finish();
    assert_eq!(guest.completions(), [(1, Status::SUCCESS), (2, Status::SUCCESS), (3, Status::SUCCESS)]);
    assert_eq!(guest.disk.get(24, 1), pattern(512));
    guest.assert_idle();
}

#[test]
fn what_waits_for_room_can_be_aborted_and_more_than_there_ever_is_is_refused() {
    let guest = ClientGuest::with_budget(PAGE);
    guest.send_all(&[write(1, 0, 8, FAR, 0), write(2, 0, 8, FAR, 0)]);
    assert_eq!(guest.abort(2), Some(true));
    assert_eq!(guest.completions(), [(2, Status::ABORT_REQUESTED)]);
    guest.send_all(&[write(3, 0, 8, FAR, 0)]);
    guest.queues.delete_all();
    assert!(guest.queues.is_quiet());
    guest.client.drop_all();
    guest.assert_idle();
    let guest = ClientGuest::with_budget(PAGE);
    guest.send(write(1, 0, 16, FAR, FAR + PAGE));
    assert_eq!(guest.completions(), [(1, rig::code(Status::INVALID_NUMBER_OF_SGL_DESCRIPTORS))]);
}

#[test]
fn what_waits_for_room_goes_on_without_messages_when_its_memory_has_come_with_a_file() {
    let mut guest = ClientGuest::with_budget(PAGE);
    guest.send_all(&[write(1, 0, 8, FAR, 0), write(2, 8, 8, FAR + PAGE, 0)]);
    guest.unmap(FAR);
    guest.map_file(FAR, &pattern(8192));
    guest.queues.abort_unmapped();
    guest.client.drop_all();
    guest.queues.poll();
    guest.disk.finish();
    assert_eq!(guest.completions(), [(1, Status::ABORTED_SQ_DELETION), (2, Status::SUCCESS)]);
    assert_eq!(guest.disk.get(8, 8), pattern(8192)[4096..]);
    assert_eq!(guest.queues.take_bounced(), 0);
    guest.assert_idle();
}

#[test]
fn memory_is_held_until_the_transfer_is_over_and_other_changes_disturb_nothing() {
    let mut guest = ClientGuest::new();
    guest.send(write(1, 0, 1, FAR, 0));
    let other = guest.memory.region_at(rig::READ_ONLY).map(Arc::downgrade).expect("a region");
    assert_eq!(guest.unmap(rig::READ_ONLY), 0);
    assert!(other.upgrade().is_none(), "nothing holds memory that no command touches");
    guest.queues.abort_unmapped();
    let far = guest.memory.region_at(FAR).map(Arc::downgrade).expect("a region");
    assert_eq!(guest.unmap(FAR), 1);
    assert!(far.upgrade().is_some());
    guest.queues.abort_unmapped();
    assert_eq!(guest.completions(), [(1, Status::ABORTED_SQ_DELETION)]);
    assert!(far.upgrade().is_some(), "the client is still being asked");
    guest.client.drop_all();
    assert!(far.upgrade().is_none());
    guest.assert_idle();
}

#[test]
fn data_of_admin_commands_is_fetched_and_sent() {
    let guest = ClientGuest::new();
    let told = rig::Recorder::default();
    let data = pattern(100);
    // The first half in memory with a file, the second without.
    let sqe = Sqe { prp1: NEAR_DATA + 4096 - 52, prp2: FAR, ..Default::default() };
    guest.put(NEAR_DATA + 4096 - 52, &data[..52]);
    guest.client.put(FAR, &data[52..]);
    guest.queues.fetch_data(&sqe, 100, told.then());
    assert!(told.take().is_empty());
    guest.answer();
    assert_eq!(told.take(), [Ok(data.clone())]);

    let told = rig::Recorder::default();
    let then = told.then();
    let other: Vec<u8> = data.iter().rev().copied().collect();
    guest.queues.send_data(&sqe, &other, move |sent| then(sent.map(|()| Vec::new())));
    guest.answer();
    assert_eq!(told.take(), [Ok(Vec::new())]);
    assert_eq!(guest.client.get(FAR, 48), other[52..]);
    assert_eq!(guest.get(NEAR_DATA + 4096 - 52, 52), other[..52]);
    assert_eq!(guest.queues.take_bounced(), 96);

    guest.queues.fetch_data(&sqe, 100, told.then());
    guest.queues.delete_all();
    assert_eq!(told.take(), [Err(Status::ABORTED_SQ_DELETION)]);
    guest.client.drop_all();
    guest.assert_idle();
}

#[test]
fn the_end_of_the_queues_lets_go_of_everything() {
    let guest = ClientGuest::new();
    guest.send_all(&[read(1, 0, 1, FAR, 0), write(2, 0, 1, FAR, 0)]);
    guest.disk.finish();
    let far = guest.memory.region_at(FAR).map(Arc::downgrade).expect("a region");
    let ClientGuest { queues, memory, client, .. } = guest;
    drop((queues, memory));
    client.drop_all();
    assert!(far.upgrade().is_none());
    assert_eq!(client.budget.used(), 0);
}

#[test]
fn a_region_without_a_file_has_no_queues() {
    let guest = ClientGuest::new();
    let region = Region::without_file(0, PAGE, Access::ReadWrite, |_| {}).expect("a region");
    assert!(!region.has_file());
    assert_eq!(guest.queues.check_submission_queue(FAR, 16), Err(guest_memory::Fault::NoFile));
    assert_eq!(guest.queues.check_completion_queue(FAR, 16), Err(guest_memory::Fault::NoFile));
    assert_eq!(guest.queues.check_completion_queue(NEAR_DATA, 16), Ok(()));
}
