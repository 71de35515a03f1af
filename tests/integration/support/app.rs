//! An SPDK application and its RPC socket.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use serde_json::{Value, json};

use super::process::{Libraries, Process};
use super::rpc::Rpc;
use super::{paths, secs, wait_for};

/// Which program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    /// Stock `spdk_tgt`.
    Stock,
    /// Stock `spdk_tgt` with the plugin.
    StockWithPlugin,
    /// `courier_tgt`.
    Courier,
    /// SPDK's `bdevperf` with the plugin.
    Bdevperf,
    /// SPDK's `bdevperf` without it.
    StockBdevperf,
}

impl Program {
    pub(crate) fn path(self) -> PathBuf {
        match self {
            Self::Stock | Self::StockWithPlugin => paths::stock("spdk_tgt"),
            Self::Courier => paths::courier_tgt(),
            Self::Bdevperf | Self::StockBdevperf => paths::stock("bdevperf"),
        }
    }

    pub(crate) fn libraries(self) -> Libraries {
        match self {
            Self::Stock | Self::StockBdevperf => Libraries::Spdk,
            Self::StockWithPlugin | Self::Bdevperf => Libraries::Plugin,
            Self::Courier => Libraries::None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Stock => "stock",
            Self::StockWithPlugin => "plugin",
            Self::Courier => "courier",
            Self::Bdevperf | Self::StockBdevperf => "perf",
        }
    }
}

/// A running SPDK application.
pub(crate) struct App {
    pub(crate) process: Process,
    pub(crate) rpc: Rpc,
}

impl App {
    /// Starts it and waits until it takes RPCs. `mask` is its cores.
    pub(crate) fn start(program: Program, mask: &str, args: &[&str]) -> Self {
        let app = Self::begin(program, mask, args);
        app.wait_for_rpc();
        app
    }

    /// Starts it.
    pub(crate) fn begin(program: Program, mask: &str, args: &[&str]) -> Self {
        let dir = paths::new_dir(program.name());
        let socket = dir.join("rpc.sock");
        let mut all: Vec<String> = common_args(&socket, mask);
        all.extend(args.iter().map(ToString::to_string));
        let process = Process::spawn(&program.path(), &all, program.libraries(), &dir.join("log"));
        Self { process, rpc: Rpc::new(socket) }
    }

    /// Starts one that is linked statically, with its log in `dir`.
    pub(crate) fn start_other(program: &Path, dir: &Path, socket: PathBuf, mask: &str) -> Self {
        let process = Process::spawn(program, &common_args(&socket, mask), Libraries::None, &dir.join("log"));
        let app = Self { process, rpc: Rpc::new(socket) };
        app.wait_for_rpc();
        app
    }

    #[track_caller]
    fn wait_for_rpc(&self) {
        wait_for("an application's RPC socket", secs(60), || {
            let status = self.process.status();
            assert!(status.is_none(), "it ended with {status:?} instead of starting\n{}", self.process.tail());
            self.rpc.call("framework_wait_init", &Value::Null).is_ok()
        });
    }

    /// Asks it to end and waits for that.
    #[track_caller]
    pub(crate) fn shut_down(&self, limit: Duration) -> ExitStatus {
        self.process.terminate();
        self.process.wait(limit)
    }

    /// Asserts that it runs and answers.
    #[track_caller]
    pub(crate) fn assert_alive(&self) {
        let status = self.process.status();
        assert!(status.is_none(), "it ended with {status:?}\n{}", self.process.tail());
        self.rpc.ok("spdk_get_version", &Value::Null);
    }

    /// Returns the names of its bdevs.
    #[track_caller]
    pub(crate) fn bdevs(&self) -> Vec<String> {
        let bdevs = self.rpc.ok("bdev_get_bdevs", &Value::Null);
        let name = |bdev: &Value| bdev["name"].as_str().unwrap_or_default().to_owned();
        bdevs.as_array().expect("a list").iter().map(name).collect()
    }

    /// Returns what `bdev_get_bdevs` says of one.
    #[track_caller]
    pub(crate) fn bdev(&self, name: &str) -> Value {
        self.rpc.ok("bdev_get_bdevs", &json!({ "name": name }))[0].clone()
    }
}

/// Returns the options with which every SPDK application runs here: on cores that others use, too, and without
/// hugepages, unless `COURIER_TEST_HUGEPAGES` is set: memory that an RDMA device is to reach is all there from the
/// beginning.
pub(crate) fn common_args(socket: &Path, mask: &str) -> Vec<String> {
    let socket = socket.display().to_string();
    let mut args = ["-r", &socket, "-m", mask, "--disable-cpumask-locks"].map(str::to_owned).to_vec();
    if std::env::var_os("COURIER_TEST_HUGEPAGES").is_none() {
        args.extend(["--no-huge", "-s", "1024"].map(str::to_owned));
    } else {
        // Not every program has iSCSI.
        args.extend(["-c", SMALL_POOLS, "--json-ignore-init-errors"].map(str::to_owned));
    }
    args
}

/// A configuration with which an application sets little memory aside. An emulated machine takes longer to clear the
/// 800 MiB of an `spdk_tgt` than for a test.
pub(crate) const SMALL_POOLS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/small-pools.json");

/// Returns the text of a configuration that does `calls` for the bdev layer and sets little memory aside, for a program
/// without iSCSI.
pub(crate) fn configuration(calls: &[Value]) -> String {
    let text = fs::read_to_string(SMALL_POOLS).expect("the file can be read");
    let mut config: Value = serde_json::from_str(&text).expect("it is JSON");
    let subsystems = config["subsystems"].as_array_mut().expect("a list");
    subsystems.retain(|entry| entry["subsystem"] != "iscsi");
    let bdev = subsystems.iter_mut().find(|entry| entry["subsystem"] == "bdev").expect("the bdev layer is in it");
    bdev["config"].as_array_mut().expect("a list").extend_from_slice(calls);
    config.to_string()
}
