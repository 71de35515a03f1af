//! SPDK's `bdevperf`: with the plugin, load on our bdevs without anything in between; without it, a client of ours.

use std::ops::Deref;
use std::path::Path;
use std::sync::mpsc::Receiver;

use serde_json::{Value, json};

use super::app::{App, Program};
use super::pool::Pool;
use super::rpc::RpcFailure;
use super::{secs, shared};

/// A workload of `bdevperf`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Work<'a> {
    /// `verify`, `randrw`, `reset`, ...
    pub(crate) kind: &'a str,
    pub(crate) io_size: u64,
    pub(crate) depth: u32,
    pub(crate) seconds: u32,
}

impl Work<'_> {
    fn params(&self) -> Value {
        let mut params = json!({
            "workload_type": self.kind, "io_size": self.io_size.to_string(), "queue_depth": self.depth,
            "time_in_sec": self.seconds,
        });
        if matches!(self.kind, "rw" | "randrw") {
            params["rw_percentage"] = json!(50);
        }
        params
    }
}

/// A `bdevperf` that waits for work.
pub(crate) struct Load {
    app: App,
}

impl Deref for Load {
    type Target = App;

    fn deref(&self) -> &App {
        &self.app
    }
}

impl Load {
    /// Starts one. `args` are more of its options: `-f` goes on after a failed I/O, `-T` names the one bdev to use.
    pub(crate) fn start(mask: &str, args: &[&str]) -> Self {
        Self::start_program(Program::Bdevperf, mask, args)
    }

    /// Returns the same without the plugin.
    pub(crate) fn start_stock(mask: &str, args: &[&str]) -> Self {
        Self::start_program(Program::StockBdevperf, mask, args)
    }

    fn start_program(program: Program, mask: &str, args: &[&str]) -> Self {
        let mut all = vec!["-z", "-q", "1", "-o", "4096", "-w", "verify", "-t", "1"];
        all.extend(args);
        shared::rest();
        Self { app: App::start(program, mask, &all) }
    }

    /// Starts one whose work is in a file of jobs.
    pub(crate) fn start_jobs(mask: &str, jobs: &Path, seconds: u32) -> Self {
        shared::rest();
        let (jobs, seconds) = (jobs.display().to_string(), seconds.to_string());
        Self { app: App::start(Program::Bdevperf, mask, &["-z", "-j", &jobs, "-t", &seconds]) }
    }

    /// Connects to a pool and makes bdevs `<pool>n<nsid>` of its namespaces.
    #[track_caller]
    pub(crate) fn connect(&self, name: &str, pool: &Pool, nsids: &[u32]) {
        self.rpc.ok("courier_pool_create", &pool.params_with(name, &json!({ "ns_loss_timeout_sec": 1 })));
        self.create_bdevs(name, nsids);
    }

    /// Makes bdevs `<pool>n<nsid>`.
    #[track_caller]
    pub(crate) fn create_bdevs(&self, pool: &str, nsids: &[u32]) {
        for nsid in nsids {
            let params = json!({ "name": format!("{pool}n{nsid}"), "pool": pool, "nsid": nsid });
            self.rpc.ok("bdev_courier_create", &params);
        }
    }

    /// Begins work on every bdev (or the one of `-T`).
    pub(crate) fn begin(&self, work: Work<'_>) -> Running<'_> {
        Running { load: self, answer: self.rpc.begin("perform_tests", work.params()) }
    }

    /// Begins the work of the file of jobs.
    pub(crate) fn begin_jobs(&self) -> Running<'_> {
        Running { load: self, answer: self.rpc.begin("perform_tests", Value::Null) }
    }

    /// Does work to its end, without an error.
    #[track_caller]
    pub(crate) fn run(&self, work: Work<'_>) -> Vec<Value> {
        self.begin(work).finish(work)
    }
}

/// Work in flight.
pub(crate) struct Running<'a> {
    load: &'a Load,
    answer: Receiver<Result<Value, RpcFailure>>,
}

impl Running<'_> {
    /// Waits for the end of the work.
    #[track_caller]
    pub(crate) fn result(&self, seconds: u64) -> Result<Value, RpcFailure> {
        match self.answer.recv_timeout(secs(seconds)) {
            Ok(result) => result,
            Err(error) => panic!("the work did not end: {error}\n{}", self.load.process.tail()),
        }
    }

    /// Asserts that the work ends, without an error; returns the result of each bdev.
    #[track_caller]
    pub(crate) fn finish(&self, work: Work<'_>) -> Vec<Value> {
        let result = match self.result(u64::from(work.seconds) + 40) {
            Ok(result) => result,
            Err(error) => panic!("{work:?}: {}\n{}", error.message, self.load.process.tail()),
        };
        let results = result["results"].as_array().cloned().unwrap_or_default();
        assert!(!results.is_empty(), "{work:?} ran on no bdev: {result}");
        for result in &results {
            let failed = result["io_failed"].as_u64();
            let good = result["status"] == "finished" && failed == Some(0);
            assert!(good, "{work:?}: {result}\n{}", self.load.process.tail());
            assert!(result["iops"].as_f64().unwrap_or_default() > 0.0, "{work:?} did nothing: {result}");
        }
        results
    }
}
