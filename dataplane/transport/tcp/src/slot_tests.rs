//! The bookkeeping of slots alone.

use super::*;

fn admission(cid: u16, source: Source, data_len: u32) -> Admission {
    let command = Command {
        sqe: [0; 64],
        data_len,
        received_ticks: 0,
    };
    Admission {
        cid,
        source,
        to_host: false,
        command,
    }
}

fn table(entries: u16) -> SlotTable {
    let mut slots = SlotTable::new(4);
    slots.set_limit(entries);
    slots
}

#[test]
fn slots_grow_to_the_queues_size_and_are_reused() {
    let mut slots = table(3);
    let taken: Vec<u16> = (0..3)
        .map(|cid| slots.admit(admission(cid, Source::None, 0)).unwrap())
        .collect();
    assert_eq!(taken, [0, 1, 2]);
    assert_eq!(
        slots.admit(admission(3, Source::None, 0)),
        Err(Refused::Full)
    );
    let generation = slots.get(1).unwrap().generation;
    slots.release(1);
    assert!(slots.current(1, generation).is_none());
    assert_eq!(slots.admit(admission(3, Source::None, 0)), Ok(1));
    assert!(
        slots.current(1, generation).is_none(),
        "an old generation is no longer current"
    );
    assert_eq!(slots.outstanding, 3);
}

#[test]
fn identifiers_are_unique_while_outstanding() {
    let mut slots = table(8);
    for cid in [0, 63, 64, u16::MAX] {
        let slot = slots.admit(admission(cid, Source::None, 0)).unwrap();
        assert_eq!(
            slots.admit(admission(cid, Source::None, 0)),
            Err(Refused::Duplicate)
        );
        assert_eq!(slots.find(cid), Some(slot));
        slots.release(slot);
        slots.release(slot);
        assert_eq!(slots.find(cid), None);
    }
    assert_eq!(slots.outstanding, 0);
}

#[test]
fn only_a_command_of_that_opcode_that_merely_waits_is_found() {
    let mut slots = table(8);
    let mut waiting = admission(5, Source::None, 0);
    waiting.command.sqe[0] = 0x0c;
    let slot = slots.admit(waiting).unwrap();
    assert_eq!(slots.find_waiting(5, 0x0c), Some(slot));
    assert_eq!(slots.find_waiting(5, 0x02), None);
    assert_eq!(slots.find_waiting(6, 0x0c), None);
    slots.get_mut(slot).unwrap().arriving = true;
    assert_eq!(slots.find_waiting(5, 0x0c), None, "its data is on the way");
    slots.get_mut(slot).unwrap().arriving = false;
    let generation = slots.get(slot).unwrap().generation;
    slots.commit(slot, generation);
    assert_eq!(slots.find_waiting(5, 0x0c), None, "a device works on it");
    slots.release(slot);
    assert_eq!(slots.find_waiting(5, 0x0c), None);
}

#[test]
fn a_limit_below_the_slots_that_exist_is_harmless() {
    let mut slots = table(8);
    let taken: Vec<u16> = (0..8)
        .map(|cid| slots.admit(admission(cid, Source::None, 0)).unwrap())
        .collect();
    slots.set_limit(2);
    taken.into_iter().for_each(|slot| slots.release(slot));
    assert!(slots.admit(admission(9, Source::None, 0)).is_ok());
}

#[test]
fn fetching_commands_wait_in_line_for_their_bytes() {
    let mut slots = table(8);
    for cid in 0..4 {
        slots.admit(admission(cid, Source::Fetch, 100)).unwrap();
    }
    assert!(slots.may_run(0, 0, 150));
    assert!(!slots.may_run(1, 0, 150) && !slots.may_run(2, 0, 150));
    assert_eq!(slots.next_deferred(0, 150), None);
    // The first in line is taken back; the next moves up when bytes are free.
    slots.release(1);
    assert_eq!(slots.next_deferred(0, 150), None);
    slots.release(0);
    assert_eq!(slots.next_deferred(0, 150), Some(2));
    assert_eq!(slots.held_bytes, 100);
    // One that is larger than the limit alone still gets its turn.
    let huge = slots.admit(admission(9, Source::Fetch, 1000)).unwrap();
    assert!(!slots.may_run(huge, 0, 150));
    slots.release(2);
    assert_eq!(slots.next_deferred(0, 150), Some(huge));
    // Halves of a fused operation never wait.
    let mut fused = admission(10, Source::Fetch, 100);
    fused.command.sqe[1] = 1;
    let fused = slots.admit(fused).unwrap();
    assert!(slots.may_run(fused, 0, 150));
}

#[test]
fn nothing_leaves_the_line_between_the_halves_of_a_fused_operation() {
    let mut slots = table(8);
    let [first, waits] = [1, 2].map(|cid| {
        let slot = slots.admit(admission(cid, Source::Fetch, 100)).unwrap();
        (slots.may_run(slot, 0, 150), slot)
    });
    assert!(first.0 && !waits.0);
    let half = |slots: &mut SlotTable, cid, fuse| {
        let mut half = admission(cid, Source::Fetch, 10);
        half.command.sqe[1] = fuse;
        let slot = slots.admit(half).unwrap();
        assert!(slots.may_run(slot, 0, 150));
    };
    half(&mut slots, 3, 1);
    slots.release(first.1);
    assert_eq!(slots.next_deferred(0, 150), None);
    half(&mut slots, 4, 2);
    assert_eq!(slots.next_deferred(0, 150), Some(waits.1));
    // Whatever comes instead of a second half lets the line go on as well.
    let waits = slots.admit(admission(5, Source::Fetch, 100)).unwrap();
    assert!(!slots.may_run(waits, 0, 150));
    half(&mut slots, 6, 1);
    slots.release(2);
    assert_eq!(slots.next_deferred(0, 1500), None);
    slots.admit(admission(7, Source::None, 0)).unwrap();
    assert_eq!(slots.next_deferred(0, 1500), Some(waits));
}

#[test]
fn a_command_in_line_is_neither_taken_early_nor_overtaken() {
    let mut slots = table(8);
    let [first, large, small] = [60, 100, 10].map(|len| {
        let cid = u16::try_from(len).unwrap();
        slots.admit(admission(cid, Source::Fetch, len)).unwrap()
    });
    assert!(slots.may_run(first, 0, 150));
    assert!(slots.take_command(first).is_some() && slots.take_command(first).is_none());
    assert!(!slots.may_run(large, 0, 150) && !slots.may_run(small, 0, 150));
    assert!(slots.take_command(large).is_none());
    slots.release(first);
    assert_eq!(slots.next_deferred(0, 150), Some(large));
    assert!(slots.take_command(large).is_some());
    // One that is taken back in the line holds up nobody.
    slots.release(small);
    let late = slots.admit(admission(11, Source::Fetch, 50)).unwrap();
    assert!(slots.may_run(late, 0, 150));
}

#[test]
fn reads_and_unsent_replies_count_too() {
    let mut slots = table(8);
    let read = |slots: &mut SlotTable, cid| {
        let mut read = admission(cid, Source::None, 100);
        read.to_host = true;
        slots.admit(read).unwrap()
    };
    let (first, second) = (read(&mut slots, 1), read(&mut slots, 2));
    assert!(slots.may_run(first, 0, 150));
    assert!(!slots.may_run(second, 0, 150));
    // Its reply is on the way to the host now.
    slots.release(first);
    assert_eq!(slots.next_deferred(100, 150), None);
    assert_eq!(slots.next_deferred(50, 150), Some(second));
    // What holds no memory for the host never waits.
    let flush = slots.admit(admission(3, Source::None, 0)).unwrap();
    assert!(slots.may_run(flush, 1000, 150));
}

#[test]
fn a_full_queue_of_slots_is_small() {
    let bytes = size_of::<Slot>() * 128 + size_of::<SlotTable>() + 8192;
    assert!(
        bytes < 64 << 10,
        "{bytes} bytes, {} a slot",
        size_of::<Slot>()
    );
}
