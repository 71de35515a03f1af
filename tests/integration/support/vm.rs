//! A Linux guest in QEMU whose drives are controllers: `scripts/vm.sh`.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde_json::{Deserializer, Value, json};

use super::process::{Libraries, Process};
use super::{paths, secs, wait_for};

/// How long a guest may take to boot: without KVM, on a busy machine.
const BOOT_SECONDS: u64 = 120;

/// What became of a script in the guest.
#[derive(Debug)]
pub(crate) struct Done {
    /// 0 if all was well; 124 if it took too long, 125 if the guest died.
    pub(crate) status: i32,
    /// All that it said.
    pub(crate) output: String,
    /// The folder of the files that it left.
    pub(crate) out: PathBuf,
}

impl Done {
    /// Asserts that all was well.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(
            self.status,
            0,
            "the script in the guest failed:\n{}\nThe files are {:?}",
            self.output,
            self.files()
        );
        self
    }

    fn files(&self) -> Vec<String> {
        let names = fs::read_dir(&self.out).into_iter().flatten().flatten();
        names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }
}

/// A script that runs in the guest.
pub(crate) struct Script {
    process: Process,
    out: PathBuf,
    seconds: u64,
}

impl Script {
    /// Waits for its end.
    #[track_caller]
    pub(crate) fn finish(self) -> Done {
        let status = self.process.wait(secs(self.seconds + 20));
        Done { status: status.code().unwrap_or(-1), output: self.process.output(), out: self.out }
    }
}

/// A guest.
pub(crate) struct Vm {
    process: Process,
    dir: PathBuf,
}

impl Vm {
    /// Boots one with a drive for each folder with a controller's socket.
    #[track_caller]
    pub(crate) fn boot(sockets: &[&Path], cpus: u32) -> Self {
        Self::boot_with(sockets, cpus, &[])
    }

    /// Returns the same with further options of `vm.sh`.
    #[track_caller]
    pub(crate) fn boot_with(sockets: &[&Path], cpus: u32, options: &[&str]) -> Self {
        let dir = paths::new_dir("vm");
        let mut args: Vec<String> = ["serve", "--vm"].map(str::to_owned).to_vec();
        args.push(dir.display().to_string());
        args.extend(["--cpus".to_owned(), cpus.to_string(), "--timeout".to_owned(), BOOT_SECONDS.to_string()]);
        args.extend(options.iter().copied().map(str::to_owned));
        for socket in sockets {
            args.extend(["--socket-dir".to_owned(), socket.display().to_string()]);
        }
        let log = paths::new_dir("vm-log").join("log");
        let vm = Self { process: Process::spawn(&script("vm.sh"), &args, Libraries::None, &log), dir };
        wait_for("a guest to boot", secs(BOOT_SECONDS + 10), || {
            let status = vm.process.status();
            assert!(status.is_none(), "vm.sh ended with {status:?}\n{}", vm.process.tail());
            vm.process.output().contains("ready")
        });
        vm
    }

    /// Ends QEMU at once, as a crash does.
    pub(crate) fn kill(&self) {
        let pid = fs::read_to_string(self.dir.join("pid")).expect("vm.sh has written it");
        let killed = std::process::Command::new("kill").args(["-KILL", pid.trim()]).status();
        assert!(killed.expect("kill can be run").success(), "QEMU has gone already");
    }

    /// Starts a script of `scripts/guest` in the guest, with variables set.
    pub(crate) fn begin(&self, name: &str, variables: &[(&str, &str)], seconds: u64) -> Script {
        let text = fs::read_to_string(script("guest").join(name)).expect("it is in the checkout");
        self.begin_text(&text, variables, seconds)
    }

    /// Starts a script that is given as text, after the functions of `scripts/guest/drive.sh`.
    pub(crate) fn begin_text(&self, text: &str, variables: &[(&str, &str)], seconds: u64) -> Script {
        let dir = paths::new_dir("script");
        let (file, out) = (dir.join("script"), dir.join("out"));
        let set: Vec<String> = variables.iter().map(|(key, value)| format!("{key}='{value}'\n")).collect();
        let drive = fs::read_to_string(script("guest/drive.sh")).expect("it is in the checkout");
        fs::write(&file, set.concat() + &drive + text).expect("a file can be written");
        let path = |path: &Path| path.display().to_string();
        let args = ["exec", "--vm", &path(&self.dir), "--script", &path(&file), "--out", &path(&out)];
        let mut args: Vec<String> = args.map(str::to_owned).to_vec();
        args.extend(["--timeout".to_owned(), seconds.to_string()]);
        let process = Process::spawn(&script("vm.sh"), &args, Libraries::None, &dir.join("log"));
        Script { process, out, seconds }
    }

    /// Runs a script of `scripts/guest` to its end, which must be a good one.
    #[track_caller]
    pub(crate) fn run(&self, name: &str, variables: &[(&str, &str)], seconds: u64) -> Done {
        self.begin(name, variables, seconds).finish().ok()
    }

    /// Waits in the guest until a shell's condition holds.
    #[track_caller]
    pub(crate) fn wait_until(&self, condition: &str, seconds: u64) {
        let text = format!("for _ in $(seq {}); do {condition} && exit 0; sleep 0.1; done; exit 1\n", seconds * 10);
        let done = self.begin_text(&text, &[], seconds + 30).finish();
        assert_eq!(done.status, 0, "in vain for {seconds} s in the guest: {condition}\n{}", done.output);
    }

    /// Waits until a script has made a file in `/share`, which is removed.
    #[track_caller]
    pub(crate) fn wait_for_share(&self, name: &str, seconds: u64) {
        let file = self.dir.join("share").join(name);
        wait_for("a script in the guest to go on", secs(seconds), || fs::remove_file(&file).is_ok());
    }

    /// Resets the machine, whatever the guest is doing, and waits until it has booted again.
    #[track_caller]
    pub(crate) fn reset(&self) {
        let ready = self.dir.join("share/ready");
        fs::remove_file(&ready).expect("the guest has made it");
        let mut monitor = Monitor::connect(&self.dir.join("qmp.sock"));
        // vm.sh has QEMU end where a guest reboots by itself.
        monitor.call("set-action", &json!({ "reboot": "reset" }));
        monitor.call("system_reset", &json!({}));
        wait_for("the guest to boot again", secs(BOOT_SECONDS), || ready.exists());
    }
}

fn script(name: &str) -> PathBuf {
    paths::checkout().join("scripts").join(name)
}

/// QEMU's machine protocol.
struct Monitor {
    stream: BufReader<UnixStream>,
}

impl Monitor {
    fn connect(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).expect("QEMU listens");
        stream.set_read_timeout(Some(secs(10))).expect("a limit can be set");
        let mut monitor = Self { stream: BufReader::new(stream) };
        let mut greeting = String::new();
        monitor.stream.read_line(&mut greeting).expect("QEMU greets");
        monitor.call("qmp_capabilities", &json!({}));
        monitor
    }

    /// Calls a command that must work; events that come first are passed over.
    #[track_caller]
    fn call(&mut self, command: &str, arguments: &Value) {
        let request = json!({ "execute": command, "arguments": arguments }).to_string();
        self.stream.get_mut().write_all(request.as_bytes()).expect("QEMU reads");
        let answers = Deserializer::from_reader(&mut self.stream).into_iter::<Value>();
        for answer in answers {
            let answer = answer.expect("QEMU answers JSON");
            assert!(answer.get("error").is_none(), "{command}: {answer}");
            if answer.get("return").is_some() {
                return;
            }
        }
        panic!("{command}: QEMU does not answer");
    }
}
