//! The commands in flight: a table of fixed places, in which a command is found by its identifier.

use std::collections::VecDeque;

/// The place of a command in flight, by which its caller keeps what belongs to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub(super) u16);

impl Slot {
    /// Returns the place as a number below the queue's depth.
    #[must_use]
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Which way the data of a command goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    None,
    ToHost,
    FromHost,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Occupied {
    No,
    Yes,
    /// The memory of its data is gone.
    Detached,
}

/// A command in flight.
#[derive(Debug, Clone, Copy)]
pub(super) struct Command {
    /// Its identifier; of a free place that of the last command there.
    pub(super) cid: u16,
    occupied: Occupied,
    pub(super) direction: Direction,
    /// Some of its data came with a wrong digest.
    pub(super) is_corrupt: bool,
    /// The last of its data was announced.
    pub(super) has_last: bool,
    /// The bytes of its data.
    pub(super) len: u32,
    /// How many of them the controller has sent, or have been put into PDUs.
    pub(super) done: u32,
    /// How many of them the controller has asked for, or lie in the capsule.
    pub(super) requested: u32,
    /// Where in the stream that is sent its last byte so far ends.
    pub(super) end: u64,
    /// Where its first transfer is in its part of the transfers, and how many there are.
    first_transfer: u8,
    transfers: u8,
}

impl Command {
    const FREE: Self = Self {
        cid: 0,
        occupied: Occupied::No,
        direction: Direction::None,
        is_corrupt: false,
        has_last: false,
        len: 0,
        done: 0,
        requested: 0,
        end: 0,
        first_transfer: 0,
        transfers: 0,
    };

    /// Returns whether its data must not be touched any more.
    #[inline]
    pub(super) const fn is_detached(&self) -> bool {
        matches!(self.occupied, Occupied::Detached)
    }

    /// Returns whether all that the controller was given or has asked for is sent: `sent` is the end of what is.
    #[inline]
    pub(super) const fn is_sent(&self, sent: u64) -> bool {
        self.end <= sent && self.transfers == 0
    }
}

/// What an R2T asked for, and what of it has not been put into a PDU.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Transfer {
    pub(super) ttag: u16,
    pub(super) offset: u32,
    pub(super) left: u32,
}

/// The places of a queue's commands.
#[derive(Debug)]
pub(super) struct Table {
    commands: Box<[Command]>,
    /// Used from the end, so that a place is used again while it is in the cache.
    free: Vec<u16>,
    /// As many for each command as R2Ts may be outstanding.
    transfers: Box<[Transfer]>,
    max_r2t: u8,
    /// The commands that have transfers, each once, in the order in which they get their turn.
    turns: VecDeque<u16>,
    /// The bits of an identifier that tell the place. Those above count how often the place was used, so that an
    /// answer to a former command there is found out.
    slot_bits: u32,
}

impl Table {
    /// `depth` is 1 to [`MAX_DEPTH`](super::MAX_DEPTH).
    pub(super) fn new(depth: u16, max_r2t: u8) -> Self {
        let mut commands = vec![Command::FREE; depth.into()].into_boxed_slice();
        for (command, slot) in commands.iter_mut().zip(0..) {
            command.cid = slot;
        }
        Self {
            commands,
            free: (0..depth).rev().collect(),
            transfers: vec![Transfer::default(); usize::from(depth) * usize::from(max_r2t)].into_boxed_slice(),
            max_r2t,
            turns: VecDeque::with_capacity(depth.into()),
            slot_bits: u16::BITS - (depth - 1).leading_zeros(),
        }
    }

    pub(super) fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// Takes a place for a command, if there is one.
    #[inline]
    pub(super) fn take(&mut self, direction: Direction, len: u32) -> Option<(Slot, &mut Command)> {
        let slot = self.free.pop()?;
        let command = self.commands.get_mut(usize::from(slot))?;
        let cid = next_cid(command.cid, self.slot_bits);
        *command = Command { cid, occupied: Occupied::Yes, direction, len, ..Command::FREE };
        Some((Slot(slot), command))
    }

    /// Returns the command in flight that has this identifier.
    #[inline]
    pub(super) fn find(&mut self, cid: u16) -> Option<(Slot, &mut Command)> {
        let slot = u32::from(cid) & ((1 << self.slot_bits) - 1);
        let command = self.commands.get_mut(slot as usize)?;
        let is_it = command.cid == cid && command.occupied != Occupied::No;
        is_it.then_some((Slot(u16::try_from(slot).ok()?), command))
    }

    /// Returns the command in flight at this place.
    #[inline]
    pub(super) fn get(&mut self, slot: Slot) -> Option<&mut Command> {
        self.commands.get_mut(slot.index()).filter(|command| command.occupied != Occupied::No)
    }

    /// Returns whether the memory of this command's data is gone.
    pub(super) fn is_detached(&self, slot: Slot) -> bool {
        self.commands.get(slot.index()).is_none_or(Command::is_detached)
    }

    /// Gives a place back.
    #[inline]
    pub(super) fn release(&mut self, slot: Slot) {
        if let Some(command) = self.get(slot) {
            command.occupied = Occupied::No;
            self.free.push(slot.0);
        }
    }

    /// Marks the memory of a command's data as gone.
    pub(super) fn detach(&mut self, slot: Slot) {
        if let Some(command) = self.get(slot) {
            command.occupied = Occupied::Detached;
        }
    }

    /// Returns the places of all commands in flight.
    pub(super) fn in_flight(&self) -> impl Iterator<Item = Slot> + '_ {
        self.commands.iter().zip(0..).filter(|(command, _)| command.occupied != Occupied::No).map(|(_, at)| Slot(at))
    }

    /// Keeps what the controller asked for. False, if it asked for more at a time than it may.
    pub(super) fn push_transfer(&mut self, slot: Slot, transfer: Transfer) -> bool {
        let max = self.max_r2t;
        let Some(command) = self.get(slot).filter(|command| command.transfers < max) else { return false };
        let at = (usize::from(command.first_transfer) + usize::from(command.transfers)) % usize::from(max);
        command.transfers += 1;
        let is_first = command.transfers == 1;
        if let Some(place) = self.transfers.get_mut(slot.index() * usize::from(max) + at) {
            *place = transfer;
        }
        if is_first {
            self.turns.push_back(slot.0);
        }
        true
    }

    /// Returns the next piece that the controller has asked for, of at most `max` bytes, and whether it is the last of
    /// its transfer. Commands take turns.
    pub(super) fn next_piece(&mut self, max: u32) -> Option<(Slot, Transfer, bool)> {
        let slot = Slot(self.turns.pop_front()?);
        let max_r2t = usize::from(self.max_r2t);
        let command = self.commands.get_mut(slot.index())?;
        let transfer = self.transfers.get_mut(slot.index() * max_r2t + usize::from(command.first_transfer))?;
        let piece = Transfer { left: transfer.left.min(max), ..*transfer };
        transfer.left -= piece.left;
        transfer.offset += piece.left;
        command.done += piece.left;
        let is_last = transfer.left == 0;
        if is_last {
            command.transfers -= 1;
            command.first_transfer =
                if usize::from(command.first_transfer) + 1 == max_r2t { 0 } else { command.first_transfer + 1 };
        }
        if command.transfers > 0 {
            self.turns.push_back(slot.0);
        }
        Some((slot, piece, is_last))
    }

    /// Forgets all that the controller asked for.
    pub(super) fn clear_transfers(&mut self) {
        self.turns.clear();
    }
}

/// Returns the identifier of the next command at a place. The greatest count is left out, and with it `FFFFh`, which
/// stands for no command.
#[inline]
fn next_cid(cid: u16, slot_bits: u32) -> u16 {
    let counts = (1_u32 << (u16::BITS - slot_bits)) - 1;
    let count = ((u32::from(cid) >> slot_bits) + 1) % counts;
    let slot = u32::from(cid) & ((1 << slot_bits) - 1);
    u16::try_from(count << slot_bits | slot).unwrap_or_default()
}
