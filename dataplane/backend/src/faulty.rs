//! A device with errors and delays on demand, for tests of the layers above.
//!
//! Rules are tried in order; the first that matches a request decides. Chance is seeded, so a
//! failing run can be run again.

use std::ops::Range;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use penstock_block::{
    BlockDevice, BlockError, BlockQueue, Direction, Geometry, Op, Outcome, Request, Ticket,
};
use penstock_buffer::Lease;
use penstock_units::Lba;

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails without reaching the device. (A lent payload has changed the device already.)
    Fail(BlockError),
    /// It reaches the device, but later. Needs a reactor.
    Delay(Duration),
}

/// When a fault strikes.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Which operations; for all of them a function that is always true.
    pub matches: fn(&Op) -> bool,
    /// Only requests that touch these blocks; `None` for any (and for a flush always).
    pub blocks: Option<Range<u64>>,
    /// How many matching requests pass first.
    pub skip: u32,
    /// How many are struck after that.
    pub times: u32,
    /// In how many of 1000 cases it strikes.
    pub per_mille: u16,
    /// What happens then.
    pub fault: Fault,
}

impl Rule {
    /// Strikes every matching operation for ever.
    pub fn always(matches: fn(&Op) -> bool, fault: Fault) -> Rule {
        Rule {
            matches,
            blocks: None,
            skip: 0,
            times: u32::MAX,
            per_mille: 1000,
            fault,
        }
    }

    fn touches(&self, request: &Request) -> bool {
        let end = request.lba.0.saturating_add(request.blocks);
        (self.matches)(&request.op)
            && (request.op == Op::Flush
                || self
                    .blocks
                    .as_ref()
                    .is_none_or(|only| request.lba.0 < only.end && only.start < end))
    }
}

struct Script {
    rules: Vec<Rule>,
    random: u64,
}

impl Script {
    fn roll(&mut self) -> u16 {
        // xorshift64: all this needs is to differ and to repeat.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        u16::try_from(self.random % 1000).unwrap_or(0)
    }

    fn fault_for(&mut self, request: &Request) -> Option<Fault> {
        let roll = self.roll();
        for rule in self
            .rules
            .iter_mut()
            .filter(|rule| rule.times > 0 && rule.touches(request))
        {
            if rule.skip > 0 {
                rule.skip -= 1;
            } else if roll < rule.per_mille {
                rule.times = rule.times.saturating_sub(u32::from(rule.times != u32::MAX));
                return Some(rule.fault);
            }
        }
        None
    }
}

/// A device in front of another one that fails as told. Takes a lock for each request: for tests.
pub struct FaultyDevice {
    inner: Arc<dyn BlockDevice>,
    script: Arc<Mutex<Script>>,
}

impl FaultyDevice {
    /// In front of `inner`; `seed` decides the rules with a chance.
    pub fn new(inner: Arc<dyn BlockDevice>, seed: u64) -> Arc<FaultyDevice> {
        // Zero would stay zero for ever.
        let script = Script {
            rules: Vec::new(),
            random: seed.wrapping_mul(2) | 1,
        };
        Arc::new(FaultyDevice {
            inner,
            script: Arc::new(Mutex::new(script)),
        })
    }

    /// Adds a rule after those there are.
    pub fn add(&self, rule: Rule) {
        self.script
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .rules
            .push(rule);
    }

    /// Removes all rules.
    pub fn clear(&self) {
        self.script
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .rules
            .clear();
    }
}

impl BlockDevice for FaultyDevice {
    fn geometry(&self) -> Geometry {
        self.inner.geometry()
    }

    fn name(&self) -> &str {
        self.inner.name()
    }

    fn open(self: Arc<Self>) -> Result<Rc<dyn BlockQueue>, BlockError> {
        let inner = Arc::clone(&self.inner).open()?;
        Ok(Rc::new(FaultyQueue {
            inner,
            script: Arc::clone(&self.script),
        }))
    }
}

struct FaultyQueue {
    inner: Rc<dyn BlockQueue>,
    script: Arc<Mutex<Script>>,
}

impl BlockQueue for FaultyQueue {
    fn submit(&self, request: Request) -> Ticket {
        let fault = self
            .script
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .fault_for(&request);
        match fault {
            None => self.inner.submit(request),
            Some(Fault::Fail(error)) => Ticket::ready(Outcome {
                result: Err(error),
                payload: request.payload,
            }),
            Some(Fault::Delay(delay)) => {
                let (ticket, completer) = Ticket::pending();
                let inner = Rc::clone(&self.inner);
                penstock_reactor::spawn(async move {
                    penstock_reactor::sleep(delay).await;
                    completer.complete(inner.submit(request).await);
                });
                ticket
            }
        }
    }

    fn lend(&self, direction: Direction, lba: Lba, blocks: u64) -> Option<Lease> {
        self.inner.lend(direction, lba, blocks)
    }
}

#[cfg(test)]
#[path = "faulty_tests.rs"]
mod tests;
