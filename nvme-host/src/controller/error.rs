//! Why a controller cannot be used.

use std::fmt;
use std::time::Duration;

use nvme_spec::fabrics::MAX_CNTLID;
use nvme_spec::identify::ControllerType;
use nvme_spec::register::Version;
use nvme_spec::status::Status;

use crate::tcp::TransferError;

/// The step of a procedure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the commands and properties")]
pub enum Stage {
    Connect,
    ReadCap,
    ReadVs,
    ReadCc,
    Disable,
    AwaitDisabled,
    Enable,
    AwaitReady,
    Identify,
    SetNumberOfQueues,
    SetEvents,
    Shutdown,
    AwaitShutdown,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "Connect",
            Self::ReadCap => "Property Get of CAP",
            Self::ReadVs => "Property Get of VS",
            Self::ReadCc => "Property Get of CC",
            Self::Disable => "Property Set of CC.EN to 0",
            Self::AwaitDisabled => "waiting for CSTS.RDY to become 0",
            Self::Enable => "Property Set of CC.EN to 1",
            Self::AwaitReady => "waiting for CSTS.RDY to become 1",
            Self::Identify => "Identify Controller",
            Self::SetNumberOfQueues => "Set Features, Number of Queues",
            Self::SetEvents => "Set Features, Asynchronous Event Configuration",
            Self::Shutdown => "Property Set of CC.SHN",
            Self::AwaitShutdown => "waiting for CSTS.SHST to tell that the shutdown is complete",
        })
    }
}

/// Why a controller cannot be set up or shut down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ControllerError {
    /// A step took longer than it may.
    #[error("{stage} has not ended after {after:?}")]
    TimedOut {
        /// The step.
        stage: Stage,
        /// For how long it was waited.
        after: Duration,
    },
    /// The controller refused a command.
    #[error("{stage} was refused: {status}")]
    Refused {
        /// The step.
        stage: Stage,
        /// Its status.
        status: Status,
    },
    /// A command's data did not come as it should.
    #[error("{stage}: {reason}")]
    Transfer {
        /// The step.
        stage: Stage,
        /// What was wrong.
        reason: TransferError,
    },
    /// The caller told the end of a command that was not sent.
    #[error("{stage}: a command ended that was not sent")]
    NothingSent {
        /// The step.
        stage: Stage,
    },
    /// The controller wants the host to authenticate.
    #[error("the controller requires authentication (AUTHREQ {authreq:#06x}), which this host cannot do")]
    AuthenticationRequired {
        /// What it requires.
        authreq: u16,
    },
    /// An identifier that no controller has, or another than was asked for.
    #[error("Connect must give controller {wanted:#06x}, or one up to {MAX_CNTLID:#06x} for 0xffff, got {cntlid:#06x}")]
    ControllerId {
        /// The identifier that came.
        cntlid: u16,
        /// That which was asked for.
        wanted: u16,
    },
    /// Capabilities that no I/O is possible with.
    #[error("CAP must have a command set for I/O (bit 37 or 43), got {cap:#018x}")]
    NoCommandSet {
        /// The capabilities.
        cap: u64,
    },
    /// Queues of one entry, which hold no command.
    #[error("CAP.MQES must be at least 1, got {mqes}")]
    QueueEntries {
        /// Entries less one.
        mqes: u16,
    },
    /// A version that is none.
    #[error("VS must be 1.0.0 at least, got {}.{}.{}", .version.mjr(), .version.mnr(), .version.ter())]
    Version {
        /// The version.
        version: Version,
    },
    /// The controller says that it is broken.
    #[error("{stage}: the controller reports a fatal error (CSTS.CFS)")]
    Fatal {
        /// The step.
        stage: Stage,
    },
    /// What Identify Controller tells cannot be.
    #[error("Identify Controller: {0}")]
    Identity(#[from] IdentityError),
}

/// What is wrong with a controller's identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Too few bytes, which is the caller's fault.
    #[error("it must have 4096 bytes, got {len}")]
    Length {
        /// How many there are.
        len: usize,
    },
    /// Another controller than was connected to.
    #[error("CNTLID must be that of Connect, {expected:#06x}, got {cntlid:#06x}")]
    ControllerId {
        /// The identifier in it.
        cntlid: u16,
        /// That of Connect.
        expected: u16,
    },
    /// Another subsystem than was connected to.
    #[error("SUBNQN must be the name that Connect had")]
    Subsystem,
    /// A controller that has no I/O queues.
    #[error("CNTRLTYPE must be 1 (I/O controller) or 0, got {kind:?}")]
    Type {
        /// Its type.
        kind: ControllerType,
    },
    /// Entries of other sizes than there are.
    #[error("{field} must have 2^{expected} in its range, got 2^{min} to 2^{max}")]
    EntrySize {
        /// The field's name.
        field: &'static str,
        /// The least size, as a power of two.
        min: u8,
        /// The greatest.
        max: u8,
        /// The size that entries have.
        expected: u8,
    },
    /// Capsules that hold no entry.
    #[error("{field} must be at least {min} (units of 16 bytes), got {value}")]
    CapsuleSize {
        /// The field's name.
        field: &'static str,
        /// Its value.
        value: u32,
        /// The least that it can be.
        min: u32,
    },
    /// No data pointers that a fabric has.
    #[error("SGLS must tell support of SGLs (bits 1:0 not 0), got {sgls:#010x}")]
    NoSgls {
        /// The field.
        sgls: u32,
    },
}
