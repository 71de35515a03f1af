//! Finds SPDK, checks its version, makes the bindings and compiles the shim.
//!
//! Dependents learn through cargo's `links` metadata how to link (`DEP_SPDK_STATIC_LIBS`), and choose
//! themselves whether to: the plugin takes SPDK from the process that loads it.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The first SPDK whose interfaces this crate was written for.
const MIN_VERSION: (u32, u32) = (26, 1);

/// The pkg-config packages that together make up `spdk_tgt`.
const PACKAGES: &[&str] = &[
    "spdk_event",
    "spdk_event_bdev",
    "spdk_event_accel",
    "spdk_event_iobuf",
    "spdk_event_iscsi",
    "spdk_event_keyring",
    "spdk_event_nbd",
    "spdk_event_nvmf",
    "spdk_event_scheduler",
    "spdk_event_scsi",
    "spdk_event_sock",
    "spdk_event_ublk",
    "spdk_event_vfu_tgt",
    "spdk_event_vhost_blk",
    "spdk_event_vhost_scsi",
    "spdk_event_vmd",
    "spdk_event_fsdev",
    "spdk_fsdev_aio",
    "spdk_bdev_modules",
    "spdk_accel_modules",
    "spdk_sock_modules",
    "spdk_keyring_file",
    "spdk_keyring_linux",
    "spdk_scheduler_modules",
    "spdk_vfu_device",
    "spdk_trace",
    "spdk_env_dpdk_rpc",
    "spdk_env_dpdk",
    "spdk_syslibs",
];

type Result<T> = std::result::Result<T, String>;

fn main() {
    for variable in ["SPDK_DIR", "COURIER_CACHE", "XDG_CACHE_HOME", "HOME"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    for file in [
        "build.rs",
        "wrapper.h",
        "shim_log.h",
        "shim_log.c",
        "shim_app.h",
        "shim_app.c",
        "shim_rdma.h",
        "shim_rdma.c",
        "shim_subsystem.h",
    ] {
        println!("cargo:rerun-if-changed={file}");
    }
    if let Err(reason) = build() {
        eprintln!("spdk-sys: {reason}");
        std::process::exit(1);
    }
}

fn build() -> Result<()> {
    let spdk = Spdk::find()?;
    spdk.check_version()?;
    let include = spdk.include_dirs()?;
    make_bindings(&include)?;
    cc::Build::new()
        .files(["shim_log.c", "shim_app.c", "shim_rdma.c"])
        .define("_GNU_SOURCE", None)
        .includes(&include)
        .warnings(true)
        .compile("spdk_shim");
    println!("cargo:dir={}", spdk.dir.display());
    println!("cargo:static_libs={}", spdk.static_link_args()?.join("\u{1f}"));
    Ok(())
}

/// An SPDK on this machine: a built tree or an installed prefix.
struct Spdk {
    dir: PathBuf,
    pkg_config_path: PathBuf,
}

impl Spdk {
    fn find() -> Result<Self> {
        let dir = match env::var_os("SPDK_DIR") {
            Some(dir) if !dir.is_empty() => PathBuf::from(dir),
            _ => Self::cached()?,
        };
        let mut places = vec![dir.join("build/lib/pkgconfig"), dir.join("lib/pkgconfig"), dir.join("lib64/pkgconfig")];
        places.extend(
            std::fs::read_dir(dir.join("lib"))
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| entry.path().join("pkgconfig")),
        );
        let found = places.into_iter().find(|place| place.join("spdk_nvme.pc").exists());
        let pkg_config_path = found.ok_or_else(|| {
            format!(
                "found no spdk_nvme.pc below {}. A built SPDK tree (with build/lib/pkgconfig) or an installed prefix \
                 (with lib/pkgconfig) is needed. Set SPDK_DIR to one, or unset it and run scripts/install-spdk.sh",
                dir.display()
            )
        })?;
        Ok(Self { dir, pkg_config_path })
    }

    /// Returns the SPDK that `scripts/install-spdk.sh` built.
    fn cached() -> Result<PathBuf> {
        let manifest = env::var("CARGO_MANIFEST_DIR").map_err(|error| error.to_string())?;
        let script = Path::new(&manifest).join("../scripts/install-spdk.sh");
        println!("cargo:rerun-if-changed={}", script.display());
        let output = Command::new(&script)
            .arg("--print-dir")
            .output()
            .map_err(|error| format!("cannot run {}: {error}", script.display()))?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
        }
        Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
    }

    fn pkg_config(&self, arguments: &[&str]) -> Result<Vec<String>> {
        let output = Command::new(env::var_os("PKG_CONFIG").unwrap_or_else(|| "pkg-config".into()))
            .env("PKG_CONFIG_PATH", &self.pkg_config_path)
            .args(arguments)
            .output()
            .map_err(|error| format!("cannot run pkg-config ({error}); install the package pkg-config"))?;
        if !output.status.success() {
            return Err(format!(
                "pkg-config {} failed: {}",
                arguments.join(" "),
                String::from_utf8_lossy(&output.stderr).trim()
            ));
        }
        Ok(String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect())
    }

    /// SPDK's own header says which version it is; its pkg-config files do not tell a release from the
    /// development that follows it.
    fn check_version(&self) -> Result<()> {
        let headers = self.include_dirs()?;
        let header = headers
            .iter()
            .map(|dir| dir.join("spdk/version.h"))
            .find(|header| header.exists())
            .ok_or_else(|| format!("{} holds no spdk/version.h; is that SPDK built?", self.dir.display()))?;
        println!("cargo:rerun-if-changed={}", header.display());
        let text =
            std::fs::read_to_string(&header).map_err(|error| format!("cannot read {}: {error}", header.display()))?;
        let number = |name: &str| -> Option<u32> {
            let line = text
                .lines()
                .find(|line| line.starts_with("#define") && line.split_whitespace().nth(1) == Some(name))?;
            line.split_whitespace().nth(2)?.parse().ok()
        };
        let found = number("SPDK_VERSION_MAJOR").zip(number("SPDK_VERSION_MINOR"));
        match found {
            Some(version) if version >= MIN_VERSION => Ok(()),
            Some((major, minor)) => Err(format!(
                "found SPDK {major}.{minor:02} in {}; Courier needs {}.{:02} or newer. Set SPDK_DIR to a newer one, or \
                 unset it and run scripts/install-spdk.sh",
                self.dir.display(),
                MIN_VERSION.0,
                MIN_VERSION.1
            )),
            None => Err(format!("{} gives no SPDK_VERSION_MAJOR and _MINOR", header.display())),
        }
    }

    fn include_dirs(&self) -> Result<Vec<PathBuf>> {
        let flags = self.pkg_config(&["--cflags", "spdk_nvme"])?;
        let dirs: Vec<_> = flags.iter().filter_map(|flag| flag.strip_prefix("-I")).map(PathBuf::from).collect();
        // Headers that SPDK does not install are of no use here, so that its tree's `include` is never needed.
        if dirs.is_empty() {
            // pkg-config leaves out the compiler's own folders.
            return Ok(vec![PathBuf::from("/usr/include")]);
        }
        Ok(dirs)
    }

    /// Returns the linker's arguments for the whole of SPDK, statically. Its modules and RPCs register themselves
    /// by constructor, so every object of every archive of SPDK's and DPDK's is wanted.
    fn static_link_args(&self) -> Result<Vec<String>> {
        let known: Vec<&str> =
            PACKAGES.iter().copied().filter(|name| self.pkg_config_path.join(format!("{name}.pc")).exists()).collect();
        let flags = self.pkg_config(&[&["--libs", "--static"], known.as_slice()].concat())?;
        let mut search: Vec<String> = Vec::new();
        let mut whole: Vec<String> = Vec::new();
        let mut plain: Vec<String> = Vec::new();
        for flag in flags {
            let list = if flag.starts_with("-L") {
                &mut search
            } else if flag.starts_with("-lspdk_") || flag.starts_with("-lrte_") || flag.starts_with("-l:librte_") {
                &mut whole
            } else if flag.starts_with("-l") || Path::new(&flag).extension().is_some_and(|extension| extension == "a") {
                &mut plain
            } else {
                continue;
            };
            if !list.contains(&flag) {
                list.push(flag);
            }
        }
        // SPDK's pkg-config files name libvfio-user but not where it is.
        let vfio_user = self.dir.join("build/libvfio-user/usr/local/lib");
        if vfio_user.exists() {
            search.push(format!("-L{}", vfio_user.display()));
            if !self.dir.join("build/lib/libvfio-user.a").exists() {
                search.push(format!("-Wl,-rpath,{}", vfio_user.display()));
            }
        }
        let mut arguments = search;
        arguments.extend(["-Wl,--whole-archive", "-Wl,-Bstatic"].map(str::to_owned));
        arguments.extend(whole);
        arguments.push("-Wl,--no-whole-archive".to_owned());
        // SPDK's own helper libraries exist as archives beside it, the system's do not.
        let beside = |flag: &String| self.is_archive_of_spdk(flag, &arguments);
        let (own, system): (Vec<_>, Vec<_>) = plain.into_iter().partition(beside);
        arguments.extend(own);
        arguments.push("-Wl,-Bdynamic".to_owned());
        arguments.extend(system);
        Ok(arguments)
    }

    fn is_archive_of_spdk(&self, flag: &str, arguments: &[String]) -> bool {
        let Some(name) = flag.strip_prefix("-l") else { return true };
        arguments
            .iter()
            .filter_map(|argument| argument.strip_prefix("-L"))
            .any(|dir| Path::new(dir).starts_with(&self.dir) && Path::new(dir).join(format!("lib{name}.a")).exists())
    }
}

fn make_bindings(include: &[PathBuf]) -> Result<()> {
    let out = PathBuf::from(env::var("OUT_DIR").map_err(|error| error.to_string())?);
    bindgen::Builder::default()
        .header("wrapper.h")
        .clang_args(include.iter().map(|dir| format!("-I{}", dir.display())))
        .allowlist_function("(spdk|courier_shim|_spdk_trace)_.*")
        .allowlist_type("spdk_.*")
        .allowlist_var("(SPDK|spdk)_.*")
        .blocklist_type("iovec|timespec|timeval|option|FILE|_IO_FILE|sockaddr.*|in_addr|in6_addr")
        .blocklist_item("IPPORT_.*")
        .raw_line("use libc::{FILE, iovec, option, sockaddr};")
        // 128-bit integers and long double functions have no C ABI in Rust.
        .blocklist_function("spdk_.*_ldbl")
        .default_enum_style(bindgen::EnumVariation::ModuleConsts)
        .layout_tests(true)
        .derive_default(true)
        .derive_debug(false)
        .generate_comments(false)
        .prepend_enum_name(false)
        .use_core()
        .generate()
        .map_err(|error| format!("bindgen could not read SPDK's headers: {error}"))?
        .write_to_file(out.join("bindings.rs"))
        .map_err(|error| format!("cannot write the bindings: {error}"))
}
