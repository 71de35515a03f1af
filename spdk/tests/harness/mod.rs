//! An SPDK application in the test's own process, on a thread of its own, and a client for RPCs.
//!
//! The application starts with the first test that needs it and is stopped when the process exits; a shutdown that
//! fails or hangs fails the process.
#![allow(dead_code, reason = "each test program uses a part of this")]

use std::ffi::OsString;
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use once_cell::sync::OnceCell;
use serde_json::{Value, json};
use spdk::app::App;
use spdk::thread::send_to_app;

/// How long anything may take that has no time of its own, on a machine that is busy with other things.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// SPDK's configuration. Nobody looks for partitions and the like on a new bdev: that I/O is none of the tests'.
const CONFIG: &str = r#"{ "subsystems": [ { "subsystem": "bdev", "config": [
    { "method": "bdev_set_options", "params": { "bdev_auto_examine": false } } ] } ] }"#;

/// The application of this process.
#[derive(Debug)]
pub(crate) struct TestApp {
    dir: PathBuf,
}

/// The thread of the application, and how it tells whether SPDK has stopped well.
struct Running {
    thread: JoinHandle<()>,
    ended: Receiver<bool>,
}

static APP: OnceCell<TestApp> = OnceCell::new();
static RUNNING: Mutex<Option<Running>> = Mutex::new(None);
static AT_EXIT: Mutex<Vec<fn()>> = Mutex::new(Vec::new());

/// Returns the application, started on `cores` (a mask) if this is the first call; `register` is called before SPDK
/// starts.
pub(crate) fn start(cores: &str, register: fn()) -> &'static TestApp {
    APP.get_or_init(|| {
        // RUST_LOG=debug shows what the crates say; a logger that is set stays when a module wants SPDK's.
        let _ = env_logger::builder().is_test(true).try_init();
        let dir = std::env::temp_dir().join(format!("courier-test.{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a folder for the sockets");
        let app = TestApp { dir };
        let config = app.dir.join("app.json");
        std::fs::write(&config, CONFIG).expect("a file for the configuration");
        let arguments = ["test", "-m", cores, "--no-huge", "-s", "1024", "--no-pci", "--silence-noticelog"];
        let arguments: Vec<OsString> = arguments
            .into_iter()
            .map(OsString::from)
            .chain(["--disable-cpumask-locks".into(), "-r".into(), app.socket().into(), "-c".into(), config.into()])
            .collect();
        let (started, is_started) = channel();
        let (end, ended) = channel();
        let run = move || {
            register();
            let started = move |_: &[_]| {
                let _ = started.send(());
                Ok(())
            };
            let code = App { name: c"test", options: &[], on_shutdown: || () }.run(arguments, started);
            let _ = end.send(code == ExitCode::SUCCESS);
        };
        let thread = thread::Builder::new().name("spdk".to_owned()).spawn(run).expect("a thread");
        is_started.recv_timeout(PATIENCE).expect("SPDK starts; its log says why it does not");
        RUNNING.lock().expect("not poisoned").replace(Running { thread, ended });
        stop_at_exit();
        app
    })
}

/// Calls `f` when the process exits, after the application has been stopped.
pub(crate) fn at_exit(f: fn()) {
    AT_EXIT.lock().expect("not poisoned").push(f);
}

/// Stops the application and waits until its thread has ended. Returns whether that went well; `None` if it was stopped
/// before.
pub(crate) fn stop() -> Option<bool> {
    let Running { thread, ended } = RUNNING.lock().ok()?.take()?;
    spdk::app::stop(Ok(()));
    // A thread that ends frees what OpenSSL keeps for it. When the process exits, OpenSSL's clean-up frees the same for
    // all threads, without a lock: the thread must have ended before.
    Some(ended.recv_timeout(PATIENCE) == Ok(true) && thread.join().is_ok())
}

#[expect(unsafe_code, reason = "the test harness exits the process itself, and tells of it in no other way")]
fn stop_at_exit() {
    extern "C" fn exit() {
        let ended = stop();
        for f in AT_EXIT.lock().map(|mut list| std::mem::take(&mut *list)).unwrap_or_default() {
            f();
        }
        if let Some(app) = APP.get() {
            let _ = std::fs::remove_dir_all(&app.dir);
        }
        if ended == Some(false) {
            eprintln!("SPDK did not stop as it should");
            // SAFETY: ends the process.
            unsafe { libc::_exit(3) };
        }
    }
    // SAFETY: the function may be called at any time.
    assert_eq!(unsafe { libc::atexit(exit) }, 0);
}

impl TestApp {
    /// Returns a folder for sockets and logs, which goes with the process.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("app.sock")
    }

    /// Calls an RPC method of the application.
    pub(crate) fn rpc(&self, method: &str, params: Value) -> Result<Value, RpcFailure> {
        rpc(&self.socket(), method, params)
    }
}

impl TestApp {
    /// Calls an RPC method of the application with parameters as they are written.
    pub(crate) fn rpc_text(&self, method: &str, params: &str) -> Result<Value, RpcFailure> {
        let method = Value::from(method);
        exchange(&self.socket(), &format!(r#"{{ "jsonrpc": "2.0", "id": 1, "method": {method}, "params": {params} }}"#))
    }
}

/// The error that an RPC was answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RpcFailure {
    pub(crate) code: i64,
    pub(crate) message: String,
}

/// Calls an RPC method of the target that listens at `socket`.
pub(crate) fn rpc(socket: &Path, method: &str, params: Value) -> Result<Value, RpcFailure> {
    let mut call = json!({ "jsonrpc": "2.0", "id": 1, "method": method });
    if !params.is_null() {
        call["params"] = params;
    }
    exchange(socket, &call.to_string())
}

/// Sends a call as it is written, and takes the answer.
fn exchange(socket: &Path, call: &str) -> Result<Value, RpcFailure> {
    let lost = |error: &dyn std::fmt::Display| RpcFailure { code: 0, message: error.to_string() };
    let mut stream = UnixStream::connect(socket).map_err(|error| lost(&error))?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(|error| lost(&error))?;
    stream.write_all(call.as_bytes()).map_err(|error| lost(&error))?;
    let answer = serde_json::Deserializer::from_reader(&stream).into_iter::<Value>().next();
    let mut answer = answer.ok_or_else(|| lost(&"no answer"))?.map_err(|error| lost(&error))?;
    match answer.get("error") {
        None => Ok(answer["result"].take()),
        Some(error) => Err(RpcFailure {
            code: error["code"].as_i64().unwrap_or_default(),
            message: error["message"].as_str().unwrap_or_default().to_owned(),
        }),
    }
}

/// Calls `f` on the application's thread and gives back what it returned; a panic of it goes on here.
pub(crate) fn on_app<R: Send + 'static>(f: impl FnOnce() -> R + Send + 'static) -> R {
    let outcome = from_app(move |tell| {
        // A panic must not leave a function that C calls.
        let _ = tell.send(catch_unwind(AssertUnwindSafe(f)));
    });
    outcome.unwrap_or_else(|panic| resume_unwind(panic))
}

/// Calls `f` on the application's thread and waits for what it, or something that it begins, tells.
pub(crate) fn from_app<R: Send + 'static>(f: impl FnOnce(Sender<R>) + Send + 'static) -> R {
    let (tell, told) = channel();
    send_to_app(move || f(tell)).expect("the application runs");
    told.recv_timeout(PATIENCE).expect("the application answers in time")
}

/// Waits until `condition` holds.
pub(crate) fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let since = Instant::now();
    while !condition() {
        assert!(since.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        thread::sleep(Duration::from_millis(10));
    }
}
