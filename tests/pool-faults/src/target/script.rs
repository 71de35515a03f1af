//! What a target is told to do otherwise than right.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use nvme_spec::admin::{GetLogPageDw10, IdentifyDw10};
use nvme_spec::fabrics::FabricsType;
use nvme_spec::identify::{Cns, IdentifyController, IdentifyNamespace};
use nvme_spec::log::LogId;
use nvme_spec::tcp::{C2hData, PduHeader, PduType};
use nvme_spec::{AdminOpcode, IoOpcode, Status};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::command::Command;
use crate::pdu;
use crate::socket::Cut;

/// Says whether a command is meant.
type Test = Arc<dyn Fn(&Command) -> bool + Send + Sync>;
/// Changes data, or a PDU.
pub type Edit = Arc<dyn Fn(&mut Vec<u8>) + Send + Sync>;
/// Changes PDUs.
pub type EditPdus = Arc<dyn Fn(&mut Vec<Vec<u8>>) + Send + Sync>;

/// Which commands are meant: those for which all that was said holds. Made by one of the functions without `self`.
#[derive(Clone)]
pub struct On {
    kind: Asked,
    nsid: Option<u32>,
    qid: Option<u16>,
    connection: Option<u32>,
    test: Option<Test>,
    skip: u32,
    times: Option<u32>,
}

/// The kinds of what a host asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Any,
    InitializeConnection,
    Admin(AdminOpcode),
    Io(IoOpcode),
    AnyIo,
    Fabrics(FabricsType),
}

impl fmt::Debug for On {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, nsid, qid, connection, skip, times, .. } = self;
        write!(f, "{kind:?} nsid {nsid:?} qid {qid:?} connection {connection:?} after {skip}, {times:?} times")
    }
}

impl On {
    fn new(kind: Asked) -> Self {
        Self { kind, nsid: None, qid: None, connection: None, test: None, skip: 0, times: None }
    }

    /// Returns all that a host asks, its `ICReq` too.
    #[must_use]
    pub fn any() -> Self {
        Self::new(Asked::Any)
    }

    /// `ICReq`, the first that comes on a connection.
    #[must_use]
    pub fn ic_req() -> Self {
        Self::new(Asked::InitializeConnection)
    }

    /// Admin commands of an opcode.
    #[must_use]
    pub fn admin(opcode: AdminOpcode) -> Self {
        Self::new(Asked::Admin(opcode))
    }

    /// Returns commands of an opcode on I/O queues.
    #[must_use]
    pub fn io(opcode: IoOpcode) -> Self {
        Self::new(Asked::Io(opcode))
    }

    /// Returns all commands on I/O queues but Connect.
    #[must_use]
    pub fn any_io() -> Self {
        Self::new(Asked::AnyIo)
    }

    /// Fabrics commands of a type.
    #[must_use]
    pub fn fabrics(fctype: FabricsType) -> Self {
        Self::new(Asked::Fabrics(fctype))
    }

    /// Connect, for the admin queue (0) or an I/O queue.
    #[must_use]
    pub fn connect(qid: u16) -> Self {
        Self::fabrics(FabricsType::CONNECT).qid(qid)
    }

    /// Connect for any I/O queue.
    #[must_use]
    pub fn connect_io() -> Self {
        Self::fabrics(FabricsType::CONNECT).when(|command| command.qid > 0)
    }

    /// Identify with a CNS.
    #[must_use]
    pub fn identify(cns: Cns) -> Self {
        Self::admin(AdminOpcode::IDENTIFY).when(move |command| IdentifyDw10::from_bits(command.sqe.cdw10).cns() == cns)
    }

    /// Get Log Page of a log.
    #[must_use]
    pub fn log_page(lid: LogId) -> Self {
        Self::admin(AdminOpcode::GET_LOG_PAGE)
            .when(move |command| GetLogPageDw10::from_bits(command.sqe.cdw10).lid() == lid)
    }

    /// Only for a namespace.
    #[must_use]
    pub fn nsid(mut self, nsid: u32) -> Self {
        self.nsid = Some(nsid);
        self
    }

    /// Only on a queue; for Connect, that which it asks for.
    #[must_use]
    pub fn qid(mut self, qid: u16) -> Self {
        self.qid = Some(qid);
        self
    }

    /// Only on a connection. They are numbered as they come, from 0.
    #[must_use]
    pub fn connection(mut self, number: u32) -> Self {
        self.connection = Some(number);
        self
    }

    /// Only if `test` says so, instead of another that was given.
    #[must_use]
    pub fn when(mut self, test: impl Fn(&Command) -> bool + Send + Sync + 'static) -> Self {
        self.test = Some(Arc::new(test));
        self
    }

    /// Not for the first `count` of them.
    #[must_use]
    pub fn after(mut self, count: u32) -> Self {
        self.skip = count;
        self
    }

    /// Only so often.
    #[must_use]
    pub fn times(mut self, count: u32) -> Self {
        self.times = Some(count);
        self
    }

    /// Only once.
    #[must_use]
    pub fn once(self) -> Self {
        self.times(1)
    }

    /// Returns whether this is for a command, or for an `ICReq`. Counts it if it is.
    pub(super) fn takes(&mut self, command: Option<&Command>, connection: u32) -> bool {
        if !self.is_for(command, connection) || self.times == Some(0) {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        self.times = self.times.map(|times| times - 1);
        true
    }

    /// Returns whether this is for a command, however often.
    pub(super) fn is_for(&self, command: Option<&Command>, connection: u32) -> bool {
        if self.connection.is_some_and(|number| number != connection) {
            return false;
        }
        let Some(command) = command else {
            return matches!(self.kind, Asked::Any | Asked::InitializeConnection);
        };
        let kind = match self.kind {
            Asked::Any => true,
            Asked::InitializeConnection => false,
            Asked::Admin(opcode) => command.is_admin(opcode),
            Asked::Io(opcode) => command.is_io(opcode),
            Asked::AnyIo => command.is_any_io(),
            Asked::Fabrics(fctype) => command.is_fabrics(fctype),
        };
        kind && self.nsid.is_none_or(|nsid| nsid == command.sqe.nsid)
            && self.qid.is_none_or(|qid| qid == command.qid)
            && self.test.as_ref().is_none_or(|test| test(command))
    }
}

/// What is done instead of the right thing.
#[derive(Clone)]
pub enum Do {
    /// The right thing, where an older rule says otherwise.
    Right,
    /// The command is not carried out, and its answer is this status.
    Status(Status),
    /// The command is not carried out, and there is never an answer.
    Nothing,
    /// The command is carried out, and there is never an answer.
    NoAnswer,
    /// The command is carried out when it comes, and its answer comes so much later.
    Late(Duration),
    /// The command is not carried out before [`super::ScriptedTarget::release`].
    Hold,
    /// The command is carried out when it comes, and its answer waits for [`super::ScriptedTarget::release`].
    HoldAnswer,
    /// The answer comes twice.
    Twice,
    /// The answer names another command.
    WrongCid(u16),
    /// Only so many bytes of the data come, in PDUs that are right, before a completion with success.
    ShortData(usize),
    /// The PDUs of the answer are changed by this, after their digests were made.
    Pdus(EditPdus),
    /// The PDU that asks for a command's data is changed by this.
    EditR2t(Edit),
    /// The data of the answer is this.
    Data(Vec<u8>),
    /// The data of the answer is changed by this.
    Edit(Edit),
    /// The first eight bytes of the completion are these: a property's value, a feature's.
    Result(u64),
    /// These bytes are the answer.
    Raw(Vec<u8>),
    /// The connection ends instead of an answer.
    Close(Cut),
    /// This one and all that comes later on the connection is read and not answered.
    Silence,
}

impl Do {
    /// [`Do::Pdus`] by a function.
    pub fn pdus(edit: impl Fn(&mut Vec<Vec<u8>>) + Send + Sync + 'static) -> Self {
        Self::Pdus(Arc::new(edit))
    }

    /// [`Do::EditR2t`] by a function.
    pub fn edit_r2t(edit: impl Fn(&mut Vec<u8>) + Send + Sync + 'static) -> Self {
        Self::EditR2t(Arc::new(edit))
    }

    /// The structure at the beginning of the answer's first PDU is changed by this. Its digests stay as they are.
    pub fn edit_pdu<T: FromBytes + IntoBytes + Immutable>(edit: impl Fn(&mut T) + Send + Sync + 'static) -> Self {
        Self::pdus(move |pdus| {
            if let Some(pdu) = pdus.first_mut() {
                pdu::edit(pdu, &edit);
            }
        })
    }

    /// The first PDU of the answer says that it is this.
    #[must_use]
    pub fn wrong_kind(kind: PduType) -> Self {
        Self::edit_pdu(move |header: &mut PduHeader| header.kind = kind)
    }

    /// The first PDU of the answer says that it has so many bytes.
    #[must_use]
    pub fn wrong_length(length: u32) -> Self {
        Self::edit_pdu(move |header: &mut PduHeader| header.plen = length)
    }

    /// The first PDU of the answer, which is one of data, says that its data has so many bytes.
    #[must_use]
    pub fn wrong_data_length(length: u32) -> Self {
        Self::edit_pdu(move |header: &mut C2hData| header.datal = length)
    }

    /// The byte at an offset of the first PDU of the answer is inverted, after its digests were made.
    #[must_use]
    pub fn corrupt(offset: usize) -> Self {
        Self::pdus(move |pdus| {
            if let Some(byte) = pdus.first_mut().and_then(|pdu| pdu.get_mut(offset)) {
                *byte = !*byte;
            }
        })
    }

    /// [`Do::Edit`] by a function.
    pub fn edit(edit: impl Fn(&mut Vec<u8>) + Send + Sync + 'static) -> Self {
        Self::Edit(Arc::new(edit))
    }

    /// The structure at the beginning of the answer's data is changed by this.
    fn edit_data<T: FromBytes + IntoBytes + Immutable>(edit: impl Fn(&mut T) + Send + Sync + 'static) -> Self {
        Self::edit(move |data| pdu::edit(data, &edit))
    }

    /// The identity of the controller in the answer is changed by this.
    pub fn edit_controller(edit: impl Fn(&mut IdentifyController) + Send + Sync + 'static) -> Self {
        Self::edit_data(edit)
    }

    /// The identity of the namespace in the answer is changed by this.
    pub fn edit_namespace(edit: impl Fn(&mut IdentifyNamespace) + Send + Sync + 'static) -> Self {
        Self::edit_data(edit)
    }
}
