//! Who may use a controller's socket: its owner, its group and its permissions.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{PermissionsExt as _, lchown};
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};

/// How many connections may wait, as the standard library has it.
const BACKLOG: i32 = 128;

/// What is changed of a socket after it was made; what is not stays as the process makes its files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct SocketAccess {
    owner: Option<u32>,
    group: Option<u32>,
    mode: Option<u32>,
}

impl SocketAccess {
    /// Of the texts of an RPC's parameters.
    ///
    /// # Errors
    /// What is wrong, with the value, and what would be right.
    pub(super) fn of(owner: Option<&str>, group: Option<&str>, mode: Option<&str>) -> Result<Self, String> {
        Ok(Self {
            owner: owner.map(|owner| id_of("socket_owner", owner, "user", "/etc/passwd")).transpose()?,
            group: group.map(|group| id_of("socket_group", group, "group", "/etc/group")).transpose()?,
            mode: mode.map(parse_mode).transpose()?,
        })
    }

    /// Makes a socket at `path` and listens on it. Nobody can connect before it is theirs to use.
    ///
    /// # Errors
    /// What the operating system says. There is no socket then.
    pub(super) fn listen(self, path: &Path) -> io::Result<UnixListener> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        bind(&socket, &SocketAddrUnix::new(path)?)?;
        // Until it listens, who connects is refused.
        let ready = self.apply(path).and_then(|()| listen(&socket, BACKLOG).map_err(io::Error::from));
        if let Err(error) = ready {
            let _ = std::fs::remove_file(path);
            return Err(error);
        }
        Ok(UnixListener::from(socket))
    }

    fn apply(self, path: &Path) -> io::Result<()> {
        if let Some(mode) = self.mode {
            std::fs::set_permissions(path, Permissions::from_mode(mode))?;
        }
        if self.owner.is_some() || self.group.is_some() {
            lchown(path, self.owner, self.group)?;
        }
        Ok(())
    }
}

/// Returns the number of a user or a group, which is given by its number or by its name in `file`.
fn id_of(parameter: &str, value: &str, kind: &str, file: &str) -> Result<u32, String> {
    // A name may begin with a sign, which a number's parser takes.
    if value.bytes().all(|byte| byte.is_ascii_digit())
        && let Ok(id) = value.parse::<u32>()
    {
        // The greatest number stands for no change.
        return if id < u32::MAX {
            Ok(id)
        } else {
            Err(format!("parameter `{parameter}` must be a {kind}'s number of 0 to {}, got {value}", u32::MAX - 1))
        };
    }
    let lines = std::fs::read_to_string(file).map_err(|error| format!("parameter `{parameter}`: {file}: {error}"))?;
    find(&lines, value)
        .ok_or_else(|| format!("parameter `{parameter}` must be a number or a {kind} in {file}, got {value:?}"))
}

/// Returns the number of a name in a file of lines such as `name:x:number:`.
fn find(lines: &str, name: &str) -> Option<u32> {
    lines.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then(|| fields.nth(1)?.parse().ok())?
    })
}

fn parse_mode(text: &str) -> Result<u32, String> {
    let is_octal = (1..=4).contains(&text.len()) && text.bytes().all(|digit| matches!(digit, b'0'..=b'7'));
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| is_octal && *mode <= 0o777);
    mode.ok_or_else(|| format!("parameter `socket_mode` must be an octal mode of 0 to 777 such as 0660, got {text:?}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn users_and_groups_are_known_by_number_and_by_name() {
        assert_eq!(SocketAccess::of(None, None, None), Ok(SocketAccess::default()));
        let access = SocketAccess { owner: Some(0), group: Some(0), mode: Some(0o660) };
        assert_eq!(SocketAccess::of(Some("root"), Some("root"), Some("660")), Ok(access));
        let access = SocketAccess { owner: Some(107), group: Some(64_055), mode: Some(0) };
        assert_eq!(SocketAccess::of(Some("107"), Some("64055"), Some("0")), Ok(access));
        assert_eq!(find("a:x:1:2\nab:x:3:4\nb:x:no:1\n", "ab"), Some(3));
        for name in ["b", "c", "", "a:x"] {
            assert_eq!(find("a:x:1:2\nab:x:3:4\nb:x:no:1\n", name), None, "{name:?}");
        }
    }

    #[test]
    fn what_is_no_user_group_or_mode_is_refused_with_its_value() {
        for (owner, group, mode, parts) in [
            (Some("no such user"), None, None, ["`socket_owner`", "got \"no such user\""]),
            (Some("4294967295"), None, None, ["`socket_owner`", "4294967295"]),
            (None, Some("-1"), None, ["`socket_group`", "got \"-1\""]),
            (Some("+0"), None, None, ["`socket_owner`", "got \"+0\""]),
            (Some("99999999999"), None, None, ["`socket_owner`", "got \"99999999999\""]),
            (None, None, Some("0o660"), ["`socket_mode`", "got \"0o660\""]),
            (None, None, Some("1777"), ["`socket_mode`", "got \"1777\""]),
            (None, None, Some("rw"), ["`socket_mode`", "got \"rw\""]),
            (None, None, Some("+66"), ["`socket_mode`", "got \"+66\""]),
        ] {
            let reason = SocketAccess::of(owner, group, mode).expect_err("it is wrong");
            assert!(parts.iter().all(|part| reason.contains(part)), "{reason}");
        }
    }

    #[test]
    fn a_socket_has_its_mode_when_it_can_be_connected_to() {
        let dir = std::env::temp_dir().join(format!("courier-socket-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a folder can be made");
        let path = dir.join("cntrl");
        for mode in [0o600, 0o660, 0o777] {
            let access = SocketAccess { mode: Some(mode), ..SocketAccess::default() };
            let listener = access.listen(&path).expect("a socket can be made");
            assert_eq!(std::fs::metadata(&path).expect("it is there").mode() & 0o7777, mode);
            std::os::unix::net::UnixStream::connect(&path).expect("somebody listens");
            listener.accept().expect("who connects is taken");
            std::fs::remove_file(&path).expect("it is ours");
        }
        std::fs::remove_dir(&dir).expect("nothing is left");
    }
}
