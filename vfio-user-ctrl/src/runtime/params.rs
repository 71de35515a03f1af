//! The parameters of the RPC methods.

use std::path::{Path, PathBuf};

use serde::de::{Error as _, Unexpected};
use serde::{Deserialize, Deserializer, Serialize};
use spdk::Errno;
use spdk::rpc::RpcError;
use uuid::Uuid;

use super::socket_access::SocketAccess;
use nvme_device::model::admin::{Identity, IdentityError, Limits, MAX_QUEUE_ENTRIES, MAX_QUEUES, Nqn, Text};
use nvme_device::model::pci::PciIdentity;
use nvme_device::model::regs::Version;

/// The most bytes of a UNIX socket's path.
const MAX_SOCKET_PATH: usize = 107;
/// The most bytes of a controller's name, and of a bdev's.
const MAX_NAME: usize = 255;
/// The name of the socket in a controller's directory, as for SPDK's own transport.
const SOCKET: &str = "cntrl";

/// What `courier_controller_create` takes, and `save_config` writes back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ControllerParams {
    /// The name that the operator calls the controller by.
    pub(super) name: String,
    /// The directory of its socket.
    pub(super) traddr: String,
    /// By which the controller is known to the guest, in its NQN.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "read_uuid")]
    pub(super) uuid: Option<Uuid>,
    /// What the guest sees as its serial number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) serial_number: Option<String>,
    /// What the guest sees as its model.
    #[serde(default = "default_model_number")]
    pub(super) model_number: String,
    /// I/O queue pairs.
    #[serde(default = "default_max_queues")]
    pub(super) max_queues: u16,
    /// Entries of a queue.
    #[serde(default = "default_max_queue_depth")]
    pub(super) max_queue_depth: u16,
    /// The cores whose reactors its queues are spread over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) cpumask: Option<String>,
    /// The pages of a client's memory are provided when it is mapped, not when they are first used.
    #[serde(default)]
    pub(super) prefault: bool,
    /// Vendor specific I/O commands are passed on to namespaces that can take NVMe commands.
    #[serde(default)]
    pub(super) vendor_specific_commands: bool,
    /// The version of the specification that it says it follows.
    #[serde(default)]
    pub(super) nvme_version: NvmeVersion,
    /// Who owns its socket: a user's name or number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) socket_owner: Option<String>,
    /// The socket's group: its name or number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) socket_group: Option<String>,
    /// The socket's permissions, as an octal number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) socket_mode: Option<String>,
}

/// The versions that an operator can choose from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum NvmeVersion {
    #[serde(rename = "1.4")]
    V1_4,
    #[default]
    #[serde(rename = "2.0")]
    V2_0,
}

impl From<NvmeVersion> for Version {
    fn from(version: NvmeVersion) -> Self {
        match version {
            NvmeVersion::V1_4 => Self::V1_4,
            NvmeVersion::V2_0 => Self::V2_0,
        }
    }
}

fn default_model_number() -> String {
    "Courier NVMe Controller".to_owned()
}

fn default_max_queues() -> u16 {
    32
}

fn default_max_queue_depth() -> u16 {
    256
}

/// Reads a UUID; the error tells the value, which the UUID's own does not.
fn read_uuid<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Uuid>, D::Error> {
    let Some(text) = Option::<String>::deserialize(from)? else { return Ok(None) };
    let expected = "a UUID, such as 67e55044-10b1-426f-9247-bb680e5fe0c8";
    Uuid::parse_str(&text).map(Some).map_err(|_| D::Error::invalid_value(Unexpected::Str(&text), &expected))
}

impl ControllerParams {
    /// Checks the values; those that were left out and are random or made of others are filled in.
    ///
    /// # Errors
    /// What is wrong, with the value, and what would be right.
    pub(super) fn resolve(mut self) -> Result<Self, RpcError> {
        let name = &self.name;
        if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
            return Err(RpcError::invalid(format!(
                "parameter `name` must be text of 1 to {MAX_NAME} bytes without control characters, got {name:?}, which \
                 has {} bytes",
                name.len()
            )));
        }
        check_range("max_queues", self.max_queues, 1, MAX_QUEUES)?;
        check_range("max_queue_depth", self.max_queue_depth, 2, MAX_QUEUE_ENTRIES)?;
        if self.traddr.is_empty() {
            return Err(RpcError::invalid(
                "parameter `traddr` must be the directory for the controller's socket, got \"\"",
            ));
        }
        let path = self.socket_path();
        let len = path.as_os_str().len();
        if len > MAX_SOCKET_PATH {
            return Err(RpcError::invalid(format!(
                "parameter `traddr`: the path of a UNIX socket must be at most {MAX_SOCKET_PATH} bytes long, got {}, \
                 which has {len}",
                path.display()
            )));
        }
        let uuid = *self.uuid.get_or_insert_with(Uuid::new_v4);
        self.serial_number.get_or_insert_with(|| {
            let hex = uuid.simple().to_string();
            format!("CR{}", hex.get(..18).unwrap_or_default())
        });
        self.identity()?;
        self.access()?;
        Ok(self)
    }

    /// Who may use its socket.
    ///
    /// # Errors
    /// There is no such user or group, or the mode is none.
    pub(super) fn access(&self) -> Result<SocketAccess, RpcError> {
        SocketAccess::of(self.socket_owner.as_deref(), self.socket_group.as_deref(), self.socket_mode.as_deref())
            .map_err(RpcError::invalid)
    }

    /// Returns the path of its socket.
    pub(super) fn socket_path(&self) -> PathBuf {
        Path::new(&self.traddr).join(SOCKET)
    }

    /// Returns what the guest sees of it.
    ///
    /// # Errors
    /// A text that does not fit.
    pub(super) fn identity(&self) -> Result<Identity, RpcError> {
        let uuid = self.uuid.unwrap_or_default();
        let serial = self.serial_number.as_deref().unwrap_or_default();
        let invalid = |error: IdentityError| RpcError::invalid(error.to_string());
        let pci = PciIdentity::default();
        Ok(Identity {
            subnqn: Nqn::new(&format!("nqn.2014-08.org.nvmexpress:uuid:{uuid}")).map_err(invalid)?,
            serial_number: Text::new("serial_number", serial).map_err(invalid)?,
            model_number: Text::new("model_number", &self.model_number).map_err(invalid)?,
            firmware: Text::new("firmware", env!("CARGO_PKG_VERSION")).map_err(invalid)?,
            uuid: uuid.into_bytes(),
            cntlid: 1,
            vid: pci.vendor,
            ssvid: pci.subsystem_vendor,
            version: self.nvme_version.into(),
        })
    }

    /// Returns how large it is.
    pub(super) fn limits(&self) -> Limits {
        Limits {
            max_queues: self.max_queues,
            max_queue_entries: self.max_queue_depth,
            mdts: super::session::MDTS,
            vectors: self.max_queues + 1,
            wzsl: 0,
        }
    }

    /// Returns the cores of `cpumask` that are among the application's `cores`; all of these if there is no mask.
    ///
    /// # Errors
    /// A mask that cannot be read, or that names cores that the application does not have.
    pub(super) fn cores(&self, cores: &[u32]) -> Result<Vec<u32>, RpcError> {
        let Some(mask) = &self.cpumask else { return Ok(cores.to_vec()) };
        let wanted = parse_cpumask(mask).ok_or_else(|| {
            RpcError::invalid(format!(
                "parameter `cpumask` must be a hexadecimal mask such as 0x3 or a list such as [0-1,4], got {mask:?}"
            ))
        })?;
        match wanted.iter().find(|core| !cores.contains(core)) {
            None => Ok(wanted),
            Some(core) => Err(RpcError::invalid(format!(
                "parameter `cpumask` must name only cores of the application, {cores:?}, got core {core} in {mask:?}"
            ))),
        }
    }
}

fn check_range(name: &str, value: u16, least: u16, most: u16) -> Result<(), RpcError> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(RpcError::invalid(format!("parameter `{name}` must be {least} to {most}, got {value}")))
}

/// Returns the cores in a mask as SPDK writes them: `0x5`, `5` or `[0,2]`, `[0-2]`. None if it is not one, or empty.
fn parse_cpumask(mask: &str) -> Option<Vec<u32>> {
    let mask = mask.trim();
    let mut cores = Vec::new();
    if let Some(list) = mask.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        for part in list.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (parse_core(first.trim())?, parse_core(last.trim())?);
            if first > last || last > 1023 {
                return None;
            }
            cores.extend(first..=last);
        }
    } else {
        let digits = mask.strip_prefix("0x").or_else(|| mask.strip_prefix("0X")).unwrap_or(mask);
        for (place, digit) in digits.chars().rev().enumerate() {
            let digit = digit.to_digit(16)?;
            let place = u32::try_from(place).ok().filter(|place| *place < 256)?;
            cores.extend((0..4).filter(|bit| digit >> bit & 1 == 1).map(|bit| place * 4 + bit));
        }
    }
    cores.sort_unstable();
    cores.dedup();
    Some(cores).filter(|cores| !cores.is_empty())
}

/// Returns the number of a core in digits alone: a number's parser takes a sign as well.
fn parse_core(text: &str) -> Option<u32> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// What `courier_controller_get` takes.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GetParams {
    pub(super) name: Option<String>,
}

/// What `courier_controller_delete` takes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DeleteParams {
    pub(super) name: String,
}

/// What `courier_controller_add_ns` takes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AddNsParams {
    pub(super) name: String,
    pub(super) nsid: Option<u32>,
    pub(super) bdev_name: String,
    /// The bdev must be there; without this the namespace may come with the bdev later.
    #[serde(default = "default_wait")]
    pub(super) wait: bool,
}

impl AddNsParams {
    /// Checks what can be checked without the controller; `is_there` tells whether there is a bdev of that name.
    ///
    /// # Errors
    /// A name that no bdev can have, or that is too long to be waited for. The bdev layer itself limits no name.
    pub(super) fn check(&self, is_there: bool) -> Result<(), RpcError> {
        let name = &self.bdev_name;
        if name.is_empty() || name.contains('\0') || (name.len() > MAX_NAME && !is_there) {
            return Err(RpcError::invalid(format!(
                "parameter `bdev_name` must be the name of a bdev, of 1 to {MAX_NAME} bytes without NUL, got {name:?}, \
                 which has {} bytes",
                name.len()
            )));
        }
        Ok(())
    }
}

fn default_wait() -> bool {
    true
}

/// What `courier_controller_remove_ns` takes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RemoveNsParams {
    pub(super) name: String,
    pub(super) nsid: u32,
}

/// Returns an error of a known number, with a sentence.
pub(super) fn failed(errno: Errno, message: impl Into<String>) -> RpcError {
    RpcError::failed(errno, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(json: serde_json::Value) -> Result<ControllerParams, String> {
        let params: ControllerParams = serde_json::from_value(json).map_err(|error| error.to_string())?;
        params.resolve().map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_left_out_is_filled_in_and_stays() {
        let params = params(serde_json::json!({ "name": "a", "traddr": "/tmp/a" })).expect("valid");
        let serial = params.serial_number.clone().expect("made of the UUID");
        assert_eq!((serial.len(), serial.get(..2)), (20, Some("CR")));
        let again = params.clone().resolve().expect("valid");
        assert_eq!(params, again);
    }

    #[test]
    fn values_out_of_range_are_refused_with_the_range() {
        for (name, value) in [("max_queues", 0), ("max_queues", 129), ("max_queue_depth", 1), ("max_queue_depth", 1025)]
        {
            let mut json = serde_json::json!({ "name": "a", "traddr": "/tmp/a" });
            json[name] = value.into();
            let reason = params(json).expect_err("out of range");
            assert!(reason.contains(name) && reason.contains(&value.to_string()), "{reason}");
        }
    }

    #[test]
    fn a_name_that_cannot_be_shown_or_is_too_long_is_refused_with_its_length() {
        for (name, len) in [(String::new(), "0"), ("a\nb".to_owned(), "3"), ("n".repeat(256), "256")] {
            let reason = params(serde_json::json!({ "name": name, "traddr": "/tmp/a" })).expect_err("no name");
            assert!(reason.contains("`name`") && reason.contains(len) && reason.contains("255"), "{reason}");
        }
    }

    #[test]
    fn a_name_that_no_bdev_can_have_is_refused_with_its_length() {
        let with = |bdev_name: &str| {
            let json = serde_json::json!({ "name": "a", "bdev_name": bdev_name, "wait": false });
            serde_json::from_value::<AddNsParams>(json).expect("of the right types").check(false)
        };
        for (name, len) in [("", "0"), ("a\0b", "3"), ("n".repeat(256).as_str(), "256")] {
            let reason = with(name).expect_err("no name").message().to_owned();
            assert!(reason.contains("`bdev_name`") && reason.contains(len) && reason.contains("255"), "{reason}");
        }
        assert_eq!(with(&"n".repeat(255)), Ok(()));
    }

    #[test]
    fn a_uuid_that_is_none_is_refused_with_its_value() {
        let json = |uuid: &str| serde_json::json!({ "name": "a", "traddr": "/tmp/a", "uuid": uuid });
        let reason = params(json("no-uuid")).expect_err("not hexadecimal");
        assert!(reason.contains("\"no-uuid\""), "{reason}");
        let right = params(json("11111111-2222-4333-8444-555555555555")).expect("a UUID");
        assert_eq!(right.uuid.map(|uuid| uuid.as_u128() >> 96), Some(0x1111_1111));
    }

    #[test]
    fn an_old_version_can_be_chosen_and_another_is_refused_with_the_right_ones() {
        let json = |version: &str| serde_json::json!({ "name": "a", "traddr": "/tmp/a", "nvme_version": version });
        assert_eq!(
            params(json("1.4")).expect("a version").identity().map(|identity| identity.version),
            Ok(Version::V1_4)
        );
        let plain = params(serde_json::json!({ "name": "a", "traddr": "/tmp/a" })).expect("valid");
        assert_eq!(plain.identity().map(|identity| identity.version), Ok(Version::V2_0));
        let reason = params(json("1.3")).expect_err("no version");
        assert!(["1.3", "1.4", "2.0"].iter().all(|version| reason.contains(version)), "{reason}");
    }

    #[test]
    fn who_may_use_the_socket_is_checked_before_it_is_made() {
        let with = |key: &str, value: &str| {
            let mut json = serde_json::json!({ "name": "a", "traddr": "/tmp/a" });
            json[key] = value.into();
            params(json)
        };
        assert!(with("socket_mode", "0660").is_ok() && with("socket_owner", "0").is_ok());
        for (key, value) in [("socket_mode", "0999"), ("socket_owner", "nobody at all"), ("socket_group", "-2")] {
            let reason = with(key, value).expect_err("it is wrong");
            assert!(reason.contains(key) && reason.contains(value), "{reason}");
        }
    }

    #[test]
    fn a_path_too_long_for_a_socket_is_refused() {
        let traddr = format!("/tmp/{}", "x".repeat(100));
        let reason = params(serde_json::json!({ "name": "a", "traddr": traddr })).expect_err("too long");
        assert!(reason.contains("107"), "{reason}");
    }

    #[test]
    fn core_masks_are_read_in_both_forms() {
        assert_eq!(parse_cpumask("0x5"), Some(vec![0, 2]));
        assert_eq!(parse_cpumask("10"), Some(vec![4]));
        assert_eq!(parse_cpumask("[0-2,5]"), Some(vec![0, 1, 2, 5]));
        for wrong in ["", "0x", "0", "[]", "[2-1]", "[0-99999]", "x", "[1", "+3", "[+1]", "[0-+1]", "0x+3"] {
            assert_eq!(parse_cpumask(wrong), None, "{wrong}");
        }
    }
}
