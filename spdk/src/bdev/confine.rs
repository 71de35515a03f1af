//! Which admin commands of a bdev's user reach its controller.

use nvme_spec::admin::SetFeaturesDw10;
use nvme_spec::feature::FeatureId;
use nvme_spec::{ALL_NAMESPACES, AdminOpcode, Sqe};

/// Returns the same admin command, for no namespace but `nsid`: one that names another, or all, must not reach them.
///
/// Commands that only ask may still ask of all, or of the controller, where the controller answers so alone (SMART,
/// features). What concerns the controller and everybody who uses it (its queues, events, firmware, namespaces, their
/// sanitizing) is none: those commands have no namespace, or do not look at it.
pub(super) fn confined_to(sqe: Sqe, nsid: u32) -> Option<Sqe> {
    let confined = Sqe { nsid, ..sqe };
    match AdminOpcode(sqe.opcode) {
        AdminOpcode::GET_LOG_PAGE | AdminOpcode::IDENTIFY | AdminOpcode::GET_FEATURES => {
            Some(if matches!(sqe.nsid, 0 | ALL_NAMESPACES) { sqe } else { confined })
        }
        _ if sqe.nsid == 0 => None,
        AdminOpcode::SET_FEATURES => sets_a_namespace(&sqe).then_some(confined),
        AdminOpcode::FORMAT_NVM
        | AdminOpcode::DEVICE_SELF_TEST
        | AdminOpcode::DIRECTIVE_SEND
        | AdminOpcode::DIRECTIVE_RECEIVE
        | AdminOpcode::SECURITY_SEND
        | AdminOpcode::SECURITY_RECEIVE => Some(confined),
        opcode => opcode.is_vendor_specific().then_some(confined),
    }
}

/// Returns whether the feature that it sets is one of a namespace (base specification 2.0, figure 317, column "Scope").
fn sets_a_namespace(sqe: &Sqe) -> bool {
    matches!(
        SetFeaturesDw10::from_bits(sqe.cdw10).fid(),
        FeatureId::LBA_RANGE_TYPE
            | FeatureId::ERROR_RECOVERY
            | FeatureId::RESERVATION_NOTIFICATION_MASK
            | FeatureId::RESERVATION_PERSISTENCE
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(opcode: AdminOpcode, nsid: u32) -> Sqe {
        Sqe { nsid, ..Sqe::admin(opcode) }
    }

    #[test]
    fn admin_commands_reach_no_other_namespace() {
        let sent = |opcode, nsid| confined_to(of(opcode, nsid), 7).map(|sqe| sqe.nsid);
        for opcode in [AdminOpcode::FORMAT_NVM, AdminOpcode::VENDOR_SPECIFIC_START, AdminOpcode(u8::MAX)] {
            assert_eq!(
                [0, 3, 7, ALL_NAMESPACES].map(|nsid| sent(opcode, nsid)),
                [None, Some(7), Some(7), Some(7)],
                "{opcode:?}"
            );
        }
        for opcode in [AdminOpcode::GET_LOG_PAGE, AdminOpcode::IDENTIFY] {
            assert_eq!(
                [0, 3, ALL_NAMESPACES].map(|nsid| sent(opcode, nsid)),
                [Some(0), Some(7), Some(ALL_NAMESPACES)],
                "{opcode:?}"
            );
        }
    }

    #[test]
    fn admin_commands_that_concern_all_users_of_a_controller_are_not_sent() {
        let everybodys = [
            AdminOpcode::DELETE_IO_SQ,
            AdminOpcode::CREATE_IO_CQ,
            AdminOpcode::ABORT,
            AdminOpcode::ASYNC_EVENT_REQUEST,
            AdminOpcode::KEEP_ALIVE,
            AdminOpcode::NAMESPACE_MANAGEMENT,
            AdminOpcode::NAMESPACE_ATTACHMENT,
            AdminOpcode::FIRMWARE_COMMIT,
            AdminOpcode::SANITIZE,
            AdminOpcode::FABRICS,
        ];
        for opcode in everybodys {
            for nsid in [0, 7, ALL_NAMESPACES] {
                assert!(confined_to(of(opcode, nsid), 7).is_none(), "{opcode:?} for namespace {nsid}");
            }
        }
        let set = |fid| confined_to(Sqe { nsid: 7, ..Sqe::set_features(fid, 0) }, 7).is_some();
        assert_eq!(
            [FeatureId::ERROR_RECOVERY, FeatureId::NUMBER_OF_QUEUES, FeatureId::KEEP_ALIVE_TIMER].map(set),
            [true, false, false]
        );
    }
}
