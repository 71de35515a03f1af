//! Where things lie.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Returns the checkout.
pub(crate) fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns the tree of the SPDK in use.
pub(crate) fn spdk() -> &'static Path {
    static DIR: LazyLock<PathBuf> = LazyLock::new(|| {
        let script = checkout().join("scripts/install-spdk.sh");
        let output = Command::new(&script).arg("--print-dir").output().expect("install-spdk.sh can be run");
        assert!(
            output.status.success(),
            "{} --print-dir: {}",
            script.display(),
            String::from_utf8_lossy(&output.stderr)
        );
        let dir = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        assert!(dir.join("build/bin/spdk_tgt").exists(), "{} holds no build/bin/spdk_tgt", dir.display());
        dir
    });
    &DIR
}

/// Returns a program of SPDK's own.
pub(crate) fn stock(name: &str) -> PathBuf {
    let candidates = ["build/bin", "build/examples"].map(|dir| spdk().join(dir).join(name));
    candidates.into_iter().find(|path| path.exists()).unwrap_or_else(|| panic!("SPDK was built without {name}"))
}

/// Returns where SPDK's shared libraries lie, as `LD_LIBRARY_PATH` wants it.
pub(crate) fn library_path() -> &'static OsString {
    const DIRS: [&str; 6] =
        ["build/lib", "dpdk/build/lib", "build/libvfio-user/usr/local/lib", "isa-l/.libs", "isa-l-crypto/.libs", "lib"];
    static PATH: LazyLock<OsString> = LazyLock::new(|| {
        let dirs = DIRS.iter().map(|dir| spdk().join(dir)).filter(|dir| dir.is_dir());
        env::join_paths(dirs).expect("no path of SPDK's has a colon in it")
    });
    &PATH
}

/// `courier_tgt`.
pub(crate) fn courier_tgt() -> PathBuf {
    let built = PathBuf::from(env!("CARGO_BIN_EXE_courier_tgt"));
    env::var_os("COURIER_TARGET_DIR").map_or(built, |dir| PathBuf::from(dir).join("courier_tgt"))
}

/// `libcourier.so`: the newest one beside the program, since cargo does not always put the one that it built for a test
/// where it puts the one that it built for itself.
pub(crate) fn plugin() -> &'static Path {
    static PLUGIN: LazyLock<PathBuf> = LazyLock::new(|| {
        let program = courier_tgt();
        let dir = program.parent().expect("a program lies in a folder");
        let found = [dir.join("libcourier.so"), dir.join("deps/libcourier.so")];
        let changed = |path: &PathBuf| fs::metadata(path).and_then(|file| file.modified()).ok();
        let newest = found.into_iter().filter(|path| path.exists()).max_by_key(changed);
        newest.unwrap_or_else(|| panic!("there is no libcourier.so in {} nor in its deps", dir.display()))
    });
    &PLUGIN
}

/// Returns the folder of this run, which a janitor removes when this process is gone, however it went.
fn run_dir() -> &'static Path {
    static DIR: LazyLock<(PathBuf, Option<ChildStdin>)> = LazyLock::new(|| {
        let dir = env::temp_dir().join(format!("courier-test-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
        let mut janitor = Command::new("sh");
        janitor.args(["-c", "cat >/dev/null; sleep 0.5; rm -rf -- \"$0\""]).arg(&dir);
        janitor.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let stdin = janitor.spawn().expect("sh can be run").stdin.take();
        (dir, stdin)
    });
    &DIR.0
}

/// Returns a new folder, whose path is short enough for that of a socket.
pub(crate) fn new_dir(name: &str) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let dir = run_dir().join(format!("{}-{name}", COUNT.fetch_add(1, Ordering::Relaxed)));
    fs::create_dir_all(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    dir
}
