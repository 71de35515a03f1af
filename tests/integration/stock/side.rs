//! What is compared: `courier_tgt` with a pool, and a stock `spdk_tgt` with its own initiator.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::app::{App, Program, configuration};
use crate::support::pool::NQN;
use crate::support::{paths, shared};

/// The core of the process; the target has the other one.
const MASK: &str = "0x2";
/// The subsystem of the stock front end.
const FRONT: &str = "nqn.2024-01.com.example:drive";

/// The name of the bdev.
const BDEV: &str = "pn1";

/// Which one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    Stock,
    Courier,
}

/// What the initiator is told beside the address.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings {
    pub(super) keep_alive_ms: u32,
    pub(super) digests: bool,
}

/// A process with a bdev over NVMe/TCP.
pub(super) struct Side {
    which: Which,
    pub(super) app: App,
}

impl Side {
    /// Starts one that connects to the subsystem [`NQN`] at a port here.
    pub(super) fn connected(which: Which, port: u16, settings: Settings) -> Self {
        let side = Self::start(which, &[]);
        for (method, params) in calls(which, port, settings, true) {
            side.app.rpc.ok(method, &params);
        }
        side
    }

    /// Starts one that has this in its configuration. What cannot be done then is passed over.
    pub(super) fn configured(which: Which, port: u16, settings: Settings) -> Self {
        let calls = calls(which, port, settings, false);
        let calls: Vec<Value> =
            calls.into_iter().map(|(method, params)| json!({ "method": method, "params": params })).collect();
        let file = paths::new_dir("config").join("config.json");
        fs::write(&file, configuration(&calls)).expect("a file can be written");
        Self::start(which, &["-c", &file.display().to_string(), "--json-ignore-init-errors"])
    }

    fn start(which: Which, args: &[&str]) -> Self {
        shared::rest();
        let program = if which == Which::Stock { Program::Stock } else { Program::Courier };
        Self { which, app: App::start(program, MASK, args) }
    }

    /// Waits for its bdev. Returns whether it comes within `limit`.
    pub(super) fn wait_for_bdev(&self, limit: Duration) -> bool {
        let start = Instant::now();
        while self.app.rpc.call("bdev_get_bdevs", &json!({ "name": BDEV })).is_err() {
            if start.elapsed() >= limit || !self.is_alive() {
                return false;
            }
            sleep(Duration::from_millis(20));
        }
        true
    }

    /// Shows its bdev as namespace 1 of a drive, whose socket is in the folder given back.
    pub(super) fn show(&self) -> PathBuf {
        let (dir, rpc) = (paths::new_dir("drive"), &self.app.rpc);
        match self.which {
            Which::Courier => {
                rpc.ok("courier_controller_create", &json!({ "name": "drive", "traddr": dir }));
                rpc.ok("courier_controller_add_ns", &json!({ "name": "drive", "bdev_name": BDEV }));
            }
            Which::Stock => self.show_stock(&dir),
        }
        dir
    }

    fn show_stock(&self, dir: &Path) {
        let rpc = &self.app.rpc;
        rpc.ok("nvmf_create_transport", &json!({ "trtype": "VFIOUSER" }));
        rpc.ok("nvmf_create_subsystem", &json!({ "nqn": FRONT, "allow_any_host": true, "serial_number": "STOCK" }));
        rpc.ok("nvmf_subsystem_add_ns", &json!({ "nqn": FRONT, "namespace": { "bdev_name": BDEV } }));
        let address = json!({ "trtype": "VFIOUSER", "traddr": dir, "trsvcid": "0" });
        rpc.ok("nvmf_subsystem_add_listener", &json!({ "nqn": FRONT, "listen_address": address }));
    }

    /// Deletes its pool, or detaches its controller; returns how long that took, if it ended in time.
    pub(super) fn delete(&self, limit: Duration) -> Option<Duration> {
        let method = match self.which {
            Which::Courier => "courier_pool_delete",
            Which::Stock => "bdev_nvme_detach_controller",
        };
        let start = Instant::now();
        let answer = self.app.rpc.begin(method, json!({ "name": "p" }));
        answer.recv_timeout(limit).ok()?.ok()?;
        Some(start.elapsed())
    }

    /// Ends it (SIGTERM); returns how long that took, if it ended by itself and in time.
    pub(super) fn end(&self, limit: Duration) -> Option<Duration> {
        let start = Instant::now();
        if self.app.process.status().is_some() {
            return None;
        }
        self.app.process.terminate();
        loop {
            if let Some(status) = self.app.process.status() {
                return (status.code() == Some(0)).then(|| start.elapsed());
            }
            if start.elapsed() >= limit {
                return None;
            }
            sleep(Duration::from_millis(5));
        }
    }

    /// Returns whether it runs.
    pub(super) fn is_alive(&self) -> bool {
        self.app.process.status().is_none()
    }
}

/// Returns the calls that make the bdev `pn1`. Both try without end to reach a target that is away, and stock to carry
/// out what failed.
fn calls(which: Which, port: u16, settings: Settings, wait: bool) -> Vec<(&'static str, Value)> {
    let Settings { keep_alive_ms, digests } = settings;
    let port = port.to_string();
    match which {
        Which::Courier => {
            let pool = json!({
                "name": "p", "trtype": "tcp", "traddr": "127.0.0.1", "trsvcid": port, "subnqn": NQN,
                "reconnect_delay_sec": 1, "keep_alive_timeout_ms": keep_alive_ms, "hdgst": digests, "ddgst": digests,
                "connect_timeout_ms": 2_000, "wait": wait,
            });
            let bdev = json!({ "name": BDEV, "pool": "p", "nsid": 1, "wait": wait });
            vec![("courier_pool_create", pool), ("bdev_courier_create", bdev)]
        }
        Which::Stock => {
            let options = json!({ "keep_alive_timeout_ms": keep_alive_ms, "bdev_retry_count": -1 });
            let controller = json!({
                "name": "p", "trtype": "tcp", "adrfam": "ipv4", "traddr": "127.0.0.1", "trsvcid": port, "subnqn": NQN,
                "ctrlr_loss_timeout_sec": -1, "reconnect_delay_sec": 1, "fast_io_fail_timeout_sec": 0, "hdgst": digests,
                "ddgst": digests, "fabrics_connect_timeout_us": 2_000_000,
            });
            vec![("bdev_nvme_set_options", options), ("bdev_nvme_attach_controller", controller)]
        }
    }
}
