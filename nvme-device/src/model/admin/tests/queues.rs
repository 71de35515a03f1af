//! Creating and deleting I/O queues.

use super::*;

#[test]
fn a_queue_pair_is_made_as_the_host_asks() {
    let mut controller = controller();
    let sqe = Sqe {
        cdw11: CreateCqDw11::new().with_pc(true).with_ien(true).with_iv(4).into_bits(),
        prp1: 0xffff_f000,
        ..create_cq(2, 256)
    };
    let wanted = CreateCq { qid: 2, entries: 256, base: 0xffff_f000, vector: 4, interrupts: true };
    assert_eq!(controller.admin(&sqe, NOW), Outcome::CreateCq(wanted));
    controller.queue_created(QueueId::Cq(2));
    let sqe =
        Sqe { cdw11: CreateSqDw11::new().with_pc(true).with_qprio(2).with_cqid(2).into_bits(), ..create_sq(3, 2, 2) };
    let wanted = CreateSq { qid: 3, entries: 2, base: 0x2000, cqid: 2, priority: 2 };
    assert_eq!(controller.admin(&sqe, NOW), Outcome::CreateSq(wanted));
}

#[test]
fn a_completion_queue_without_interrupts_says_so() {
    let mut controller = controller();
    let sqe = Sqe { cdw11: CreateCqDw11::new().with_pc(true).into_bits(), ..create_cq(1, 2) };
    let wanted = CreateCq { qid: 1, entries: 2, base: 0x1000, vector: 0, interrupts: false };
    assert_eq!(controller.admin(&sqe, NOW), Outcome::CreateCq(wanted));
}

#[test]
fn bad_completion_queues_are_refused_with_the_status_of_the_specification() {
    let good = create_cq(1, 8);
    let cases = [
        ("queue 0", Sqe { cdw10: queue(0, 8), ..good }, Status::INVALID_QUEUE_IDENTIFIER),
        ("queue 5 of 4", Sqe { cdw10: queue(5, 8), ..good }, Status::INVALID_QUEUE_IDENTIFIER),
        ("queue FFFFh", Sqe { cdw10: queue(u16::MAX, 8), ..good }, Status::INVALID_QUEUE_IDENTIFIER),
        ("one entry", Sqe { cdw10: queue(1, 1), ..good }, Status::INVALID_QUEUE_SIZE),
        ("257 of 256 entries", Sqe { cdw10: queue(1, 257), ..good }, Status::INVALID_QUEUE_SIZE),
        (
            "not contiguous",
            Sqe { cdw11: CreateCqDw11::new().with_ien(true).into_bits(), ..good },
            Status::INVALID_FIELD,
        ),
        ("not aligned", Sqe { prp1: 0x1010, ..good }, Status::INVALID_PRP_OFFSET),
        (
            "vector 5 of 5",
            Sqe { cdw11: CreateCqDw11::new().with_pc(true).with_ien(true).with_iv(5).into_bits(), ..good },
            Status::INVALID_INTERRUPT_VECTOR,
        ),
    ];
    let mut controller = controller();
    for (case, sqe, expected) in cases {
        assert_eq!(status(controller.admin(&sqe, NOW)), expected, "{case}");
    }
    // None of them is in the way.
    assert!(matches!(controller.admin(&good, NOW), Outcome::CreateCq(_)));
}

#[test]
fn bad_submission_queues_are_refused_with_the_status_of_the_specification() {
    let mut controller = controller();
    make_pair(&mut controller, 1);
    let good = create_sq(2, 8, 1);
    let cases = [
        ("queue 0", Sqe { cdw10: queue(0, 8), ..good }, Status::INVALID_QUEUE_IDENTIFIER),
        ("queue 5 of 4", Sqe { cdw10: queue(5, 8), ..good }, Status::INVALID_QUEUE_IDENTIFIER),
        ("in use", Sqe { cdw10: queue(1, 8), ..good }, Status::INVALID_QUEUE_IDENTIFIER),
        ("one entry", Sqe { cdw10: queue(2, 1), ..good }, Status::INVALID_QUEUE_SIZE),
        ("65536 entries", Sqe { cdw10: queue(2, 1 << 16), ..good }, Status::INVALID_QUEUE_SIZE),
        ("not contiguous", Sqe { cdw11: CreateSqDw11::new().with_cqid(1).into_bits(), ..good }, Status::INVALID_FIELD),
        ("not aligned", Sqe { prp1: 0x2004, ..good }, Status::INVALID_PRP_OFFSET),
        (
            "the admin completion queue",
            Sqe { cdw11: CreateSqDw11::new().with_pc(true).into_bits(), ..good },
            Status::INVALID_QUEUE_IDENTIFIER,
        ),
        (
            "a completion queue out of range",
            Sqe { cdw11: CreateSqDw11::new().with_pc(true).with_cqid(5).into_bits(), ..good },
            Status::INVALID_QUEUE_IDENTIFIER,
        ),
        (
            "no such completion queue",
            Sqe { cdw11: CreateSqDw11::new().with_pc(true).with_cqid(2).into_bits(), ..good },
            Status::COMPLETION_QUEUE_INVALID,
        ),
    ];
    for (case, sqe, expected) in cases {
        assert_eq!(status(controller.admin(&sqe, NOW)), expected, "{case}");
    }
    assert!(matches!(controller.admin(&good, NOW), Outcome::CreateSq(_)));
}

#[test]
fn a_queue_at_the_end_of_the_address_space_must_not_wrap() {
    let mut controller = controller();
    let last_page = 0xffff_ffff_ffff_f000;
    let fits = Sqe { prp1: last_page, ..create_cq(1, 256) };
    assert!(matches!(controller.admin(&fits, NOW), Outcome::CreateCq(_)));
    controller.queue_created(QueueId::Cq(1));
    // 65 entries of 64 bytes are more than a page.
    let wraps = Sqe { prp1: last_page, ..create_sq(1, 65, 1) };
    assert_eq!(status(controller.admin(&wraps, NOW)), Status::INVALID_FIELD);
}

#[test]
fn wrong_entry_sizes_are_an_invalid_queue_size() {
    let mut controller = controller();
    for (submission, completion) in [(0, 0), (6, 5), (6, 0), (6, 15)] {
        controller.set_entry_sizes(submission, completion);
        assert_eq!(status(controller.admin(&create_cq(1, 8), NOW)), Status::INVALID_QUEUE_SIZE);
    }
    controller.set_entry_sizes(7, 4);
    assert!(matches!(controller.admin(&create_cq(1, 8), NOW), Outcome::CreateCq(_)));
    controller.queue_created(QueueId::Cq(1));
    assert_eq!(status(controller.admin(&create_sq(1, 8, 1), NOW)), Status::INVALID_QUEUE_SIZE);
}

#[test]
fn a_queue_that_is_being_made_is_in_use_but_cannot_be_used() {
    let mut controller = controller();
    assert!(matches!(controller.admin(&create_cq(1, 8), NOW), Outcome::CreateCq(_)));
    assert_eq!(status(controller.admin(&create_cq(1, 8), NOW)), Status::INVALID_QUEUE_IDENTIFIER);
    assert_eq!(status(controller.admin(&create_sq(1, 8, 1), NOW)), Status::COMPLETION_QUEUE_INVALID);
    let sqe = delete(Opcode::DeleteIoCq, 1);
    assert_eq!(status(controller.admin(&sqe, NOW)), Status::INVALID_QUEUE_IDENTIFIER);
}

#[test]
fn a_queue_that_could_not_be_made_is_free_again() {
    let mut controller = controller();
    assert!(matches!(controller.admin(&create_cq(1, 8), NOW), Outcome::CreateCq(_)));
    controller.queue_creation_failed(QueueId::Cq(1));
    make_pair(&mut controller, 1);
}

#[test]
fn a_completion_queue_is_deleted_only_after_its_submission_queues_are_gone() {
    let mut controller = controller();
    make_pair(&mut controller, 1);
    let [delete_cq, delete_its_sq] = [Opcode::DeleteIoCq, Opcode::DeleteIoSq].map(|opcode| delete(opcode, 1));
    assert_eq!(status(controller.admin(&delete_cq, NOW)), Status::INVALID_QUEUE_DELETION);
    assert_eq!(controller.admin(&delete_its_sq, NOW), Outcome::DeleteSq { qid: 1 });
    // The runtime still has it: its commands may complete.
    assert_eq!(status(controller.admin(&delete_cq, NOW)), Status::INVALID_QUEUE_DELETION);
    assert_eq!(status(controller.admin(&delete_its_sq, NOW)), Status::INVALID_QUEUE_IDENTIFIER);
    controller.queue_deleted(QueueId::Sq(1));
    assert_eq!(controller.admin(&delete_cq, NOW), Outcome::DeleteCq { qid: 1 });
    assert_eq!(status(controller.admin(&create_sq(1, 8, 1), NOW)), Status::COMPLETION_QUEUE_INVALID);
    controller.queue_deleted(QueueId::Cq(1));
    make_pair(&mut controller, 1);
}

#[test]
fn queues_that_are_not_there_cannot_be_deleted() {
    let mut controller = controller();
    for opcode in [Opcode::DeleteIoSq, Opcode::DeleteIoCq] {
        for qid in [0, 1, 0xffff] {
            let sqe = delete(opcode, qid);
            assert_eq!(status(controller.admin(&sqe, NOW)), Status::INVALID_QUEUE_IDENTIFIER);
        }
    }
}
