//! Negotiation: the `VERSION` command and its JSON.

use serde_json::{Map, Value, json};
use zerocopy::{FromBytes, IntoBytes};

use super::ProtocolError;
use super::proto::Version;

/// The greatest minor version of major version 0 that is spoken here.
const MINOR: u16 = 1;

/// What the client may assume where it is told nothing (section `VFIO_USER_VERSION`).
const DEFAULT_MAX_DATA_XFER_SIZE: u32 = 1 << 20;

/// What this server accepts, told to the client when the version is negotiated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// The most file descriptors that a client should send with one message. QEMU refuses a server that says more than
    /// 16. A message that carries an eventfd for each interrupt is accepted even so: cloud-hypervisor sends one.
    pub max_msg_fds: u32,
    /// The most bytes that one message may read or write.
    pub max_data_xfer_size: u32,
    /// The most mappings of memory at once. It is told to the client; who keeps the mappings must refuse more.
    pub max_dma_maps: u32,
    /// The page sizes of mappings, or'ed, in bytes.
    pub pgsizes: u64,
    /// How many bytes may wait to be sent before the client is no longer read from.
    pub max_output: usize,
    /// How many commands may wait for their answers before the client is no longer read from.
    pub max_pending: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_msg_fds: 16,
            max_data_xfer_size: DEFAULT_MAX_DATA_XFER_SIZE,
            max_dma_maps: 65535,
            pgsizes: 4096,
            max_output: 256 << 10,
            max_pending: 4096,
        }
    }
}

/// What the client accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Peer {
    /// The most file descriptors in one message to it.
    pub(super) max_msg_fds: u64,
    /// The most bytes of data in one message to it, at least 1.
    pub(super) max_data_xfer_size: u32,
}

/// Reads the client's proposal: what the client accepts, and the payload of the reply.
pub(super) fn negotiate(payload: &[u8], limits: &Limits) -> Result<(Peer, Vec<u8>), ProtocolError> {
    let Ok((proposed, data)) = Version::read_from_prefix(payload) else {
        return Err(ProtocolError::Capabilities { reason: "it is shorter than 4 bytes" });
    };
    if proposed.major != 0 {
        return Err(ProtocolError::Version { major: proposed.major, minor: proposed.minor });
    }
    let capabilities = parse(data).ok_or(ProtocolError::Capabilities { reason: "its data is not a JSON object" })?;
    let max_data_xfer_size = match number(&capabilities, "max_data_xfer_size")? {
        Some(0) => return Err(ProtocolError::Capabilities { reason: "max_data_xfer_size is 0" }),
        Some(size) => u32::try_from(size).unwrap_or(u32::MAX),
        None => DEFAULT_MAX_DATA_XFER_SIZE,
    };
    let peer = Peer { max_msg_fds: number(&capabilities, "max_msg_fds")?.unwrap_or(1), max_data_xfer_size };
    let write_multiple = capabilities.get("write_multiple") == Some(&Value::Bool(true));
    Ok((peer, reply(proposed.minor.min(MINOR), write_multiple, limits)))
}

/// Returns the client's capabilities: none if it sent no data. What is not known here is ignored: later versions add to
/// it.
fn parse(data: &[u8]) -> Option<Map<String, Value>> {
    let json = data.strip_suffix(&[0]).unwrap_or(data);
    if json.is_empty() {
        return Some(Map::new());
    }
    let mut data: Map<String, Value> = serde_json::from_slice(json).ok()?;
    match data.remove("capabilities") {
        None => Some(Map::new()),
        Some(Value::Object(capabilities)) => Some(capabilities),
        Some(_) => None,
    }
}

fn number(capabilities: &Map<String, Value>, name: &str) -> Result<Option<u64>, ProtocolError> {
    let not_a_number = ProtocolError::Capabilities { reason: "a capability that is a number has another value" };
    capabilities.get(name).map(|value| value.as_u64().ok_or(not_a_number)).transpose()
}

/// Returns the reply's payload. QEMU wants a reply that is no longer than its proposal, and cloud-hypervisor one that
/// has JSON.
fn reply(minor: u16, write_multiple: bool, limits: &Limits) -> Vec<u8> {
    let mut capabilities = json!({
        "max_msg_fds": limits.max_msg_fds,
        "max_data_xfer_size": limits.max_data_xfer_size,
        "max_dma_maps": limits.max_dma_maps,
        "pgsizes": limits.pgsizes,
    });
    // The one of these that is a feature and not a number of ours: only a client that proposed it may be told.
    if write_multiple && let Some(members) = capabilities.as_object_mut() {
        members.insert("write_multiple".to_owned(), true.into());
    }
    let mut payload = Version { major: 0, minor }.as_bytes().to_vec();
    payload.extend_from_slice(json!({ "capabilities": capabilities }).to_string().as_bytes());
    payload.push(0);
    payload
}
