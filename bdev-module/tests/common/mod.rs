//! A pool in a process of its own, this process as its initiator, and what the tests share.
#![allow(dead_code, reason = "each test program uses a part of this")]
#![allow(clippy::panic, reason = "a test fails by panic")]

#[path = "../../../spdk/tests/harness/mod.rs"]
pub(crate) mod harness;

pub(crate) mod disk;
pub(crate) mod load;
pub(crate) mod rng;
pub(crate) mod target;

use harness::{RpcFailure, TestApp};
use once_cell::sync::OnceCell;
use pool_faults::{Relay, ScriptedTarget};
use serde_json::{Value, json};
use target::Target;

/// The name of the pool that most tests use.
pub(crate) const POOL: &str = "pool";

/// What the tests need: the application with the module in it, and a target to be its pools.
pub(crate) struct Rig {
    pub(crate) app: &'static TestApp,
    pub(crate) target: &'static Target,
}

/// The rig, made if this is the first call, with [`POOL`] connected to the target's first subsystem.
pub(crate) fn rig() -> Rig {
    rig_on("0x1")
}

/// As [`rig`], with reactors on `cores`.
pub(crate) fn rig_on(cores: &str) -> Rig {
    static POOL_MADE: OnceCell<()> = OnceCell::new();
    let app = harness::start(cores, bdev_module::register);
    let rig = Rig { app, target: Target::running(app.dir()) };
    POOL_MADE.get_or_init(|| rig.connect(POOL, target::NQN, json!({})).expect("the pool connects"));
    rig
}

impl Rig {
    /// Makes a pool of a subsystem of the target.
    pub(crate) fn connect(&self, name: &str, subnqn: &str, more: Value) -> Result<(), RpcFailure> {
        let mut params = json!({
            "name": name, "trtype": "tcp", "traddr": "127.0.0.1", "trsvcid": self.target.port().to_string(),
            "subnqn": subnqn, "connect_timeout_ms": 30_000,
        });
        if let (Some(params), Value::Object(more)) = (params.as_object_mut(), more) {
            params.extend(more);
        }
        self.app.rpc("courier_pool_create", params).map(drop)
    }

    /// Returns a pool of a subsystem whose queues have so many entries and requests.
    pub(crate) fn small_pool(&self, subnqn: &str, size: u32, requests: u32) -> Pool {
        let sizes = json!({
            "io_queue_size": size, "io_queue_requests": requests, "hostnqn": "nqn.2024-01.com.example:small-host",
        });
        assert_eq!(self.connect("small", subnqn, sizes), Ok(()));
        Pool { app: self.app, name: "small".to_owned() }
    }

    /// Returns a pool of the first subsystem.
    pub(crate) fn named_pool(&self, name: &str, more: Value) -> Pool {
        assert_eq!(self.connect(name, target::NQN, more), Ok(()));
        Pool { app: self.app, name: name.to_owned() }
    }

    /// Returns a pool of the first subsystem, whose target is reached through `relay`.
    pub(crate) fn relayed_pool(&self, relay: &Relay) -> Pool {
        let name = "relayed";
        let more = json!({ "trsvcid": relay.port().to_string(), "reconnect_delay_sec": 1 });
        assert_eq!(self.connect(name, target::NQN, more), Ok(()));
        Pool { app: self.app, name: name.to_owned() }
    }

    /// Returns a pool of the first subsystem at a port where nothing needs to listen yet.
    pub(crate) fn awaited_pool(&self, port: u16) -> Pool {
        let more = json!({ "trsvcid": port.to_string(), "reconnect_delay_sec": 1, "wait": false });
        assert_eq!(self.connect("awaited", target::NQN, more), Ok(()));
        Pool { app: self.app, name: "awaited".to_owned() }
    }

    /// Returns a pool of a scripted target, at its own port or at that of a relay before it.
    pub(crate) fn scripted_pool(&self, target: &ScriptedTarget, port: u16, more: Value) -> Pool {
        self.other_scripted_pool("scripted", target, port, more)
    }

    /// Returns one with a name of its own.
    pub(crate) fn other_scripted_pool(&self, name: &str, target: &ScriptedTarget, port: u16, more: Value) -> Pool {
        let mut params = json!({ "trsvcid": port.to_string(), "reconnect_delay_sec": 1 });
        if let (Some(params), Value::Object(more)) = (params.as_object_mut(), more) {
            params.extend(more);
        }
        assert_eq!(self.connect(name, &target.nqn(), params), Ok(()));
        Pool { app: self.app, name: name.to_owned() }
    }

    /// Makes a bdev of a namespace of a pool. It goes when the value does.
    pub(crate) fn bdev(&self, pool: &str, nsid: u32) -> Bdev {
        let name = format!("{pool}n{nsid}");
        let params = json!({ "name": name, "pool": pool, "nsid": nsid });
        let made = self.app.rpc("bdev_courier_create", params);
        assert_eq!(made, Ok(json!(name)));
        Bdev { app: self.app, name }
    }
}

/// A pool for the time of a test.
pub(crate) struct Pool {
    app: &'static TestApp,
    pub(crate) name: String,
}

impl Pool {
    /// Returns how often it has lost its connection.
    pub(crate) fn losses(&self) -> u64 {
        let pools = self.app.rpc("courier_pool_get", json!({ "name": self.name })).expect("the pool is there");
        pools[0]["losses"].as_u64().unwrap_or_else(|| panic!("no losses in {pools}"))
    }

    /// Returns what is told of it.
    pub(crate) fn told(&self) -> Value {
        self.app.rpc("courier_pool_get", json!({ "name": self.name })).expect("the pool is there")[0].clone()
    }

    /// Deletes it, if it is there.
    pub(crate) fn delete(&self) -> Result<Value, RpcFailure> {
        self.app.rpc("courier_pool_delete", json!({ "name": self.name }))
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let known = self.app.rpc("courier_pool_get", json!({ "name": self.name })).is_ok();
        let gone = known.then(|| self.delete());
        if !std::thread::panicking() {
            assert!(gone.is_none_or(|gone| gone == Ok(json!(true))), "{} is deleted", self.name);
        }
    }
}

/// A bdev of the module's.
pub(crate) struct Bdev {
    app: &'static TestApp,
    pub(crate) name: String,
}

impl Bdev {
    /// Returns one of the numbers that the module keeps of the bdev's I/O.
    pub(crate) fn stat(&self, name: &str) -> u64 {
        let stats = self.app.rpc("bdev_get_iostat", json!({ "names": [self.name] })).expect("there are statistics");
        let stat = &stats["bdevs"][0]["driver_specific"]["courier"][name];
        stat.as_u64().unwrap_or_else(|| panic!("no number {name} in {stats}"))
    }
}

impl Drop for Bdev {
    fn drop(&mut self) {
        let known = self.app.rpc("bdev_get_bdevs", json!({ "name": self.name })).is_ok();
        let gone = known.then(|| self.app.rpc("bdev_courier_delete", json!({ "name": self.name })));
        if !std::thread::panicking() {
            assert!(gone.is_none_or(|gone| gone == Ok(json!(true))), "{} is deleted", self.name);
        }
    }
}
