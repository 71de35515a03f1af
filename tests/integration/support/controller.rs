//! Controllers that clients see over vfio-user, and the application that has them.

use std::env;
use std::fs::Permissions;
use std::ops::Deref;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use serde_json::{Value, json};

use super::app::{App, Program};
use super::load::Load;
use super::rpc::RpcFailure;
use super::{arena, paths, shared};

/// The core of the application; its clients use the other one.
const MASK: &str = "0x2";

/// What makes the controllers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FrontEnd {
    /// SPDK's own `nvmf` transport, for comparison: every controller is a subsystem.
    Stock,
    /// Ours.
    Courier,
}

impl FrontEnd {
    /// Ours, unless `COURIER_TEST_FRONT_END` says `stock`.
    pub(crate) fn chosen() -> Self {
        static CHOSEN: LazyLock<FrontEnd> = LazyLock::new(|| match env::var("COURIER_TEST_FRONT_END").as_deref() {
            Err(_) | Ok("courier") => FrontEnd::Courier,
            Ok("stock") => FrontEnd::Stock,
            Ok(other) => panic!("COURIER_TEST_FRONT_END is `courier` or `stock`, not {other:?}"),
        });
        *CHOSEN
    }
}

/// An application that has controllers.
pub(crate) struct Front {
    app: App,
}

impl Deref for Front {
    type Target = App;

    fn deref(&self) -> &App {
        &self.app
    }
}

impl shared::HasApp for Front {
    fn app(&self) -> &App {
        &self.app
    }
}

impl Front {
    pub(crate) fn start() -> Self {
        Self::start_on(MASK)
    }

    /// Starts one on any cores.
    pub(crate) fn start_on(mask: &str) -> Self {
        let stock = FrontEnd::chosen() == FrontEnd::Stock;
        Self::start_program(if stock { Program::Stock } else { Program::Courier }, mask)
    }

    /// Starts one that has pools, whatever the front end is.
    pub(crate) fn start_with_pools() -> Self {
        Self::start_program(Program::Courier, MASK)
    }

    /// Returns the same on any cores.
    pub(crate) fn start_with_pools_on(mask: &str) -> Self {
        Self::start_program(Program::Courier, mask)
    }

    /// Starts one whose bdev layer has so many I/Os.
    pub(crate) fn start_with_bdev_ios(count: u32) -> Self {
        shared::rest();
        arena::rest();
        let options = json!({ "bdev_io_pool_size": count, "bdev_io_cache_size": 64 });
        let bdev = json!({ "subsystem": "bdev", "config": [{ "method": "bdev_set_options", "params": options }] });
        let file = paths::new_dir("few").join("config.json");
        std::fs::write(&file, json!({ "subsystems": [bdev] }).to_string()).expect("a file can be written");
        Self { app: App::start(Program::Courier, MASK, &["-c", &file.display().to_string()]) }
    }

    /// Starts one whose `courier_tgt` may lock so much memory only, in KiB.
    pub(crate) fn start_with_little_memory(locked_kib: u64) -> Self {
        shared::rest();
        arena::rest();
        let dir = paths::new_dir("little");
        let (program, socket) = (dir.join("courier_tgt"), dir.join("rpc.sock"));
        let script = format!(
            "#!/bin/bash\nulimit -l {locked_kib}\nexec setpriv --bounding-set=-ipc_lock {} \"$@\"\n",
            paths::courier_tgt().display()
        );
        std::fs::write(&program, script).expect("a file can be written");
        std::fs::set_permissions(&program, Permissions::from_mode(0o755)).expect("it is ours");
        Self { app: App::start_other(&program, &dir, socket, MASK) }
    }

    fn start_program(program: Program, mask: &str) -> Self {
        shared::rest();
        arena::rest();
        let app = App::start(program, mask, &[]);
        if FrontEnd::chosen() == FrontEnd::Stock {
            app.rpc.ok("nvmf_create_transport", &json!({ "trtype": "VFIOUSER" }));
        }
        Self { app }
    }

    /// Makes a bdev in memory.
    #[track_caller]
    pub(crate) fn malloc(&self, name: &str, mib: u64, block_size: u64) {
        let params = json!({ "name": name, "block_size": block_size, "num_blocks": (mib << 20) / block_size });
        self.rpc.ok("bdev_malloc_create", &params);
    }

    /// Makes a bdev that holds no data.
    #[track_caller]
    pub(crate) fn null(&self, name: &str, mib: u64) {
        self.rpc.ok("bdev_null_create", &json!({ "name": name, "block_size": 512, "num_blocks": mib << 11 }));
    }

    /// Makes a bdev that takes its time, in microseconds, for every I/O.
    #[track_caller]
    pub(crate) fn slow(&self, name: &str, latency: u64) {
        let under = format!("{name}-under");
        self.null(&under, 64);
        let params = json!({
            "name": name, "base_bdev_name": under, "avg_read_latency": latency, "p99_read_latency": latency,
            "avg_write_latency": latency, "p99_write_latency": latency,
        });
        self.rpc.ok("bdev_delay_create", &params);
    }

    /// Makes a controller in a new folder, with bdevs as namespaces 1, 2, ...
    #[track_caller]
    pub(crate) fn controller(&self, name: &str, bdevs: &[&str]) -> Controller<'_> {
        let controller = Controller::create(self, name, &paths::new_dir(name));
        for (index, bdev) in bdevs.iter().enumerate() {
            assert_eq!(controller.add(bdev), json!(index + 1), "the number of {bdev}'s namespace");
        }
        controller
    }
}

/// A controller of a [`Front`]. It stays when this is dropped.
pub(crate) struct Controller<'a> {
    front: &'a Front,
    name: String,
    dir: PathBuf,
}

impl<'a> Controller<'a> {
    /// Makes a controller whose socket is in `dir`.
    #[track_caller]
    pub(crate) fn create(front: &'a Front, name: &str, dir: &Path) -> Self {
        let controller = Self::existing(front, name, dir);
        match FrontEnd::chosen() {
            FrontEnd::Courier => {
                front.rpc.ok("courier_controller_create", &json!({ "name": name, "traddr": dir }));
            }
            FrontEnd::Stock => {
                let nqn = controller.stock_nqn();
                let subsystem = json!({ "nqn": nqn, "allow_any_host": true, "serial_number": "STOCK" });
                front.rpc.ok("nvmf_create_subsystem", &subsystem);
                let address = json!({ "trtype": "VFIOUSER", "traddr": dir, "trsvcid": "0" });
                front.rpc.ok("nvmf_subsystem_add_listener", &json!({ "nqn": nqn, "listen_address": address }));
            }
        }
        controller
    }

    /// Returns a controller that has been made.
    pub(crate) fn existing(front: &'a Front, name: &str, dir: &Path) -> Self {
        Self { front, name: name.to_owned(), dir: dir.to_owned() }
    }

    fn stock_nqn(&self) -> String {
        format!("nqn.2024-01.com.example:{}", self.name)
    }

    /// Returns the folder of its socket.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Adds a bdev as its next namespace; returns its number.
    #[track_caller]
    pub(crate) fn add(&self, bdev: &str) -> Value {
        match FrontEnd::chosen() {
            FrontEnd::Courier => {
                let params = json!({ "name": self.name, "bdev_name": bdev });
                self.front.rpc.ok("courier_controller_add_ns", &params)
            }
            FrontEnd::Stock => {
                let params = json!({ "nqn": self.stock_nqn(), "namespace": { "bdev_name": bdev } });
                self.front.rpc.ok("nvmf_subsystem_add_ns", &params)
            }
        }
    }

    /// Removes a namespace.
    #[track_caller]
    pub(crate) fn remove(&self, nsid: u32) {
        match FrontEnd::chosen() {
            FrontEnd::Courier => {
                let params = json!({ "name": self.name, "nsid": nsid });
                self.front.rpc.ok("courier_controller_remove_ns", &params);
            }
            FrontEnd::Stock => {
                let params = json!({ "nqn": self.stock_nqn(), "nsid": nsid });
                self.front.rpc.ok("nvmf_subsystem_remove_ns", &params);
            }
        }
    }

    /// Deletes it.
    pub(crate) fn try_delete(&self) -> Result<Value, RpcFailure> {
        match FrontEnd::chosen() {
            FrontEnd::Courier => self.front.rpc.call("courier_controller_delete", &json!({ "name": self.name })),
            FrontEnd::Stock => self.front.rpc.call("nvmf_delete_subsystem", &json!({ "nqn": self.stock_nqn() })),
        }
    }

    /// Deletes it.
    #[track_caller]
    pub(crate) fn delete(&self) {
        self.try_delete().unwrap_or_else(|error| panic!("{} cannot be deleted: {}", self.name, error.message));
    }

    /// Returns the transport id as SPDK's tools take it. Without an NQN they would ask for a discovery log; over
    /// vfio-user it is not sent.
    pub(crate) fn transport_id(&self) -> String {
        format!("trtype:VFIOUSER traddr:{} subnqn:{}", self.dir.display(), self.stock_nqn())
    }

    /// Returns what `bdev_nvme_attach_controller` needs.
    pub(crate) fn attach_params(&self, name: &str) -> Value {
        json!({ "name": name, "trtype": "VFIOUSER", "traddr": self.dir })
    }

    /// Attaches it to a client as controller `n`, whose bdevs are `nn1`, `nn2`, ...
    #[track_caller]
    pub(crate) fn attach(&self, client: &App) {
        client.rpc.ok("bdev_nvme_attach_controller", &self.attach_params("n"));
    }

    /// Returns a stock `bdevperf` with it attached. `args` are more of its options.
    #[track_caller]
    pub(crate) fn load(&self, args: &[&str]) -> Load {
        let load = Load::start_stock("0x1", args);
        self.attach(&load);
        load
    }
}
