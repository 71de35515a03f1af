//! How a bdev becomes a controller's: it is opened and claimed, or it is said what keeps it away.

use std::sync::OnceLock;

use serde_json::{Value, json};
use spdk::Errno;
use spdk::bdev::{ModuleHandle, register_claimer};
use spdk::bdev_client::{BdevDesc, BdevEvent, ClaimError};
use spdk::rpc::RpcError;

use super::params::failed;

/// What claims the bdevs of all controllers.
static CLAIMER: OnceLock<ModuleHandle> = OnceLock::new();

/// Makes known to SPDK who claims the controllers' bdevs. To be called before SPDK starts, once.
pub(super) fn register() {
    CLAIMER.get_or_init(|| register_claimer(c"courier_controllers"));
}

/// Opens a bdev, and claims it: no other module may write to it then.
///
/// # Errors
/// Why that cannot be.
pub(super) fn open(bdev_name: &str, events: impl Fn(BdevEvent) + 'static) -> Result<BdevDesc, AttachError> {
    let claimer = *CLAIMER.get().ok_or_else(|| failed(Errno::NXIO, "the controllers are not registered"))?;
    BdevDesc::open_claimed(bdev_name, claimer, events).map_err(|error| AttachError::new(bdev_name, error))
}

/// Why a bdev does not become a namespace, in a sentence.
#[derive(Debug)]
pub(super) enum AttachError {
    /// There is none of that name, or it is being removed.
    Missing(String),
    /// Another module has claimed it.
    Claimed(String),
    /// It cannot be one.
    Refused(RpcError),
}

impl From<RpcError> for AttachError {
    fn from(error: RpcError) -> Self {
        Self::Refused(error)
    }
}

impl AttachError {
    fn new(bdev_name: &str, error: ClaimError) -> Self {
        match error {
            ClaimError::Open(Errno::NODEV) => Self::Missing(format!(
                "'{bdev_name}' cannot be opened: there is no such bdev; bdev_get_bdevs lists them"
            )),
            ClaimError::Claimed(module) => Self::Claimed(format!(
                "bdev '{bdev_name}' cannot be a namespace: module '{module}' has claimed it; delete what that has made \
                 of it first"
            )),
            ClaimError::Open(errno) | ClaimError::Refused(errno) => Self::Refused(failed(
                errno,
                format!("parameter `bdev_name`: '{bdev_name}' cannot be opened and claimed: {errno}"),
            )),
        }
    }

    /// Returns why a bdev that is there does not become a namespace.
    pub(super) fn reason(&self) -> Option<&str> {
        match self {
            Self::Missing(_) => None,
            Self::Claimed(why) => Some(why),
            Self::Refused(error) => Some(error.message()),
        }
    }

    /// Returns the error of an RPC.
    pub(super) fn into_error(self) -> RpcError {
        let (errno, why) = match self {
            Self::Missing(why) => (Errno::NODEV, why),
            Self::Claimed(why) => (Errno::PERM, why),
            Self::Refused(error) => return error,
        };
        failed(errno, format!("parameter `bdev_name`: {why}"))
    }
}

/// A namespace that is waited for.
#[derive(Debug)]
pub(super) struct PendingNamespace {
    pub(super) bdev_name: String,
    /// What keeps a bdev that is there from being it.
    reason: Option<String>,
}

impl PendingNamespace {
    pub(super) fn new(bdev_name: String) -> Self {
        Self { bdev_name, reason: None }
    }

    /// Returns what `courier_controller_get` tells of it.
    pub(super) fn describe(&self, nsid: u32) -> Value {
        json!({ "nsid": nsid, "bdev_name": self.bdev_name, "reason": self.reason })
    }

    /// Clears the reason: there is no such bdev.
    pub(super) fn clear_reason(&mut self) {
        self.reason = None;
    }

    /// Notes what keeps the bdev away. Returns that if it is news, which the log is to have.
    pub(super) fn set_reason(&mut self, why: &AttachError) -> Option<&str> {
        let before = std::mem::replace(&mut self.reason, why.reason().map(str::to_owned));
        self.reason.as_deref().filter(|reason| before.as_deref() != Some(reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bdev_that_goes_at_that_moment_has_no_reason_and_one_that_is_refused_again_later_is_logged_again() {
        let mut entry = PendingNamespace::new("b".to_owned());
        let refused = AttachError::Refused(failed(Errno::INVAL, "it has zones"));
        assert_eq!(entry.set_reason(&refused), Some("it has zones"));
        assert_eq!(entry.set_reason(&refused), None);
        assert_eq!(entry.set_reason(&AttachError::new("b", ClaimError::Open(Errno::NODEV))), None);
        assert_eq!(entry.describe(1), json!({ "nsid": 1, "bdev_name": "b", "reason": null }));
        assert_eq!(entry.set_reason(&refused), Some("it has zones"));
    }

    #[test]
    fn who_has_claimed_a_bdev_is_named_in_the_error_and_in_the_reason() {
        let why = AttachError::new("b", ClaimError::Claimed("lvol".to_owned()));
        assert!(why.reason().is_some_and(|reason| reason.contains("'lvol'")), "{why:?}");
        let text = why.into_error().to_string();
        assert!(text.contains("`bdev_name`") && text.contains("'lvol'") && text.contains("(-1)"), "{text}");
    }
}
