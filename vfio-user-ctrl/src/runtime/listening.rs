//! A controller's socket and its directory, before the controller is there.

use std::fs::DirBuilder;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use spdk::Errno;
use spdk::rpc::RpcError;

use super::params::failed;
use super::socket_access::SocketAccess;

/// A socket that is listened on. If it is not kept, it goes, and with it the directories that were made for it.
#[derive(Debug)]
pub(super) struct Listening {
    listener: UnixListener,
    traces: Traces,
}

/// What is taken away when this is dropped.
#[derive(Debug, Default)]
struct Traces {
    socket: Option<PathBuf>,
    /// Directories that were made, the outermost first.
    made: Vec<PathBuf>,
}

impl Listening {
    /// Makes a controller's directory and socket. A socket that nobody listens on any more is replaced.
    ///
    /// # Errors
    /// What is in the way, or what the operating system says; nothing is left of it then.
    pub(super) fn begin(path: &Path, access: SocketAccess) -> Result<Self, RpcError> {
        let mut traces = Traces::default();
        let directory = path.parent().unwrap_or(path);
        traces.make(directory).map_err(|error| {
            let why = match error.kind() {
                ErrorKind::AlreadyExists => "it is there already and is none".to_owned(),
                _ => error.to_string(),
            };
            let text = format!("parameter `traddr`: the directory {} cannot be made: {why}", directory.display());
            failed(Errno::INVAL, text)
        })?;
        make_room(path)?;
        let listener = access.listen(path).map_err(|error| {
            let errno = if error.kind() == ErrorKind::PermissionDenied { Errno::PERM } else { Errno::INVAL };
            failed(errno, format!("parameter `traddr`: no socket can be made at {}: {error}", path.display()))
        })?;
        traces.socket = Some(path.to_owned());
        Ok(Self { listener, traces })
    }

    /// The socket is a controller's from now on.
    pub(super) fn keep(mut self) -> UnixListener {
        std::mem::take(&mut self.traces).forget();
        self.listener
    }
}

impl Traces {
    /// Makes a directory, and those that it is in.
    fn make(&mut self, directory: &Path) -> io::Result<()> {
        if directory.is_dir() || directory.as_os_str().is_empty() {
            return Ok(());
        }
        if let Some(parent) = directory.parent() {
            self.make(parent)?;
        }
        match DirBuilder::new().create(directory) {
            Ok(()) => self.made.push(directory.to_owned()),
            // Somebody else has made it meanwhile.
            Err(error) if error.kind() == ErrorKind::AlreadyExists && directory.is_dir() => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// All of it stays.
    fn forget(mut self) {
        self.socket = None;
        self.made.clear();
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        if let Some(socket) = self.socket.take() {
            let _ = std::fs::remove_file(socket);
        }
        for directory in self.made.drain(..).rev() {
            // One that somebody else has put something into stays.
            let _ = std::fs::remove_dir(directory);
        }
    }
}

/// Removes the socket that a process has left that is gone. What else is there stays, and is in the way.
fn make_room(path: &Path) -> Result<(), RpcError> {
    let Ok(found) = path.symlink_metadata() else { return Ok(()) };
    if !found.file_type().is_socket() {
        let why = format!("parameter `traddr`: {} is there already and is no socket", path.display());
        return Err(failed(Errno::EXIST, why));
    }
    if has_listener(path) {
        let why = format!("parameter `traddr`: somebody listens on {} already", path.display());
        return Err(failed(Errno::BUSY, why));
    }
    let _ = std::fs::remove_file(path);
    Ok(())
}

/// Returns whether somebody listens on a socket. This does not wait for one who does not accept.
fn has_listener(path: &Path) -> bool {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let Ok(address) = SocketAddrUnix::new(path) else { return false };
    let Ok(socket) = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None) else { return false };
    // Full of connections that wait, it is there as well.
    matches!(connect(&socket, &address), Ok(()) | Err(rustix::io::Errno::AGAIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder of the test's own, which is gone with it.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("courier-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).expect("a folder can be made");
            Self(path)
        }

        fn is_empty(&self) -> bool {
            std::fs::read_dir(&self.0).expect("it is there").next().is_none()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_controller_that_fails_after_it_listened_leaves_neither_socket_nor_folder() {
        let folder = Folder::new("fails");
        let path = folder.0.join("outer/inner/cntrl");
        let listening = Listening::begin(&path, SocketAccess::default()).expect("nothing is in the way");
        assert!(path.exists());
        drop(listening);
        assert!(folder.is_empty());
    }

    #[test]
    fn a_folder_whose_socket_cannot_be_made_is_not_left() {
        let folder = Folder::new("too-long");
        let path = folder.0.join("outer").join("x".repeat(120)).join("cntrl");
        Listening::begin(&path, SocketAccess::default()).expect_err("the path is too long for a socket");
        assert!(folder.is_empty());
    }

    #[test]
    fn a_socket_that_is_kept_stays_and_so_does_what_was_there_before() {
        let folder = Folder::new("kept");
        let path = folder.0.join("cntrl");
        let listener = Listening::begin(&path, SocketAccess::default()).expect("nothing is in the way").keep();
        assert!(path.exists());
        let busy = Listening::begin(&path, SocketAccess::default()).expect_err("somebody listens");
        assert!(busy.to_string().contains("somebody listens"), "{busy}");
        assert!(path.exists(), "it is another's");
        drop(listener);
        drop(Listening::begin(&path, SocketAccess::default()).expect("nobody listens any more"));
        assert!(folder.is_empty() && folder.0.exists(), "the folder was there before");
    }
}
