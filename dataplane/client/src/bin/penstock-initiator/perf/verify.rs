//! The verify workload: every lane owns its places, writes them again and again, each time with
//! another content, and checks what it reads. At the end everything written is read once more.

use penstock_buffer::Lease;
use penstock_reactor::now;
use penstock_units::Lba;

use super::Plan;
use super::lane::{Lane, fill};
use crate::pattern::{Stream, mix};

/// Places that are watched at most, over all lanes: bounds memory and the last pass.
const PLACES_MAX: u64 = 1 << 20;
/// How many earlier contents a wrong one is compared with.
const HISTORY: u32 = 8;

/// What a place holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    /// Not written by us yet.
    Foreign,
    /// Content of this generation.
    Known(u32),
    /// A write failed: the old or the new content, or a mix.
    Unknown(u32),
}

impl Content {
    fn generation(self) -> u32 {
        match self {
            Content::Foreign => 0,
            Content::Known(generation) | Content::Unknown(generation) => generation,
        }
    }
}

/// The content of a place in a generation.
fn stream_of(plan: &Plan, lba: Lba, generation: u32) -> Stream {
    Stream::new(mix(plan.seed) ^ mix(lba.0) ^ u64::from(generation) << 48 ^ u64::from(generation))
}

/// Runs the workload on a lane until the end, then reads everything back.
pub async fn run(lane: &mut Lane) {
    let plan = std::rc::Rc::clone(&lane.shared.plan);
    let own = plan
        .places
        .min(PLACES_MAX)
        .saturating_sub(lane.number)
        .div_ceil(plan.lanes());
    if own == 0 {
        return;
    }
    let mut contents = vec![Content::Foreign; usize::try_from(own).unwrap_or(0)];
    let place_of =
        |i: usize| Lba((lane.number + i as u64 * plan.lanes()) * u64::from(plan.io_blocks));
    let places: Vec<Lba> = (0..contents.len()).map(place_of).collect();
    let mut memory = None;
    while now() < lane.shared.clock.end() {
        let random = lane.random();
        let index = usize::try_from(random % own).unwrap_or(0);
        let write = !matches!(contents[index], Content::Known(_)) || random >> 63 == 0;
        let content = &mut contents[index];
        if !turn(lane, &plan, write, places[index], content, &mut memory).await {
            return;
        }
    }
    for (content, lba) in contents.iter_mut().zip(places) {
        if matches!(content, Content::Known(_))
            && !turn(lane, &plan, false, lba, content, &mut memory).await
        {
            return;
        }
    }
}

/// One write or one checked read. False when the lane is to give up.
async fn turn(
    lane: &Lane,
    plan: &Plan,
    write: bool,
    lba: Lba,
    content: &mut Content,
    memory: &mut Option<Lease>,
) -> bool {
    let Some(lease) = memory.take().or_else(|| lane.memory()) else {
        return false;
    };
    let generation = content.generation() + u32::from(write);
    if write {
        fill(&lease, stream_of(plan, lba, generation));
    }
    let begun = now();
    let result = lane.one(write, lba, lease).await;
    *memory = lane.note(write, begun, now(), result);
    if write {
        let known = memory.is_some();
        *content = if known {
            Content::Known(generation)
        } else {
            Content::Unknown(generation)
        };
    } else if let Some(lease) = memory {
        let mut tally = lane.shared.tally.borrow_mut();
        tally.checked += 1;
        if let Some(told) = mismatch(plan, lba, generation, lease.bytes()) {
            tally.fail(told);
        }
    }
    memory.is_some() || !lane.is_hopeless()
}

/// What is wrong with the bytes found, `None` where nothing is.
fn mismatch(plan: &Plan, lba: Lba, generation: u32, found: &[u8]) -> Option<String> {
    let (at, right) = stream_of(plan, lba, generation).first_difference(0, found)?;
    let block = at / plan.geometry.block_size.bytes() as usize;
    let start = block * plan.geometry.block_size.bytes() as usize;
    let end = (start + plan.geometry.block_size.bytes() as usize).min(found.len());
    let is = |stream: Stream| {
        stream
            .first_difference(start as u64, &found[start..end])
            .is_none()
    };
    let earlier = (generation.saturating_sub(HISTORY)..generation)
        .rev()
        .find(|g| *g > 0 && is(stream_of(plan, lba, *g)));
    let holds = match earlier {
        Some(earlier) => format!("the block still holds generation {earlier}"),
        None if found[start..end].iter().all(|b| *b == 0) => "the block holds zeroes".to_owned(),
        None => "the block holds something never written there".to_owned(),
    };
    Some(format!(
        "wrong data on namespace {} at LBA {}, byte {} of the block: found {:#04x}, written {right:#04x} \
         (command of {} blocks at LBA {lba}, byte {at} of its data, generation {generation}, seed {}); {holds}",
        plan.geometry.nsid,
        lba.0 + block as u64,
        at - start,
        found[at],
        plan.io_blocks,
        plan.seed,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::perf::Workload;
    use crate::session::Geometry;
    use penstock_units::{BlockSize, Nsid};

    fn plan() -> Plan {
        let nsid = Nsid::new(7).expect("an identifier");
        Plan {
            workload: Workload::Verify,
            read_percent: 0,
            geometry: Geometry {
                nsid,
                block_size: BlockSize::B512,
                blocks: 64,
            },
            io_bytes: 2048,
            io_blocks: 4,
            places: 16,
            queue_depth: 1,
            queue_pairs: 1,
            seed: 99,
        }
    }

    fn content(generation: u32) -> Vec<u8> {
        let mut bytes = vec![0; 2048];
        stream_of(&plan(), Lba(8), generation).fill(0, &mut bytes);
        bytes
    }

    #[test]
    fn the_first_wrong_byte_is_named_with_what_the_block_holds() {
        assert_eq!(mismatch(&plan(), Lba(8), 3, &content(3)), None);
        let mut found = content(3);
        found[512..1024].copy_from_slice(&content(2)[512..1024]);
        let told = mismatch(&plan(), Lba(8), 3, &found).expect("a mismatch");
        assert!(told.contains("namespace 7 at LBA 9"), "{told}");
        assert!(told.contains("still holds generation 2"), "{told}");
        found[512..1024].fill(0);
        let told = mismatch(&plan(), Lba(8), 3, &found).expect("a mismatch");
        assert!(told.contains("holds zeroes"), "{told}");
        found = content(3);
        found[2047] ^= 0x10;
        let told = mismatch(&plan(), Lba(8), 3, &found).expect("a mismatch");
        assert!(
            told.contains("LBA 11, byte 511") && told.contains("never written"),
            "{told}"
        );
    }
}
