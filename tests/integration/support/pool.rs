//! A storage pool: a stock `spdk_tgt` with namespaces behind NVMe/TCP.

use std::fs::File;
use std::net::TcpListener;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::app::{App, Program};
use super::paths;

/// The name of every pool's subsystem here.
pub(crate) const NQN: &str = "nqn.2024-01.com.example:pool";
/// The bytes of the namespaces of [`Pool::malloc`].
pub(crate) const SIZE: u64 = 64 << 20;
/// The UUIDs of namespaces, by their place.
pub(crate) const UUIDS: [&str; 2] = ["0d3a4a6e-7b1c-4e58-9f3d-5a2b6c7d8e90", "1d3a4a6e-7b1c-4e58-9f3d-5a2b6c7d8e91"];
/// The cores of pools.
const MASK: &str = "0x1";

/// Returns a port that nothing listened on a moment ago.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port can be had");
    listener.local_addr().expect("a listener has an address").port()
}

/// A pool's target.
pub(crate) struct Pool {
    pub(crate) app: App,
    pub(crate) port: u16,
}

impl Pool {
    /// Returns a pool without namespaces.
    pub(crate) fn empty() -> Self {
        Self::at(free_port())
    }

    fn at(port: u16) -> Self {
        let pool = Self { app: App::start(Program::Stock, MASK, &[]), port };
        pool.export();
        pool
    }

    fn export(&self) {
        let rpc = &self.app.rpc;
        rpc.ok("nvmf_create_transport", &json!({ "trtype": "TCP" }));
        rpc.ok("nvmf_create_subsystem", &json!({ "nqn": NQN, "allow_any_host": true, "serial_number": "POOL" }));
    }

    fn listen(&self) {
        self.app.rpc.ok("nvmf_subsystem_add_listener", &json!({ "nqn": NQN, "listen_address": self.address() }));
    }

    fn address(&self) -> Value {
        json!({ "trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": self.port.to_string() })
    }

    /// Returns a pool with two namespaces in memory: 1 with blocks of 512 bytes, 2 with blocks of 4,096 bytes.
    pub(crate) fn malloc() -> Self {
        Self::malloc_at(free_port())
    }

    /// Returns the same at a port.
    pub(crate) fn malloc_at(port: u16) -> Self {
        let pool = Self::at(port);
        for (index, block_size) in [512, 4_096].into_iter().enumerate() {
            let name = format!("malloc{index}");
            let params = json!({
                "name": name, "block_size": block_size, "num_blocks": SIZE / block_size, "uuid": UUIDS[index],
            });
            pool.app.rpc.ok("bdev_malloc_create", &params);
            pool.add_namespace(&name);
        }
        pool.listen();
        pool
    }

    /// Returns a pool with one namespace per file, whose data outlives it.
    pub(crate) fn files(files: &[Backing]) -> Self {
        let pool = Self::empty();
        pool.add_files(files);
        pool.listen();
        pool
    }

    fn add_files(&self, files: &[Backing]) {
        for (index, file) in files.iter().enumerate() {
            let name = format!("file{index}");
            let params = json!({
                "name": name, "filename": file.path, "block_size": file.block_size,
                "uuid": file.uuid.unwrap_or(UUIDS[index]),
            });
            self.app.rpc.ok("bdev_aio_create", &params);
            self.add_namespace(&name);
        }
    }

    /// Ends it as a power cut does.
    pub(crate) fn kill(&self) {
        self.app.process.kill();
    }

    /// Starts one again where a killed one was, with the same files.
    pub(crate) fn start_again(&mut self, files: &[Backing]) {
        *self = Self::at(self.port);
        self.add_files(files);
        self.listen();
    }

    /// Adds a bdev as the next namespace.
    pub(crate) fn add_namespace(&self, bdev: &str) -> Value {
        let params = json!({ "nqn": NQN, "namespace": { "bdev_name": bdev } });
        self.app.rpc.ok("nvmf_subsystem_add_ns", &params)
    }

    /// Removes a namespace.
    pub(crate) fn remove_namespace(&self, nsid: u32) {
        self.app.rpc.ok("nvmf_subsystem_remove_ns", &json!({ "nqn": NQN, "nsid": nsid }));
    }

    /// Returns what `courier_pool_create` needs to connect to it.
    pub(crate) fn params(&self, name: &str) -> Value {
        json!({
            "name": name, "trtype": "tcp", "traddr": "127.0.0.1", "trsvcid": self.port.to_string(), "subnqn": NQN,
            "reconnect_delay_sec": 1,
        })
    }

    /// Returns what `courier_pool_create` needs to connect to it, with something changed or added.
    pub(crate) fn params_with(&self, name: &str, changes: &Value) -> Value {
        let mut params = self.params(name);
        for (key, value) in changes.as_object().expect("an object") {
            params[key] = value.clone();
        }
        params
    }
}

/// A file that a namespace's data is in.
#[derive(Debug, Clone)]
pub(crate) struct Backing {
    pub(crate) path: PathBuf,
    pub(crate) block_size: u32,
    /// Instead of that of its place in [`UUIDS`].
    pub(crate) uuid: Option<&'static str>,
}

impl Backing {
    pub(crate) fn new(bytes: u64, block_size: u32) -> Self {
        let path = paths::new_dir("file").join("data");
        let file = File::create(&path).expect("a file can be made");
        file.set_len(bytes).expect("a file can be sparse");
        Self { path, block_size, uuid: None }
    }
}
