//! The parameters of the RPC methods: their names are SPDK's where SPDK has them.

use std::fmt::Display;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use spdk::nvme::{
    AddressFamily, Connect, ConnectFailed, CtrlrOptions, TransportId, TransportIdError, TransportType, default_hostnqn,
};

/// The well-known discovery subsystem, which holds no namespaces (base specification 1.5.2 of NVMe over Fabrics).
const DISCOVERY_NQN: &str = "nqn.2014-08.org.nvmexpress.discovery";

/// The most bytes of an NVMe qualified name (base specification 4.5).
const MAX_NQN: usize = 223;

/// A parameter that is not valid: what was wrong, with the value, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Invalid(String);

impl Invalid {
    /// Returns the error for a parameter with a value, `got`, that is not `right`.
    fn must_be(field: &str, right: impl Display, got: impl Display) -> Self {
        Self(format!("parameter `{field}` must be {right}, got {got}"))
    }
}

/// A fabric, as it is written in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Trtype {
    /// NVMe/TCP.
    #[serde(alias = "TCP")]
    Tcp,
    /// NVMe over RDMA.
    #[serde(alias = "RDMA")]
    Rdma,
}

impl Trtype {
    fn to_spdk(self) -> TransportType {
        match self {
            Self::Tcp => TransportType::Tcp,
            Self::Rdma => TransportType::Rdma,
        }
    }
}

/// An address family, as it is written in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Adrfam {
    /// Internet protocol version 4.
    #[default]
    #[serde(alias = "IPv4")]
    Ipv4,
    /// Internet protocol version 6.
    #[serde(alias = "IPv6")]
    Ipv6,
}

impl Adrfam {
    fn to_spdk(self) -> AddressFamily {
        match self {
            Self::Ipv4 => AddressFamily::Ipv4,
            Self::Ipv6 => AddressFamily::Ipv6,
        }
    }
}

/// What `courier_pool_create` takes, and `save_config` writes back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PoolParams {
    /// The name that the operator calls the pool by.
    pub name: String,
    /// The fabric.
    pub trtype: Trtype,
    /// The address of the target.
    pub traddr: String,
    /// The family of the address.
    #[serde(default)]
    pub adrfam: Adrfam,
    /// The port of the target.
    #[serde(default = "default_trsvcid")]
    pub trsvcid: String,
    /// The internal name of the pool: the NVMe qualified name of its subsystem.
    pub subnqn: String,
    /// The NVMe qualified name that the pool knows this host by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostnqn: Option<String>,
    /// The address to connect from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostaddr: Option<String>,
    /// The port to connect from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostsvcid: Option<String>,
    /// Digests over TCP headers.
    #[serde(default, skip_serializing_if = "is_false")]
    pub hdgst: bool,
    /// Digests over TCP data.
    #[serde(default, skip_serializing_if = "is_false")]
    pub ddgst: bool,
    /// The most I/O queues to ask the target for, one per reactor that uses the pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_io_queues: Option<u32>,
    /// The depth of an I/O queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_queue_size: Option<u32>,
    /// Requests that each I/O queue has; those beyond its depth wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io_queue_requests: Option<u32>,
    /// Keep-alive time-out in milliseconds. Without one nothing would tell when a controller has ended the commands of
    /// a connection that was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_alive_timeout_ms: Option<u32>,
    /// Retransmissions of the transport (RDMA).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transport_retry_count: Option<u8>,
    /// ACK time-out of the transport, as an exponent of two (RDMA: of 4.096 µs; TCP: of a millisecond).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transport_ack_timeout: Option<u8>,
    /// How long each attempt to connect may take, in milliseconds.
    #[serde(default = "default_connect_timeout_ms")]
    pub connect_timeout_ms: u32,
    /// Seconds between attempts to connect to a pool that is away.
    #[serde(default = "default_reconnect_delay_sec")]
    pub reconnect_delay_sec: u32,
    /// Seconds after which a pool that is away is given up and its I/O fails; -1 for never.
    #[serde(default = "default_ctrlr_loss_timeout_sec")]
    pub ctrlr_loss_timeout_sec: i32,
    /// Seconds after which I/O to a pool that is away fails instead of being held; 0 for never.
    #[serde(default)]
    pub fast_io_fail_timeout_sec: u32,
    /// Seconds after which the bdev of a namespace goes that the pool, though connected, does not list any more.
    #[serde(default = "default_ns_loss_timeout_sec")]
    pub ns_loss_timeout_sec: u32,
    /// The pool must be there; without this it may be away, and is connected when it answers.
    #[serde(default = "default_wait", skip_serializing_if = "is_true")]
    pub wait: bool,
}

fn default_wait() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's form")]
fn is_true(value: &bool) -> bool {
    *value
}

fn default_trsvcid() -> String {
    "4420".to_owned()
}

fn default_connect_timeout_ms() -> u32 {
    10_000
}

fn default_reconnect_delay_sec() -> u32 {
    2
}

fn default_ns_loss_timeout_sec() -> u32 {
    30
}

fn default_ctrlr_loss_timeout_sec() -> i32 {
    -1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's form")]
fn is_false(value: &bool) -> bool {
    !value
}

impl PoolParams {
    /// Checks everything that can be checked without the network.
    ///
    /// # Errors
    /// The first parameter that is not valid.
    pub(crate) fn check(&self) -> Result<(), Invalid> {
        check_name("name", &self.name)?;
        check_address("traddr", &self.traddr, self.adrfam)?;
        check_port("trsvcid", &self.trsvcid)?;
        check_nqn("subnqn", &self.subnqn)?;
        if self.subnqn == DISCOVERY_NQN {
            return Err(Invalid::must_be(
                "subnqn",
                "the pool's own subsystem",
                format_args!("the discovery subsystem, {DISCOVERY_NQN:?}, which has no namespaces"),
            ));
        }
        if let Some(hostnqn) = &self.hostnqn {
            check_nqn("hostnqn", hostnqn)?;
        }
        if let Some(hostaddr) = &self.hostaddr {
            check_address("hostaddr", hostaddr, self.adrfam)?;
        }
        if let Some(hostsvcid) = &self.hostsvcid {
            check_port("hostsvcid", hostsvcid)?;
            if self.trtype == Trtype::Tcp {
                return Err(Invalid::must_be(
                    "hostsvcid",
                    "left out over TCP, where every queue is a connection and needs a port of its own",
                    format_args!("{hostsvcid:?}"),
                ));
            }
        }
        if self.trtype == Trtype::Rdma && (self.hdgst || self.ddgst) {
            let field = if self.hdgst { "hdgst" } else { "ddgst" };
            return Err(Invalid::must_be(field, "false over RDMA, which has no digests", "true"));
        }
        check_range("num_io_queues", self.num_io_queues, 1, 65_535)?;
        check_range("io_queue_size", self.io_queue_size, 2, 65_536)?;
        check_range("io_queue_requests", self.io_queue_requests, 2, 1 << 20)?;
        if let (Some(requests), Some(size)) = (self.io_queue_requests, self.io_queue_size)
            && requests < size
        {
            return Err(Invalid::must_be(
                "io_queue_requests",
                format_args!("at least io_queue_size, {size}"),
                requests,
            ));
        }
        if self.keep_alive_timeout_ms == Some(0) {
            let right = "1000 to 3600000, or left out for 10000: a pool without a keep-alive time-out is not possible";
            return Err(Invalid::must_be("keep_alive_timeout_ms", right, 0));
        }
        check_range("keep_alive_timeout_ms", self.keep_alive_timeout_ms, 1_000, 3_600_000)?;
        check_range("transport_retry_count", self.transport_retry_count.map(u32::from), 0, 7)?;
        // Over TCP it is a socket's option, in milliseconds, which has 31 bits.
        let most = if self.trtype == Trtype::Tcp { 30 } else { 31 };
        check_range("transport_ack_timeout", self.transport_ack_timeout.map(u32::from), 0, most)?;
        check_range("connect_timeout_ms", Some(self.connect_timeout_ms), 1, 600_000)?;
        check_range("ns_loss_timeout_sec", Some(self.ns_loss_timeout_sec), 0, 1_000_000)?;
        check_range("reconnect_delay_sec", Some(self.reconnect_delay_sec), 1, 3_600)?;
        self.check_loss()
    }

    fn check_loss(&self) -> Result<(), Invalid> {
        let (loss, fast) = (self.ctrlr_loss_timeout_sec, self.fast_io_fail_timeout_sec);
        if loss < -1 {
            return Err(Invalid::must_be("ctrlr_loss_timeout_sec", "-1 (never) or a number of seconds", loss));
        }
        match u32::try_from(loss) {
            Ok(loss) if fast > loss => Err(Invalid::must_be(
                "fast_io_fail_timeout_sec",
                format_args!("at most ctrlr_loss_timeout_sec, {loss}"),
                fast,
            )),
            _ => Ok(()),
        }
    }

    fn trid(&self) -> Result<TransportId, TransportIdError> {
        TransportId::new(self.trtype.to_spdk(), self.adrfam.to_spdk(), &self.traddr, &self.trsvcid, &self.subnqn)
    }

    /// Begins to connect to it.
    ///
    /// # Errors
    /// See [`Connect::start`].
    pub(crate) fn connect(&self) -> Result<Connect, ConnectFailed> {
        Connect::start(&self.trid()?, &self.ctrlr_options())
    }

    /// Returns how to connect to it.
    #[must_use]
    pub(crate) fn ctrlr_options(&self) -> CtrlrOptions {
        CtrlrOptions {
            hostnqn: self.hostnqn.clone(),
            src_addr: self.hostaddr.clone(),
            src_svcid: self.hostsvcid.clone(),
            num_io_queues: self.num_io_queues,
            io_queue_size: self.io_queue_size,
            io_queue_requests: self.io_queue_requests,
            keep_alive_timeout_ms: self.keep_alive_timeout_ms,
            transport_retry_count: self.transport_retry_count,
            transport_ack_timeout: self.transport_ack_timeout,
            fabrics_connect_timeout_us: Some(u64::from(self.connect_timeout_ms).saturating_mul(1_000)),
            admin_timeout_ms: Some(self.connect_timeout_ms),
            header_digest: self.hdgst,
            data_digest: self.ddgst,
        }
    }

    /// Returns how long the pool may answer nothing to what it holds.
    pub(crate) fn silence_limit(&self) -> Duration {
        /// What SPDK asks for where nothing else is said.
        const DEFAULT: u32 = 10_000;
        let millis = self.keep_alive_timeout_ms.unwrap_or(DEFAULT);
        Duration::from_millis(u64::from(millis))
    }

    /// Returns how long each attempt to connect may take.
    pub(crate) fn connect_limit(&self) -> Duration {
        Duration::from_millis(u64::from(self.connect_timeout_ms))
    }

    /// As it is saved: a pool that is away when it is restored is waited for.
    pub(crate) fn saved(&self) -> Self {
        Self { wait: false, ..self.clone() }
    }

    /// Returns whether SPDK would have one controller for both: it tells them by address, subsystem and host alone.
    #[must_use]
    pub(crate) fn is_same_controller(&self, other: &Self) -> bool {
        let address = |params: &Self| (params.traddr.parse::<IpAddr>().ok(), params.trsvcid.parse::<u16>().ok());
        self.trtype == other.trtype
            && address(self) == address(other)
            && self.subnqn == other.subnqn
            && (self.hostnqn == other.hostnqn || self.host() == other.host())
    }

    /// Returns the name that the pool knows this host by.
    fn host(&self) -> String {
        self.hostnqn.clone().unwrap_or_else(default_hostnqn)
    }

    /// For how long I/O is held that the pool does not carry out. `None` for as long as it takes.
    pub(crate) fn io_limit(&self) -> Option<Duration> {
        let fast = Some(u64::from(self.fast_io_fail_timeout_sec)).filter(|&fast| fast != 0);
        fast.or_else(|| u64::try_from(self.ctrlr_loss_timeout_sec).ok()).map(Duration::from_secs)
    }

    /// Returns a sentence about an address to connect from that is not this machine's now.
    pub(crate) fn foreign_hostaddr(&self) -> Option<String> {
        let address: IpAddr = self.hostaddr.as_ref()?.parse().ok()?;
        let error = UdpSocket::bind((address, 0)).err()?;
        (error.kind() == ErrorKind::AddrNotAvailable)
            .then(|| format!("hostaddr {address} is no address of this machine; ip address lists those that are"))
    }

    /// Returns the target's address for people.
    #[must_use]
    pub(crate) fn target(&self) -> String {
        format!("{} {} port {}", self.trtype.to_spdk().as_str(), self.traddr, self.trsvcid)
    }
}

/// What `courier_pool_get` takes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PoolGetParams {
    /// The one pool to tell of, instead of all.
    #[serde(default)]
    pub name: Option<String>,
}

/// What `courier_pool_delete` takes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PoolDeleteParams {
    /// The pool.
    pub name: String,
}

/// What `courier_pool_reconnect` takes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PoolReconnectParams {
    /// The pool.
    pub name: String,
}

/// What `bdev_courier_create` takes, and `save_config` writes back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BdevParams {
    /// The bdev's name.
    pub name: String,
    /// The pool.
    pub pool: String,
    /// The namespace of the pool.
    pub nsid: u32,
    /// A connected pool must have the namespace; without this the bdev may come with the namespace later.
    #[serde(default = "default_wait", skip_serializing_if = "is_true")]
    pub wait: bool,
}

impl BdevParams {
    /// As it is saved: a namespace that is not there when the bdev is restored is waited for.
    pub(crate) fn saved(&self) -> Self {
        Self { wait: false, ..self.clone() }
    }

    /// Checks what can be checked without the pool.
    ///
    /// # Errors
    /// The first parameter that is not valid.
    pub(crate) fn check(&self) -> Result<(), Invalid> {
        check_name("name", &self.name)?;
        if self.nsid == 0 || self.nsid == u32::MAX {
            return Err(Invalid::must_be("nsid", "1 to 4294967294", self.nsid));
        }
        Ok(())
    }
}

/// What `bdev_courier_delete` takes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BdevDeleteParams {
    /// The bdev's name.
    pub name: String,
}

fn check_name(field: &str, name: &str) -> Result<(), Invalid> {
    if name.is_empty() || name.len() > 255 || name.chars().any(char::is_control) {
        let right = "text of 1 to 255 bytes without control characters";
        return Err(Invalid::must_be(field, right, format_args!("{name:?}, which has {} bytes", name.len())));
    }
    Ok(())
}

fn check_address(field: &str, address: &str, family: Adrfam) -> Result<(), Invalid> {
    // A connection has two ends, which a multicast or broadcast address is not.
    let (valid, example) = match family {
        Adrfam::Ipv4 => {
            (address.parse().is_ok_and(|ip: Ipv4Addr| !ip.is_multicast() && !ip.is_broadcast()), "192.0.2.1")
        }
        Adrfam::Ipv6 => (address.parse().is_ok_and(|ip: Ipv6Addr| !ip.is_multicast()), "2001:db8::1"),
    };
    if valid {
        return Ok(());
    }
    let family = family.to_spdk().as_str();
    Err(Invalid::must_be(field, format_args!("an {family} address such as {example}"), format_args!("{address:?}")))
}

fn check_port(field: &str, port: &str) -> Result<(), Invalid> {
    // A number's parser takes a sign as well, and any count of zeros.
    let is_digits = (1..=5).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit());
    match port.parse::<u16>() {
        Ok(number) if is_digits && number != 0 => Ok(()),
        _ => Err(Invalid::must_be(field, "a port, 1 to 65535, in digits alone", format_args!("{port:?}"))),
    }
}

fn check_nqn(field: &str, nqn: &str) -> Result<(), Invalid> {
    if nqn.len() > MAX_NQN {
        return Err(Invalid::must_be(
            field,
            format_args!("at most {MAX_NQN} bytes long"),
            format_args!("{} bytes", nqn.len()),
        ));
    }
    if !nqn.starts_with("nqn.") || nqn.chars().any(char::is_control) {
        let right = "an NVMe qualified name such as nqn.2024-01.com.example:pool";
        return Err(Invalid::must_be(field, right, format_args!("{nqn:?}")));
    }
    Ok(())
}

fn check_range(field: &str, value: Option<u32>, least: u32, most: u32) -> Result<(), Invalid> {
    match value {
        Some(value) if value < least || value > most => {
            Err(Invalid::must_be(field, format_args!("{least} to {most}"), value))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn good() -> Value {
        json!({ "name": "p", "trtype": "tcp", "traddr": "127.0.0.1", "subnqn": "nqn.2024-01.com.example:pool" })
    }

    fn with(field: &str, value: Value) -> PoolParams {
        let mut params = good();
        params[field] = value;
        serde_json::from_value(params).expect("of the right types")
    }

    #[test]
    fn the_least_that_is_needed_is_enough() {
        let params: PoolParams = serde_json::from_value(good()).expect("complete");
        assert_eq!(params.check(), Ok(()));
        assert_eq!((params.trsvcid.as_str(), params.adrfam), ("4420", Adrfam::Ipv4));
        assert!(params.trid().is_ok());
    }

    #[test]
    fn what_is_wrong_is_told_with_its_value() {
        for (field, value, said) in [
            ("name", json!(""), "got \"\""),
            ("traddr", json!("pool.example.com"), "pool.example.com"),
            ("traddr", json!("::1"), "IPv4"),
            ("trsvcid", json!("0"), "\"0\""),
            ("trsvcid", json!("70000"), "70000"),
            ("trsvcid", json!("+4420"), "\"+4420\""),
            ("trsvcid", json!(" 4420"), "in digits alone, got \" 4420\""),
            ("trsvcid", json!("4420 "), "\"4420 \""),
            ("trsvcid", json!("0x1144"), "\"0x1144\""),
            ("trsvcid", json!(""), "\"\""),
            ("trsvcid", json!(format!("{:0>40}", 4420)), "digits"),
            ("traddr", json!("239.1.2.3"), "239.1.2.3"),
            ("traddr", json!("255.255.255.255"), "255.255.255.255"),
            ("hostaddr", json!("224.0.0.1"), "`hostaddr`"),
            ("subnqn", json!("pool"), "\"pool\""),
            ("subnqn", json!(format!("nqn.{}", "x".repeat(300))), "304"),
            ("subnqn", json!(DISCOVERY_NQN), "discovery"),
            ("hostnqn", json!("me"), "hostnqn"),
            ("hostsvcid", json!("0"), "\"0\""),
            ("hostsvcid", json!("5000"), "left out over TCP"),
            ("num_io_queues", json!(0), "`num_io_queues` must be 1 to 65535, got 0"),
            ("io_queue_size", json!(1), "`io_queue_size` must be 2 to 65536, got 1"),
            ("io_queue_requests", json!(4_000_000_000_u32), "4000000000"),
            ("keep_alive_timeout_ms", json!(5), "`keep_alive_timeout_ms` must be 1000 to 3600000, got 5"),
            ("keep_alive_timeout_ms", json!(0), "must be 1000 to 3600000, or left out for 10000"),
            ("transport_ack_timeout", json!(31), "0 to 30, got 31"),
            ("connect_timeout_ms", json!(0), "`connect_timeout_ms` must be 1 to 600000, got 0"),
            ("ctrlr_loss_timeout_sec", json!(-2), "-2"),
        ] {
            let reason = with(field, value).check().expect_err(field).to_string();
            assert!(reason.contains(said), "{field}: {reason}");
        }
    }

    #[test]
    fn an_address_to_connect_from_that_is_not_this_machines_is_told() {
        let foreign = |hostaddr| with("hostaddr", json!(hostaddr)).foreign_hostaddr();
        assert_eq!(foreign("127.0.0.1"), None);
        let said = foreign("192.0.2.5").expect("it is for examples");
        assert!(said.contains("192.0.2.5 is no address of this machine"), "{said}");
    }

    #[test]
    fn io_cannot_fail_fast_after_the_pool_is_given_up() {
        let mut params = with("ctrlr_loss_timeout_sec", json!(10));
        params.fast_io_fail_timeout_sec = 11;
        assert!(params.check().is_err());
        params.fast_io_fail_timeout_sec = 10;
        assert_eq!(params.check(), Ok(()));
    }

    #[test]
    fn pools_are_one_controller_if_address_subsystem_and_host_are_the_same() {
        let named = |field, value| {
            let mut params = with(field, value);
            params.hostnqn.get_or_insert_with(|| "nqn.2024-01.com.example:host".to_owned());
            params
        };
        let pool = named("name", json!("other"));
        for same in
            [named("io_queue_size", json!(8)), named("hostaddr", json!("127.0.0.2")), named("trsvcid", json!("04420"))]
        {
            assert!(pool.is_same_controller(&same), "{same:?}");
        }
        for (field, value) in [
            ("trtype", json!("rdma")),
            ("traddr", json!("127.0.0.2")),
            ("trsvcid", json!("4421")),
            ("subnqn", json!("nqn.2024-01.com.example:pool2")),
            ("hostnqn", json!("nqn.2024-01.com.example:host2")),
        ] {
            assert!(!pool.is_same_controller(&named(field, value)), "{field}");
        }
    }

    #[test]
    fn a_pool_is_saved_as_one_that_is_waited_for() {
        let saved = serde_json::to_value(with("wait", json!(true)).saved()).expect("it can be written");
        assert_eq!(saved["wait"], json!(false));
    }

    #[test]
    fn digests_are_refused_for_rdma() {
        let mut params = with("trtype", json!("rdma"));
        params.ddgst = true;
        assert!(params.check().is_err());
    }

    #[test]
    fn the_namespace_of_a_bdev_is_a_valid_one() {
        let bdev = |nsid| BdevParams { name: "b".to_owned(), pool: "p".to_owned(), nsid, wait: true };
        assert!(bdev(0).check().is_err());
        assert!(bdev(u32::MAX).check().is_err());
        assert_eq!(bdev(1).check(), Ok(()));
    }

    proptest! {
        #[test]
        fn any_text_is_checked_without_panic_and_what_passes_fits(name in ".*", traddr in ".*", subnqn in "(nqn\\.)?.*") {
            let mut params = with("name", json!(name));
            params.traddr = traddr;
            params.subnqn = subnqn;
            if params.check().is_ok() {
                prop_assert!(params.trid().is_ok());
            }
        }

        #[test]
        fn what_is_saved_is_what_was_given(size in 2_u32..65_536, loss in -1_i32..1_000_000, hdgst: bool) {
            let mut params = with("io_queue_size", json!(size));
            params.ctrlr_loss_timeout_sec = loss;
            params.hdgst = hdgst;
            let again: PoolParams = serde_json::from_value(serde_json::to_value(&params)?)?;
            prop_assert_eq!(again, params);
        }
    }
}
