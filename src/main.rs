//! `courier_tgt`: SPDK's `spdk_tgt` with Courier in it. It takes every option and every RPC that `spdk_tgt` takes.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

use spdk::Errno;
use spdk::app::{App, AppOption, Given, has_socket_dir, set_socket_dir, write_pid_file};

const PID_FILE: u8 = b'f';
const SOCKET_DIR: u8 = b'S';

const OPTIONS: &[AppOption] = &[
    AppOption { early: None, flag: PID_FILE, value: "<file>", help: "file to write the process id into" },
    AppOption {
        early: Some(socket_dir),
        flag: SOCKET_DIR,
        value: "<path>",
        help: "directory for vhost/vfio-user sockets (default: pwd)",
    },
];

fn main() -> ExitCode {
    if wants_version(std::env::args_os().skip(1)) {
        println!("courier_tgt {} with SPDK v{}", env!("CARGO_PKG_VERSION"), spdk::app::spdk_version());
        return ExitCode::SUCCESS;
    }
    courier::register();
    spdk::log::init();
    let options = if has_socket_dir() { OPTIONS } else { &OPTIONS[..1] };
    App { name: c"courier_tgt", options, on_shutdown: courier::on_shutdown }.run(std::env::args_os(), started)
}

/// Returns whether the version is asked for: SPDK's own answer to that tells of SPDK only.
fn wants_version(arguments: impl Iterator<Item = OsString>) -> bool {
    arguments.take_while(|argument| argument != "--").any(|argument| argument == "--version" || argument == "-v")
}

/// Carries out the options that `spdk_tgt` has beside those of every SPDK application.
fn started(given: &[Given]) -> Result<(), Errno> {
    for (flag, value) in given {
        match *flag {
            PID_FILE => pid_file(value)?,
            SOCKET_DIR => {}
            _ => return Err(Errno::INVAL),
        }
    }
    log::info!("Courier {} with SPDK {}", env!("CARGO_PKG_VERSION"), spdk::app::spdk_version());
    Ok(())
}

/// Where SPDK's own targets create their sockets: they ask when they start.
fn socket_dir(dir: &OsStr) -> Result<(), Errno> {
    set_socket_dir(Path::new(dir))
}

fn pid_file(file: &OsStr) -> Result<(), Errno> {
    write_pid_file(OsString::from(file)).map_err(|error| {
        log::error!("cannot write the process id into {}: {error}", file.display());
        Errno::IO
    })
}
