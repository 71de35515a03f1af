//! Our bdevs behind an NVMe/TCP subsystem of the application that has them.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::app::App;
use super::pool::free_port;

/// A subsystem with a listener.
pub(crate) struct Export {
    port: u16,
}

impl Export {
    const NQN: &'static str = "nqn.2024-01.com.example:front";

    /// Exports bdevs, as namespaces 1, 2, ...
    pub(crate) fn new(app: &App, bdevs: &[&str]) -> Self {
        let export = Self { port: free_port() };
        let (rpc, nqn) = (&app.rpc, Self::NQN);
        rpc.ok("nvmf_create_transport", &json!({ "trtype": "TCP" }));
        rpc.ok("nvmf_create_subsystem", &json!({ "nqn": nqn, "allow_any_host": true, "serial_number": "FRONT" }));
        for bdev in bdevs {
            rpc.ok("nvmf_subsystem_add_ns", &json!({ "nqn": nqn, "namespace": { "bdev_name": bdev } }));
        }
        let address = json!({
            "trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": export.port.to_string(),
        });
        rpc.ok("nvmf_subsystem_add_listener", &json!({ "nqn": nqn, "listen_address": address }));
        export
    }

    /// What `bdev_nvme_attach_controller` needs.
    pub(crate) fn attach(&self, name: &str) -> Value {
        json!({
            "name": name, "trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": self.port.to_string(),
            "subnqn": Self::NQN,
        })
    }

    /// The transport id as SPDK's tools take it.
    pub(crate) fn transport_id(&self) -> String {
        let mut text = String::from("trtype:TCP adrfam:IPv4 traddr:127.0.0.1");
        // Writing to a string cannot fail.
        let _ = write!(text, " trsvcid:{} subnqn:{}", self.port, Self::NQN);
        text
    }
}
