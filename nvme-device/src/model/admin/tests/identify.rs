//! Identify.

use super::*;
use nvme_spec::ALL_NAMESPACES;

fn identify(cns: u32, nsid: u32) -> Sqe {
    Sqe { cdw10: cns, nsid, ..command(Opcode::Identify) }
}

/// Returns the page for that CNS and NSID.
fn page_of(controller: &mut Controller, cns: u32, nsid: u32) -> Vec<u8> {
    let page = data(controller.admin(&identify(cns, nsid), NOW));
    assert_eq!(page.len(), 4096);
    page
}

fn list(page: &[u8]) -> Vec<u32> {
    (0..1024).map(|index| u32_at(page, index * 4)).take_while(|nsid| *nsid != 0).collect()
}

#[test]
fn the_controller_tells_who_it_is() {
    let page = page_of(&mut controller(), 1, 0);
    assert_eq!((u16_at(&page, 0), u16_at(&page, 2)), (0x1234, 0x5678));
    assert_eq!(&page[4..24], b"S1                  ");
    assert_eq!(&page[24..64], b"A model                                 ");
    assert_eq!(&page[64..72], b"1.0     ");
    assert_eq!((page[77], u16_at(&page, 78), u32_at(&page, 80)), (5, 7, 0x0002_0000));
    assert_eq!((page[111], bytes(&page, 112)), (1, [0x5a; 16]));
    assert!(page[768..].starts_with(b"nqn.2014-08.org.nvmexpress:uuid:0\0"));
}

#[test]
fn the_controller_tells_what_it_can() {
    let page = page_of(&mut controller(), 1, 0);
    assert_eq!(page[76], 0b1000, "CMIC: one port, one controller, ANA");
    assert_eq!(u32_at(&page, 92), 0x900, "OAES");
    assert_eq!((page[342], page[343]), (10, 0x41), "ANATT, ANACAP");
    assert_eq!((u32_at(&page, 344), u32_at(&page, 348)), (1, 1), "ANAGRPMAX, NANAGRPID");
    assert_eq!(u16_at(&page, 256), 0x100, "OACS");
    assert_eq!(page[258..264], [3, 3, 0x03, 0x26, 63, 0], "ACL, AERL, FRMW, LPA, ELPE, NPSS");
    assert_eq!((u16_at(&page, 266), u16_at(&page, 268)), (343, 353), "WCTEMP, CCTEMP");
    assert_eq!(u16_at(&page, 320), 10, "KAS");
    assert_eq!(page[512..514], [0x66, 0x44], "SQES, CQES");
    assert_eq!((u32_at(&page, 516), u32_at(&page, 540)), (256, 256), "NN, MNAN");
    assert_eq!(page[525], 0b101, "VWC");
    assert_eq!(u32_at(&page, 536), 0x0004_0001, "SGLS");
    assert_eq!(u32_at(&page, 272), 0, "HMPRE");
}

#[test]
fn optional_commands_are_those_of_any_namespace() {
    let cases = [
        (IoSupport::NONE, 0x50, 0),
        (IoSupport::COMPARE, 0x51, 0),
        (IoSupport::WRITE_UNCORRECTABLE, 0x52, 0),
        (IoSupport::VERIFY, 0xd0, 0),
        (IoSupport::VENDOR_SPECIFIC, 0x50, 0),
        (IoSupport::DEALLOCATE, 0x54, 0),
        (IoSupport::WRITE_ZEROES, 0x58, 0),
        (IoSupport::COMPARE | IoSupport::COMPARE_AND_WRITE, 0x51, 1),
    ];
    for (supports, oncs, fuses) in cases {
        let mut controller = controller();
        controller.add_namespace(Namespace { supports, ..namespace(2) }).expect("free");
        let page = page_of(&mut controller, 1, 0);
        assert_eq!((u16_at(&page, 520), u16_at(&page, 522)), (oncs, fuses), "{supports:?}");
    }
}

#[test]
fn a_namespace_tells_its_size_and_names() {
    for cns in [0x00, 0x11] {
        let page = page_of(&mut controller(), cns, 3);
        assert_eq!([0, 8, 16].map(|at| u64_at(&page, at)), [2048; 3], "NSZE, NCAP, NUSE");
        assert_eq!(page[24..34], [0; 10], "NSFEAT to DLFEAT");
        assert_eq!((u64_at(&page, 48), u64_at(&page, 56)), (2048 * 4096, 0), "NVMCAP");
        assert_eq!((page[30], u32_at(&page, 92)), (0, 1), "NMIC, ANAGRPID");
        assert_eq!((bytes(&page, 104), bytes(&page, 120)), ([0x22; 16], [0x33; 8]), "NGUID, EUI64");
        assert_eq!((u32_at(&page, 128), u32_at(&page, 132)), (12 << 16, 0), "LBAF");
    }
}

#[test]
fn a_namespace_tells_its_features() {
    let mut controller = controller();
    let supports = IoSupport::DEALLOCATE
        | IoSupport::DEALLOCATED_ARE_ZEROES
        | IoSupport::WRITE_ZEROES
        | IoSupport::COMPARE_AND_WRITE;
    let special = Namespace {
        supports,
        compare_and_write_blocks: 4,
        optimal_boundary_blocks: 256,
        preferred_write_blocks: 8,
        preferred_unmap_blocks: 32,
        write_protected: true,
        ..namespace(2)
    };
    controller.add_namespace(special).expect("free");
    let page = page_of(&mut controller, 0, 2);
    assert_eq!((page[24], page[33], page[99]), (0b1_0010, 0b1001, 1), "NSFEAT, DLFEAT, NSATTR");
    assert_eq!((u16_at(&page, 38), u16_at(&page, 46)), (3, 256), "NACWU, NOIOB");
    assert_eq!([64, 66, 68, 70, 72].map(|at| u16_at(&page, at)), [7, 7, 31, 31, 7], "NPWG, NPWA, NPDG, NPDA, NOWS");
}

#[test]
fn a_namespace_of_the_largest_size_has_its_capacity_in_bytes() {
    let mut controller = controller();
    let blocks = u64::MAX >> 16;
    controller.add_namespace(Namespace { blocks, block_shift: 16, ..namespace(2) }).expect("free");
    assert_eq!(u64_at(&page_of(&mut controller, 0, 2), 48), blocks << 16);
}

#[test]
fn inactive_namespaces_are_zeroes_and_invalid_ones_are_errors() {
    let mut controller = controller();
    for cns in [0x00, 0x05, 0x08, 0x11, 0x1b] {
        for nsid in [2, 256] {
            assert_eq!(page_of(&mut controller, cns, nsid), vec![0; 4096], "{cns:x}h");
        }
        for nsid in [0, 257, ALL_NAMESPACES] {
            assert_eq!(status(controller.admin(&identify(cns, nsid), NOW)), Status::INVALID_NAMESPACE, "{cns:x}h");
        }
    }
}

/// A host that knows no lists asks for each NSID up to NN. One that reads it once would take no namespace beyond.
#[test]
fn the_number_of_namespaces_follows_the_last_one_for_old_drivers() {
    let identity = Identity { version: Version::V1_4, ..identity() };
    let mut controller = Controller::new(identity, LIMITS).expect("valid limits");
    controller.add_namespace(namespace(1)).expect("free");
    controller.add_namespace(namespace(3)).expect("free");
    controller.enable(NOW);
    assert_eq!(u32_at(&page_of(&mut controller, 1, 0), 516), 3);
    assert_eq!(page_of(&mut controller, 0, 2), vec![0; 4096], "inactive");
    assert_eq!(status(controller.admin(&identify(0, 4), NOW)), Status::INVALID_NAMESPACE);
    for (added, nn) in [(Some(7), 7), (Some(256), 256), (None, 256)] {
        if let Some(nsid) = added {
            controller.add_namespace(namespace(nsid)).expect("free");
        }
        assert_eq!(u32_at(&page_of(&mut controller, 1, 0), 516), nn);
    }
    for nsid in [256, 7, 3, 1] {
        controller.remove_namespace(nsid);
    }
    assert_eq!(u32_at(&page_of(&mut controller, 1, 0), 516), 1, "it is never 0");
}

#[test]
fn a_controller_of_version_1_4_tells_and_answers_what_that_has() {
    let identity = Identity { version: Version::V1_4, ..identity() };
    let mut controller = Controller::new(identity, LIMITS).expect("valid limits");
    controller.add_namespace(namespace(1)).expect("free");
    controller.enable(NOW);
    let page = page_of(&mut controller, 1, 0);
    assert_eq!((u32_at(&page, 80), page[261]), (0x0001_0400, 0x06), "VER, LPA");
    assert_eq!(u32_at(&page_of(&mut controller, 0, 1), 0), 2048);
    assert_eq!(list(&page_of(&mut controller, 2, 0)), [1]);
    let descriptors = page_of(&mut controller, 3, 1);
    assert_eq!((descriptors[0], descriptors[12], descriptors[32], descriptors[52]), (1, 2, 3, 0), "no command set");
    for cns in [0x05, 0x06, 0x07, 0x08, 0x1a, 0x1b, 0x1c] {
        assert_eq!(status(controller.admin(&identify(cns, 1), NOW)), Status::INVALID_FIELD, "{cns:x}h");
    }
    for lid in [0x00, 0x12, 0x13] {
        let log = Sqe { cdw10: 0x3ff << 16 | lid, ..command(Opcode::GetLogPage) };
        assert_eq!(status(controller.admin(&log, NOW)), Status::INVALID_LOG_PAGE, "{lid:x}h");
    }
}

/// Linux gives a drive up whose namespace has become another, and does not look again.
#[test]
fn another_namespace_of_one_nsid_waits_until_the_host_has_seen_that_the_first_is_gone() {
    let other = |nsid| Namespace { uuid: [0x77; 16], ..namespace(nsid) };
    for (cns, nsid, seen) in [
        (0x02, 0, true),
        (0x02, 2, true),
        (0x02, 3, false),
        (0x00, 3, true),
        (0x03, 3, true),
        (0x00, 1, false),
        (0x01, 0, false),
    ] {
        let mut controller = controller();
        controller.remove_namespace(3);
        assert!(controller.would_be_mistaken(&other(3)));
        assert!(!controller.would_be_mistaken(&namespace(3)), "it is the same");
        assert!(!controller.would_be_mistaken(&other(2)), "nothing was there");
        let _ = controller.admin(&identify(cns, nsid), NOW);
        assert_eq!(controller.would_be_mistaken(&other(3)), !seen, "{cns:x}h of {nsid}");
        controller.reset();
        assert!(!controller.would_be_mistaken(&other(3)), "a host that starts knows of none");
    }
}

#[test]
fn lists_of_namespaces_start_above_the_nsid() {
    let mut controller = controller();
    for cns in [0x02, 0x07, 0x10, 0x1a] {
        for (above, expected) in [(0, vec![1, 3]), (1, vec![3]), (2, vec![3]), (3, vec![]), (0xffff_fffd, vec![])] {
            assert_eq!(list(&page_of(&mut controller, cns, above)), expected, "{cns:x}h above {above}");
        }
        for nsid in [0xffff_fffe, 0xffff_ffff] {
            assert_eq!(status(controller.admin(&identify(cns, nsid), NOW)), Status::INVALID_NAMESPACE);
        }
    }
}

#[test]
fn a_full_controller_lists_all_its_namespaces() {
    let mut controller = Controller::new(identity(), LIMITS).expect("valid limits");
    for nsid in 1..=MAX_NAMESPACES {
        controller.add_namespace(namespace(nsid)).expect("free");
    }
    assert_eq!(list(&page_of(&mut controller, 2, 0)), (1..=256).collect::<Vec<_>>());
}

#[test]
fn descriptors_hold_the_names_that_there_are_and_the_command_set() {
    let mut controller = controller();
    let page = page_of(&mut controller, 3, 1);
    let mut expected = vec![1, 8, 0, 0];
    expected.extend([0x33; 8]);
    expected.extend([2, 16, 0, 0]);
    expected.extend([0x22; 16]);
    expected.extend([3, 16, 0, 0]);
    expected.extend([0x11; 16]);
    expected.extend([4, 1, 0, 0, 0]);
    assert!(page.starts_with(&expected) && page[expected.len()..].iter().all(|byte| *byte == 0));
    let uuid_only = Namespace { eui64: [0; 8], nguid: [0; 16], ..namespace(2) };
    controller.add_namespace(uuid_only).expect("free");
    assert_eq!(page_of(&mut controller, 3, 2)[..2], [3, 16]);
    for nsid in [0, 4, 257, ALL_NAMESPACES] {
        assert_eq!(status(controller.admin(&identify(3, nsid), NOW)), Status::INVALID_NAMESPACE);
    }
}

#[test]
fn the_nvm_command_set_has_pages_of_its_own_and_no_other_set_has() {
    let mut controller = controller();
    assert_eq!(page_of(&mut controller, 0x05, 1), vec![0; 4096]);
    assert_eq!(page_of(&mut controller, 0x06, 0)[..3], [0, 13, 0]);
    for cns in [0x05, 0x06, 0x07, 0x1a, 0x1b] {
        let sqe = Sqe { cdw11: 2 << 24, ..identify(cns, 1) };
        assert_eq!(status(controller.admin(&sqe, NOW)), Status::INVALID_FIELD, "{cns:x}h");
    }
}

#[test]
fn the_independent_page_says_ready_and_whether_there_is_a_write_cache() {
    let mut controller = controller();
    let cached = IoSupport::VOLATILE_WRITE_CACHE;
    controller.add_namespace(Namespace { supports: cached, ..namespace(2) }).expect("free");
    controller.add_namespace(Namespace { write_protected: true, ..namespace(4) }).expect("free");
    for (nsid, nsfeat, nsattr) in [(1, 1 << 5, 0), (2, 0, 0), (4, 1 << 5, 1)] {
        let page = page_of(&mut controller, 8, nsid);
        assert_eq!((page[0], page[8], page[14]), (nsfeat, nsattr, 1), "{nsid}");
        assert_eq!(u32_at(&page, 4), 1, "ANAGRPID");
    }
}

#[test]
fn lists_of_controllers_hold_this_one() {
    let mut controller = controller();
    for (cns, nsid) in [(0x12, 1), (0x13, 0)] {
        for (from, count, first) in [(0, 1, 7), (7, 1, 7), (8, 0, 0)] {
            let page = page_of(&mut controller, from << 16 | cns, nsid);
            assert_eq!((u16_at(&page, 0), u16_at(&page, 2)), (count, first));
        }
    }
    assert_eq!(status(controller.admin(&identify(0x12, 2), NOW)), Status::INVALID_FIELD);
    assert_eq!(status(controller.admin(&identify(0x12, 0), NOW)), Status::INVALID_NAMESPACE);
}

#[test]
fn there_is_one_combination_of_command_sets() {
    let mut controller = controller();
    for cntid in [7, 0xffff] {
        let page = page_of(&mut controller, cntid << 16 | 0x1c, 0);
        assert_eq!((u64_at(&page, 0), u64_at(&page, 8)), (1, 0));
    }
    assert_eq!(status(controller.admin(&identify(8 << 16 | 0x1c, 0), NOW)), Status::INVALID_FIELD);
}

#[test]
fn other_structures_are_invalid_fields() {
    let mut controller = controller();
    for cns in [0x04, 0x09, 0x0a, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x1d, 0x20, 0xff] {
        assert_eq!(status(controller.admin(&identify(cns, 1), NOW)), Status::INVALID_FIELD, "{cns:x}h");
    }
}

#[test]
fn namespaces_that_cannot_be_are_refused() {
    let mut controller = controller();
    let good = namespace(2);
    let cases = [
        (Namespace { nsid: 0, ..good.clone() }, NamespaceError::NsidOutOfRange(0)),
        (Namespace { nsid: 257, ..good.clone() }, NamespaceError::NsidOutOfRange(257)),
        (Namespace { nsid: 3, ..good.clone() }, NamespaceError::NsidInUse(3)),
        (Namespace { block_shift: 8, ..good.clone() }, NamespaceError::BlockSize(8)),
        (Namespace { block_shift: 64, ..good.clone() }, NamespaceError::BlockSize(64)),
        (Namespace { blocks: 0, ..good.clone() }, NamespaceError::Size(0)),
        (Namespace { blocks: 1 << 52, ..good.clone() }, NamespaceError::Size(1 << 52)),
    ];
    for (bad, expected) in cases {
        assert_eq!(controller.add_namespace(bad), Err(expected));
    }
    assert_eq!(controller.resize_namespace(2, 1), Err(NamespaceError::NotFound(2)));
    assert_eq!(controller.resize_namespace(1, 0), Err(NamespaceError::Size(0)));
    assert_eq!(controller.namespace(1).map(|namespace| namespace.blocks), Some(2048));
}
