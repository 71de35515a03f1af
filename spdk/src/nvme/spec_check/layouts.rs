//! Sizes of structures, and where their fields are.

use std::mem::offset_of;

use nvme_spec::{command, fabrics, feature, identify, log, nvm, register, reservation, tcp, zns};

use super::sys;

/// Compares the size of a structure with one of SPDK's, and the places of the fields of both.
macro_rules! same_layout {
    ($ours:ty, $theirs:ident { $($our:ident = $($their:ident).+),* $(,)? }) => {
        assert_eq!(size_of::<$ours>(), size_of::<sys::$theirs>(), "size of {}", stringify!($ours));
        $(assert_eq!(
            offset_of!($ours, $our),
            offset_of!(sys::$theirs, $($their).+),
            "{} of {}", stringify!($our), stringify!($ours)
        );)*
    };
}

#[test]
fn queue_entries_and_descriptors_are_laid_out_as_spdk_has_them() {
    same_layout!(command::Sqe, spdk_nvme_cmd {
        cid = cid, nsid = nsid, cdw2 = rsvd2, cdw3 = rsvd3, mptr = mptr, prp1 = dptr.prp.prp1, prp2 = dptr.prp.prp2,
        cdw10 = __bindgen_anon_1.cdw10, cdw11 = __bindgen_anon_2.cdw11, cdw12 = __bindgen_anon_3.cdw12,
        cdw13 = __bindgen_anon_4.cdw13, cdw14 = cdw14, cdw15 = cdw15,
    });
    same_layout!(command::Cqe, spdk_nvme_cpl {
        dw0 = cdw0, dw1 = cdw1, sqhd = sqhd, sqid = sqid, cid = cid, status = __bindgen_anon_1.status_raw,
    });
    same_layout!(command::SglDescriptor, spdk_nvme_sgl_descriptor {
        address = address, length = __bindgen_anon_1.unkeyed.length, reserved_12 = __bindgen_anon_1.unkeyed.reserved,
    });
    same_layout!(nvm::DsmRange, spdk_nvme_dsm_range {
        context_attributes = attributes, nlb = length, slba = starting_lba,
    });
}

#[test]
fn the_controllers_identity_is_laid_out_as_spdk_has_it() {
    same_layout!(identify::IdentifyController, spdk_nvme_ctrlr_data {
        vid = vid, ssvid = ssvid, sn = sn, mn = mn, fr = fr, rab = rab, ieee = ieee, cmic = cmic, mdts = mdts,
        cntlid = cntlid, ver = ver, rtd3r = rtd3r, rtd3e = rtd3e, oaes = oaes, ctratt = ctratt, rrls = rrls,
        cntrltype = cntrltype, fguid = fguid, crdt = crdt, nvmsr = nvmsr, vwci = vwci, mec = mec, oacs = oacs,
        acl = acl, aerl = aerl, frmw = frmw, lpa = lpa, elpe = elpe, npss = npss, avscc = avscc, apsta = apsta,
        wctemp = wctemp, cctemp = cctemp, mtfa = mtfa, hmpre = hmpre, hmmin = hmmin, tnvmcap = tnvmcap,
        unvmcap = unvmcap, rpmbs = rpmbs, edstt = edstt, dsto = dsto, fwug = fwug, kas = kas, hctma = hctma,
        mntmt = mntmt, mxtmt = mxtmt, sanicap = sanicap, hmminds = hmminds, hmmaxd = hmmaxd, nsetidmax = nsetidmax,
        endgidmax = endgidmax, anatt = anatt, anacap = anacap, anagrpmax = anagrpmax, nanagrpid = nanagrpid,
        pels = pels, domainid = domain_identifier, megcap = megcap, sqes = sqes, cqes = cqes, maxcmd = maxcmd,
        nn = nn, oncs = oncs, fuses = fuses, fna = fna, vwc = vwc, awun = awun, awupf = awupf, icsvscc = nvscc,
        nwpc = nwpc, acwu = acwu, cdfs = ocfs, sgls = sgls, mnan = mnan, maxdna = maxdna, maxcna = maxcna,
        subnqn = subnqn, ioccsz = nvmf_specific.ioccsz, iorcsz = nvmf_specific.iorcsz,
        icdoff = nvmf_specific.icdoff, fcatt = nvmf_specific.ctrattr, msdbd = nvmf_specific.msdbd,
        ofcs = nvmf_specific.ofcs, psd = psd, vendor_specific = vs,
    });
    same_layout!(identify::PowerState, spdk_nvme_power_state {
        mp = mp, enlat = enlat, exlat = exlat, idlp = idlp, actp = actp,
    });
    same_layout!(identify::IdentifyControllerNvm, spdk_nvme_nvm_ctrlr_data {
        vsl = vsl, wzsl = wzsl, wusl = wusl, dmrl = dmrl, dmrsl = dmrsl, dmsl = dmsl,
    });
    same_layout!(identify::ControllerList, spdk_nvme_ctrlr_list { count = ctrlr_count, cntlids = ctrlr_list });
    assert_eq!(size_of::<u64>(), size_of::<sys::spdk_nvme_iocs_vector>());
}

#[test]
fn a_namespaces_identity_is_laid_out_as_spdk_has_it() {
    same_layout!(identify::IdentifyNamespace, spdk_nvme_ns_data {
        nsze = nsze, ncap = ncap, nuse = nuse, nsfeat = nsfeat, nlbaf = nlbaf, flbas = flbas, mc = mc, dpc = dpc,
        dps = dps, nmic = nmic, rescap = nsrescap, fpi = fpi, dlfeat = dlfeat, nawun = nawun, nawupf = nawupf,
        nacwu = nacwu, nabsn = nabsn, nabo = nabo, nabspf = nabspf, noiob = noiob, nvmcap = nvmcap, npwg = npwg,
        npwa = npwa, npdg = npdg, npda = npda, nows = nows, mssrl = mssrl, mcl = mcl, msrc = msrc,
        anagrpid = anagrpid, nsattr = nsattr, nvmsetid = nvmsetid, endgid = endgid, nguid = nguid, eui64 = eui64,
        lbaf = lbaf, vendor_specific = vendor_specific,
    });
    same_layout!(identify::IdentifyNamespaceNvm, spdk_nvme_nvm_ns_data { lbstm = lbstm, pic = pic, elbaf = elbaf });
    same_layout!(identify::IndependentNamespace, spdk_nvme_ns_iocs_independent_data {
        nsfeat = nsfeat, nmic = nmic, rescap = rescap, fpi = fpi, anagrpid = anagrpid, nsattr = nsattr,
        nvmsetid = nvmsetid, endgid = endgid, nstat = nstat,
    });
    same_layout!(identify::NamespaceDescriptor, spdk_nvme_ns_id_desc { nidt = nidt, nidl = nidl });
    same_layout!(zns::IdentifyNamespaceZns, spdk_nvme_zns_ns_data {
        zoc = zoc, ozcs = ozcs, mar = mar, mor = mor, rrl = rrl, frl = frl, lbafe = lbafe,
        vendor_specific = vendor_specific,
    });
    same_layout!(zns::IdentifyControllerZns, spdk_nvme_zns_ctrlr_data { zasl = zasl });
    assert_eq!(size_of::<sys::spdk_nvme_ns_list>(), identify::NSID_LIST_ENTRIES * size_of::<u32>());
}

#[test]
fn log_pages_and_features_are_laid_out_as_spdk_has_them() {
    same_layout!(log::ErrorInformation, spdk_nvme_error_information_entry {
        error_count = error_count, sqid = sqid, cid = cid, status = status, parameter_error_location = error_location,
        lba = lba, nsid = nsid, vendor_specific = vendor_specific, trtype = trtype, csi = reserved30,
        command_specific = command_specific, trtype_specific = trtype_specific,
    });
    same_layout!(log::Smart, spdk_nvme_health_information_page {
        critical_warning = critical_warning, composite_temperature = temperature, available_spare = available_spare,
        available_spare_threshold = available_spare_threshold, percentage_used = percentage_used,
        data_units_read = data_units_read, data_units_written = data_units_written,
        host_read_commands = host_read_commands, host_write_commands = host_write_commands,
        controller_busy_time = controller_busy_time, power_cycles = power_cycles, power_on_hours = power_on_hours,
        unsafe_shutdowns = unsafe_shutdowns, media_errors = media_errors,
        error_log_entries = num_error_info_log_entries, warning_temperature_time = warning_temp_time,
        critical_temperature_time = critical_temp_time, temperature_sensors = temp_sensor,
    });
    same_layout!(log::FirmwareSlots, spdk_nvme_firmware_page { afi = afi, frs = revision });
    same_layout!(log::CommandEffectsLog, spdk_nvme_cmds_and_effect_log_page {
        acs = admin_cmds_supported, iocs = io_cmds_supported,
    });
    same_layout!(log::AnaHeader, spdk_nvme_ana_page { change_count = change_count, descriptors = num_ana_group_desc });
    same_layout!(log::AnaGroup, spdk_nvme_ana_group_descriptor {
        group = ana_group_id, namespaces = num_of_nsid, change_count = change_count,
    });
    same_layout!(log::ReservationNotification, spdk_nvme_reservation_notification_log {
        count = log_page_count, kind = type_, available = num_avail_log_pages, nsid = nsid,
    });
    same_layout!(feature::HostBehaviorSupport, spdk_nvme_host_behavior {
        acre = acre, etdas = etdas, lbafee = lbafee,
    });
    let table = size_of::<log::SupportedLogPage>() * log::TABLE_ENTRIES;
    assert_eq!(table, size_of::<sys::spdk_nvme_supported_log_pages>());
    assert_eq!(table, size_of::<sys::spdk_nvme_feature_ids_effects_log_page>());
}

#[test]
fn reservations_and_zones_are_laid_out_as_spdk_has_them() {
    same_layout!(reservation::RegisterData, spdk_nvme_reservation_register_data { crkey = crkey, nrkey = nrkey });
    same_layout!(reservation::AcquireData, spdk_nvme_reservation_acquire_data { crkey = crkey, prkey = prkey });
    same_layout!(reservation::ReleaseData, spdk_nvme_reservation_key_data { crkey = crkey });
    same_layout!(reservation::ReservationStatus, spdk_nvme_reservation_status_data {
        generation = gen_, rtype = rtype, regctl = regctl, ptpls = ptpls,
    });
    same_layout!(reservation::ExtendedReservationStatus, spdk_nvme_reservation_status_extended_data { status = data });
    same_layout!(reservation::Registrant, spdk_nvme_registered_ctrlr_data {
        cntlid = cntlid, rcsts = rcsts, hostid = hostid, rkey = rkey,
    });
    same_layout!(reservation::ExtendedRegistrant, spdk_nvme_registered_ctrlr_extended_data {
        cntlid = cntlid, rcsts = rcsts, rkey = rkey, hostid = hostid,
    });
    same_layout!(zns::ZoneDescriptor, spdk_nvme_zns_zone_desc { za = za, zcap = zcap, zslba = zslba, wp = wp });
    same_layout!(zns::ZoneReport, spdk_nvme_zns_zone_report { zones = nr_zones });
}

#[test]
fn capsules_and_pdus_are_laid_out_as_spdk_has_them() {
    same_layout!(fabrics::ConnectCommand, spdk_nvmf_fabric_connect_cmd {
        opcode = opcode, cid = cid, fctype = fctype, sgl = sgl1, recfmt = recfmt, qid = qid, sqsize = sqsize,
        cattr = cattr, kato = kato,
    });
    same_layout!(fabrics::ConnectData, spdk_nvmf_fabric_connect_data {
        hostid = hostid, cntlid = cntlid, subnqn = subnqn, hostnqn = hostnqn,
    });
    same_layout!(fabrics::PropertyCommand, spdk_nvmf_fabric_prop_set_cmd {
        opcode = opcode, cid = cid, fctype = fctype, attrib = attrib, offset = ofst, value = value,
    });
    same_layout!(tcp::PduHeader, spdk_nvme_tcp_common_pdu_hdr {
        kind = pdu_type, flags = flags, hlen = hlen, pdo = pdo, plen = plen,
    });
    same_layout!(tcp::IcReq, spdk_nvme_tcp_ic_req { pfv = pfv, hpda = hpda, dgst = dgst, maxr2t = maxr2t });
    same_layout!(tcp::IcResp, spdk_nvme_tcp_ic_resp { pfv = pfv, cpda = cpda, dgst = dgst, maxh2cdata = maxh2cdata });
    same_layout!(tcp::TermReq, spdk_nvme_tcp_term_req_hdr { fes = fes, fei = fei });
    same_layout!(tcp::CapsuleCmd, spdk_nvme_tcp_cmd { sqe = ccsqe });
    same_layout!(tcp::CapsuleResp, spdk_nvme_tcp_rsp { cqe = rccqe });
    same_layout!(tcp::H2cData, spdk_nvme_tcp_h2c_data_hdr {
        cccid = cccid, ttag = ttag, datao = datao, datal = datal,
    });
    same_layout!(tcp::C2hData, spdk_nvme_tcp_c2h_data_hdr { cccid = cccid, datao = datao, datal = datal });
    same_layout!(tcp::R2t, spdk_nvme_tcp_r2t_hdr { cccid = cccid, ttag = ttag, r2to = r2to, r2tl = r2tl });
}

#[test]
fn registers_are_where_spdk_has_them() {
    macro_rules! same_place {
        ($($name:ident = $field:ident),* $(,)?) => {
            let compared = [$((register::Register::$name, offset_of!(sys::spdk_nvme_registers, $field))),*];
            for (register, offset) in compared {
                assert_eq!(register.offset(), offset, "{register:?}");
            }
            assert_eq!(compared.map(|(register, _)| register), register::Register::NAMED, "all are compared");
        };
    }
    same_place! {
        CAP = cap, VS = vs, INTMS = intms, INTMC = intmc, CC = cc, CSTS = csts, NSSR = nssr, AQA = aqa, ASQ = asq,
        ACQ = acq, CMBLOC = cmbloc, CMBSZ = cmbsz, BPINFO = bpinfo, BPRSEL = bprsel, BPMBL = bpmbl, CMBMSC = cmbmsc,
        CMBSTS = cmbsts, CRTO = crto, SQ0TDBL = doorbell,
    }
    assert_eq!(register::DOORBELL_STRIDE, sys::SPDK_NVME_DOORBELL_REGISTER_SIZE);
    assert_eq!(register::MIN_QUEUE_ENTRIES, sys::SPDK_NVME_QUEUE_MIN_ENTRIES);
    assert_eq!(register::MAX_ADMIN_QUEUE_ENTRIES, sys::SPDK_NVME_ADMIN_QUEUE_MAX_ENTRIES);
}
