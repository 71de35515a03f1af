//! What a client asks of its interrupts (`DEVICE_SET_IRQS`): what of it is to be changed.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::OFlags;
use vfio_user::{IrqAction, IrqData, IrqKind, IrqRequest};

use crate::queue::{Interrupts, PinMask};

/// A change of a session's interrupts.
#[derive(Debug)]
pub enum IrqChange {
    /// The vectors from `start` on are raised by these eventfds, and those without one by none.
    SetVectors {
        /// The first vector.
        start: usize,
        /// An eventfd for each.
        files: Vec<Option<OwnedFd>>,
    },
    /// All vectors lose their eventfds.
    ClearVectors,
    /// These vectors are raised once.
    RaiseVectors(Vec<u16>),
    /// The pin is raised by this eventfd, or by none.
    SetPin(Option<OwnedFd>),
    /// The pin is raised once.
    RaisePin,
    /// The client masks the pin, or unmasks it.
    MaskPin(bool),
    /// The client unmasks the pin by writing to this eventfd, or by messages alone.
    SetUnmask(Option<OwnedFd>),
}

/// Why interrupts are not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IrqError {
    /// An eventfd of the client's has made who wrote to it wait: none is taken any more.
    #[error("an eventfd of the client's has blocked")]
    Blocked,
    /// Vectors that there are not.
    #[error("interrupt vectors must be below {limit}, got {count} from {start} on")]
    NoVector {
        /// The first vector.
        start: u32,
        /// How many.
        count: u32,
        /// How many there are.
        limit: u16,
    },
    /// A write to anything else than an eventfd could hold a reactor up.
    #[error("the client gave '{}' as an interrupt: an eventfd is needed", link.display())]
    NotEventfd {
        /// What it is, as `/proc` tells it.
        link: PathBuf,
    },
    /// The operating system tells nothing of the file, or does not make it non-blocking.
    #[error("the file that the client gave as an interrupt cannot be used: {0}")]
    File(rustix::io::Errno),
}

impl IrqError {
    /// Returns what the client is answered.
    pub(super) fn errno(&self) -> i32 {
        match self {
            Self::Blocked | Self::NoVector { .. } | Self::NotEventfd { .. } => libc::EINVAL,
            Self::File(errno) => errno.raw_os_error(),
        }
    }
}

impl IrqChange {
    /// Makes the change. `set_unmask` has the eventfd watched by which the client unmasks the pin.
    ///
    /// # Errors
    /// What `set_unmask` says.
    pub fn apply(
        self,
        interrupts: &Interrupts,
        set_unmask: impl FnOnce(Option<OwnedFd>) -> Result<(), i32>,
    ) -> Result<(), i32> {
        match self {
            Self::SetVectors { start, files } => {
                let end = start.saturating_add(files.len());
                interrupts.set(start, files, end);
            }
            Self::ClearVectors => interrupts.clear(),
            Self::RaiseVectors(vectors) => vectors.into_iter().for_each(|vector| interrupts.ask(vector)),
            Self::SetPin(file) => interrupts.pin().set_file(file),
            Self::RaisePin => interrupts.ask_pin(),
            // Whether there is a reason to raise it is looked at by the poll groups, which are told.
            Self::MaskPin(masked) => drop(interrupts.pin().set_mask(PinMask::Client, masked)),
            Self::SetUnmask(file) => return set_unmask(file),
        }
        Ok(())
    }
}

/// Returns what a request changes, of a function that has so many vectors.
pub(super) fn changes_of(request: IrqRequest, limit: u16) -> Result<Vec<IrqChange>, IrqError> {
    match request.kind {
        IrqKind::Pin => pin_changes(request),
        IrqKind::Msix => vector_changes(request, limit),
    }
}

fn vector_changes(request: IrqRequest, limit: u16) -> Result<Vec<IrqChange>, IrqError> {
    let IrqRequest { action, start, count, data, .. } = request;
    let end = start.checked_add(count).and_then(|end| u16::try_from(end).ok()).filter(|end| *end <= limit);
    let (Some(end), Ok(first)) = (end, u16::try_from(start)) else {
        return Err(IrqError::NoVector { start, count, limit });
    };
    Ok(match (action, data) {
        (IrqAction::Trigger, IrqData::Eventfds(files)) => {
            files.iter().flatten().try_for_each(check_eventfd)?;
            let files = files.into_iter().take(usize::from(end - first)).collect();
            vec![IrqChange::SetVectors { start: first.into(), files }]
        }
        (IrqAction::Trigger, IrqData::None) if count == 0 => vec![IrqChange::ClearVectors],
        (IrqAction::Trigger, IrqData::None) => vec![IrqChange::RaiseVectors((first..end).collect())],
        (IrqAction::Trigger, IrqData::Bools(bools)) => {
            let chosen = (first..end).zip(bools).filter_map(|(vector, chosen)| chosen.then_some(vector));
            vec![IrqChange::RaiseVectors(chosen.collect())]
        }
        // Masking of MSI-X vectors is the client's: it keeps the table.
        (IrqAction::Mask | IrqAction::Unmask, _) => Vec::new(),
    })
}

/// The same for the interrupt pin, of which there is one.
fn pin_changes(request: IrqRequest) -> Result<Vec<IrqChange>, IrqError> {
    let chosen = match &request.data {
        IrqData::Bools(bools) => bools.first().copied().unwrap_or(false),
        _ => request.count > 0,
    };
    Ok(match (request.action, request.data) {
        (IrqAction::Trigger, IrqData::Eventfds(files)) => vec![IrqChange::SetPin(first_eventfd(files)?)],
        (IrqAction::Trigger, IrqData::None) if request.count == 0 => {
            vec![IrqChange::SetPin(None), IrqChange::SetUnmask(None)]
        }
        (IrqAction::Unmask, IrqData::Eventfds(files)) => vec![IrqChange::SetUnmask(first_eventfd(files)?)],
        (IrqAction::Trigger, _) if chosen => vec![IrqChange::RaisePin],
        (IrqAction::Mask, _) if chosen => vec![IrqChange::MaskPin(true)],
        (IrqAction::Unmask, _) if chosen => vec![IrqChange::MaskPin(false)],
        _ => Vec::new(),
    })
}

fn first_eventfd(files: Vec<Option<OwnedFd>>) -> Result<Option<OwnedFd>, IrqError> {
    let file = files.into_iter().flatten().next();
    file.as_ref().map_or(Ok(()), check_eventfd)?;
    Ok(file)
}

/// An interrupt must be raised by an eventfd, which is made not to block: a write to anything else could hold a reactor
/// up.
fn check_eventfd(file: &OwnedFd) -> Result<(), IrqError> {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))
        .map_err(|_| IrqError::File(rustix::io::Errno::BADF))?;
    if link.as_os_str() != "anon_inode:[eventfd]" {
        return Err(IrqError::NotEventfd { link });
    }
    let flags = rustix::fs::fcntl_getfl(file).map_err(IrqError::File)?;
    rustix::fs::fcntl_setfl(file, flags | OFlags::NONBLOCK).map_err(IrqError::File)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{EventfdFlags, eventfd};

    const LIMIT: u16 = 9;

    fn request(kind: IrqKind, action: IrqAction, (start, count): (u32, u32), data: IrqData) -> IrqRequest {
        IrqRequest { kind, action, start, count, data }
    }

    fn msix(action: IrqAction, range: (u32, u32), data: IrqData) -> Result<Vec<IrqChange>, IrqError> {
        changes_of(request(IrqKind::Msix, action, range, data), LIMIT)
    }

    fn pin(action: IrqAction, count: u32, data: IrqData) -> Result<Vec<IrqChange>, IrqError> {
        changes_of(request(IrqKind::Pin, action, (0, count), data), LIMIT)
    }

    fn event() -> OwnedFd {
        eventfd(0, EventfdFlags::CLOEXEC).expect("an eventfd")
    }

    fn pipe() -> OwnedFd {
        std::io::pipe().expect("a pipe").0.into()
    }

    fn no_unmask(_: Option<OwnedFd>) -> Result<(), i32> {
        unreachable!("the eventfd that unmasks the pin is left alone")
    }

    #[test]
    fn vectors_get_the_eventfds_of_the_request_which_do_not_block() {
        let file = event();
        let copy = file.try_clone().expect("a descriptor");
        let files = vec![Some(file), None];
        let changes = msix(IrqAction::Trigger, (3, 2), IrqData::Eventfds(files)).expect("eventfds");
        let [IrqChange::SetVectors { start: 3, files }] = &changes[..] else { unreachable!("{changes:?}") };
        assert!(matches!(files[..], [Some(_), None]));
        assert!(rustix::fs::fcntl_getfl(&copy).expect("an eventfd").contains(OFlags::NONBLOCK));
        let interrupts = Interrupts::default();
        for change in changes {
            assert_eq!(change.apply(&interrupts, no_unmask), Ok(()));
        }
        assert_eq!((2..6).filter(|vector| interrupts.get(*vector).is_some()).collect::<Vec<_>>(), [3]);
    }

    #[test]
    fn a_file_that_is_no_eventfd_is_refused_and_none_of_the_request_is_taken() {
        let files = || vec![Some(event()), Some(pipe())];
        for result in [
            msix(IrqAction::Trigger, (0, 2), IrqData::Eventfds(files())),
            pin(IrqAction::Trigger, 1, IrqData::Eventfds(vec![Some(pipe())])),
            pin(IrqAction::Unmask, 1, IrqData::Eventfds(vec![Some(pipe())])),
        ] {
            let error = result.expect_err("a pipe blocks");
            let IrqError::NotEventfd { link } = &error else { unreachable!("{error}") };
            assert!(link.to_string_lossy().starts_with("pipe:"), "{error}");
            assert_eq!(error.errno(), libc::EINVAL);
        }
    }

    #[test]
    fn vectors_beyond_the_limit_are_refused() {
        for (start, count) in [(0, 10), (9, 1), (10, 0), (8, 2), (u32::MAX, 1), (1, u32::MAX)] {
            for data in [IrqData::None, IrqData::Bools(vec![true]), IrqData::Eventfds(vec![None])] {
                let result = msix(IrqAction::Trigger, (start, count), data);
                assert_eq!(result.expect_err("no such vector"), IrqError::NoVector { start, count, limit: LIMIT });
            }
        }
        assert!(msix(IrqAction::Trigger, (8, 1), IrqData::None).is_ok(), "the last one is there");
    }

    #[test]
    fn more_eventfds_than_vectors_do_not_reach_beyond_the_request() {
        let files = (0..4).map(|_| Some(event())).collect();
        let changes = msix(IrqAction::Trigger, (7, 2), IrqData::Eventfds(files)).expect("eventfds");
        let [IrqChange::SetVectors { start: 7, files }] = &changes[..] else { unreachable!("{changes:?}") };
        assert_eq!(files.len(), 2);
    }

    #[test]
    fn a_count_of_0_takes_the_eventfds_of_all_vectors_or_of_the_pin_away() {
        let changes = msix(IrqAction::Trigger, (0, 0), IrqData::None).expect("allowed");
        assert!(matches!(changes[..], [IrqChange::ClearVectors]), "{changes:?}");
        let changes = pin(IrqAction::Trigger, 0, IrqData::None).expect("allowed");
        assert!(matches!(changes[..], [IrqChange::SetPin(None), IrqChange::SetUnmask(None)]), "{changes:?}");
    }

    #[test]
    fn vectors_are_raised_all_or_as_the_bools_say() {
        let raised = |data| match &msix(IrqAction::Trigger, (2, 3), data).expect("allowed")[..] {
            [IrqChange::RaiseVectors(vectors)] => vectors.clone(),
            changes => unreachable!("{changes:?}"),
        };
        assert_eq!(raised(IrqData::None), [2, 3, 4]);
        assert_eq!(raised(IrqData::Bools(vec![true, false, true])), [2, 4]);
        assert_eq!(raised(IrqData::Bools(vec![true])), [2], "what is left out is not meant");
        assert!(raised(IrqData::Bools(vec![false; 3])).is_empty());
    }

    #[test]
    fn masks_of_vectors_are_left_to_the_client() {
        for action in [IrqAction::Mask, IrqAction::Unmask] {
            let changes = msix(action, (0, 1), IrqData::None).expect("allowed");
            assert!(changes.is_empty(), "{changes:?}");
        }
    }

    #[test]
    fn the_pin_is_masked_unmasked_and_raised_when_it_is_meant() {
        let meant = || [(1, IrqData::None), (1, IrqData::Bools(vec![true]))];
        for (count, data) in meant() {
            let changes = pin(IrqAction::Mask, count, data).expect("allowed");
            assert!(matches!(changes[..], [IrqChange::MaskPin(true)]), "{changes:?}");
        }
        for (count, data) in meant() {
            let changes = pin(IrqAction::Unmask, count, data).expect("allowed");
            assert!(matches!(changes[..], [IrqChange::MaskPin(false)]), "{changes:?}");
        }
        for (count, data) in meant() {
            let changes = pin(IrqAction::Trigger, count, data).expect("allowed");
            assert!(matches!(changes[..], [IrqChange::RaisePin]), "{changes:?}");
        }
        for action in [IrqAction::Mask, IrqAction::Unmask, IrqAction::Trigger] {
            for bools in [vec![false], Vec::new()] {
                let changes = pin(action, 1, IrqData::Bools(bools)).expect("allowed");
                assert!(changes.is_empty(), "{changes:?}");
            }
        }
    }

    #[test]
    fn the_pin_has_an_eventfd_that_raises_it_and_one_that_unmasks_it() {
        let files = || IrqData::Eventfds(vec![Some(event())]);
        let changes = pin(IrqAction::Trigger, 1, files()).expect("an eventfd");
        assert!(matches!(changes[..], [IrqChange::SetPin(Some(_))]), "{changes:?}");
        let changes = pin(IrqAction::Unmask, 1, files()).expect("an eventfd");
        assert!(matches!(changes[..], [IrqChange::SetUnmask(Some(_))]), "{changes:?}");
        for change in changes {
            let refused = change.apply(&Interrupts::default(), |file| {
                assert!(file.is_some());
                Err(libc::ENOSPC)
            });
            assert_eq!(refused, Err(libc::ENOSPC), "what is said of the eventfd is the answer");
        }
        for action in [IrqAction::Trigger, IrqAction::Unmask] {
            let changes = pin(action, 1, IrqData::Eventfds(vec![None])).expect("allowed");
            assert!(matches!(changes[..], [IrqChange::SetPin(None) | IrqChange::SetUnmask(None)]), "{changes:?}");
        }
    }
}
