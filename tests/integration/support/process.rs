//! A process that goes with its owner.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use super::paths;

/// How many bytes of a log are shown when a test fails.
const TAIL: usize = 3_000;

/// What a process finds of Courier and of SPDK's shared libraries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Libraries {
    /// Nothing: it is linked statically.
    None,
    /// SPDK's shared libraries.
    Spdk,
    /// Those, and the plugin.
    Plugin,
}

/// A process, which is killed when it is dropped, and also when this one ends.
pub(crate) struct Process {
    name: String,
    child: Mutex<Child>,
    log: PathBuf,
}

impl Process {
    /// Starts `program`; what it prints goes to the file `log`.
    pub(crate) fn spawn(program: &Path, args: &[String], libraries: Libraries, log: &Path) -> Self {
        // RUST_LOG=debug shows what is run.
        let _ = env_logger::builder().is_test(true).try_init();
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        log::debug!("{name} {}, into {}", args.join(" "), log.display());
        // The variables are for the program alone: setpriv itself could not start with them.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "env"]);
        if libraries != Libraries::None {
            command.arg(format!("LD_LIBRARY_PATH={}", paths::library_path().display()));
        }
        if libraries == Libraries::Plugin {
            command.arg(format!("LD_PRELOAD={}", paths::plugin().display()));
        }
        let file = File::options().create(true).append(true).open(log).expect("a log can be written");
        // One that crashes leaves its core with its log, and not in the checkout.
        command.current_dir(log.parent().unwrap_or(Path::new("/")));
        command.arg(program).args(args).stdin(Stdio::null());
        command.stderr(file.try_clone().expect("a file can be had twice")).stdout(file);
        Self { name, child: Mutex::new(spawn_for_good(command)), log: log.to_owned() }
    }

    /// Runs `program` to its end; panics when that does not come within `limit`. Returns what it printed, too.
    pub(crate) fn run(program: &Path, args: &[String], libraries: Libraries, limit: Duration) -> (ExitStatus, String) {
        let dir = paths::new_dir("run");
        let process = Self::spawn(program, args, libraries, &dir.join("log"));
        let status = process.wait(limit);
        (status, process.output())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.with_child(|child| child.id())
    }

    fn with_child<R>(&self, f: impl FnOnce(&mut Child) -> R) -> R {
        f(&mut self.child.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns its exit status, if it has ended.
    pub(crate) fn status(&self) -> Option<ExitStatus> {
        self.with_child(|child| child.try_wait().expect("a child can be waited for"))
    }

    /// Returns everything that it has printed.
    pub(crate) fn output(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The end of what it has printed, for a test's message.
    pub(crate) fn tail(&self) -> String {
        let output = self.output();
        let mut start = output.len().saturating_sub(TAIL);
        while !output.is_char_boundary(start) {
            start += 1;
        }
        format!("--- the end of the log of {} (pid {}):\n{}\n---", self.name, self.pid(), &output[start..])
    }

    /// Waits for its end, for `limit` of the time that it can run.
    #[track_caller]
    pub(crate) fn wait(&self, limit: Duration) -> ExitStatus {
        let clock = RunClock::start(self);
        loop {
            if let Some(status) = self.status() {
                return status;
            }
            assert!(clock.elapsed() < limit, "{} did not end within {limit:?}\n{}", self.name, self.tail());
            sleep(Duration::from_millis(10));
        }
    }

    /// Asks it to end (SIGTERM).
    pub(crate) fn terminate(&self) {
        self.signal("-TERM");
    }

    /// Stops it where it is (SIGSTOP): its connections stay, and nothing is answered.
    pub(crate) fn suspend(&self) {
        self.signal("-STOP");
    }

    /// Lets it go on (SIGCONT).
    pub(crate) fn resume(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.pid().to_string()]).status();
        assert!(sent.expect("kill can be run").success(), "{} is gone already\n{}", self.name, self.tail());
    }

    /// Ends it at once (SIGKILL), and waits until it has gone.
    pub(crate) fn kill(&self) {
        self.with_child(|child| {
            // One that has ended needs no killing.
            let _ = child.kill();
            let _ = child.wait();
        });
    }

    /// Returns its resident memory.
    pub(crate) fn memory(&self) -> MemoryUse {
        /// Where SPDK asks DPDK to put its memory.
        const BASE: &str = "2000";
        let maps = fs::read_to_string(format!("/proc/{}/smaps", self.pid())).expect("it runs");
        let mut memory = MemoryUse::default();
        let mut kind = None;
        for line in maps.lines() {
            if let Some(resident) = line.strip_prefix("Rss:") {
                let kib = resident.split_whitespace().next().and_then(|number| number.parse::<u64>().ok());
                let kib = kib.expect("the kernel tells numbers");
                match kind {
                    Some(MappingKind::Heap) => memory.heap_kib += kib,
                    Some(MappingKind::Dma) => memory.dma_kib += kib,
                    None => {}
                }
            } else if line.split_whitespace().next().is_some_and(|word| word.contains('-')) {
                let dma = line.starts_with(BASE) && line.find('-') == Some(12);
                kind = if dma { Some(MappingKind::Dma) } else { line.ends_with("[heap]").then_some(MappingKind::Heap) };
            }
        }
        memory
    }
}

/// Tells the time without that in which a process was ready to run and others had the processor: limits hold on a
/// machine that is busy with other things, too.
pub(crate) struct RunClock<'a> {
    process: &'a Process,
    start: Instant,
    waited: Duration,
}

impl<'a> RunClock<'a> {
    pub(crate) fn start(process: &'a Process) -> Self {
        Self { process, start: Instant::now(), waited: waited(process.pid()) }
    }

    /// Returns the time since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.start.elapsed().saturating_sub(waited(self.process.pid()).saturating_sub(self.waited))
    }
}

/// Returns how long the main thread of a process, which is its first reactor, has waited for a processor. Zero where
/// the kernel does not say so.
fn waited(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/task/{pid}/schedstat")).unwrap_or_default();
    Duration::from_nanos(stat.split_whitespace().nth(1).and_then(|number| number.parse().ok()).unwrap_or(0))
}

/// Resident memory, in KiB.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct MemoryUse {
    /// The heap's.
    pub(crate) heap_kib: u64,
    /// That of DPDK's memory.
    pub(crate) dma_kib: u64,
}

enum MappingKind {
    Heap,
    Dma,
}

impl Drop for Process {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.tail());
        }
        self.kill();
        // Where SPDK is killed it leaves its traces in memory, some MiB.
        let _ = fs::remove_file(format!("/dev/shm/{}_trace.pid{}", self.name, self.pid()));
    }
}

type Reply = Sender<std::io::Result<Child>>;

/// Starts a process from a thread that lives as long as this process: the kernel's "signal at the parent's death" means
/// the parent's thread, and a test's thread ends before what it started for others.
fn spawn_for_good(command: Command) -> Child {
    static SPAWNER: LazyLock<Mutex<Sender<(Command, Reply)>>> = LazyLock::new(|| {
        let (orders, received) = channel::<(Command, Reply)>();
        let spawn = move || {
            for (mut command, reply) in received {
                // Who does not wait for the answer does not want it.
                let _ = reply.send(command.spawn());
            }
        };
        thread::Builder::new().name("spawner".to_owned()).spawn(spawn).expect("a thread can be had");
        Mutex::new(orders)
    });
    let (reply, answer) = channel();
    let spawner = SPAWNER.lock().unwrap_or_else(PoisonError::into_inner);
    spawner.send((command, reply)).expect("the spawner runs");
    answer.recv().expect("the spawner answers").expect("setpriv can be run")
}
