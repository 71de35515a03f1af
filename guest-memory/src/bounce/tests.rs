use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::pages::{BouncePool, SystemPages};
use super::super::testing::{file, region_of};
use super::*;

/// Where the memory without a file is: two regions that touch.
const CLIENT: u64 = 0x10_0000;
const LOCAL: u64 = 0x20_0000;

fn without_file(gpa: u64, pages: u64, access: Access) -> Arc<Region> {
    Arc::new(Region::without_file(gpa, pages * PAGE, access, |_| {}).expect("a region"))
}

fn memory() -> GuestMemory {
    let file = file(4 * PAGE);
    GuestMemory::of(vec![
        without_file(CLIENT, 4, Access::ReadWrite),
        without_file(CLIENT + 4 * PAGE, 4, Access::ReadWrite),
        region_of(&file, 0, LOCAL, 4 * PAGE),
    ])
}

fn bounce(memory: &GuestMemory, pieces: &[(u64, u32)], budget: &Arc<BounceBudget>) -> Bounce {
    Bounce::new(memory, pieces, false, budget).expect("room")
}

#[test]
fn pages_stand_in_for_what_the_data_touches_and_for_no_more() {
    let budget = BounceBudget::new(1 << 20);
    let memory = memory();
    let pieces = [(CLIENT + 100, 50), (LOCAL + 8, 16), (CLIENT + 3 * PAGE, 8192), (CLIENT + PAGE - 2, 4)];
    let bounce = bounce(&memory, &pieces, &budget);
    let client = [(CLIENT + 100, 50), (CLIENT + 3 * PAGE, 4096), (CLIENT + 4 * PAGE, 4096), (CLIENT + PAGE - 2, 4)];
    // The third piece lies in two regions, and is one for the client.
    assert_eq!(bounce.client_pieces(), [client[0], (CLIENT + 3 * PAGE, 8192), client[3]]);
    assert_eq!((bounce.bytes(), budget.used()), (50 + 8192 + 4, 4 * PAGE));
    for (gpa, len) in client {
        assert_eq!(bounce.view().read(gpa, &mut vec![0; len as usize]), Ok(()));
    }
    assert_eq!(bounce.view().read(CLIENT + 2 * PAGE, &mut [0]), Err(Fault::Unmapped));
    assert_eq!(bounce.view().read(CLIENT + 5 * PAGE, &mut [0]), Err(Fault::Unmapped));
}

#[test]
fn what_is_filled_in_is_found_and_what_is_written_is_collected() {
    let budget = BounceBudget::new(1 << 20);
    let bounce = bounce(&memory(), &[(CLIENT + 100, 3), (CLIENT + 100 + PAGE, 2)], &budget);
    bounce.fill(&[vec![1, 2, 3], vec![4, 5]]).expect("of the right lengths");
    let mut found = [0; 4];
    bounce.view().read(CLIENT + 100, &mut found).expect("there");
    assert_eq!(found, [1, 2, 3, 0]);
    bounce.view().write(CLIENT + 101, &[9]).expect("there");
    assert_eq!(bounce.collect(), Ok(vec![(CLIENT + 100, vec![1, 9, 3]), (CLIENT + 100 + PAGE, vec![4, 5])]));
    for wrong in [vec![], vec![vec![1, 2, 3]], vec![vec![1, 2, 3], vec![4]]] {
        assert_eq!(bounce.fill(&wrong), Err(Status::DATA_TRANSFER_ERROR));
    }
}

#[test]
fn memory_with_a_file_is_the_guests_own() {
    let budget = BounceBudget::new(1 << 20);
    let memory = memory();
    let bounce = bounce(&memory, &[(CLIENT, 8), (LOCAL, 8)], &budget);
    bounce.view().write(LOCAL, b"straight").expect("there");
    let mut back = [0; 8];
    memory.read(&Hint::default(), LOCAL, &mut back).expect("there");
    assert_eq!(&back, b"straight");
}

#[test]
fn what_may_not_be_read_or_written_or_is_not_there_is_refused() {
    let budget = BounceBudget::new(1 << 20);
    let memory = GuestMemory::of(vec![without_file(0, 1, Access::ReadOnly), without_file(PAGE, 1, Access::WriteOnly)]);
    let refused = Err(BounceError::Invalid(Status::DATA_TRANSFER_ERROR));
    let new = |gpa, len, to_guest| Bounce::new(&memory, &[(gpa, len)], to_guest, &budget).map(|bounce| bounce.bytes());
    assert_eq!((new(0, 8, false), new(PAGE, 8, true)), (Ok(8), Ok(8)));
    for (gpa, len, to_guest) in [
        (0, 8, true),
        (PAGE, 8, false),
        (PAGE - 1, 2, true),
        (2 * PAGE - 1, 2, true),
        (1 << 40, 1, true),
        (u64::MAX, 2, true),
    ] {
        assert_eq!(new(gpa, len, to_guest), refused, "{gpa:#x}");
    }
    assert_eq!(budget.used(), 0);
}

#[test]
fn the_regions_and_the_room_are_held_until_the_last_holder_lets_go() {
    let budget = BounceBudget::new(2 * PAGE);
    let memory = memory();
    let region = Arc::downgrade(memory.region_at(CLIENT).expect("a region"));
    let first = bounce(&memory, &[(CLIENT, 4096)], &budget);
    let too_much = Bounce::new(&memory, &[(CLIENT, 8192)], false, &budget).map(|bounce| bounce.bytes());
    assert_eq!(too_much, Err(BounceError::NoRoom));
    drop(memory);
    let held = first.memory();
    drop(first);
    assert_eq!((budget.used(), region.strong_count()), (PAGE, 1));
    drop(held);
    assert_eq!((budget.used(), region.strong_count()), (0, 0));
}

#[test]
fn a_page_that_is_named_many_times_costs_what_is_moved() {
    let budget = BounceBudget::new(1 << 20);
    let whole = bounce(&memory(), &[(CLIENT, 4096); 32], &budget);
    assert_eq!((whole.bytes(), budget.used()), (32 * PAGE, 32 * PAGE));
    drop(whole);
    let small = bounce(&memory(), &[(CLIENT, 1); 129], &budget);
    assert_eq!((small.bytes(), budget.used()), (129, 129 * PIECE_COST));
    drop(small);
    assert_eq!(budget.used(), 0);
}

#[test]
fn what_could_never_have_room_is_refused() {
    let budget = BounceBudget::new(PAGE);
    let refused = Bounce::new(&memory(), &[(CLIENT + 4095, 2)], false, &budget).map(|bounce| bounce.bytes());
    assert_eq!(refused, Err(BounceError::Invalid(Status::INVALID_NUMBER_OF_SGL_DESCRIPTORS)));
}

#[test]
fn a_change_of_other_memory_leaves_it_as_it_is() {
    let budget = BounceBudget::new(1 << 20);
    let memory = memory();
    let bounced = bounce(&memory, &[(CLIENT, 8), (LOCAL, 8)], &budget).memory();
    assert!(bounced.still_bounces(&memory));
    let (without_other, _) = memory.without(CLIENT + 4 * PAGE, 4 * PAGE).expect("a region");
    assert!(bounced.still_bounces(&without_other));
    for gone in [CLIENT, LOCAL] {
        let (left, _) = memory.without(gone, 4 * PAGE).expect("a region");
        assert!(!bounced.still_bounces(&left), "{gone:#x}");
        let again = left.with(without_file(gone, 4, Access::ReadWrite)).expect("no overlap");
        assert!(!bounced.still_bounces(&again), "another region at {gone:#x}");
    }
    assert!(!memory.still_bounces(&memory), "nothing stands in there");
}

#[test]
fn one_client_leaves_room_for_another_and_hears_when_it_has_more() {
    static POOL: BouncePool = BouncePool::new(8 * PAGE, SystemPages::zeroed);
    let (greedy, modest) = (BounceBudget::of(&POOL, 1 << 20), BounceBudget::of(&POOL, 1 << 20));
    let memory = memory();
    let take = |budget: &Arc<BounceBudget>| Bounce::new(&memory, &[(CLIENT, 4096)], false, budget);
    let mut held: Vec<_> = std::iter::from_fn(|| take(&greedy).ok()).collect();
    assert_eq!(held.len(), 4, "half of all");
    let other = take(&modest).expect("there is room for others");
    let seen = greedy.releases();
    assert!(matches!(take(&greedy), Err(BounceError::NoRoom)));
    drop(other);
    assert_ne!(greedy.releases(), seen, "it is worth another try");
    held.pop();
    held.push(take(&greedy).expect("room again"));
    drop(held);
    assert_eq!((greedy.used(), POOL.used.load(Ordering::Relaxed)), (0, 0));
}

#[test]
fn pages_that_devices_reach_come_from_the_pool_and_what_is_too_short_is_not_used() {
    static TAKEN: AtomicUsize = AtomicUsize::new(0);
    static POOL: BouncePool = BouncePool::new(1 << 20, |len| {
        TAKEN.fetch_add(len, Ordering::Relaxed);
        SystemPages::zeroed(len)
    });
    static SHORT: BouncePool = BouncePool::new(1 << 20, |_| SystemPages::zeroed(4096));
    static EMPTY: BouncePool = BouncePool::new(1 << 20, |_| None);
    let memory = memory();
    let take = |pool| Bounce::new(&memory, &[(CLIENT, 8192)], false, &BounceBudget::of(pool, 1 << 20));
    let bounce = take(&POOL).expect("there is room");
    assert_eq!((TAKEN.load(Ordering::Relaxed), POOL.used.load(Ordering::Relaxed)), (8192, 8192));
    drop(bounce);
    for pool in [&SHORT, &EMPTY] {
        assert_eq!(take(pool).err(), Some(BounceError::Invalid(Status::INTERNAL_ERROR)));
    }
    let used = [&POOL, &SHORT, &EMPTY].map(|pool| pool.used.load(Ordering::Relaxed));
    assert_eq!(used, [0; 3]);
}
