//! Targets: SPDK's, and the kernel's, which is told what to do by files (configfs).

use std::fmt::Display;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU8, AtomicU16, Ordering};
use std::{env, fs};

use serde_json::{Value, json};

use crate::support::app::{App, Program};
use crate::support::pool::Backing;

/// Where the kernel's target is configured.
const NVMET: &str = "/sys/kernel/config/nvmet";
/// The bytes of every target's namespace.
pub(super) const SIZE: u64 = 32 << 20;

/// Whose target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TargetKind {
    /// SPDK's `spdk_tgt`.
    Spdk,
    /// The Linux kernel's.
    Kernel,
}

/// What it speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fabric {
    /// NVMe over RDMA.
    Rdma,
    /// NVMe/TCP.
    Tcp,
}

impl Fabric {
    const fn name(self) -> &'static str {
        match self {
            Self::Rdma => "rdma",
            Self::Tcp => "tcp",
        }
    }
}

/// One of the machine's two networks, each with an RDMA device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Network {
    First,
    Second,
}

impl Network {
    pub(super) fn address(self) -> String {
        let variable = match self {
            Self::First => "RDMA_ADDRESS",
            Self::Second => "RDMA_ADDRESS2",
        };
        env::var(variable)
            .unwrap_or_else(|_| panic!("{variable} is not set: is this the machine of scripts/rdma-vm.sh?"))
    }

    const fn interface(self) -> &'static str {
        match self {
            Self::First => "rdma0",
            Self::Second => "rdma1",
        }
    }

    /// Ends every connection through it, and lets no new one come to be: its address is a host that does not answer.
    ///
    /// Soft-RoCE makes its GIDs anew when the MAC address changes, and connections do not outlive theirs. (If the
    /// address, the route or the link goes instead, there is a moment in which a GID leads nowhere: a connection that
    /// ends in it puts Soft-RoCE's queue of connection requests out of order for good.)
    pub(super) fn take_down(self) {
        static MAC: AtomicU8 = AtomicU8::new(0);
        self.local_route("del");
        let mac = format!("02:00:00:00:{:02x}:{:02x}", self as u8, MAC.fetch_add(1, Ordering::Relaxed));
        self.ip(&["link", "set", "address", &mac]);
    }

    /// Lets connections come to be again.
    pub(super) fn take_up(self) {
        self.local_route("add");
    }

    /// What makes packets to its address stay in this machine.
    fn local_route(self, change: &str) {
        let address = self.address();
        self.ip(&[
            "route", change, "local", &address, "src", &address, "proto", "kernel", "scope", "host", "table", "local",
        ]);
    }

    fn ip(self, args: &[&str]) {
        let output = Command::new("ip").args(args).args(["dev", self.interface()]).output().expect("ip can be run");
        assert!(output.status.success(), "ip {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// A target with one subsystem and one namespace, whose data is in a file and outlives it.
pub(super) struct Target {
    kind: TargetKind,
    fabric: Fabric,
    address: String,
    /// Its port, and the number in its subsystem's name.
    port: u16,
    file: Backing,
    /// SPDK's, while it runs.
    app: Option<App>,
}

impl Target {
    /// Starts one.
    pub(super) fn start(kind: TargetKind, fabric: Fabric, network: Network) -> Self {
        static PORT: AtomicU16 = AtomicU16::new(4420);
        let port = PORT.fetch_add(1, Ordering::Relaxed);
        // What either takes for a file's blocks.
        let block_size = match kind {
            TargetKind::Spdk => 512,
            TargetKind::Kernel => 4_096,
        };
        let file = Backing::new(SIZE, block_size);
        let mut target = Self { kind, fabric, address: network.address(), port, file, app: None };
        target.start_again();
        target
    }

    pub(super) fn nqn(&self) -> String {
        format!("nqn.2024-01.com.example:pool{}", self.port)
    }

    /// By what its namespace is known.
    pub(super) fn nguid(&self) -> String {
        format!("0123456789abcdeffedcba987654{:04x}", self.port)
    }

    /// Returns the same.
    pub(super) fn uuid(&self) -> String {
        format!("2d3a4a6e-7b1c-4e58-9f3d-5a2b6c7d{:04x}", self.port)
    }

    /// Returns where its data lies.
    pub(super) fn file(&self) -> &Path {
        &self.file.path
    }

    pub(super) const fn block_size(&self) -> u32 {
        self.file.block_size
    }

    /// Returns what `courier_pool_create` needs to connect to it, with something changed or added.
    pub(super) fn params(&self, name: &str, changes: &Value) -> Value {
        let mut params = json!({
            "name": name, "trtype": self.fabric.name(), "traddr": self.address, "trsvcid": self.port.to_string(),
            "subnqn": self.nqn(), "reconnect_delay_sec": 1,
        });
        for (key, value) in changes.as_object().expect("an object") {
            params[key] = value.clone();
        }
        params
    }

    /// Ends it at once, as a power cut does.
    pub(super) fn kill(&mut self) {
        match self.kind {
            TargetKind::Spdk => {
                if let Some(app) = self.app.take() {
                    app.process.kill();
                }
            }
            TargetKind::Kernel => self.remove_from_kernel(),
        }
    }

    /// Starts it where it was.
    pub(super) fn start_again(&mut self) {
        match self.kind {
            TargetKind::Spdk => self.app = Some(self.start_spdk()),
            TargetKind::Kernel => self.add_to_kernel(),
        }
    }

    fn start_spdk(&self) -> App {
        let app = App::start(Program::Stock, "0x1", &[]);
        let nqn = self.nqn();
        let mut transport = json!({ "trtype": self.fabric.name() });
        if self.fabric == Fabric::Rdma {
            // The machine's memory is small, and Soft-RoCE has fewer queues than it says.
            transport["num_shared_buffers"] = json!(511);
            transport["buf_cache_size"] = json!(32);
            transport["max_io_qpairs_per_ctrlr"] = json!(8);
        }
        app.rpc.ok("nvmf_create_transport", &transport);
        let file = json!({ "name": "file", "filename": self.file.path, "block_size": self.file.block_size });
        app.rpc.ok("bdev_aio_create", &file);
        app.rpc.ok("nvmf_create_subsystem", &json!({ "nqn": nqn, "allow_any_host": true, "serial_number": "POOL" }));
        let namespace = json!({ "bdev_name": "file", "nguid": self.nguid(), "uuid": self.uuid() });
        app.rpc.ok("nvmf_subsystem_add_ns", &json!({ "nqn": nqn, "namespace": namespace }));
        let address = json!({
            "trtype": self.fabric.name(), "adrfam": "ipv4", "traddr": self.address, "trsvcid": self.port.to_string(),
        });
        app.rpc.ok("nvmf_subsystem_add_listener", &json!({ "nqn": nqn, "listen_address": address }));
        app
    }

    fn subsystem(&self) -> PathBuf {
        Path::new(NVMET).join("subsystems").join(self.nqn())
    }

    fn kernel_port(&self) -> PathBuf {
        Path::new(NVMET).join("ports").join(self.port.to_string())
    }

    fn add_to_kernel(&self) {
        let (subsystem, port) = (self.subsystem(), self.kernel_port());
        let namespace = subsystem.join("namespaces/1");
        make(&subsystem);
        tell(&subsystem, "attr_allow_any_host", 1);
        make(&namespace);
        tell(&namespace, "device_path", self.file.path.display());
        tell(&namespace, "device_nguid", self.nguid());
        tell(&namespace, "device_uuid", self.uuid());
        tell(&namespace, "enable", 1);
        make(&port);
        tell(&port, "addr_trtype", self.fabric.name());
        tell(&port, "addr_adrfam", "ipv4");
        tell(&port, "addr_traddr", &self.address);
        tell(&port, "addr_trsvcid", self.port);
        let link = port.join("subsystems").join(self.nqn());
        symlink(&subsystem, &link).unwrap_or_else(|error| panic!("{}: {error}", link.display()));
    }

    /// Its connections end with that.
    fn remove_from_kernel(&self) {
        let (subsystem, port) = (self.subsystem(), self.kernel_port());
        // What is not there need not go.
        let _ = fs::remove_file(port.join("subsystems").join(self.nqn()));
        for folder in [port, subsystem.join("namespaces/1"), subsystem] {
            let _ = fs::remove_dir(folder);
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.kill();
    }
}

fn make(folder: &Path) {
    fs::create_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
}

fn tell(folder: &Path, attribute: &str, value: impl Display) {
    let path = folder.join(attribute);
    fs::write(&path, value.to_string()).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
