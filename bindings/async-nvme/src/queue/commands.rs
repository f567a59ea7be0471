//! The commands of a queue pair that the controller works on, by command identifier.

/// A command's place in the table.
#[derive(Clone, Copy)]
struct Slot {
    /// Request it belongs to; `FREE` where it is free.
    request: u32,
    /// Told to the keeper as late already.
    late: bool,
    /// When it should have been answered, nanoseconds.
    deadline_ns: u64,
}

const FREE: u32 = u32::MAX;

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
}

impl Commands {
    pub(crate) fn new(depth: u16) -> Commands {
        let empty = Slot {
            request: FREE,
            late: false,
            deadline_ns: 0,
        };
        Commands {
            slots: vec![empty; usize::from(depth)].into_boxed_slice(),
            free: (0..depth).rev().collect(),
        }
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
        let cid = self.free.pop()?;
        self.slots[usize::from(cid)] = Slot {
            request,
            late: false,
            deadline_ns,
        };
        Some(cid)
    }

    /// Gives an identifier back; the request it was for. `None` where it is not in use: the
    /// controller answered something it was not asked.
    #[inline]
    pub(crate) fn give_back(&mut self, cid: u16) -> Option<u32> {
        let slot = self.slots.get_mut(usize::from(cid))?;
        let request = std::mem::replace(&mut slot.request, FREE);
        if request == FREE {
            return None;
        }
        self.free.push(cid);
        Some(request)
    }

    /// Gives one back, whichever is in use; for a controller that will answer none any more.
    pub(crate) fn give_back_any(&mut self) -> Option<u32> {
        let cid = self.slots.iter().position(|slot| slot.request != FREE)?;
        self.give_back(u16::try_from(cid).ok()?)
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
        u16::try_from(index).ok().map(Overdue::Late)
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
    fn a_late_command_is_told_once_and_then_stuck() {
        let mut commands = Commands::new(4);
        let cid = commands.take(1, 100).unwrap();
        assert_eq!(commands.overdue(99, 50), None);
        assert_eq!(commands.overdue(100, 50), Some(Overdue::Late(cid)));
        assert_eq!(commands.overdue(149, 50), None);
        assert_eq!(commands.overdue(150, 50), Some(Overdue::Stuck));
    }
}
