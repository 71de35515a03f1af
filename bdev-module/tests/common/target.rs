//! A stock `spdk_tgt` whose bdevs, in memory, are exported over NVMe/TCP.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use once_cell::sync::OnceCell;
use serde_json::{Value, json};

use super::harness::{PATIENCE, rpc};

/// The subsystem with a namespace for each of the numbers below.
pub(crate) const NQN: &str = "nqn.2024-01.com.example:pool";
/// Blocks of 512 bytes.
pub(crate) const NS_512: u32 = 1;
/// Blocks of 4096 bytes.
pub(crate) const NS_4096: u32 = 2;
/// Every I/O takes [`DELAY`].
pub(crate) const NS_SLOW: u32 = 3;
/// Every I/O takes [`DELAY`].
pub(crate) const NS_SLOW_TOO: u32 = 4;
/// Every I/O takes [`LONG_DELAY`].
pub(crate) const NS_STUCK: u32 = 5;

/// A second subsystem, with one namespace of blocks of 512 bytes.
pub(crate) const NQN_SMALL: &str = "nqn.2024-01.com.example:small";

/// How long an I/O of a slow namespace takes.
pub(crate) const DELAY: Duration = Duration::from_millis(500);
/// How long an I/O takes that is to be aborted.
pub(crate) const LONG_DELAY: Duration = Duration::from_secs(20);

/// Bytes of a namespace.
pub(crate) const SIZE: u64 = 16 << 20;

/// The target of this process.
#[derive(Debug)]
pub(crate) struct Target {
    socket: PathBuf,
    port: u16,
}

impl Target {
    /// Returns the target, started with its socket and log in `dir` if this is the first call. It is killed when this
    /// process ends, in whatever way.
    pub(crate) fn running(dir: &Path) -> &'static Self {
        static TARGET: OnceCell<Target> = OnceCell::new();
        TARGET.get_or_init(|| {
            let target = Self { socket: dir.join("target.sock"), port: free_port() };
            let (failed, has_failed) = channel();
            let (program, log) = (target.command(), dir.join("target.log"));
            // The kernel kills the target when the thread that started it ends.
            thread::spawn(move || keep(program, &log, &failed));
            let since = Instant::now();
            while rpc(&target.socket, "spdk_get_version", Value::Null).is_err() {
                if let Ok(reason) = has_failed.try_recv() {
                    panic!("the target did not start: {reason}");
                }
                assert!(since.elapsed() < PATIENCE, "the target did not start in time");
                thread::sleep(Duration::from_millis(50));
            }
            target.set_up();
            target
        })
    }

    /// Returns the port that it listens on.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Calls an RPC method, which must succeed.
    pub(crate) fn call(&self, method: &str, params: Value) -> Value {
        rpc(&self.socket, method, params).unwrap_or_else(|error| panic!("{method}: {error:?}"))
    }

    fn command(&self) -> Command {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts");
        let spdk = output(Command::new(scripts.join("install-spdk.sh")).arg("--print-dir"));
        let libraries = output(
            Command::new("bash")
                .args(["-c", r#". "$1/lib.sh"; spdk_library_path "$2""#, "lib"])
                .args([scripts.as_os_str(), spdk.as_ref()]),
        );
        // Another core than the tests' first reactor, where there is one.
        let core = if thread::available_parallelism().is_ok_and(|cores| cores.get() > 1) { "0x2" } else { "0x1" };
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(Path::new(&spdk).join("build/bin/spdk_tgt"))
            .args(["-m", core, "--no-huge", "-s", "1024", "--no-pci", "--disable-cpumask-locks"])
            // No trace: its file in /dev/shm would stay when the target is killed.
            .args(["--num-trace-entries", "0", "-r"])
            .arg(&self.socket)
            .env("LD_LIBRARY_PATH", libraries);
        command
    }

    fn set_up(&self) {
        self.call("nvmf_create_transport", json!({ "trtype": "TCP" }));
        self.malloc("M512", 512);
        self.malloc("M4096", 4096);
        for (name, delay) in [("Slow", DELAY), ("SlowToo", DELAY), ("Stuck", LONG_DELAY)] {
            let base = format!("{name}Base");
            self.malloc(&base, 512);
            let delay = u64::try_from(delay.as_micros()).expect("a short time");
            let params = json!({
                "name": name, "base_bdev_name": base, "avg_read_latency": delay, "p99_read_latency": delay,
                "avg_write_latency": delay, "p99_write_latency": delay,
            });
            self.call("bdev_delay_create", params);
        }
        self.malloc("Small", 512);
        self.malloc("Late", 512);
        self.export(NQN, &["M512", "M4096", "Slow", "SlowToo", "Stuck"]);
        self.export(NQN_SMALL, &["Small"]);
    }

    fn malloc(&self, name: &str, block_size: u64) {
        let params = json!({ "name": name, "block_size": block_size, "num_blocks": SIZE / block_size });
        self.call("bdev_malloc_create", params);
    }

    fn export(&self, nqn: &str, bdevs: &[&str]) {
        self.call("nvmf_create_subsystem", json!({ "nqn": nqn, "allow_any_host": true, "serial_number": "POOL" }));
        for bdev in bdevs {
            self.call("nvmf_subsystem_add_ns", json!({ "nqn": nqn, "namespace": { "bdev_name": bdev } }));
        }
        let address = json!({
            "trtype": "TCP", "adrfam": "IPv4", "traddr": "127.0.0.1", "trsvcid": self.port.to_string(),
        });
        self.call("nvmf_subsystem_add_listener", json!({ "nqn": nqn, "listen_address": address }));
    }
}

/// Runs the target for as long as this process lives.
fn keep(mut command: Command, log: &Path, failed: &Sender<String>) {
    let log = std::fs::File::create(log).expect("a log");
    let out = log.try_clone().expect("the same log");
    let mut child = match command.stdin(Stdio::null()).stdout(out).stderr(log).spawn() {
        Ok(child) => child,
        Err(error) => return drop(failed.send(format!("{command:?}: {error}"))),
    };
    // As long as this process lives, that is too early.
    let reason = format!("it ended: {:?}", child.wait());
    eprintln!("the target: {reason}");
    let _ = failed.send(reason);
}

/// Returns a port that nothing listened on a moment ago.
pub(crate) fn free_port() -> u16 {
    let probe = TcpListener::bind("127.0.0.1:0").expect("a free port");
    probe.local_addr().expect("an address").port()
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
