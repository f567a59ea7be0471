//! A disk that is a list, and requests that are compared with it.

use std::collections::{BTreeMap, BTreeSet};

use penstock_async_nvme::soft::{FaultRates, SoftCmb, SoftConfig, SoftNamespace, SoftSgl};
use penstock_async_nvme::{ControllerConfig, Done, IoError, Verb};
use penstock_nvme::Status;
use proptest::prelude::*;

use crate::common::{Bench, MEMORY_BYTES, Runs, small};

/// Blocks of the namespace, few so that requests meet.
const BLOCKS: u64 = 512;
/// Most requests at a time; each has its part of the memory.
const DEPTH: usize = 24;
const PART_BYTES: usize = MEMORY_BYTES / DEPTH / 4096 * 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Read,
    Write { fua: bool },
    Zero { deallocate: bool },
    Deallocate,
    Compare,
    Flush,
}

/// A request to be made.
#[derive(Clone, Debug)]
pub struct Ask {
    kind: Kind,
    slba: u64,
    blocks: u64,
    /// Bytes before the memory begins, in dwords.
    skew: usize,
    /// Bytes of the first run of memory, in dwords; all where that is more.
    first: usize,
    /// Rounds to let go by first.
    rounds: u8,
    /// In controller memory, where the drive takes it there.
    own: bool,
}

pub fn asks() -> impl Strategy<Value = Vec<Ask>> {
    let kind = prop_oneof![
        4 => Just(Kind::Read),
        4 => any::<bool>().prop_map(|fua| Kind::Write { fua }),
        1 => any::<bool>().prop_map(|deallocate| Kind::Zero { deallocate }),
        1 => Just(Kind::Deallocate),
        1 => Just(Kind::Compare),
        1 => Just(Kind::Flush),
    ];
    let ask = (
        kind,
        0..BLOCKS,
        1..60u64,
        0..1024usize,
        1..3000usize,
        0..3u8,
        any::<bool>(),
    )
        .prop_map(|(kind, slba, blocks, skew, first, rounds, own)| Ask {
            kind,
            slba,
            blocks: blocks.min(BLOCKS - slba),
            skew,
            first,
            rounds,
            own,
        });
    prop::collection::vec(ask, 1..80)
}

pub fn drives() -> impl Strategy<Value = (SoftConfig, ControllerConfig)> {
    let limits = (any::<u64>(), 9..=12u8, 0..4u8, 0..4u8, 0..3u8, 0..4u8);
    let ways = (any::<[bool; 7]>(), 0..3u8, 2..40u16, 1..3u16);
    (limits, ways).prop_map(|(limits, ways)| {
        let (seed, lbads, mdts, dstrd, sgl, boundary) = limits;
        let ([shadow, cmb, reorder, cache, rds, wds, command_sets], jitter, entries, queues) = ways;
        let sgl = [SoftSgl::None, SoftSgl::Byte, SoftSgl::Dword][usize::from(sgl)];
        let soft = SoftConfig {
            seed,
            namespaces: vec![SoftNamespace {
                noiob: [0, 8, 24, 100][usize::from(boundary)],
                ..SoftNamespace::new(BLOCKS << lbads, lbads)
            }],
            mdts,
            dstrd,
            sgl,
            wzsl: mdts,
            command_sets,
            doorbell_buffer: shadow,
            cmb: cmb.then(|| SoftCmb {
                rds,
                wds,
                offset: 8192,
                ..SoftCmb::new(MEMORY_BYTES + (256 << 10))
            }),
            reorder,
            write_cache: cache,
            jitter_ns: u64::from(jitter) * 150_000,
            ..SoftConfig::default()
        };
        let driver = ControllerConfig {
            submission_in_controller: cmb,
            ..small(queues, entries)
        };
        (soft, driver)
    })
}

/// What a block may hold: numbers of writes, 0 for zeroes.
type Holds = Vec<u32>;

/// The disk as a list, and what is asked of it now.
pub struct Reference {
    blocks: Vec<Holds>,
    /// What they may hold after a loss of power.
    durable: Vec<Holds>,
    write_cache: bool,
    block_bytes: usize,
    /// By tag: what was asked, and the number of a write.
    running: BTreeMap<usize, (Ask, u32)>,
    /// Running when the power was lost: what they compare with may be gone.
    unsure: BTreeSet<usize>,
    writes: u32,
}

impl Reference {
    fn new(block_bytes: usize, write_cache: bool) -> Reference {
        let zeroes = vec![vec![0]; usize::try_from(BLOCKS).unwrap()];
        Reference {
            blocks: zeroes.clone(),
            durable: zeroes,
            write_cache,
            block_bytes,
            running: BTreeMap::new(),
            unsure: BTreeSet::new(),
            writes: 0,
        }
    }

    fn range(ask: &Ask) -> std::ops::Range<usize> {
        let first = usize::try_from(ask.slba).unwrap();
        first..first + usize::try_from(ask.blocks).unwrap()
    }

    /// Bytes of a block: its own address and the number of the write in every word.
    fn content(&self, block: usize, write: u32) -> Vec<u8> {
        if write == 0 {
            return vec![0; self.block_bytes];
        }
        let word = (block as u64) << 32 | u64::from(write);
        word.to_le_bytes().repeat(self.block_bytes / 8)
    }

    /// Whether another request at work has to do with the same blocks, so that their order counts.
    fn meets(&self, ask: &Ask) -> bool {
        let writes = |kind| !matches!(kind, Kind::Read | Kind::Compare | Kind::Flush);
        self.running.values().any(|(other, _)| {
            // What a flush makes durable is known only where nothing else is at work.
            let flush = other.kind == Kind::Flush || ask.kind == Kind::Flush;
            let apart =
                other.slba + other.blocks <= ask.slba || ask.slba + ask.blocks <= other.slba;
            flush || (!apart && (writes(ask.kind) || writes(other.kind)))
        })
    }

    /// Notes how a request ended; a text where that is wrong.
    fn end(&mut self, done: &Done<Runs, usize>) -> Result<(), String> {
        let (ask, write) = self.running.remove(&done.tag).ok_or("ended twice")?;
        let wrong = |what: String| Err(format!("{what}: {ask:?}: {:?}", done.result));
        let unsure = self.unsure.remove(&done.tag);
        let failed = match done.result {
            Ok(_) => false,
            Err(IoError::Status(_)) if unsure => true,
            Err(IoError::Status(status)) if status.code() == Status::COMPARE_FAILURE => {
                return wrong("a difference where there is none".into());
            }
            Err(IoError::Status(_)) => true,
            Err(IoError::Forgotten) if ask.own => true,
            Err(_) => return wrong("failed".into()),
        };
        match ask.kind {
            Kind::Read if !failed => {
                let bytes = done.memory.bytes();
                let blocks = bytes.chunks(self.block_bytes);
                for (block, there) in Self::range(&ask).zip(blocks) {
                    let holds = &self.blocks[block];
                    if !holds.iter().any(|w| self.content(block, *w) == there) {
                        return wrong(format!("block {block} read wrong"));
                    }
                }
            }
            Kind::Flush if !failed => self.durable.clone_from(&self.blocks),
            Kind::Read | Kind::Compare | Kind::Flush => {}
            Kind::Write { .. } | Kind::Zero { .. } | Kind::Deallocate => {
                let through = ask.kind == Kind::Write { fua: true } || !self.write_cache;
                for block in Self::range(&ask) {
                    if !failed {
                        self.blocks[block].clear();
                        if through {
                            self.durable[block].clear();
                        }
                    }
                    self.blocks[block].push(write);
                    self.durable[block].push(write);
                }
            }
        }
        Ok(())
    }
}

impl Reference {
    /// The power is gone, and what was not durable with it, or not.
    fn lose_power(&mut self) {
        self.blocks.clone_from(&self.durable);
        self.unsure = self.running.keys().copied().collect();
    }
}

/// Where a request's memory is: behind `skew`, in one run or two with a gap.
fn memory(bench: &Bench, ask: &Ask, tag: usize, bytes: usize) -> Runs {
    let start = tag % DEPTH * PART_BYTES + ask.skew * 4;
    let first = ask.first * 4;
    let controller = bench.controller.as_ref().unwrap();
    let runs = match controller.limits().sgl && first < bytes {
        false => vec![(start, bytes)],
        true => vec![(start, first), (start + first + 20, bytes - first)],
    };
    let abilities = controller.controller_memory_abilities();
    let able = match ask.kind {
        Kind::Read => abilities.read_data,
        _ => abilities.write_data,
    };
    match &bench.own_memory {
        Some(own) if ask.own && able => Runs::in_controller(own, &runs),
        _ => Runs::new(&bench.memory, &runs),
    }
}

/// Makes the request; false where it has to wait.
fn make(bench: &Bench, reference: &mut Reference, ask: &Ask, tag: usize) -> bool {
    let same_memory = |other: &usize| other % DEPTH == tag % DEPTH;
    if reference.meets(ask) || reference.running.keys().any(same_memory) {
        return false;
    }
    let bytes = usize::try_from(ask.blocks).unwrap() * reference.block_bytes;
    let data = |ask| memory(bench, ask, tag, bytes);
    let none = Runs::none(&bench.memory);
    let mut number = 0;
    let (verb, runs) = match ask.kind {
        Kind::Read => (Verb::Read, data(ask)),
        Kind::Write { fua } => {
            reference.writes += 1;
            number = reference.writes;
            let runs = data(ask);
            let blocks = Reference::range(ask).map(|block| reference.content(block, number));
            runs.fill(&blocks.collect::<Vec<_>>().concat());
            (Verb::Write { fua }, runs)
        }
        Kind::Zero { deallocate } => {
            let fua = false;
            (Verb::WriteZeroes { fua, deallocate }, none)
        }
        Kind::Deallocate => (Verb::Deallocate, none),
        Kind::Compare => {
            let held = |block: usize| match reference.blocks[block].as_slice() {
                [one] => Some(reference.content(block, *one)),
                _ => None,
            };
            let Some(bytes) = Reference::range(ask).map(held).collect::<Option<Vec<_>>>() else {
                return true;
            };
            let runs = data(ask);
            runs.fill(&bytes.concat());
            (Verb::Compare, runs)
        }
        Kind::Flush => (Verb::Flush, none),
    };
    let io = bench.io(verb, ask.slba, ask.blocks);
    reference.running.insert(tag, (ask.clone(), number));
    bench.submit(tag % bench.queues.len(), io, runs, tag);
    true
}

/// Makes all requests and compares what they do; with `power` the drive loses it before the request
/// of that number. The text of what was wrong.
pub fn play(bench: &mut Bench, asks: &[Ask], power: Option<usize>) -> Result<(), String> {
    let block_bytes = 1 << bench.namespaces[0].block_size.unwrap().shift();
    let write_cache = bench.controller().identity().volatile_cache;
    let mut reference = Reference::new(block_bytes, write_cache);
    for (tag, ask) in asks.iter().enumerate() {
        if power == Some(tag) {
            // Behind a round: no completion is left that told of a write.
            bench.soft.lose_power();
            reference.lose_power();
        }
        let mut rounds = 0;
        while rounds < ask.rounds.into() || !make(bench, &mut reference, ask, tag) {
            for done in bench.round(100_000) {
                reference.end(&done)?;
            }
            rounds += 1;
            if rounds > 20_000 {
                return Err(format!("never ended: {:?}", reference.running));
            }
        }
    }
    for done in bench.finish() {
        reference.end(&done)?;
    }
    bench.soft.set_fault_rates(FaultRates::default());
    read_all(bench, &mut reference)?;
    match bench.soft.violations().first() {
        Some(text) => Err(text.clone()),
        None => Ok(()),
    }
}

fn read_all(bench: &mut Bench, reference: &mut Reference) -> Result<(), String> {
    for slba in (0..BLOCKS).step_by(16) {
        let ask = Ask {
            kind: Kind::Read,
            slba,
            blocks: 16,
            skew: 0,
            first: usize::MAX / 8,
            rounds: 0,
            own: false,
        };
        assert!(make(bench, reference, &ask, 0));
        for done in bench.finish() {
            reference.end(&done)?;
        }
    }
    Ok(())
}
