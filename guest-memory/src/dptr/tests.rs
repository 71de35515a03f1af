#![expect(clippy::cast_possible_truncation, reason = "small numbers of the tests' own")]

use proptest::prelude::*;

use super::*;
use nvme_spec::CommandFlags;
use nvme_spec::command::SglId;

/// Memory of some pages that goes on for ever: what is past the end is the beginning. Counts what is read.
struct Endless {
    words: Vec<u64>,
    words_read: std::cell::Cell<usize>,
}

impl Endless {
    /// Words made by `word` of random numbers and the word's index.
    fn new(pages: usize, seed: u64, word: impl Fn(u64, usize) -> u64) -> Self {
        let mut state = seed | 1;
        let random = |i| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word(state, i)
        };
        Self { words: (0..pages * 512).map(random).collect(), words_read: 0.into() }
    }

    /// Zeros but for these words at these addresses.
    fn with(words: &[(u64, u64)]) -> Self {
        let mut memory = Self::new(16, 0, |_, _| 0);
        for &(gpa, word) in words {
            memory.words[gpa as usize / 8] = word;
        }
        memory
    }

    fn word(&self, gpa: u64) -> u64 {
        self.words[(gpa / 8) as usize % self.words.len()]
    }
}

impl GuestRead for Endless {
    fn read(&self, gpa: u64, into: &mut [u8]) -> Result<(), DptrError> {
        assert!(gpa.is_multiple_of(8) && into.len().is_multiple_of(8) && !into.is_empty());
        self.words_read.set(self.words_read.get() + into.len() / 8);
        for (i, word) in into.chunks_exact_mut(8).enumerate() {
            word.copy_from_slice(&self.word(gpa.wrapping_add(8 * i as u64)).to_le_bytes());
        }
        Ok(())
    }
}

type Found = Result<Vec<(u64, u32)>, Status>;

fn pieces(memory: &Endless, sqe: &Sqe, len: u32) -> Found {
    let mut pieces = Vec::new();
    walk(memory, sqe, len, &mut pieces)?;
    Ok(pieces)
}

fn prps(memory: &Endless, prp1: u64, prp2: u64, len: u32) -> Found {
    pieces(memory, &Sqe { prp1, prp2, ..Sqe::default() }, len)
}

/// Returns an SGL descriptor of this type: its two words.
fn descriptor(identifier: u8, address: u64, length: u32) -> [u64; 2] {
    SglDescriptor { address, length, id: SglId::from_bits(identifier), ..SglDescriptor::default() }.into_dptr()
}

fn sgl(memory: &Endless, [prp1, prp2]: [u64; 2], len: u32) -> Found {
    pieces(memory, &Sqe { flags: CommandFlags::SGL, prp1, prp2, ..Sqe::default() }, len)
}

/// Returns a segment of these descriptors at an address.
fn segment(gpa: u64, descriptors: &[[u64; 2]]) -> Vec<(u64, u64)> {
    descriptors.iter().flatten().enumerate().map(|(i, &word)| (gpa + 8 * i as u64, word)).collect()
}

const DATA: u8 = SglId::new().with_kind(SglType::DATA_BLOCK).into_bits();
const SEGMENT: u8 = SglId::new().with_kind(SglType::SEGMENT).into_bits();
const LAST: u8 = SglId::new().with_kind(SglType::LAST_SEGMENT).into_bits();

#[test]
fn no_data_asks_for_no_pointer() {
    let none = Endless::with(&[]);
    assert_eq!(prps(&none, 1, 1, 0), Ok(vec![]));
    assert_eq!(sgl(&none, descriptor(0xff, 1, 0), 0), Ok(vec![]));
    assert_eq!(none.words_read.get(), 0);
}

#[test]
fn one_and_two_pages_need_no_list() {
    let none = Endless::with(&[]);
    assert_eq!(prps(&none, 0x1000, 0xbad, 4096), Ok(vec![(0x1000, 4096)]));
    assert_eq!(prps(&none, 0x1e00, 0xbad, 512), Ok(vec![(0x1e00, 512)]));
    assert_eq!(prps(&none, 0x1e00, 0x5000, 513), Ok(vec![(0x1e00, 512), (0x5000, 1)]));
    assert_eq!(prps(&none, 0x1000, 0x5000, 8192), Ok(vec![(0x1000, 4096), (0x5000, 4096)]));
    assert_eq!(none.words_read.get(), 0);
}

#[test]
fn a_list_may_begin_anywhere_in_its_page_and_is_read_no_further_than_needed() {
    let memory = Endless::with(&[(0x3ff0, 0x5000), (0x3ff8, 0x7000)]);
    assert_eq!(prps(&memory, 0x1800, 0x3ff0, 10_000), Ok(vec![(0x1800, 2048), (0x5000, 4096), (0x7000, 3856)]));
    assert_eq!(memory.words_read.get(), 2);
}

#[test]
fn the_last_entry_of_a_list_page_is_data_or_the_next_list() {
    let memory = Endless::with(&[(0x3ff0, 0x5000), (0x3ff8, 0x7000), (0x7000, 0x9000), (0x7008, 0xa000)]);
    assert_eq!(prps(&memory, 0x1000, 0x3ff0, 3 * 4096).map(|pieces| pieces[2]), Ok((0x7000, 4096)));
    let chained = prps(&memory, 0x1000, 0x3ff0, 4 * 4096);
    assert_eq!(chained, Ok(vec![(0x1000, 4096), (0x5000, 4096), (0x9000, 4096), (0xa000, 4096)]));
    // A list of nothing but the address of the next one.
    assert_eq!(prps(&memory, 0x1000, 0x3ff8, 3 * 4096).map(|pieces| pieces[1]), Ok((0x9000, 4096)));
}

#[test]
fn offsets_where_there_are_to_be_none_are_invalid() {
    let memory = Endless::with(&[(0x3000, 0x5000), (0x3008, 0x7004), (0x4ff8, 0x7008)]);
    for (prp1, prp2, len) in [
        (0x1001, 0, 512),           // PRP1 is not aligned to dwords
        (0x1002, 0, 512),           //
        (0x1000, 0x5004, 8192),     // PRP2 is a page
        (0x1000, 0x3004, 3 * 4096), // PRP2 is a list, not aligned to qwords
        (0x1000, 0x3000, 3 * 4096), // an entry
        (0x1000, 0x4ff8, 3 * 4096), // the next list
    ] {
        assert_eq!(prps(&memory, prp1, prp2, len), Err(Status::INVALID_PRP_OFFSET), "{prp1:#x} {prp2:#x}");
    }
}

#[test]
fn a_list_that_names_itself_ends() {
    let memory = Endless::new(1, 0, |_, _| 0);
    let len = 128 << 10;
    assert_eq!(prps(&memory, 0, 0xff8, len).map(|pieces| pieces.len()), Ok(32));
    assert!(memory.words_read.get() <= 33);
}

#[test]
fn psdt_3_is_an_invalid_field() {
    let sqe = Sqe { flags: CommandFlags::new().with_psdt(Psdt(3)), prp1: 0x1000, ..Sqe::default() };
    assert_eq!(pieces(&Endless::with(&[]), &sqe, 512), Err(Status::INVALID_FIELD));
}

#[test]
fn a_data_block_in_the_command_is_the_data() {
    let none = Endless::with(&[]);
    assert_eq!(sgl(&none, descriptor(DATA, 0x1001, 512), 512), Ok(vec![(0x1001, 512)]));
    assert_eq!(sgl(&none, descriptor(DATA, 0x1000, u32::MAX), 512), Ok(vec![(0x1000, 512)]));
    assert_eq!(sgl(&none, descriptor(DATA, 0x1000, 511), 512), Err(Status::DATA_SGL_LENGTH_INVALID));
    assert_eq!(none.words_read.get(), 0);
}

#[test]
fn segments_are_followed_and_empty_blocks_skipped() {
    let first = [descriptor(DATA, 0x5000, 100), descriptor(DATA, 1, 0), descriptor(LAST, 0x4008, 48)];
    let last = [descriptor(DATA, 0, 0), descriptor(DATA, 0x6000, 200), descriptor(DATA, 0x7000, 300)];
    let memory = Endless::with(&[segment(0x3000, &first), segment(0x4008, &last)].concat());
    let root = descriptor(SEGMENT, 0x3000, 48);
    assert_eq!(sgl(&memory, root, 600), Ok(vec![(0x5000, 100), (0x6000, 200), (0x7000, 300)]));
    assert_eq!(sgl(&memory, root, 500).map(|pieces| pieces[2]), Ok((0x7000, 200)));
    assert_eq!(sgl(&memory, root, 601), Err(Status::DATA_SGL_LENGTH_INVALID));
    assert_eq!(sgl(&memory, descriptor(LAST, 0x4008, 48), 500).map(|pieces| pieces.len()), Ok(2));
}

#[test]
fn types_that_are_not_taken_are_told() {
    for identifier in [0x01, 0x0a, 0x10, 0x21, 0x31, 0x40, 0x5a, 0x60, 0xf0, 0xff] {
        let memory = Endless::with(&segment(0x3000, &[descriptor(identifier, 0x5000, 512)]));
        let invalid = Err(Status::SGL_DESCRIPTOR_TYPE_INVALID);
        assert_eq!(sgl(&memory, descriptor(identifier, 0x5000, 512), 512), invalid, "{identifier:#x}");
        assert_eq!(sgl(&memory, descriptor(LAST, 0x3000, 16), 512), invalid, "{identifier:#x}");
    }
}

#[test]
fn a_segment_of_a_wrong_length_or_alignment_is_invalid() {
    for (address, length) in [(0x3000, 0), (0x3000, 1), (0x3000, 24), (0x3004, 16), (0x3000, u32::MAX)] {
        for identifier in [SEGMENT, LAST] {
            let bad = descriptor(identifier, address, length);
            let memory = Endless::with(&segment(0x4000, &[bad]));
            assert_eq!(sgl(&memory, bad, 512), Err(Status::INVALID_SGL_SEGMENT_DESCRIPTOR));
            let nested = sgl(&memory, descriptor(SEGMENT, 0x4000, 16), 512);
            assert_eq!(nested, Err(Status::INVALID_SGL_SEGMENT_DESCRIPTOR));
        }
    }
}

#[test]
fn a_segment_descriptor_has_its_place_at_the_end_of_a_segment_that_is_not_the_last() {
    let descriptors = [descriptor(SEGMENT, 0x3000, 16), descriptor(DATA, 0x5000, 512)];
    let memory = Endless::with(&segment(0x3000, &descriptors));
    let in_the_middle = sgl(&memory, descriptor(SEGMENT, 0x3000, 32), 512);
    assert_eq!(in_the_middle, Err(Status::INVALID_NUMBER_OF_SGL_DESCRIPTORS));
    let in_the_last = sgl(&memory, descriptor(LAST, 0x3000, 16), 512);
    assert_eq!(in_the_last, Err(Status::INVALID_SGL_SEGMENT_DESCRIPTOR));
}

#[test]
fn segments_that_loop_and_segments_without_end_are_given_up() {
    let memory = Endless::with(&segment(0x3000, &[descriptor(SEGMENT, 0x3000, 16)]));
    let too_many = Err(Status::INVALID_NUMBER_OF_SGL_DESCRIPTORS);
    assert_eq!(sgl(&memory, descriptor(SEGMENT, 0x3000, 16), 512), too_many);
    assert_eq!(memory.words_read.get(), 2 * MAX_SGL_DESCRIPTORS as usize);
    // All zeros are blocks of no data.
    assert_eq!(sgl(&memory, descriptor(LAST, 0x4000, u32::MAX - 15), 512), too_many);
    assert_eq!(memory.words_read.get(), 4 * MAX_SGL_DESCRIPTORS as usize);
}

#[test]
fn a_segment_that_reaches_the_end_of_the_addresses_is_a_transfer_error() {
    let memory = Endless::with(&[]);
    let root = descriptor(LAST, u64::MAX - 0x1ff, 0x1000);
    assert_eq!(sgl(&memory, root, 512), Err(Status::DATA_TRANSFER_ERROR));
}

/// Returns the pages of a PRP pointer, one entry at a time.
fn naive_prps(memory: &Endless, prp1: u64, prp2: u64, len: u32) -> Found {
    let check =
        |gpa: u64, align: u64| if gpa.is_multiple_of(align) { Ok(gpa) } else { Err(Status::INVALID_PRP_OFFSET) };
    let mut found = Vec::new();
    let (mut left, mut cursor) = (len, prp2);
    while left > 0 {
        let gpa = if found.is_empty() {
            check(prp1, 4)?
        } else if found.len() == 1 && left <= 4096 {
            check(prp2, 4096)?
        } else {
            check(cursor, 8)?;
            if cursor % 4096 == 4088 && left > 4096 {
                cursor = check(memory.word(cursor), 4096)?;
            }
            cursor += 8;
            check(memory.word(cursor - 8), 4096)?
        };
        let piece = left.min(4096 - (gpa % 4096) as u32);
        found.push((gpa, piece));
        left -= piece;
    }
    Ok(found)
}

/// Returns the blocks of an SGL, one descriptor at a time.
fn naive_sgl(memory: &Endless, root: [u64; 2], len: u32) -> Found {
    let mut found = Vec::new();
    let (mut descriptor, mut following, mut in_last, mut budget, mut left) = (root, (0, 0), false, 512, len);
    loop {
        let [address, high] = descriptor;
        let length = high as u32;
        match (high >> 56) as u8 {
            DATA => {
                let piece = length.min(left);
                if following == (0, 0) && budget == 512 && length < len {
                    return Err(Status::DATA_SGL_LENGTH_INVALID);
                }
                found.extend((piece > 0).then_some((address, piece)));
                left -= piece;
            }
            SEGMENT | LAST if in_last => return Err(Status::INVALID_SGL_SEGMENT_DESCRIPTOR),
            SEGMENT | LAST if following.1 > 0 => return Err(Status::INVALID_NUMBER_OF_SGL_DESCRIPTORS),
            identifier @ (SEGMENT | LAST) => {
                if length == 0 || !length.is_multiple_of(16) || !address.is_multiple_of(8) {
                    return Err(Status::INVALID_SGL_SEGMENT_DESCRIPTOR);
                }
                (following, in_last) = ((address, length / 16), identifier == LAST);
            }
            _ => return Err(Status::SGL_DESCRIPTOR_TYPE_INVALID),
        }
        match following {
            _ if left == 0 => return Ok(found),
            (_, 0) => return Err(Status::DATA_SGL_LENGTH_INVALID),
            _ if budget == 0 => return Err(Status::INVALID_NUMBER_OF_SGL_DESCRIPTORS),
            (at, count) => {
                descriptor = [memory.word(at), memory.word(at + 8)];
                following = (at + 16, count - 1);
                budget -= 1;
            }
        }
    }
}

fn is_whole(found: &Found, len: u32) -> bool {
    found.as_ref().is_ok_and(|pieces| pieces.iter().map(|piece| piece.1).sum::<u32>() == len)
}

proptest! {
    #[test]
    fn a_prp_walk_does_as_one_entry_at_a_time(
        seed: u64, prp1 in 0_u64..0x10000, slot in 0_u64..512, bad in 0_u64..400, len in 0_u32..=4 << 20,
    ) {
        // Every word is a page, but for some.
        let memory = Endless::new(8, seed, |random, i| {
            let offset = if bad == 0 && i % 97 == 0 { 8 } else { 0 };
            random % 16 * 4096 + offset
        });
        let prp1 = if bad == 1 { prp1 } else { prp1 & !3 };
        let prp2 = seed % 8 * 4096 + if seed % 3 == 0 { 0 } else { slot * 8 } + u64::from(bad == 2) * 4;
        let found = prps(&memory, prp1, prp2, len);
        prop_assert_eq!(&found, &naive_prps(&memory, prp1, prp2, len));
        prop_assert!(found.is_err() || is_whole(&found, len));
        prop_assert!(memory.words_read.get() <= len as usize / 4096 * 512 / 511 + 3);
    }

    #[test]
    fn an_sgl_walk_does_as_one_descriptor_at_a_time(
        seed: u64, rare in 1_usize..200, block in 1_u64..5000, length in 0_u32..200, kind in 0_usize..3,
        len in 1_u32..=128 << 10,
    ) {
        // Blocks of data, with a segment or something else here and there.
        let memory = Endless::new(8, seed, |random, i| match (i % 2, i / 2 % rare) {
            (0, _) => random % 0x1000 * 8,
            (_, 0) if rare % 7 == 0 => random,
            (_, 0) => descriptor([SEGMENT, LAST][(random >> 40) as usize % 2], 0, random as u32 % 50 * 16)[1],
            _ => random % block,
        });
        let unit = if kind == 2 { 1024 } else { 16 };
        let root = descriptor([SEGMENT, LAST, DATA][kind], seed % 0x1000 * 8, length * unit);
        let found = sgl(&memory, root, len);
        prop_assert_eq!(&found, &naive_sgl(&memory, root, len));
        prop_assert!(found.is_err() || is_whole(&found, len));
        prop_assert!(memory.words_read.get() <= 2 * MAX_SGL_DESCRIPTORS as usize);
    }

    #[test]
    fn any_pointer_into_any_memory_ends_with_a_status_or_all_of_the_data(
        seed: u64, flags: u8, prp1: u64, prp2: u64, len in 0_u32..=128 << 10,
    ) {
        let memory = Endless::new(2, seed, |random, _| random);
        let found = pieces(&memory, &Sqe { flags: CommandFlags::from_bits(flags), prp1, prp2, ..Sqe::default() }, len);
        prop_assert!(found.is_err() || is_whole(&found, len));
    }
}
