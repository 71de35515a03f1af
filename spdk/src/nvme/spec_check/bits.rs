//! Where the bits of bit fields are.

use nvme_spec::{admin, command, fabrics, feature, identify, log, nvm, register, reservation, status, tcp, zns};

use super::{mask, raw, sys};

/// Compares the bits of each part of a bit field with those that SPDK's setter sets.
macro_rules! same_bits {
    ($ours:ty: $width:ty, $theirs:ident { $($our:ident = $their:ident),* $(,)? }) => {
        assert_eq!(size_of::<$ours>(), size_of::<$width>());
        $({
            let mut theirs = sys::$theirs::default();
            theirs.$their(!0);
            let ours = mask(size_of::<$width>(), |bits| {
                <$ours>::from_bits(<$width>::try_from(bits).expect("a bit of the field")).$our()
            });
            assert_eq!(ours, raw(theirs), "{} of {}", stringify!($our), stringify!($ours));
        })*
    };
}

#[test]
fn parts_of_registers_have_the_bits_that_spdk_has() {
    same_bits!(register::Cap: u64, spdk_nvme_cap_register__bindgen_ty_1 {
        mqes = set_mqes, cqr = set_cqr, ams = set_ams, to = set_to, dstrd = set_dstrd, nssrs = set_nssrs,
        bps = set_bps, mpsmin = set_mpsmin, mpsmax = set_mpsmax, pmrs = set_pmrs, cmbs = set_cmbs, nsss = set_nsss,
        crwms = set_crwms, crims = set_crims, cps = set_reserved2,
    });
    let css = [register::Cap::new().with_css_nvm(true), register::Cap::new().with_css_iocs(true)];
    let css = [css[0], css[1], register::Cap::new().with_css_noio(true)].map(register::Cap::into_bits);
    let selected = {
        use sys::spdk_nvme_cc_css as css;
        [css::SPDK_NVME_CC_CSS_NVM, css::SPDK_NVME_CC_CSS_IOCS, css::SPDK_NVME_CC_CSS_NOIO]
    };
    // CAP.CSS has a bit for each value that CC.CSS can have.
    let theirs = selected.map(|css| {
        let mut cap = sys::spdk_nvme_cap_register__bindgen_ty_1::default();
        cap.set_css(1 << css);
        raw(cap)
    });
    assert_eq!(css, theirs);
    same_bits!(register::Version: u32, spdk_nvme_vs_register__bindgen_ty_1 {
        ter = set_ter, mnr = set_mnr, mjr = set_mjr,
    });
    same_bits!(register::Cc: u32, spdk_nvme_cc_register__bindgen_ty_1 {
        en = set_en, css = set_css, mps = set_mps, ams = set_ams, shn = set_shn, iosqes = set_iosqes,
        iocqes = set_iocqes, crime = set_crime,
    });
    same_bits!(register::Csts: u32, spdk_nvme_csts_register__bindgen_ty_1 {
        rdy = set_rdy, cfs = set_cfs, shst = set_shst, nssro = set_nssro, pp = set_pp,
    });
    same_bits!(register::Aqa: u32, spdk_nvme_aqa_register__bindgen_ty_1 { asqs = set_asqs, acqs = set_acqs });
    same_bits!(register::Crto: u32, spdk_nvme_crto_register__bindgen_ty_1 { crwmt = set_crwmt, crimt = set_crimt });
}

#[test]
fn parts_of_queue_entries_have_the_bits_that_spdk_has() {
    same_bits!(status::Status: u16, spdk_nvme_status {
        phase = set_p, sc = set_sc, sct = set_sct, crd = set_crd, more = set_m, dnr = set_dnr,
    });
    let flags = |set: fn(&mut sys::spdk_nvme_cmd)| {
        let mut command = sys::spdk_nvme_cmd::default();
        set(&mut command);
        // SAFETY: the structure is 64 bytes of plain data, of which the second is the flags.
        command::CommandFlags::from_bits(unsafe { (&raw const command).cast::<u8>().add(1).read() })
    };
    let fuse = command::CommandFlags::new().with_fuse(command::FusedOperation(3));
    let psdt = command::CommandFlags::new().with_psdt(command::Psdt(3));
    assert_eq!((flags(|command| command.set_fuse(!0)), flags(|command| command.set_psdt(!0))), (fuse, psdt));
    let mut id = sys::spdk_nvme_sgl_descriptor__bindgen_ty_1__bindgen_ty_1::default();
    id.set_type(!0);
    assert_eq!(raw(id).to_le_bytes()[7], command::SglId::new().with_kind(command::SglType(15)).into_bits());
}

#[test]
fn parts_of_admin_commands_have_the_bits_that_spdk_has() {
    same_bits!(admin::IdentifyDw10: u32, spdk_nvme_cmd_cdw10__bindgen_ty_1 { cns = set_cns, cntid = set_cntid });
    same_bits!(admin::GetLogPageDw10: u32, spdk_nvme_cmd_cdw10__bindgen_ty_2 {
        lid = set_lid, lsp = set_lsp, rae = set_rae, numdl = set_numdl,
    });
    same_bits!(admin::AbortDw10: u32, spdk_nvme_cmd_cdw10__bindgen_ty_3 { sqid = set_sqid, cid = set_cid });
    same_bits!(admin::QueueDw10: u32, spdk_nvme_cmd_cdw10__bindgen_ty_6 { qid = set_qid, qsize = set_qsize });
    same_bits!(admin::QueueDw10: u32, spdk_nvme_cmd_cdw10__bindgen_ty_7 { qid = set_qid });
    same_bits!(admin::GetFeaturesDw10: u32, spdk_nvme_cmd_cdw10__bindgen_ty_8 { fid = set_fid, sel = set_sel });
    same_bits!(admin::SetFeaturesDw10: u32, spdk_nvme_cmd_cdw10__bindgen_ty_9 { fid = set_fid, sv = set_sv });
    same_bits!(admin::IdentifyDw11: u32, spdk_nvme_cmd_cdw11__bindgen_ty_1 { cnssid = set_nvmsetid, csi = set_csi });
    same_bits!(admin::CreateSqDw11: u32, spdk_nvme_cmd_cdw11__bindgen_ty_2 {
        pc = set_pc, qprio = set_qprio, cqid = set_cqid,
    });
    same_bits!(admin::CreateCqDw11: u32, spdk_nvme_cmd_cdw11__bindgen_ty_3 { pc = set_pc, ien = set_ien, iv = set_iv });
    same_bits!(admin::GetLogPageDw11: u32, spdk_nvme_cmd_cdw11__bindgen_ty_5 { numdu = set_numdu, lsid = set_lsid });
    same_bits!(admin::AsyncEvent: u32, spdk_nvme_async_event_completion__bindgen_ty_1 {
        kind = set_async_event_type, information = set_async_event_info, lid = set_log_page_identifier,
    });
}

#[test]
fn parts_of_io_commands_have_the_bits_that_spdk_has() {
    same_bits!(nvm::BlockDw12: u32, spdk_nvme_cmd_cdw12__bindgen_ty_1 {
        nlb = set_nlb, dtype = set_dtype, stc = set_stc, pract = set_pract, fua = set_fua, lr = set_lr,
    });
    same_bits!(nvm::BlockDw12: u32, spdk_nvme_cmd_cdw12__bindgen_ty_3 { nlb = set_nlb, deac = set_deac });
    let flags = [
        (nvm::BlockDw12::new().with_prchk_reference(true), sys::SPDK_NVME_IO_FLAGS_PRCHK_REFTAG),
        (nvm::BlockDw12::new().with_prchk_application(true), sys::SPDK_NVME_IO_FLAGS_PRCHK_APPTAG),
        (nvm::BlockDw12::new().with_prchk_guard(true), sys::SPDK_NVME_IO_FLAGS_PRCHK_GUARD),
        (nvm::BlockDw12::new().with_pract(true), sys::SPDK_NVME_IO_FLAGS_PRACT),
        (nvm::BlockDw12::new().with_fua(true), sys::SPDK_NVME_IO_FLAGS_FORCE_UNIT_ACCESS),
        (nvm::BlockDw12::new().with_lr(true), sys::SPDK_NVME_IO_FLAGS_LIMITED_RETRY),
    ];
    for (ours, theirs) in flags {
        assert_eq!(ours.into_bits(), theirs);
    }
    same_bits!(nvm::DsmDw10: u32, spdk_nvme_cmd_cdw10__bindgen_ty_12 { nr = set_nr });
    same_bits!(nvm::DsmDw11: u32, spdk_nvme_cmd_cdw11__bindgen_ty_7 { idr = set_idr, idw = set_idw, ad = set_ad });
    same_bits!(reservation::RegisterDw10: u32, spdk_nvme_cmd_cdw10__bindgen_ty_13 {
        rrega = set_rrega, iekey = set_iekey, cptpl = set_cptpl,
    });
    same_bits!(reservation::ReleaseDw10: u32, spdk_nvme_cmd_cdw10__bindgen_ty_14 {
        rrela = set_rrela, iekey = set_iekey, rtype = set_rtype,
    });
    same_bits!(reservation::AcquireDw10: u32, spdk_nvme_cmd_cdw10__bindgen_ty_15 {
        racqa = set_racqa, iekey = set_iekey, rtype = set_rtype,
    });
    same_bits!(reservation::ReportDw11: u32, spdk_nvme_cmd_cdw11__bindgen_ty_6 { eds = set_eds });
    same_bits!(reservation::RegistrantStatus: u8, spdk_nvme_registered_ctrlr_data__bindgen_ty_1 { holder = set_status });
    same_bits!(zns::ZoneAttributes: u8, spdk_nvme_zns_zone_desc__bindgen_ty_1__bindgen_ty_1 {
        zfc = set_zfc, fzr = set_fzr, rzr = set_rzr, zdev = set_zdev,
    });
}

#[test]
fn parts_of_features_have_the_bits_that_spdk_has() {
    same_bits!(feature::Arbitration: u32, spdk_nvme_feat_arbitration__bindgen_ty_1 {
        ab = set_ab, lpw = set_lpw, mpw = set_mpw, hpw = set_hpw,
    });
    same_bits!(feature::PowerManagement: u32, spdk_nvme_feat_power_management__bindgen_ty_1 { ps = set_ps, wh = set_wh });
    same_bits!(feature::TemperatureThreshold: u32, spdk_nvme_feat_temperature_threshold__bindgen_ty_1 {
        tmpth = set_tmpth, tmpsel = set_tmpsel, thsel = set_thsel,
    });
    same_bits!(feature::ErrorRecovery: u32, spdk_nvme_feat_error_recovery__bindgen_ty_1 {
        tler = set_tler, dulbe = set_dulbe,
    });
    same_bits!(feature::VolatileWriteCache: u32, spdk_nvme_feat_volatile_write_cache__bindgen_ty_1 { wce = set_wce });
    same_bits!(feature::NumberOfQueues: u32, spdk_nvme_feat_number_of_queues__bindgen_ty_1 {
        nsq = set_nsqr, ncq = set_ncqr,
    });
    same_bits!(feature::InterruptCoalescing: u32, spdk_nvme_feat_interrupt_coalescing__bindgen_ty_1 {
        thr = set_thr, time = set_time,
    });
    same_bits!(
        feature::InterruptVectorConfiguration: u32,
        spdk_nvme_feat_interrupt_vector_configuration__bindgen_ty_1 { iv = set_iv, cd = set_cd }
    );
    same_bits!(feature::WriteAtomicity: u32, spdk_nvme_feat_write_atomicity__bindgen_ty_1 { dn = set_dn });
    same_bits!(feature::AsyncEventConfiguration: u32, spdk_nvme_feat_async_event_configuration__bindgen_ty_1 {
        nan = set_ns_attr_notice, fan = set_fw_activation_notice, tln = set_telemetry_log_notice,
        anacn = set_ana_change_notice, dlpcn = set_discovery_log_change_notice,
    });
    same_bits!(feature::AsyncEventConfiguration: u32, spdk_nvme_cdata_oaes {
        nan = set_ns_attribute_notices, fan = set_fw_activation_notices, anacn = set_ana_change_notices,
        plealcn = set_pleal_change_notices, lsian = set_lba_sia_notices, egealcn = set_egealp_change_notices,
        nnsshdn = set_nnvm_sse, zdcn = set_zdes_change_notices, dlpcn = set_discovery_log_change_notices,
    });
    same_bits!(
        feature::ReservationNotificationMask: u32,
        spdk_nvme_feat_reservation_notification_mask__bindgen_ty_1 {
            regpre = set_regpre, resrel = set_resrel, respre = set_respre,
        }
    );
    same_bits!(feature::ReservationPersistence: u32, spdk_nvme_feat_reservation_persistence__bindgen_ty_1 {
        ptpl = set_ptpl,
    });
}

/// Returns the scope in an entry of the effects log.
fn scope(bits: u32) -> log::Scope {
    log::CommandEffects::from_bits(bits).csp()
}

#[test]
fn parts_of_log_pages_have_the_bits_that_spdk_has() {
    same_bits!(log::CriticalWarning: u8, spdk_nvme_critical_warning_state__bindgen_ty_1 {
        ascbt = set_available_spare, ttc = set_temperature, ndr = set_device_reliability, amro = set_read_only,
        vmbf = set_volatile_memory_backup,
    });
    same_bits!(log::ActiveFirmware: u8, spdk_nvme_firmware_page__bindgen_ty_1 {
        active = set_active_slot, next = set_next_reset_slot,
    });
    same_bits!(log::CommandEffects: u32, spdk_nvme_cmds_and_effect_entry {
        csupp = set_csupp, lbcc = set_lbcc, ncc = set_ncc, nic = set_nic, ccc = set_ccc, cse = set_cse, uss = set_uss,
    });
    same_bits!(log::FeatureEffects: u32, spdk_nvme_feature_ids_effects_log_page__bindgen_ty_1 {
        fsupp = set_fsupp, udcc = set_udcc, ncc = set_ncc, nic = set_nic, ccc = set_ccc, uss = set_uss,
    });
    same_bits!(log::SupportedLogPage: u32, spdk_nvme_supported_log_pages__bindgen_ty_1 {
        lsupp = set_lsupp, ios = set_ios, lidsp = set_lidsp,
    });
    macro_rules! same_scope {
        ($($our:ident = $their:ident),*) => {
            $({
                let mut theirs = sys::spdk_nvme_cmds_and_effect_entry::default();
                theirs.$their(!0);
                let theirs = u32::try_from(raw(theirs)).expect("four bytes");
                assert_eq!(scope(theirs), scope(0).$our(true), "{}", stringify!($our));
            })*
        };
    }
    same_scope!(
        with_namespace = set_nscpe,
        with_controller = set_cscpe,
        with_nvm_set = set_nsetscpe,
        with_endurance_group = set_egscpe,
        with_domain = set_dscpe,
        with_subsystem = set_nsscpe
    );
}

#[test]
fn capabilities_of_a_controller_have_the_bits_that_spdk_has() {
    same_bits!(identify::Multipath: u8, spdk_nvme_ctrlr_data__bindgen_ty_1__bindgen_ty_1__bindgen_ty_1 {
        mports = set_mports, mctrs = set_mctrs, ft = set_ft, anars = set_anars,
    });
    same_bits!(identify::ControllerAttributes: u32, spdk_nvme_cdata_ctratt__bindgen_ty_1 {
        hids = set_host_id_exhid_supported, nopspm = set_non_operational_power_state_permissive_mode,
        nsets = set_nvm_sets, rrlvls = set_read_recovery_levels, egs = set_endurance_groups,
        plm = set_predictable_latency_mode, tbkas = set_tbkas, ng = set_namespace_granularity,
        sqa = set_sq_associations, ulist = set_uuid_list, mds = set_mds, fcm = set_fixed_capacity_management,
        vcm = set_variable_capacity_management, deg = set_delete_endurance_group, dnvms = set_delete_nvm_set,
        elbas = set_elbas,
    });
    same_bits!(identify::OptionalAdminCommands: u16, spdk_nvme_cdata_oacs__bindgen_ty_1__bindgen_ty_1 {
        ssrs = set_ssrs, fnvms = set_fnvms, fwds = set_fwds, nms = set_nms, dsts = set_dsts, dirs = set_dirs,
        nsrs = set_nsrs, vms = set_vms, dbcs = set_dbcs, glss = set_glss, cfls = set_cfls,
    });
    same_bits!(identify::FirmwareUpdates: u8, spdk_nvme_ctrlr_data__bindgen_ty_5 {
        ffsro = set_slot1_ro, nofs = set_num_slots, fawr = set_activation_without_reset,
        smud = set_multiple_update_detection,
    });
    same_bits!(identify::LogPageAttributes: u8, spdk_nvme_ctrlr_data__bindgen_ty_6__bindgen_ty_1__bindgen_ty_1 {
        smarts = set_smarts, cses = set_cses, lpeds = set_lpeds, ts = set_ts, pes = set_pes, mlps = set_mlps,
        da4s = set_da4s,
    });
    same_bits!(identify::AnaCapabilities: u8, spdk_nvme_ctrlr_data__bindgen_ty_13 {
        aosr = set_ana_optimized_state, anosr = set_ana_non_optimized_state, aisr = set_ana_inaccessible_state,
        aplsr = set_ana_persistent_loss_state, acsr = set_ana_change_state, agidns = set_no_change_anagrpid,
        nzagidns = set_non_zero_anagrpid,
    });
    same_bits!(identify::SubmissionEntrySizes: u8, spdk_nvme_ctrlr_data__bindgen_ty_14 { min = set_min, max = set_max });
    same_bits!(identify::CompletionEntrySizes: u8, spdk_nvme_ctrlr_data__bindgen_ty_15 { min = set_min, max = set_max });
    same_bits!(identify::OptionalNvmCommands: u16, spdk_nvme_cdata_oncs__bindgen_ty_1__bindgen_ty_1 {
        nvmcmps = set_nvmcmps, nvmwusv = set_nvmwusv, nvmdsmsv = set_nvmdsmsv, nvmwzsv = set_nvmwzsv, ssfs = set_ssfs,
        reservs = set_reservs, tss = set_tss, nvmvfys = set_nvmvfys, nvmcpys = set_nvmcpys,
    });
    same_bits!(identify::FusedOperations: u16, spdk_nvme_cdata_fuses__bindgen_ty_1__bindgen_ty_1 { fcws = set_fcws });
    same_bits!(identify::FormatAttributes: u8, spdk_nvme_ctrlr_data__bindgen_ty_16 {
        fns = set_format_all_ns, sens = set_erase_all_ns, cryes = set_crypto_erase_supported,
    });
    same_bits!(identify::WriteCacheAttributes: u8, spdk_nvme_ctrlr_data__bindgen_ty_17 {
        vwcp = set_present, fb = set_flush_broadcast,
    });
    same_bits!(identify::SglSupport: u32, spdk_nvme_cdata_sgls {
        sgls = set_supported, ksdbs = set_keyed_sgl, sgl_bit_bucket = set_bit_bucket_descriptor,
        mbabs = set_metadata_pointer, ldl = set_oversized_sgl, mptr_sgl = set_metadata_address,
        offset = set_sgl_offset, tsdbd = set_transport_sgl,
    });
    same_bits!(identify::FabricsAttributes: u8, spdk_nvme_cdata_nvmf_specific__bindgen_ty_1 { cm = set_ctrlr_model });
}

#[test]
fn features_of_a_namespace_have_the_bits_that_spdk_has() {
    same_bits!(identify::NamespaceFeatures: u8, spdk_nvme_ns_data__bindgen_ty_1 {
        thinp = set_thin_prov, nsabp = set_ns_atomic_write_unit, dae = set_dealloc_or_unwritten_error,
        uidreuse = set_guid_never_reused, optperf = set_optperf,
    });
    same_bits!(identify::FormattedLbaSize: u8, spdk_nvme_ns_data__bindgen_ty_2 {
        fidxl = set_format, mdtela = set_extended, fidxu = set_msb_format,
    });
    same_bits!(identify::MetadataCapabilities: u8, spdk_nvme_ns_data__bindgen_ty_3 {
        extended = set_extended, separate = set_pointer,
    });
    same_bits!(identify::ProtectionCapabilities: u8, spdk_nvme_ns_data__bindgen_ty_4 {
        pit1s = set_pit1, pit2s = set_pit2, pit3s = set_pit3, first = set_md_start, last = set_md_end,
    });
    same_bits!(identify::ProtectionSettings: u8, spdk_nvme_ns_data__bindgen_ty_5 { pit = set_pit, pip = set_md_start });
    same_bits!(identify::NamespaceSharing: u8, spdk_nvme_nmic__bindgen_ty_1__bindgen_ty_1 { shrns = set_shrns });
    same_bits!(identify::DeallocateFeatures: u8, spdk_nvme_ns_data__bindgen_ty_7__bindgen_ty_1 {
        read = set_read_value, write_zeroes = set_write_zero_deallocate, guard = set_guard_value,
    });
    same_bits!(identify::NamespaceAttributes: u8, spdk_nvme_nsattr__bindgen_ty_1__bindgen_ty_1 { cwp = set_cwp });
    same_bits!(identify::LbaFormat: u32, spdk_nvme_ns_data__bindgen_ty_8 { ms = set_ms, lbads = set_lbads, rp = set_rp });
    same_bits!(identify::ExtendedLbaFormat: u32, spdk_nvme_nvm_ns_data__bindgen_ty_2 { sts = set_sts, pif = set_pif });
    same_bits!(identify::IndependentFeatures: u8, spdk_nvme_ns_iocs_independent_data__bindgen_ty_1 {
        uidreuse = set_uidreuse, rmedia = set_rmedia, vwcnp = set_vwcnp,
    });
    same_bits!(identify::NamespaceStatus: u8, spdk_nvme_ns_iocs_independent_data__bindgen_ty_2 { nrdy = set_nrdy });
    same_bits!(reservation::ReservationCapabilities: u8, spdk_nvme_rescap__bindgen_ty_1__bindgen_ty_1 {
        ptpl = set_ptpls, wrex = set_wes, exac = set_eas, wrexro = set_weros, exacro = set_earos, wrexar = set_wears,
        exacar = set_eaars, iekr = set_ieks,
    });
}

#[test]
fn flags_of_capsules_and_pdus_have_the_bits_that_spdk_has() {
    same_bits!(tcp::PduDigests: u8, spdk_nvme_tcp_ic_req__bindgen_ty_1__bindgen_ty_1 {
        hdgst = set_hdgst_enable, ddgst = set_ddgst_enable,
    });
    for (ours, theirs) in [
        (tcp::PduFlags::new().with_hdgstf(true), sys::SPDK_NVME_TCP_CH_FLAGS_HDGSTF),
        (tcp::PduFlags::new().with_ddgstf(true), sys::SPDK_NVME_TCP_CH_FLAGS_DDGSTF),
        (tcp::PduFlags::new().with_last_pdu(true), sys::SPDK_NVME_TCP_H2C_DATA_FLAGS_LAST_PDU),
        (tcp::PduFlags::new().with_last_pdu(true), sys::SPDK_NVME_TCP_C2H_DATA_FLAGS_LAST_PDU),
        (tcp::PduFlags::new().with_success(true), sys::SPDK_NVME_TCP_C2H_DATA_FLAGS_SUCCESS),
    ] {
        assert_eq!(u32::from(ours.into_bits()), theirs);
    }
    same_bits!(fabrics::PropertyAttributes: u8, spdk_nvmf_fabric_prop_get_cmd__bindgen_ty_1 { size = set_size });
}
