//! Our bdevs behind a subsystem of the application that has them.

use serde_json::{Value, json};

use super::app::App;
use super::paths;
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
        let address = json!({
            "trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": export.port.to_string(),
        });
        Self::serve(app, bdevs, &address);
        export
    }

    /// Exports bdevs over vfio-user, in a folder; returns the transport id as SPDK's tools take it.
    pub(crate) fn vfio_user(app: &App, bdevs: &[&str]) -> String {
        let dir = paths::new_dir("vfio-user").display().to_string();
        Self::serve(app, bdevs, &json!({ "trtype": "VFIOUSER", "traddr": dir, "trsvcid": "0" }));
        format!("trtype:VFIOUSER traddr:{dir} subnqn:{}", Self::NQN)
    }

    fn serve(app: &App, bdevs: &[&str], address: &Value) {
        let (rpc, nqn) = (&app.rpc, Self::NQN);
        rpc.ok("nvmf_create_transport", &json!({ "trtype": address["trtype"] }));
        rpc.ok("nvmf_create_subsystem", &json!({ "nqn": nqn, "allow_any_host": true, "serial_number": "FRONT" }));
        for bdev in bdevs {
            rpc.ok("nvmf_subsystem_add_ns", &json!({ "nqn": nqn, "namespace": { "bdev_name": bdev } }));
        }
        rpc.ok("nvmf_subsystem_add_listener", &json!({ "nqn": nqn, "listen_address": address }));
    }

    /// Returns what `bdev_nvme_attach_controller` needs.
    pub(crate) fn attach(&self, name: &str) -> Value {
        json!({
            "name": name, "trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": self.port.to_string(),
            "subnqn": Self::NQN,
        })
    }

    /// Returns the transport id as SPDK's tools take it.
    pub(crate) fn transport_id(&self) -> String {
        format!("trtype:TCP adrfam:IPv4 traddr:127.0.0.1 trsvcid:{} subnqn:{}", self.port, Self::NQN)
    }
}
