//! A controller's socket and its directory, before the controller is there; and the directories that were made for
//! controllers, after they are gone.

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
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
    traces: SocketCleanup,
}

/// What is taken away when this is dropped.
#[derive(Debug, Default)]
struct SocketCleanup {
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
        let mut traces = SocketCleanup::default();
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

    /// The socket is a controller's from now on. `made` is told of the directories that were made for it.
    pub(super) fn keep(mut self, made: &mut MadeDirectories) -> UnixListener {
        let mut traces = std::mem::take(&mut self.traces);
        traces.socket = None;
        for directory in traces.made.drain(..) {
            made.add(directory);
        }
        self.listener
    }
}

/// The directories that were made for controllers and are there still.
#[derive(Debug, Default)]
pub(super) struct MadeDirectories(BTreeMap<PathBuf, Identity>);

/// What tells a directory from one of the same name that somebody has put in its place: its file system, and its inode.
type Identity = (u64, u64);

fn identity(directory: &Path) -> Option<Identity> {
    directory.symlink_metadata().ok().map(|found| (found.dev(), found.ino()))
}

impl MadeDirectories {
    fn add(&mut self, directory: PathBuf) {
        if let Some(identity) = identity(&directory) {
            self.0.insert(directory, identity);
        }
    }

    /// The controller with this socket, which is gone, needs its directories no more: removes those that were made for
    /// a controller and are empty.
    pub(super) fn remove_unused(&mut self, socket: &Path) {
        for directory in socket.ancestors().skip(1) {
            let Some(made) = self.0.get(directory) else { continue };
            if identity(directory) == Some(*made) && std::fs::remove_dir(directory).is_err() {
                // Something is in it, and then in those that it is in.
                return;
            }
            self.0.remove(directory);
        }
    }
}

impl SocketCleanup {
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
}

impl Drop for SocketCleanup {
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
        let listener = Listening::begin(&path, SocketAccess::default()).expect("nothing is in the way");
        let listener = listener.keep(&mut MadeDirectories::default());
        assert!(path.exists());
        let busy = Listening::begin(&path, SocketAccess::default()).expect_err("somebody listens");
        assert!(busy.to_string().contains("somebody listens"), "{busy}");
        assert!(path.exists(), "it is another's");
        drop(listener);
        drop(Listening::begin(&path, SocketAccess::default()).expect("nobody listens any more"));
        assert!(folder.is_empty() && folder.0.exists(), "the folder was there before");
    }

    #[test]
    fn the_folders_of_a_controller_that_is_gone_go_with_it_as_far_as_they_were_made_for_controllers_and_are_empty() {
        let folder = Folder::new("gone");
        let mut made = MadeDirectories::default();
        let [one, two] = ["outer/one/cntrl", "outer/two/cntrl"].map(|name| folder.0.join(name));
        for path in [&one, &two] {
            Listening::begin(path, SocketAccess::default()).expect("nothing is in the way").keep(&mut made);
        }
        let delete = |made: &mut MadeDirectories, path: &Path| {
            std::fs::remove_file(path).expect("it is there");
            made.remove_unused(path);
        };
        delete(&mut made, &one);
        assert!(!folder.0.join("outer/one").exists() && two.exists());
        // Somebody uses the folder for something else, too.
        std::fs::write(folder.0.join("outer/two/file"), "").expect("a file can be written");
        delete(&mut made, &two);
        assert!(folder.0.join("outer/two/file").exists());
        std::fs::remove_file(folder.0.join("outer/two/file")).expect("it is there");
        made.remove_unused(&two);
        assert!(folder.is_empty() && made.0.is_empty(), "{made:?}");
    }

    #[test]
    fn a_folder_that_somebody_else_has_made_stays_also_where_one_of_a_controllers_was() {
        let folder = Folder::new("others");
        let mut made = MadeDirectories::default();
        let path = folder.0.join("outer/cntrl");
        Listening::begin(&path, SocketAccess::default()).expect("nothing is in the way").keep(&mut made);
        std::fs::rename(folder.0.join("outer"), folder.0.join("away")).expect("it is there");
        std::fs::create_dir(folder.0.join("outer")).expect("there is none");
        made.remove_unused(&path);
        assert!(folder.0.join("outer").exists() && made.0.is_empty(), "{made:?}");
    }
}
