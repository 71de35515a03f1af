//! Where a controller is and how to connect to it.

use std::ffi::{CStr, c_char};
use std::fmt;

use spdk_sys as sys;

/// A fabric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TransportType {
    /// NVMe/TCP.
    Tcp,
    /// NVMe over RDMA.
    Rdma,
}

impl TransportType {
    /// As it is written in SPDK's RPCs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Rdma => "RDMA",
        }
    }
}

/// The family of a transport address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AddressFamily {
    /// Internet protocol version 4.
    Ipv4,
    /// Internet protocol version 6.
    Ipv6,
}

impl AddressFamily {
    /// As it is written in SPDK's RPCs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
        }
    }
}

/// What is wrong with a part of a transport id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} must be at most {max} bytes without a NUL, got {len} bytes")]
pub struct TransportIdError {
    /// The field's name in SPDK's RPCs.
    pub field: &'static str,
    /// Its length in bytes.
    pub len: usize,
    /// What is allowed, in bytes.
    pub max: usize,
}

/// The address of a controller in a subsystem: what a host needs to connect to it.
#[derive(Clone)]
pub struct TransportId(pub(super) sys::spdk_nvme_transport_id);

impl TransportId {
    /// Returns a transport id of its parts.
    ///
    /// # Errors
    /// The first part that is too long.
    pub fn new(
        trtype: TransportType,
        adrfam: AddressFamily,
        traddr: &str,
        trsvcid: &str,
        subnqn: &str,
    ) -> Result<Self, TransportIdError> {
        let mut raw = sys::spdk_nvme_transport_id::default();
        put("traddr", &mut raw.traddr, traddr)?;
        put("trsvcid", &mut raw.trsvcid, &unshared(trsvcid))?;
        put("subnqn", &mut raw.subnqn, subnqn)?;
        raw.adrfam = match adrfam {
            AddressFamily::Ipv4 => sys::spdk_nvmf_adrfam::SPDK_NVMF_ADRFAM_IPV4,
            AddressFamily::Ipv6 => sys::spdk_nvmf_adrfam::SPDK_NVMF_ADRFAM_IPV6,
        };
        let trtype = match trtype {
            TransportType::Tcp => sys::spdk_nvme_transport_type::SPDK_NVME_TRANSPORT_TCP,
            TransportType::Rdma => sys::spdk_nvme_transport_type::SPDK_NVME_TRANSPORT_RDMA,
        };
        // SAFETY: fills in type and name within the structure.
        unsafe { sys::spdk_nvme_trid_populate_transport(&raw mut raw, trtype) };
        Ok(Self(raw))
    }

    pub(super) fn is_rdma(&self) -> bool {
        self.0.trtype == sys::spdk_nvme_transport_type::SPDK_NVME_TRANSPORT_RDMA
    }
}

impl fmt::Debug for TransportId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |field: &[c_char]| String::from_utf8_lossy(&bytes(field)).into_owned();
        f.debug_struct("TransportId")
            .field("trtype", &text(&self.0.trstring))
            .field("traddr", &text(&self.0.traddr))
            .field("trsvcid", &text(&self.0.trsvcid))
            .field("subnqn", &text(&self.0.subnqn))
            .finish()
    }
}

/// The most characters of a port in a [`TransportId`].
const TRSVCID_LEN: usize = sys::SPDK_NVMF_TRSVCID_MAX_LEN as usize;

/// Returns a port with as many zeros before it as there is room for.
///
/// SPDK gives whoever connects to an address, subsystem and host that this process is connected to already the
/// controller that is there, and neither side learns of that: its reset by one would connect it again behind the
/// other's back, with what that had in flight. SPDK compares addresses as text, so that nobody shares a controller
/// whose port is written like this.
fn unshared(trsvcid: &str) -> String {
    format!("{trsvcid:0>TRSVCID_LEN$}")
}

/// Returns the bytes of a C string in a field that it may fill.
pub(super) fn bytes(field: &[c_char]) -> Vec<u8> {
    field.iter().take_while(|&&byte| byte != 0).map(|&byte| byte.cast_unsigned()).collect()
}

/// Copies `text` into a field that must end with a NUL.
fn put(name: &'static str, field: &mut [c_char], text: &str) -> Result<(), TransportIdError> {
    let max = field.len().saturating_sub(1);
    if text.len() > max || text.contains('\0') {
        return Err(TransportIdError { field: name, len: text.len(), max });
    }
    for (to, from) in field.iter_mut().zip(text.bytes().chain(std::iter::once(0))) {
        *to = from.cast_signed();
    }
    Ok(())
}

/// How to connect to a controller. What is `None` is left to SPDK.
#[derive(Debug, Clone, Default)]
pub struct CtrlrOptions {
    /// The host's NVMe qualified name.
    pub hostnqn: Option<String>,
    /// The address to connect from.
    pub src_addr: Option<String>,
    /// The service (port) to connect from.
    pub src_svcid: Option<String>,
    /// The most I/O queues to ask for.
    pub num_io_queues: Option<u32>,
    /// The depth of an I/O queue in entries.
    pub io_queue_size: Option<u32>,
    /// Requests that each I/O queue pair has; more than its depth, so that some can wait.
    pub io_queue_requests: Option<u32>,
    /// Keep-alive time-out (section 5.27.1.12) in milliseconds.
    pub keep_alive_timeout_ms: Option<u32>,
    /// Retransmissions of the transport (RDMA).
    pub transport_retry_count: Option<u8>,
    /// ACK time-out of the transport, as an exponent (RDMA: 4.096 µs × 2ⁿ; TCP: 2ⁿ ms).
    pub transport_ack_timeout: Option<u8>,
    /// The time for the Connect command in microseconds.
    pub fabrics_connect_timeout_us: Option<u64>,
    /// The time for each command by which a controller is initialised, in milliseconds.
    pub admin_timeout_ms: Option<u32>,
    /// Digests over TCP headers.
    pub header_digest: bool,
    /// Digests over TCP data.
    pub data_digest: bool,
}

impl CtrlrOptions {
    /// SPDK's own structure.
    pub(super) fn to_raw(&self) -> Result<sys::spdk_nvme_ctrlr_opts, TransportIdError> {
        let mut raw = sys::spdk_nvme_ctrlr_opts::default();
        // SAFETY: `raw` is as large as it is said to be.
        unsafe { sys::spdk_nvme_ctrlr_get_default_ctrlr_opts(&raw mut raw, size_of_val(&raw)) };
        for (name, field, value) in [
            ("hostnqn", raw.hostnqn.as_mut_slice(), &self.hostnqn),
            ("hostaddr", raw.src_addr.as_mut_slice(), &self.src_addr),
            ("hostsvcid", raw.src_svcid.as_mut_slice(), &self.src_svcid),
        ] {
            if let Some(value) = value {
                put(name, field, value)?;
            }
        }
        set(&mut raw.num_io_queues, self.num_io_queues);
        set(&mut raw.io_queue_size, self.io_queue_size);
        set(&mut raw.io_queue_requests, self.io_queue_requests);
        set(&mut raw.keep_alive_timeout_ms, self.keep_alive_timeout_ms);
        set(&mut raw.transport_retry_count, self.transport_retry_count);
        set(&mut raw.transport_ack_timeout, self.transport_ack_timeout);
        set(&mut raw.fabrics_connect_timeout_us, self.fabrics_connect_timeout_us);
        // SPDK would act on both by itself, without checking what it reads or with commands that it waits for.
        raw.disable_read_ana_log_page = true;
        raw.disable_read_changed_ns_list_log_page = 1;
        // A line for each command that fails would let a pool or a guest fill the log.
        raw.disable_error_logging = true;
        set(&mut raw.admin_timeout_ms, self.admin_timeout_ms);
        raw.header_digest = self.header_digest;
        raw.data_digest = self.data_digest;
        Ok(raw)
    }
}

/// The NVMe qualified name that this host has towards a controller where none is given.
#[must_use]
pub fn default_hostnqn() -> String {
    let mut raw = sys::spdk_nvme_ctrlr_opts::default();
    // SAFETY: `raw` is as large as it is said to be.
    unsafe { sys::spdk_nvme_ctrlr_get_default_ctrlr_opts(&raw mut raw, size_of_val(&raw)) };
    String::from_utf8_lossy(&bytes(&raw.hostnqn)).into_owned()
}

fn set<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}

/// Returns whether SPDK was built with the transport, and it works on this machine.
#[must_use]
pub(super) fn is_available(trid: &TransportId) -> bool {
    // SAFETY: the name ends with a NUL: `new` had SPDK fill it in.
    unsafe { sys::spdk_nvme_transport_available_by_name(CStr::from_ptr(trid.0.trstring.as_ptr()).as_ptr()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_written_as_nobody_else_writes_it_and_is_the_same_number() {
        let new = |port| TransportId::new(TransportType::Tcp, AddressFamily::Ipv4, "127.0.0.1", port, "nqn.a:b");
        for port in ["4420", "04420"] {
            let raw = new(port).expect("it fits").0;
            let text = String::from_utf8(bytes(&raw.trsvcid)).expect("digits");
            assert_eq!((text.len(), text.parse()), (32, Ok(4420_u16)));
        }
        assert!(new(&"1".repeat(33)).is_err(), "one that is too long is refused");
    }

    #[test]
    fn text_that_fits_exactly_is_taken_with_its_end() {
        let mut field = [1; 4];
        assert_eq!(put("f", &mut field, "abc"), Ok(()));
        assert_eq!(field, [97, 98, 99, 0]);
        assert_eq!(bytes(&field), b"abc");
    }

    #[test]
    fn text_that_is_too_long_or_holds_a_nul_is_refused() {
        let mut field = [0; 4];
        assert_eq!(put("f", &mut field, "abcd"), Err(TransportIdError { field: "f", len: 4, max: 3 }));
        assert!(put("f", &mut field, "a\0").is_err());
        assert_eq!(field, [0; 4]);
    }
}
