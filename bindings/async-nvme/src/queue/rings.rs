//! The rings of a queue pair in memory, and their doorbells (Base 2.1, 3.3.3; PCIe 1.1, 3.1).

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering, fence};

use penstock_nvme::Cqe;
use penstock_nvme::pcie::SqeWords;

use crate::bar::Bar;

const SQE_BYTES: usize = 64;
const CQE_BYTES: usize = 16;

/// A doorbell, and its shadow in memory where the controller looks there instead
/// (Base 2.1, 5.2.5 and annex B.5).
pub(crate) struct Doorbell {
    register: NonNull<u32>,
    /// Shadow and event index.
    shadow: Option<(NonNull<u32>, NonNull<u32>)>,
    rung: u32,
    /// What was last written to the register.
    told: u32,
    /// Keeps the registers mapped.
    _bar: Bar,
}

// SAFETY: the register and the shadow may be reached from any thread, and are through `&mut` only.
unsafe impl Send for Doorbell {}

impl Doorbell {
    /// A doorbell at its register, valid as long as `bar` lives, that was last rung with 0.
    pub(crate) fn new(bar: Bar, register: NonNull<u32>) -> Doorbell {
        Doorbell {
            register,
            shadow: None,
            rung: 0,
            told: 0,
            _bar: bar,
        }
    }

    /// From now on the value goes to the first of the pair, a shadow, and to the register only where
    /// the second, the controller's event index, asks for it.
    ///
    /// # Safety
    /// Both are aligned and live as long as the doorbell.
    pub(crate) unsafe fn set_shadow(&mut self, pair: (NonNull<u32>, NonNull<u32>)) {
        self.shadow = Some(pair);
    }

    /// Tells the controller a new value, if it is new. Everything written before is seen first.
    #[inline]
    pub(crate) fn ring(&mut self, value: u32) {
        if value == self.rung {
            return;
        }
        let before = std::mem::replace(&mut self.rung, value);
        fence(Ordering::Release);
        if let Some((shadow, event_index)) = self.shadow {
            // SAFETY: the promise of `set_shadow`.
            let (shadow, event_index) = unsafe {
                (
                    AtomicU32::from_ptr(shadow.as_ptr()),
                    AtomicU32::from_ptr(event_index.as_ptr()),
                )
            };
            shadow.store(value.to_le(), Ordering::Release);
            // The controller writes its event index before it looks at the shadow again: one of
            // both sees the other's value.
            fence(Ordering::SeqCst);
            let asked = u32::from_le(event_index.load(Ordering::Acquire));
            if !passed(asked, value, before) {
                return;
            }
        }
        self.write(value);
    }

    fn write(&mut self, value: u32) {
        self.told = value;
        // SAFETY: the register is valid as long as the bar, which we hold.
        unsafe { self.register.as_ptr().write_volatile(value.to_le()) };
    }

    /// Writes the register where only the shadow has the last value. A controller that writes its
    /// event index and looks at the shadow without a barrier between (QEMU's is one) may miss a
    /// value, and nobody would ever tell it again.
    pub(crate) fn remind(&mut self) {
        // The same value twice would be an error (Base 2.1, 5.1.2.1, Invalid Doorbell Write Value).
        if self.told != self.rung {
            fence(Ordering::Release);
            self.write(self.rung);
        }
    }

    /// After a reset of the controller: it stands at 0 again, and so does the shadow.
    pub(crate) fn restart(&mut self) {
        self.rung = 0;
        self.told = 0;
    }
}

/// Whether going from `before` to `value` passes `asked`, in 16-bit arithmetic as virtio's event
/// index does it: values of a ring that wraps earlier only make it ring once too often.
fn passed(asked: u32, value: u32, before: u32) -> bool {
    let low = |value: u32| value & 0xffff;
    low(value.wrapping_sub(asked).wrapping_sub(1)) < low(value.wrapping_sub(before))
}

/// A submission queue.
pub(crate) struct Submission {
    base: NonNull<u8>,
    entries: u32,
    tail: u32,
    doorbell: Doorbell,
}

// SAFETY: the ring's memory may be reached from any thread, and is through `&mut` only.
unsafe impl Send for Submission {}

impl Submission {
    /// # Safety
    /// `base` is aligned to 8 bytes, and `entries` entries from there are the driver's to write as
    /// long as the value lives.
    pub(crate) unsafe fn new(base: NonNull<u8>, entries: u32, doorbell: Doorbell) -> Submission {
        Submission {
            base,
            entries,
            tail: 0,
            doorbell,
        }
    }

    /// Puts an entry behind the last. The caller sees to it that there is room: never more commands
    /// outstanding than entries less one.
    #[inline]
    pub(crate) fn push(&mut self, sqe: SqeWords) {
        let offset = self.tail as usize * SQE_BYTES;
        // SAFETY: `tail` is below `entries`.
        let at = unsafe { self.base.add(offset) }.cast::<u64>().as_ptr();
        for (index, word) in sqe.to_wire().into_iter().enumerate() {
            // SAFETY: eight words an entry. Volatile, as the memory may be the controller's own.
            unsafe { at.add(index).write_volatile(word) };
        }
        self.tail += 1;
        if self.tail == self.entries {
            self.tail = 0;
        }
    }

    /// Tells the controller of everything pushed.
    #[inline]
    pub(crate) fn ring(&mut self) {
        self.doorbell.ring(self.tail);
    }

    /// Tells it again, where it may have missed it.
    pub(crate) fn remind(&mut self) {
        self.doorbell.remind();
    }

    pub(crate) fn restart(&mut self) {
        self.tail = 0;
        self.doorbell.restart();
    }
}

/// A completion queue.
pub(crate) struct Completions {
    base: NonNull<u8>,
    entries: u32,
    head: u32,
    /// The phase tag of entries that are new in this pass.
    phase: u16,
    doorbell: Doorbell,
}

// SAFETY: as for `Submission`.
unsafe impl Send for Completions {}

impl Completions {
    /// # Safety
    /// `base` is aligned to 16 bytes, and `entries` zeroed entries from there are valid for reads
    /// as long as the value lives.
    pub(crate) unsafe fn new(base: NonNull<u8>, entries: u32, doorbell: Doorbell) -> Completions {
        Completions {
            base,
            entries,
            head: 0,
            phase: 1,
            doorbell,
        }
    }

    /// Where the entry at the head is, if the controller has posted it.
    #[inline]
    fn posted(&self) -> Option<NonNull<u8>> {
        let offset = self.head as usize * CQE_BYTES;
        // SAFETY: `head` is below `entries`.
        let at = unsafe { self.base.add(offset) };
        // SAFETY: the entry's last word holds the phase; it is aligned and only read atomically.
        let status = unsafe { AtomicU16::from_ptr(at.add(14).cast().as_ptr()) };
        (u16::from_le(status.load(Ordering::Acquire)) & 1 == self.phase).then_some(at)
    }

    /// Whether [`Completions::pop`] would give something.
    pub(crate) fn is_empty(&self) -> bool {
        self.posted().is_none()
    }

    /// The next completion, where the controller has posted one.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<Cqe> {
        let at = self.posted()?;
        // SAFETY: a whole entry, which the controller leaves alone until the doorbell gives it back.
        let words = unsafe { at.cast::<[u64; 2]>().as_ptr().read_volatile() };
        self.head += 1;
        if self.head == self.entries {
            self.head = 0;
            self.phase ^= 1;
        }
        Some(Cqe::from_words(words))
    }

    /// Gives the controller back every entry popped.
    #[inline]
    pub(crate) fn ring(&mut self) {
        self.doorbell.ring(self.head);
    }

    /// After a reset: everything from the beginning, the memory cleared.
    pub(crate) fn restart(&mut self) {
        for index in 0..self.entries as usize * CQE_BYTES / 8 {
            // SAFETY: inside the queue; the controller is not enabled.
            unsafe {
                self.base
                    .cast::<u64>()
                    .as_ptr()
                    .add(index)
                    .write_volatile(0)
            };
        }
        self.head = 0;
        self.phase = 1;
        self.doorbell.restart();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_only_the_shadow_has_is_told_again_once() {
        let mut words = Box::new([0_u32; 4]);
        let at = |index: usize, words: &mut [u32; 4]| NonNull::from(&mut words[index]);
        let (register, shadow, event) = (at(0, &mut words), at(1, &mut words), at(2, &mut words));
        let read = |word: NonNull<u32>| {
            // SAFETY: a word of `words`, which lives to the end of the test.
            unsafe { word.as_ptr().read_volatile() }
        };
        // SAFETY: no register is reached through this bar.
        let bar = unsafe { Bar::new(register.cast(), 4, std::sync::Arc::new(())) };
        let mut doorbell = Doorbell::new(bar, register);
        // SAFETY: as for `read`.
        unsafe { doorbell.set_shadow((shadow, event)) };
        doorbell.ring(1);
        assert_eq!((read(register), read(shadow)), (1, 1));
        // The controller has not asked to be told of more: the event index stays at 0.
        doorbell.ring(2);
        assert_eq!((read(register), read(shadow)), (1, 2));
        doorbell.remind();
        assert_eq!(read(register), 2);
        // SAFETY: as for `read`.
        unsafe { register.as_ptr().write_volatile(77) };
        doorbell.remind();
        assert_eq!(read(register), 77, "the same value was written twice");
        drop(words);
    }

    #[test]
    fn the_event_index_is_passed_once() {
        assert!(passed(0, 1, 0));
        assert!(passed(4, 5, 3));
        assert!(!passed(5, 5, 3));
        assert!(!passed(2, 5, 3));
        assert!(passed(0xffff, 0, 0xfffe));
    }
}
