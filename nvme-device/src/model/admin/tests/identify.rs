//! Identify.

use super::*;
use nvme_spec::ALL_NAMESPACES;
use nvme_spec::Cqe;
use nvme_spec::admin::IdentifyDw11;
use nvme_spec::identify::{
    AnaCapabilities, CommandSet, CompletionEntrySizes, ControllerList, ControllerType, DeallocateFeatures,
    FirmwareUpdates, FormattedLbaSize, FusedOperations, IdentifyCommandSets, IdentifyController, IdentifyControllerNvm,
    IdentifyNamespace, IndependentFeatures, IndependentNamespace, LbaFormat, LogPageAttributes, Multipath,
    NamespaceAttributes, NamespaceDescriptor, NamespaceFeatures, NamespaceIdType, NamespaceStatus,
    OptionalAdminCommands, OptionalNvmCommands, SglSupport, SubmissionEntrySizes, WriteCacheAttributes,
};
use nvme_spec::register;
use zerocopy::IntoBytes as _;

fn identify(cns: Cns, nsid: u32) -> Sqe {
    identify_from(cns, 0, nsid)
}

/// Returns Identify of a structure that begins at that controller identifier.
fn identify_from(cns: Cns, cntid: u16, nsid: u32) -> Sqe {
    Sqe { cdw10: IdentifyDw10::new().with_cns(cns).with_cntid(cntid).into_bits(), nsid, ..command(Opcode::Identify) }
}

/// Returns the page for that CNS and NSID.
fn page_of(controller: &mut Controller, cns: Cns, nsid: u32) -> Vec<u8> {
    page_for(controller, &identify(cns, nsid))
}

fn page_for(controller: &mut Controller, sqe: &Sqe) -> Vec<u8> {
    let page = data(controller.admin(sqe, NOW));
    assert_eq!(page.len(), 4096);
    page
}

fn list(page: &[u8]) -> Vec<u32> {
    (0..1024).map(|index| u32_at(page, index * 4)).take_while(|nsid| *nsid != 0).collect()
}

/// Returns Identify Controller.
fn controller_of(controller: &mut Controller) -> IdentifyController {
    structure(&page_of(controller, Cns::CONTROLLER, 0))
}

/// Returns Identify Namespace.
fn namespace_of(controller: &mut Controller, nsid: u32) -> IdentifyNamespace {
    structure(&page_of(controller, Cns::NAMESPACE, nsid))
}

#[test]
fn the_controller_tells_who_it_is() {
    let page = controller_of(&mut controller());
    assert_eq!((page.vid, page.ssvid), (0x1234, 0x5678));
    assert_eq!(&page.sn, b"S1                  ");
    assert_eq!(&page.mn, b"A model                                 ");
    assert_eq!(&page.fr, b"1.0     ");
    assert_eq!((page.mdts, page.cntlid, page.ver), (5, 7, register::Version::V2_0));
    assert_eq!((page.cntrltype, page.fguid), (ControllerType::IO, [0x5a; 16]));
    assert!(page.subnqn.starts_with(b"nqn.2014-08.org.nvmexpress:uuid:0\0"));
}

#[test]
fn the_controller_tells_what_it_can() {
    let page = controller_of(&mut controller());
    assert_eq!(page.cmic, Multipath::new().with_anars(true), "one port, one controller, ANA");
    assert_eq!(page.oaes, AsyncEventConfiguration::new().with_nan(true).with_anacn(true));
    let ana = AnaCapabilities::new().with_aosr(true).with_agidns(true);
    assert_eq!((page.anatt, page.anacap, page.anagrpmax, page.nanagrpid), (10, ana, 1, 1));
    assert_eq!(page.oacs, OptionalAdminCommands::new().with_dbcs(true));
    assert_eq!((page.acl, page.aerl, page.elpe, page.npss), (3, 3, 63, 0));
    assert_eq!(page.frmw, FirmwareUpdates::new().with_ffsro(true).with_nofs(1));
    assert_eq!(page.lpa, LogPageAttributes::new().with_cses(true).with_lpeds(true).with_mlps(true));
    assert_eq!((page.wctemp, page.cctemp, page.kas, page.hmpre), (343, 353, 10, 0));
    assert_eq!(page.sqes, SubmissionEntrySizes::new().with_min(Sqe::SIZE_LOG2).with_max(Sqe::SIZE_LOG2));
    assert_eq!(page.cqes, CompletionEntrySizes::new().with_min(Cqe::SIZE_LOG2).with_max(Cqe::SIZE_LOG2));
    assert_eq!((page.nn, page.mnan), (256, 256));
    assert_eq!(page.vwc, WriteCacheAttributes::new().with_vwcp(true).with_fb(0b10));
    assert_eq!(page.sgls, SglSupport::new().with_sgls(1).with_ldl(true));
}

#[test]
fn optional_commands_are_those_of_any_namespace() {
    let always = OptionalNvmCommands::new().with_ssfs(true).with_tss(true);
    let compare = always.with_nvmcmps(true);
    let fused = FusedOperations::new();
    let cases = [
        (IoSupport::NONE, always, fused),
        (IoSupport::COMPARE, compare, fused),
        (IoSupport::WRITE_UNCORRECTABLE, always.with_nvmwusv(true), fused),
        (IoSupport::VERIFY, always.with_nvmvfys(true), fused),
        (IoSupport::VENDOR_SPECIFIC, always, fused),
        (IoSupport::DEALLOCATE, always.with_nvmdsmsv(true), fused),
        (IoSupport::WRITE_ZEROES, always.with_nvmwzsv(true), fused),
        (IoSupport::COMPARE | IoSupport::COMPARE_AND_WRITE, compare, fused.with_fcws(true)),
    ];
    for (supports, oncs, fuses) in cases {
        let mut controller = controller();
        controller.add_namespace(Namespace { supports, ..namespace(2) }).expect("free");
        let page = controller_of(&mut controller);
        assert_eq!((page.oncs, page.fuses), (oncs, fuses), "{supports:?}");
    }
}

#[test]
fn a_namespace_tells_its_size_and_names() {
    for cns in [Cns::NAMESPACE, Cns::ALLOCATED_NAMESPACE] {
        let page: IdentifyNamespace = structure(&page_of(&mut controller(), cns, 3));
        assert_eq!([page.nsze, page.ncap, page.nuse], [2048; 3]);
        assert_eq!((page.nsfeat, page.nlbaf, page.flbas), (NamespaceFeatures::new(), 0, FormattedLbaSize::new()));
        assert_eq!((page.mc, page.dpc, page.dps), Default::default());
        assert_eq!((page.nmic, page.rescap, page.fpi, page.dlfeat), Default::default());
        assert_eq!((page.nvmcap.get(), page.anagrpid), (2048 * 4096, 1));
        assert_eq!((page.nguid, page.eui64), ([0x22; 16], [0x33; 8]));
        assert_eq!(page.lbaf[..2], [LbaFormat::new().with_lbads(12), LbaFormat::new()]);
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
    let page = namespace_of(&mut controller, 2);
    assert_eq!(page.nsfeat, NamespaceFeatures::new().with_nsabp(true).with_optperf(true));
    assert_eq!(page.dlfeat, DeallocateFeatures::new().with_read(1).with_write_zeroes(true));
    assert_eq!(page.nsattr, NamespaceAttributes::new().with_cwp(true));
    assert_eq!((page.nacwu, page.noiob), (3, 256));
    assert_eq!([page.npwg, page.npwa, page.npdg, page.npda, page.nows], [7, 7, 31, 31, 7]);
}

#[test]
fn a_namespace_of_the_largest_size_has_its_capacity_in_bytes() {
    let mut controller = controller();
    let blocks = u64::MAX >> 16;
    controller.add_namespace(Namespace { blocks, block_shift: 16, ..namespace(2) }).expect("free");
    assert_eq!(namespace_of(&mut controller, 2).nvmcap.get(), u128::from(blocks << 16));
}

#[test]
fn inactive_namespaces_are_zeroes_and_invalid_ones_are_errors() {
    let mut controller = controller();
    for cns in [
        Cns::NAMESPACE,
        Cns::COMMAND_SET_NAMESPACE,
        Cns::INDEPENDENT_NAMESPACE,
        Cns::ALLOCATED_NAMESPACE,
        Cns::COMMAND_SET_ALLOCATED_NAMESPACE,
    ] {
        for nsid in [2, 256] {
            assert_eq!(page_of(&mut controller, cns, nsid), vec![0; 4096], "{cns:?}");
        }
        for nsid in [0, 257, ALL_NAMESPACES] {
            assert_eq!(status(controller.admin(&identify(cns, nsid), NOW)), Status::INVALID_NAMESPACE, "{cns:?}");
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
    assert_eq!(controller_of(&mut controller).nn, 3);
    assert_eq!(page_of(&mut controller, Cns::NAMESPACE, 2), vec![0; 4096], "inactive");
    assert_eq!(status(controller.admin(&identify(Cns::NAMESPACE, 4), NOW)), Status::INVALID_NAMESPACE);
    for (added, nn) in [(Some(7), 7), (Some(256), 256), (None, 256)] {
        if let Some(nsid) = added {
            controller.add_namespace(namespace(nsid)).expect("free");
        }
        assert_eq!(controller_of(&mut controller).nn, nn);
    }
    for nsid in [256, 7, 3, 1] {
        controller.remove_namespace(nsid);
    }
    assert_eq!(controller_of(&mut controller).nn, 1, "it is never 0");
}

#[test]
fn a_controller_of_version_1_4_tells_and_answers_what_that_has() {
    let identity = Identity { version: Version::V1_4, ..identity() };
    let mut controller = Controller::new(identity, LIMITS).expect("valid limits");
    controller.add_namespace(namespace(1)).expect("free");
    controller.enable(NOW);
    let page = controller_of(&mut controller);
    assert_eq!(
        (page.ver, page.lpa),
        (register::Version::V1_4, LogPageAttributes::new().with_cses(true).with_lpeds(true))
    );
    assert_eq!(namespace_of(&mut controller, 1).nsze, 2048);
    assert_eq!(list(&page_of(&mut controller, Cns::ACTIVE_NAMESPACES, 0)), [1]);
    let descriptors = page_of(&mut controller, Cns::NAMESPACE_DESCRIPTORS, 1);
    let types = [0, 12, 32, 52].map(|at| NamespaceIdType(descriptors[at]));
    let none = NamespaceIdType(0);
    let expected = [NamespaceIdType::EUI64, NamespaceIdType::NGUID, NamespaceIdType::UUID, none];
    assert_eq!(types, expected, "no command set");
    for cns in [
        Cns::COMMAND_SET_NAMESPACE,
        Cns::COMMAND_SET_CONTROLLER,
        Cns::COMMAND_SET_ACTIVE_NAMESPACES,
        Cns::INDEPENDENT_NAMESPACE,
        Cns::COMMAND_SET_ALLOCATED_NAMESPACES,
        Cns::COMMAND_SET_ALLOCATED_NAMESPACE,
        Cns::COMMAND_SETS,
    ] {
        assert_eq!(status(controller.admin(&identify(cns, 1), NOW)), Status::INVALID_FIELD, "{cns:?}");
    }
    for lid in [LogId::SUPPORTED_LOG_PAGES, LogId::FEATURE_EFFECTS, LogId::MI_COMMAND_EFFECTS] {
        assert_eq!(status(controller.admin(&get_log(lid, 4096), NOW)), Status::INVALID_LOG_PAGE, "{lid:?}");
    }
}

/// Linux gives a drive up whose namespace has become another, and does not look again.
#[test]
fn another_namespace_of_one_nsid_waits_until_the_host_has_seen_that_the_first_is_gone() {
    let other = |nsid| Namespace { uuid: [0x77; 16], ..namespace(nsid) };
    for (cns, nsid, seen) in [
        (Cns::ACTIVE_NAMESPACES, 0, true),
        (Cns::ACTIVE_NAMESPACES, 2, true),
        (Cns::ACTIVE_NAMESPACES, 3, false),
        (Cns::NAMESPACE, 3, true),
        (Cns::NAMESPACE_DESCRIPTORS, 3, true),
        (Cns::NAMESPACE, 1, false),
        (Cns::CONTROLLER, 0, false),
    ] {
        let mut controller = controller();
        controller.remove_namespace(3);
        assert!(controller.would_be_mistaken(&other(3)));
        assert!(!controller.would_be_mistaken(&namespace(3)), "it is the same");
        assert!(!controller.would_be_mistaken(&other(2)), "nothing was there");
        let _ = controller.admin(&identify(cns, nsid), NOW);
        assert_eq!(controller.would_be_mistaken(&other(3)), !seen, "{cns:?} of {nsid}");
        controller.reset();
        assert!(!controller.would_be_mistaken(&other(3)), "a host that starts knows of none");
    }
}

#[test]
fn lists_of_namespaces_start_above_the_nsid() {
    let mut controller = controller();
    for cns in [
        Cns::ACTIVE_NAMESPACES,
        Cns::COMMAND_SET_ACTIVE_NAMESPACES,
        Cns::ALLOCATED_NAMESPACES,
        Cns::COMMAND_SET_ALLOCATED_NAMESPACES,
    ] {
        for (above, expected) in
            [(0, vec![1, 3]), (1, vec![3]), (2, vec![3]), (3, vec![]), (ALL_NAMESPACES - 2, vec![])]
        {
            assert_eq!(list(&page_of(&mut controller, cns, above)), expected, "{cns:?} above {above}");
        }
        for nsid in [ALL_NAMESPACES - 1, ALL_NAMESPACES] {
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
    assert_eq!(list(&page_of(&mut controller, Cns::ACTIVE_NAMESPACES, 0)), (1..=256).collect::<Vec<_>>());
}

#[test]
fn descriptors_hold_the_names_that_there_are_and_the_command_set() {
    let mut controller = controller();
    let page = page_of(&mut controller, Cns::NAMESPACE_DESCRIPTORS, 1);
    let mut expected = Vec::new();
    let names: [(_, &[u8]); 4] = [
        (NamespaceIdType::EUI64, &[0x33; 8]),
        (NamespaceIdType::NGUID, &[0x22; 16]),
        (NamespaceIdType::UUID, &[0x11; 16]),
        (NamespaceIdType::CSI, &[CommandSet::NVM.0]),
    ];
    for (nidt, name) in names {
        let nidl = u8::try_from(name.len()).expect("short");
        expected.extend_from_slice(NamespaceDescriptor { nidt, nidl, ..Default::default() }.as_bytes());
        expected.extend_from_slice(name);
    }
    assert!(page.starts_with(&expected) && page[expected.len()..].iter().all(|byte| *byte == 0));
    let uuid_only = Namespace { eui64: [0; 8], nguid: [0; 16], ..namespace(2) };
    controller.add_namespace(uuid_only).expect("free");
    assert_eq!(page_of(&mut controller, Cns::NAMESPACE_DESCRIPTORS, 2)[..2], [NamespaceIdType::UUID.0, 16]);
    for nsid in [0, 4, 257, ALL_NAMESPACES] {
        assert_eq!(
            status(controller.admin(&identify(Cns::NAMESPACE_DESCRIPTORS, nsid), NOW)),
            Status::INVALID_NAMESPACE
        );
    }
}

#[test]
fn the_nvm_command_set_has_pages_of_its_own_and_no_other_set_has() {
    let mut controller = controller();
    assert_eq!(page_of(&mut controller, Cns::COMMAND_SET_NAMESPACE, 1), vec![0; 4096]);
    let limits: IdentifyControllerNvm = structure(&page_of(&mut controller, Cns::COMMAND_SET_CONTROLLER, 0));
    assert_eq!((limits.vsl, limits.wzsl, limits.wusl), (0, 13, 0));
    for cns in [
        Cns::COMMAND_SET_NAMESPACE,
        Cns::COMMAND_SET_CONTROLLER,
        Cns::COMMAND_SET_ACTIVE_NAMESPACES,
        Cns::COMMAND_SET_ALLOCATED_NAMESPACES,
        Cns::COMMAND_SET_ALLOCATED_NAMESPACE,
    ] {
        let sqe = Sqe { cdw11: IdentifyDw11::new().with_csi(CommandSet::ZNS).into_bits(), ..identify(cns, 1) };
        assert_eq!(status(controller.admin(&sqe, NOW)), Status::INVALID_FIELD, "{cns:?}");
    }
}

#[test]
fn the_independent_page_says_ready_and_whether_there_is_a_write_cache() {
    let mut controller = controller();
    let cached = IoSupport::VOLATILE_WRITE_CACHE;
    controller.add_namespace(Namespace { supports: cached, ..namespace(2) }).expect("free");
    controller.add_namespace(Namespace { write_protected: true, ..namespace(4) }).expect("free");
    for (nsid, has_no_cache, is_protected) in [(1, true, false), (2, false, false), (4, true, true)] {
        let page: IndependentNamespace = structure(&page_of(&mut controller, Cns::INDEPENDENT_NAMESPACE, nsid));
        assert_eq!(page.nsfeat, IndependentFeatures::new().with_vwcnp(has_no_cache), "{nsid}");
        assert_eq!(page.nsattr, NamespaceAttributes::new().with_cwp(is_protected), "{nsid}");
        assert_eq!((page.nstat, page.anagrpid), (NamespaceStatus::new().with_nrdy(true), 1), "{nsid}");
    }
}

#[test]
fn lists_of_controllers_hold_this_one() {
    let mut controller = controller();
    for (cns, nsid) in [(Cns::ATTACHED_CONTROLLERS, 1), (Cns::CONTROLLER_LIST, 0)] {
        for (from, count, first) in [(0, 1, 7), (7, 1, 7), (8, 0, 0)] {
            let page: ControllerList = structure(&page_for(&mut controller, &identify_from(cns, from, nsid)));
            assert_eq!((page.count, page.cntlids[0]), (count, first));
        }
    }
    assert_eq!(status(controller.admin(&identify(Cns::ATTACHED_CONTROLLERS, 2), NOW)), Status::INVALID_FIELD);
    assert_eq!(status(controller.admin(&identify(Cns::ATTACHED_CONTROLLERS, 0), NOW)), Status::INVALID_NAMESPACE);
}

#[test]
fn there_is_one_combination_of_command_sets() {
    let mut controller = controller();
    for cntid in [7, u16::MAX] {
        let page = page_for(&mut controller, &identify_from(Cns::COMMAND_SETS, cntid, 0));
        let page: IdentifyCommandSets = structure(&page);
        assert_eq!(page.combinations[..2], [1 << CommandSet::NVM.0, 0]);
    }
    assert_eq!(status(controller.admin(&identify_from(Cns::COMMAND_SETS, 8, 0), NOW)), Status::INVALID_FIELD);
}

#[test]
fn other_structures_are_invalid_fields() {
    let mut controller = controller();
    for cns in [
        Cns::NVM_SET_LIST,
        Cns(0x09),
        Cns(0x0a),
        Cns::PRIMARY_CONTROLLER_CAPABILITIES,
        Cns::SECONDARY_CONTROLLER_LIST,
        Cns::NAMESPACE_GRANULARITY_LIST,
        Cns::UUID_LIST,
        Cns::DOMAIN_LIST,
        Cns::ENDURANCE_GROUP_LIST,
        Cns(0x1d),
        Cns(0x20),
        Cns(0xff),
    ] {
        assert_eq!(status(controller.admin(&identify(cns, 1), NOW)), Status::INVALID_FIELD, "{cns:?}");
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
