//! `courier_tgt` and the plugin as programs: what they take and what they offer.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use serial_test::serial;

use crate::support::app::{App, Program, SMALL_POOLS, common_args};
use crate::support::process::{Libraries, Process};
use crate::support::rpc::Rpc;
use crate::support::{paths, secs, shared, wait_for};

/// The RPC methods that are Courier's.
const METHODS: [&str; 5] =
    ["bdev_courier_create", "bdev_courier_delete", "courier_pool_create", "courier_pool_delete", "courier_pool_get"];

fn methods(app: &App) -> BTreeSet<String> {
    let methods = app.rpc.ok("rpc_get_methods", &Value::Null);
    methods.as_array().expect("a list").iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Returns the options that a `--help` tells of, as they are written.
fn options(program: Program) -> BTreeSet<String> {
    let (status, help) = Process::run(&program.path(), &["--help".to_owned()], program.libraries(), secs(30));
    assert!(status.success(), "--help ended with {status}\n{help}");
    let option = |word: &str| {
        let name = word.trim_matches(|c: char| !c.is_ascii_alphanumeric() && c != '-');
        let name = name.split('=').next().unwrap_or_default();
        (name.len() > 1 && name.starts_with('-')).then(|| name.to_owned())
    };
    let lines = help.lines().map(str::trim_start).filter(|line| line.starts_with('-'));
    lines.flat_map(|line| line.split_whitespace().take(2).filter_map(option)).collect()
}

#[test]
#[serial]
fn courier_tgt_has_every_rpc_method_of_spdk_tgt_and_ours() {
    let (stock, courier) = (shared::pool(), shared::courier());
    let ours = methods(&courier);
    let missing: Vec<_> = methods(&stock.app).difference(&ours).cloned().collect();
    assert!(missing.is_empty(), "courier_tgt lacks {missing:?}");
    for method in METHODS {
        assert!(ours.contains(method), "courier_tgt lacks {method}");
    }
}

#[test]
#[serial]
fn courier_tgt_lists_every_option_of_spdk_tgt_in_its_help() {
    let (stock, ours) = (options(Program::Stock), options(Program::Courier));
    assert!(stock.len() > 30, "too few options were understood: {stock:?}");
    let missing: Vec<_> = stock.difference(&ours).collect();
    assert!(missing.is_empty(), "courier_tgt lacks {missing:?}");
}

#[test]
#[serial]
fn an_unknown_option_ends_courier_tgt_with_an_error() {
    let bad: [&[&str]; 4] = [&["--no-such-option"], &["-f"], &["-m", "what"], &["-c", "/nonexistent/config.json"]];
    for args in bad {
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        let mut all = common_args(&paths::new_dir("bad").join("rpc.sock"), "0x2");
        all.extend(args.clone());
        let (status, output) = Process::run(&paths::courier_tgt(), &all, Libraries::None, secs(30));
        assert!(!status.success(), "{args:?} was taken");
        assert!(status.code().is_some(), "{args:?} ended it by a signal: {status}\n{output}");
    }
}

#[test]
#[serial]
fn courier_tgt_waits_for_rpc_writes_its_pid_and_reads_its_configuration() {
    let pool = shared::pool();
    let dir = paths::new_dir("files");
    let (pid, sockets, config) = (dir.join("pid"), dir.join("sockets"), dir.join("config.json"));
    fs::create_dir(&sockets).expect("a folder can be made");
    let calls = json!([
        { "method": "courier_pool_create", "params": pool.params("p") },
        { "method": "bdev_courier_create", "params": { "name": "disk", "pool": "p", "nsid": 2 } },
    ]);
    let text = json!({ "subsystems": [{ "subsystem": "bdev", "config": calls }] });
    fs::write(&config, text.to_string()).expect("a file can be written");

    let path = |path: &Path| path.display().to_string();
    let args = ["-f", &path(&pid), "-S", &path(&sockets), "-c", &path(&config)];
    let app = App::start(Program::Courier, "0x2", &args);
    assert_eq!(fs::read_to_string(&pid).expect("the file is there").trim(), app.process.pid().to_string());
    assert_eq!(app.bdevs(), ["disk"]);
    assert_eq!(app.shut_down(secs(20)).code(), Some(0), "{}", app.process.tail());

    let app = App::begin(Program::Courier, "0x2", &["--wait-for-rpc"]);
    wait_for("the RPC socket", secs(30), || app.rpc.call("rpc_get_methods", &json!({ "current": true })).is_ok());
    app.rpc.fails("courier_pool_get", &Value::Null, &[]);
    app.rpc.ok("framework_start_init", &Value::Null);
    assert_eq!(app.rpc.ok("courier_pool_get", &Value::Null), json!([]));
}

/// The kernel enlarges the table when it is full, and has whoever opens a file meanwhile wait for an RCU grace period:
/// tens of ms.
#[track_caller]
fn assert_table_of_open_files_need_not_grow(app: &App) {
    let number = |file: &str, name: &str| -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/{file}", app.process.pid())).expect("it runs");
        let line =
            text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name} in {text}"));
        line.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("{name}{line}"))
    };
    let (table, limit) = (number("status", "FDSize:"), number("limits", "Max open files"));
    assert!(table >= limit.min(1 << 17), "the table has room for {table} of {limit} open files");
}

#[test]
#[serial]
fn no_reactor_waits_until_the_table_of_open_files_has_grown() {
    let app = App::start(Program::Courier, "0x2", &[]);
    assert_table_of_open_files_need_not_grow(&app);
}

#[test]
#[serial]
fn stock_spdk_tgt_with_the_plugin_has_our_methods() {
    let app = App::start(Program::StockWithPlugin, "0x2", &[]);
    assert_table_of_open_files_need_not_grow(&app);
    let there = methods(&app);
    for method in METHODS {
        assert!(there.contains(method), "the plugin lacks {method}");
    }
    assert_eq!(app.shut_down(secs(20)).code(), Some(0), "{}", app.process.tail());
}

#[test]
fn the_version_of_courier_tgt_is_its_own_and_that_of_spdk() {
    for option in ["--version", "-v"] {
        let args = [option.to_owned()];
        let (status, said) = Process::run(&paths::courier_tgt(), &args, Libraries::None, secs(30));
        assert!(status.success(), "{option} ended with {status}\n{said}");
        assert!(said.contains(concat!("courier_tgt ", env!("CARGO_PKG_VERSION"), " with SPDK v")), "{said}");
    }
}

/// Runs `spdk_tgt --version` with the plugin and, before SPDK's own, a function that was written in C.
fn with_another_spdk(function: &str) -> (Option<i32>, String) {
    let dir = paths::new_dir("other");
    let (source, library) = (dir.join("other.c"), dir.join("other.so"));
    fs::write(&source, function).expect("a file can be written");
    let compiled = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).status();
    assert!(compiled.expect("there is a compiler").success(), "{function}");
    let path = |path: &Path| path.display().to_string();
    let libraries = format!("LD_LIBRARY_PATH={}", paths::library_path().display());
    let preload = format!("LD_PRELOAD={} {}", path(&library), path(paths::plugin()));
    let args = [libraries, preload, path(&Program::Stock.path()), "--version".to_owned()];
    let (status, said) = Process::run(Path::new("/usr/bin/env"), &args, Libraries::None, secs(30));
    (status.code(), said)
}

#[test]
fn a_plugin_that_was_built_for_another_spdk_ends_the_process_with_a_sentence() {
    let (code, said) = with_another_spdk("int unused;");
    assert_eq!(code, Some(0), "the plugin's own SPDK is taken: {said}");
    for (function, what) in [
        // A fork with a function more in front of this one than any that is known.
        (
            "int spdk_bdev_get_memory_domains(void **bdev) { return ((int (**)(void))bdev[0])[10](); }",
            "spdk_bdev_fn_table",
        ),
        ("unsigned spdk_bdev_get_block_size(char *bdev) { return *(unsigned *)(bdev + 4); }", "spdk_bdev"),
    ] {
        let (code, said) = with_another_spdk(function);
        assert_eq!(code, Some(1), "{said}");
        assert!(
            said.contains("Courier cannot be used here") && said.contains(what) && said.contains("SPDK_DIR"),
            "{said}"
        );
    }
}

/// A mount of hugetlbfs, locked as a DPDK process locks it while it starts.
struct LockedMount {
    folder: std::path::PathBuf,
    file: fs::File,
}

impl LockedMount {
    fn new() -> Self {
        let folder = paths::new_dir("hugetlbfs");
        let mounted = Command::new("mount").args(["-t", "hugetlbfs", "none"]).arg(&folder).status();
        assert!(mounted.is_ok_and(|status| status.success()), "hugetlbfs cannot be mounted");
        let file = fs::File::open(&folder).expect("the mount can be opened");
        Self { folder, file }
    }

    fn lock(&self) {
        let exclusive = rustix::fs::FlockOperation::NonBlockingLockExclusive;
        rustix::fs::flock(&self.file, exclusive).expect("nobody else has the lock");
    }
}

impl Drop for LockedMount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.folder).status();
    }
}

#[test]
#[serial]
fn a_reactor_takes_memory_and_gives_it_back_while_another_dpdk_process_starts() {
    const PAGES: u64 = 512;
    let free = fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
    let free: u64 = free.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    if free < PAGES {
        eprintln!("{free} huge pages are free, and {PAGES} are needed: not tested");
        return;
    }
    let mount = LockedMount::new();
    let dir = paths::new_dir("hugepages");
    let socket = dir.join("rpc.sock");
    let name = socket.display().to_string();
    let args = ["-r", &name, "-m", "0x2", "--disable-cpumask-locks", "-c", SMALL_POOLS, "--json-ignore-init-errors"];
    let _process = Process::spawn(&paths::courier_tgt(), &args.map(str::to_owned), Libraries::None, &dir.join("log"));
    let rpc = Rpc::new(socket);
    wait_for("its RPC socket", secs(60), || rpc.call("framework_wait_init", &Value::Null).is_ok());
    mount.lock();
    rpc.ok("bdev_malloc_create", &json!({ "name": "memory", "num_blocks": 131_072, "block_size": 512 }));
    rpc.ok("bdev_malloc_delete", &json!({ "name": "memory" }));
}
