use proptest::prelude::*;

use super::*;
use nvme_spec::CommandFlags;
use std::ops::BitOr as _;

const FUA: u32 = BlockDw12::new().with_fua(true).into_bits();

const MDTS: u32 = 128 * 1024;
const ALL: [IoSupport; 9] = [
    IoSupport::COMPARE,
    IoSupport::WRITE_ZEROES,
    IoSupport::DATASET_MANAGEMENT,
    IoSupport::DEALLOCATE,
    IoSupport::FLUSH,
    IoSupport::COMPARE_AND_WRITE,
    IoSupport::WRITE_UNCORRECTABLE,
    IoSupport::VERIFY,
    IoSupport::VENDOR_SPECIFIC,
];

fn ns() -> NsGeometry {
    let mut ns = NsGeometry::new(1000, 9).expect("a geometry");
    ns.supports = ALL.into_iter().fold(IoSupport::NONE, IoSupport::bitor);
    ns
}

fn sqe(opcode: u8, slba: u64, blocks: u32) -> Sqe {
    let nlb = u16::try_from(blocks - 1).expect("0's based");
    Sqe { opcode, cdw12: BlockDw12::of(nlb).into_bits(), ..Sqe::default() }.with_slba(slba)
}

#[test]
fn a_read_is_decoded() {
    let read = IoCommand {
        kind: IoKind::Read,
        fuse: Fuse::Alone,
        durable: false,
        deallocate: false,
        slba: 992,
        blocks: 8,
        bytes: 4096,
    };
    assert_eq!(decode(&sqe(IoOpcode::READ.0, 992, 8), &ns(), MDTS), Ok(read));
    assert!(read.to_guest());
}

#[test]
fn a_write_is_durable_if_it_is_to_be_and_a_cache_could_keep_it() {
    for opcode in [IoOpcode::WRITE.0, IoOpcode::WRITE_ZEROES.0] {
        for (write_cache, durable) in
            [(WriteCache::None, [false, false]), (WriteCache::On, [false, true]), (WriteCache::Off, [true, true])]
        {
            for (fua, durable) in [0, FUA].into_iter().zip(durable) {
                let mut sqe = sqe(opcode, 0, 1);
                sqe.cdw12 |= fua;
                let ns = NsGeometry { write_cache, ..ns() };
                let decoded = decode(&sqe, &ns, MDTS).map(|command| (command.durable, command.deallocate));
                assert_eq!(decoded, Ok((durable, false)), "{opcode:#x}, {write_cache:?}, FUA {fua:#x}");
            }
        }
    }
}

#[test]
fn a_cache_is_turned_off_and_on_where_there_is_one() {
    let cached = NsGeometry { write_cache: WriteCache::On, ..ns() };
    assert_eq!(cached.with_write_cache(false).write_cache, WriteCache::Off);
    assert_eq!(cached.with_write_cache(false).with_write_cache(true), cached);
    assert_eq!(ns().with_write_cache(false), ns());
}

#[test]
fn only_a_read_goes_to_the_guest() {
    for opcode in [IoOpcode::WRITE.0, IoOpcode::COMPARE.0, IoOpcode::WRITE_ZEROES.0, IoOpcode::FLUSH.0] {
        assert!(decode(&sqe(opcode, 0, 1), &ns(), MDTS).is_ok_and(|command| !command.to_guest()), "{opcode:#x}");
    }
}

#[test]
fn a_range_past_the_end_is_out_of_range() {
    for opcode in [IoOpcode::READ.0, IoOpcode::WRITE.0, IoOpcode::COMPARE.0, IoOpcode::WRITE_ZEROES.0] {
        assert!(decode(&sqe(opcode, 999, 1), &ns(), MDTS).is_ok(), "{opcode:#x}");
        for (slba, blocks) in [(1000, 1), (999, 2), (u64::MAX, 1), (u64::MAX - 7, 8), (u64::MAX, 9)] {
            let status = decode(&sqe(opcode, slba, blocks), &ns(), MDTS).err();
            assert_eq!(status, Some(Status::LBA_OUT_OF_RANGE), "{opcode:#x} at {slba}, {blocks} blocks");
        }
    }
}

#[test]
fn a_transfer_above_mdts_is_an_invalid_field() {
    for opcode in [IoOpcode::READ.0, IoOpcode::WRITE.0, IoOpcode::COMPARE.0] {
        assert!(decode(&sqe(opcode, 0, 256), &ns(), MDTS).is_ok(), "{opcode:#x}");
        assert_eq!(decode(&sqe(opcode, 0, 257), &ns(), MDTS), Err(Status::INVALID_FIELD), "{opcode:#x}");
    }
}

#[test]
fn a_transfer_that_needs_33_bits_is_an_invalid_field() {
    let ns = NsGeometry::new(1 << 20, 16).expect("a geometry");
    assert_eq!(decode(&sqe(IoOpcode::READ.0, 0, 65536), &ns, u32::MAX), Err(Status::INVALID_FIELD));
    assert!(decode(&sqe(IoOpcode::READ.0, 0, 65535), &ns, u32::MAX).is_ok());
}

#[test]
fn write_zeroes_is_limited_by_its_own_limit() {
    let mut ns = NsGeometry::new(1 << 20, 12).expect("a geometry");
    ns.supports = IoSupport::WRITE_ZEROES;
    let command = decode(&sqe(IoOpcode::WRITE_ZEROES.0, 5, 65536), &ns, 4096).expect("not limited by MDTS");
    assert_eq!((command.kind, command.blocks, command.bytes), (IoKind::WriteZeroes, 65536, 0));
    ns.max_write_zeroes_blocks = 8;
    assert!(decode(&sqe(IoOpcode::WRITE_ZEROES.0, 5, 8), &ns, MDTS).is_ok());
    assert_eq!(decode(&sqe(IoOpcode::WRITE_ZEROES.0, 5, 9), &ns, MDTS), Err(Status::INVALID_FIELD));
}

#[test]
fn write_zeroes_may_deallocate_if_it_was_asked_to() {
    let mut sqe = sqe(IoOpcode::WRITE_ZEROES.0, 0, 1);
    assert_eq!(decode(&sqe, &ns(), MDTS).map(|command| command.deallocate), Ok(false));
    sqe.cdw12 |= BlockDw12::new().with_deac(true).into_bits();
    assert_eq!(decode(&sqe, &ns(), MDTS).map(|command| command.deallocate), Ok(true));
}

#[test]
fn a_flush_names_no_blocks() {
    let command = decode(&sqe(IoOpcode::FLUSH.0, u64::MAX, 65536), &ns(), MDTS).expect("its dwords are reserved");
    assert_eq!((command.kind, command.blocks, command.bytes), (IoKind::Flush, 0, 0));
    let mut without_cache = ns();
    without_cache.supports = IoSupport::NONE;
    let command = decode(&sqe(IoOpcode::FLUSH.0, 0, 1), &without_cache, MDTS);
    assert_eq!(command.map(|command| command.kind), Ok(IoKind::Nothing));
}

#[test]
fn what_the_namespace_does_not_take_is_an_invalid_opcode() {
    let mut ns = ns();
    ns.supports = IoSupport::NONE;
    for opcode in [IoOpcode::COMPARE.0, IoOpcode::WRITE_ZEROES.0, IoOpcode::DATASET_MANAGEMENT.0] {
        assert_eq!(decode(&sqe(opcode, 0, 1), &ns, MDTS), Err(Status::INVALID_OPCODE), "{opcode:#x}");
    }
}

#[test]
fn unknown_opcodes_are_invalid() {
    let known = [
        IoOpcode::FLUSH,
        IoOpcode::WRITE,
        IoOpcode::READ,
        IoOpcode::WRITE_UNCORRECTABLE,
        IoOpcode::COMPARE,
        IoOpcode::WRITE_ZEROES,
        IoOpcode::DATASET_MANAGEMENT,
        IoOpcode::VERIFY,
    ];
    let of_the_specification = 0..IoOpcode::VENDOR_SPECIFIC_START.0;
    for opcode in of_the_specification.filter(|opcode| !known.contains(&IoOpcode(*opcode))) {
        assert_eq!(decode(&sqe(opcode, 0, 1), &ns(), MDTS), Err(Status::INVALID_OPCODE), "{opcode:#x}");
    }
}

#[test]
fn a_protected_namespace_is_read_but_not_written() {
    let mut ns = ns();
    ns.write_protected = true;
    for opcode in [IoOpcode::READ.0, IoOpcode::COMPARE.0, IoOpcode::FLUSH.0] {
        assert!(decode(&sqe(opcode, 0, 1), &ns, MDTS).is_ok(), "{opcode:#x}");
    }
    for opcode in [IoOpcode::WRITE.0, IoOpcode::WRITE_ZEROES.0] {
        assert_eq!(decode(&sqe(opcode, 0, 1), &ns, MDTS), Err(Status::NAMESPACE_WRITE_PROTECTED), "{opcode:#x}");
    }
}

#[test]
fn a_reserved_data_pointer_kind_is_an_invalid_field() {
    for opcode in [
        IoOpcode::READ.0,
        IoOpcode::WRITE.0,
        IoOpcode::COMPARE.0,
        IoOpcode::FLUSH.0,
        IoOpcode::WRITE_ZEROES.0,
        IoOpcode::DATASET_MANAGEMENT.0,
    ] {
        let mut sqe = sqe(opcode, 0, 1);
        for psdt in [Psdt::SGL_MPTR_BUFFER, Psdt::SGL_MPTR_SGL] {
            sqe.flags = CommandFlags::new().with_psdt(psdt);
            assert!(decode(&sqe, &ns(), MDTS).is_ok(), "{opcode:#x}");
        }
        sqe.flags = CommandFlags::new().with_psdt(Psdt(3));
        assert_eq!(decode(&sqe, &ns(), MDTS), Err(Status::INVALID_FIELD), "{opcode:#x}");
    }
}

#[test]
fn only_compare_then_write_may_be_fused() {
    for opcode in [
        IoOpcode::READ.0,
        IoOpcode::WRITE.0,
        IoOpcode::COMPARE.0,
        IoOpcode::FLUSH.0,
        IoOpcode::WRITE_ZEROES.0,
        IoOpcode::DATASET_MANAGEMENT.0,
    ] {
        for fuse in [FusedOperation::FIRST, FusedOperation::SECOND, FusedOperation(0b11)] {
            let mut sqe = sqe(opcode, 0, 1);
            sqe.flags = CommandFlags::new().with_fuse(fuse);
            let expected = match (IoOpcode(opcode), fuse) {
                (IoOpcode::COMPARE, FusedOperation::FIRST) => Ok(Fuse::First),
                (IoOpcode::WRITE, FusedOperation::SECOND) => Ok(Fuse::Second),
                _ => Err(Status::INVALID_FIELD),
            };
            assert_eq!(decode(&sqe, &ns(), MDTS).map(|command| command.fuse), expected, "{opcode:#x}, {fuse:?}");
        }
    }
}

#[test]
fn fused_commands_are_refused_where_there_are_none() {
    let mut ns = ns();
    ns.supports = IoSupport::COMPARE;
    for (opcode, fuse) in [(IoOpcode::COMPARE.0, FusedOperation::FIRST), (IoOpcode::WRITE.0, FusedOperation::SECOND)] {
        let mut sqe = sqe(opcode, 0, 1);
        sqe.flags = CommandFlags::new().with_fuse(fuse);
        assert_eq!(decode(&sqe, &ns, MDTS), Err(Status::INVALID_FIELD), "{opcode:#x}");
    }
}

#[test]
fn a_fused_command_is_limited_by_the_atomic_unit() {
    let mut ns = ns();
    ns.max_fused_blocks = 1;
    let mut sqe = sqe(IoOpcode::COMPARE.0, 0, 2);
    assert!(decode(&sqe, &ns, MDTS).is_ok());
    sqe.flags = CommandFlags::FUSED_FIRST;
    assert_eq!(decode(&sqe, &ns, MDTS), Err(Status::INVALID_FIELD));
    sqe.cdw12 = BlockDw12::of(0).into_bits();
    assert!(decode(&sqe, &ns, MDTS).is_ok());
}

#[test]
fn a_fused_pair_must_name_the_same_blocks() {
    let command = |opcode, fuse, slba, blocks| {
        let mut sqe = sqe(opcode, slba, blocks);
        sqe.flags = CommandFlags::new().with_fuse(fuse);
        decode(&sqe, &ns(), MDTS).expect("accepted")
    };
    let first = command(IoOpcode::COMPARE.0, FusedOperation::FIRST, 8, 2);
    let second = command(IoOpcode::WRITE.0, FusedOperation::SECOND, 8, 2);
    assert_eq!(check_fused(&first, &second), Ok(()));
    for other in [
        command(IoOpcode::WRITE.0, FusedOperation::SECOND, 9, 2),
        command(IoOpcode::WRITE.0, FusedOperation::SECOND, 8, 1),
        command(IoOpcode::WRITE.0, FusedOperation::NORMAL, 8, 2),
    ] {
        assert_eq!(check_fused(&first, &other), Err(Status::INVALID_FIELD), "{other:?}");
    }
    assert_eq!(check_fused(&second, &first), Err(Status::INVALID_FIELD));
}

#[test]
fn protection_information_and_the_metadata_pointer_are_ignored() {
    let mut sqe = sqe(IoOpcode::WRITE.0, 0, 1);
    let protection = BlockDw12::from_bits(sqe.cdw12).with_pract(true).with_stc(true);
    let protection = protection.with_prchk_guard(true).with_prchk_application(true).with_prchk_reference(true);
    sqe.cdw12 = protection.into_bits();
    (sqe.mptr, sqe.cdw14, sqe.cdw15) = (u64::MAX, u32::MAX, u32::MAX);
    assert!(decode(&sqe, &ns(), MDTS).is_ok());
}

#[test]
fn an_empty_namespace_takes_no_block() {
    let empty = NsGeometry::new(0, 9).expect("a geometry");
    assert_eq!(decode(&sqe(IoOpcode::READ.0, 0, 1), &empty, MDTS), Err(Status::LBA_OUT_OF_RANGE));
}

#[test]
fn geometries_that_cannot_be_are_refused() {
    assert_eq!(NsGeometry::new(1, 8), Err(GeometryError::BlockSize(8)));
    assert_eq!(NsGeometry::new(1, 17), Err(GeometryError::BlockSize(17)));
    assert_eq!(NsGeometry::new(1 << 55, 9), Err(GeometryError::Capacity { blocks: 1 << 55, block_shift: 9 }));
    assert!(NsGeometry::new((1 << 55) - 1, 9).is_ok());
}

prop_compose! {
    fn any_sqe()(
        opcode in prop_oneof![0u8..14, any::<u8>()],
        flags in prop_oneof![Just(0), any::<u8>()],
        slba in prop_oneof![0u64..1100, any::<u64>()],
        rest in any::<[u32; 4]>(),
        blocks in prop_oneof![1u32..300, 1u32..=65536],
    ) -> Sqe {
        let mut sqe = sqe(opcode, slba, blocks);
        sqe.flags = CommandFlags::from_bits(flags);
        sqe.cdw12 = BlockDw12::from_bits(rest[0]).with_nlb(BlockDw12::from_bits(sqe.cdw12).nlb()).into_bits();
        (sqe.cdw13, sqe.cdw14, sqe.cdw15) = (rest[1], rest[2], rest[3]);
        sqe
    }
}

prop_compose! {
    fn any_ns()(
        blocks in prop_oneof![0u64..1100, any::<u64>()],
        block_shift in 9u8..=16,
        bits in any::<[bool; 9]>(),
        write_protected in any::<bool>(),
        limits in any::<(u32, u32)>(),
    ) -> NsGeometry {
        let mut ns = NsGeometry::new(blocks & u64::MAX >> block_shift, block_shift).expect("a geometry");
        let chosen = ALL.into_iter().zip(bits).filter(|(_, chosen)| *chosen);
        ns.supports = chosen.fold(IoSupport::NONE, |set, (support, _)| set | support);
        ns.write_protected = write_protected;
        (ns.max_write_zeroes_blocks, ns.max_fused_blocks) = limits;
        ns
    }
}

proptest! {
    #[test]
    fn nothing_past_the_end_or_above_a_limit_is_accepted(sqe in any_sqe(), ns in any_ns(), mdts in any::<u32>()) {
        let Ok(command) = decode(&sqe, &ns, mdts) else { return Ok(()) };
        prop_assert!(u128::from(command.slba) + u128::from(command.blocks) <= u128::from(ns.blocks()));
        let bytes = u128::from(command.blocks) << ns.block_shift();
        match command.kind {
            IoKind::Read | IoKind::Write | IoKind::Compare => {
                prop_assert_eq!(u128::from(command.bytes), bytes);
                prop_assert!(command.bytes <= mdts && command.blocks >= 1);
            }
            IoKind::WriteZeroes => prop_assert!(command.blocks <= ns.max_write_zeroes_blocks && command.bytes == 0),
            IoKind::Deallocate => prop_assert!(command.bytes % 16 == 0 && (16..=4096).contains(&command.bytes)),
            IoKind::Flush | IoKind::Nothing => prop_assert_eq!((command.blocks, command.bytes), (0, 0)),
            IoKind::Passthru => prop_assert!(command.bytes <= mdts && (command.blocks == 0 || command.bytes == 0)),
        }
        let harmless = matches!(command.kind, IoKind::Read | IoKind::Compare | IoKind::Flush | IoKind::Nothing)
            || sqe.opcode == IoOpcode::VERIFY.0;
        prop_assert!(!ns.write_protected || harmless);
        prop_assert!(command.fuse == Fuse::Alone || ns.supports.contains(IoSupport::COMPARE_AND_WRITE));
    }

    #[test]
    fn a_range_within_the_namespace_is_read(slba in any::<u64>(), blocks in 1u32..=256, spare in 0u64..1000) {
        let slba = slba >> 10;
        let ns = NsGeometry::new(slba + u64::from(blocks) + spare, 9).expect("a geometry");
        prop_assert!(decode(&sqe(IoOpcode::READ.0, slba, blocks), &ns, MDTS).is_ok());
    }
}
