//! The commands of a queue pair that the controller works on, by command identifier.
//!
//! An identifier is the number of a place in the table, and above it how often the place has been
//! used, as far as sixteen bits have room: a completion that comes twice, or an abort that comes
//! late, does not meet the place's next command.

/// A command's place in the table.
#[derive(Clone, Copy)]
struct Slot {
    /// Request it belongs to; `FREE` where it is free.
    request: u32,
    /// The identifier's part above the place's number.
    generation: u16,
    /// Told to the keeper as late already.
    late: bool,
    /// When it should have been answered, nanoseconds.
    deadline_ns: u64,
}

const FREE: u32 = u32::MAX;

/// No identifier: the error log page means "no command" by it (Base 2.1, 5.1.12.1.2).
const NO_CID: u16 = u16::MAX;

/// What a look at the clock found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Overdue {
    /// A command to abort.
    Late(u16),
    /// A command that an abort did not end: only a reset helps.
    Stuck,
}

/// Command identifiers in use and free.
pub(crate) struct Commands {
    slots: Box<[Slot]>,
    free: Vec<u16>,
    /// Bits of an identifier that are the place's number.
    place_bits: u32,
}

impl Commands {
    pub(crate) fn new(depth: u16) -> Commands {
        let empty = Slot {
            request: FREE,
            generation: 0,
            late: false,
            deadline_ns: 0,
        };
        Commands {
            slots: vec![empty; usize::from(depth)].into_boxed_slice(),
            free: (0..depth).rev().collect(),
            place_bits: u16::BITS - depth.saturating_sub(1).leading_zeros(),
        }
    }

    /// The place of an identifier, below the depth where the identifier is in use.
    #[inline]
    pub(crate) fn place(&self, cid: u16) -> usize {
        let above = u16::MAX.checked_shl(self.place_bits).unwrap_or(0);
        usize::from(cid & !above)
    }

    /// The identifier of a place in a generation.
    #[inline]
    fn cid(&self, place: u16, generation: u16) -> u16 {
        place | generation.checked_shl(self.place_bits).unwrap_or(0)
    }

    /// Whether another can be taken.
    #[inline]
    pub(crate) fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    pub(crate) fn in_use(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Takes an identifier for `request`.
    #[inline]
    pub(crate) fn take(&mut self, request: u32, deadline_ns: u64) -> Option<u16> {
        let place = self.free.pop()?;
        let mut generation = self.slots[usize::from(place)].generation.wrapping_add(1);
        if self.cid(place, generation) == NO_CID {
            generation = 0;
        }
        self.slots[usize::from(place)] = Slot {
            request,
            generation,
            late: false,
            deadline_ns,
        };
        Some(self.cid(place, generation))
    }

    /// Gives an identifier back; the request it was for. `None` where it is not in use: the
    /// controller answered something it was not asked.
    #[inline]
    pub(crate) fn give_back(&mut self, cid: u16) -> Option<u32> {
        let place = self.place(cid);
        let generation = self.slots.get(place)?.generation;
        let number = u16::try_from(place).ok()?;
        if self.cid(number, generation) != cid {
            return None;
        }
        let request = std::mem::replace(&mut self.slots[place].request, FREE);
        if request == FREE {
            return None;
        }
        self.free.push(number);
        Some(request)
    }

    /// Gives one back, whichever is in use; for a controller that will answer none any more.
    pub(crate) fn give_back_any(&mut self) -> Option<u32> {
        let place = self.slots.iter().position(|slot| slot.request != FREE)?;
        let generation = self.slots[place].generation;
        self.give_back(self.cid(u16::try_from(place).ok()?, generation))
    }

    /// The first command whose time is over at `now_ns`. One that is told late gets `grace_ns` more.
    pub(crate) fn overdue(&mut self, now_ns: u64, grace_ns: u64) -> Option<Overdue> {
        let is_over = |slot: &Slot| slot.request != FREE && slot.deadline_ns <= now_ns;
        let index = self.slots.iter().position(is_over)?;
        let slot = &mut self.slots[index];
        slot.deadline_ns = now_ns.saturating_add(grace_ns);
        if std::mem::replace(&mut slot.late, true) {
            return Some(Overdue::Stuck);
        }
        let generation = slot.generation;
        let place = u16::try_from(index).ok()?;
        Some(Overdue::Late(self.cid(place, generation)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_given_out_once() {
        let mut commands = Commands::new(2);
        let (a, b) = (commands.take(7, 10).unwrap(), commands.take(8, 10).unwrap());
        assert_ne!(a, b);
        assert!(!commands.has_room());
        assert_eq!(commands.take(9, 10), None);
        assert_eq!(commands.give_back(a), Some(7));
        assert_eq!(commands.give_back(a), None);
        assert_eq!(commands.give_back(99), None);
        assert_eq!(commands.in_use(), 1);
        assert_eq!(commands.give_back_any(), Some(8));
        assert_eq!(commands.give_back_any(), None);
    }

    #[test]
    fn a_place_has_another_identifier_the_next_time() {
        for depth in [1, 2, 3, 255, 256, 1023, 32_767] {
            let mut commands = Commands::new(depth);
            let mut last = None;
            for _ in 0..70_000 {
                let cid = commands.take(1, 0).unwrap();
                assert_ne!(cid, NO_CID);
                assert_ne!(Some(cid), last, "depth {depth}");
                assert_eq!(commands.place(cid), 0);
                if let Some(last) = last {
                    assert_eq!(commands.give_back(last), None);
                }
                assert_eq!(commands.give_back(cid), Some(1));
                last = Some(cid);
            }
        }
        let mut commands = Commands::new(65_535);
        let cids: Vec<_> = (0..65_535).map(|i| commands.take(i, 0).unwrap()).collect();
        assert!(!cids.contains(&NO_CID));
        assert_eq!(commands.give_back(cids[65_534]), Some(65_534));
    }

    #[test]
    fn a_late_command_is_told_once_and_then_stuck() {
        let mut commands = Commands::new(4);
        let cid = commands.take(1, 100).unwrap();
        assert_eq!(commands.overdue(99, 50), None);
        assert_eq!(commands.overdue(100, 50), Some(Overdue::Late(cid)));
        assert_eq!(commands.overdue(149, 50), None);
        assert_eq!(commands.overdue(150, 50), Some(Overdue::Stuck));
    }
}
