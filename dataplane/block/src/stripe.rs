//! A device striped over columns: a unit on the first, the next on the second, and so on round.
//!
//! A request within one unit goes to its column as it is. Longer ones are split at the units' borders
//! without copying their payloads; those without payload become one request a column, as a column's
//! units lie one after the other.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use penstock_buffer::{Lease, Payload};
use penstock_units::{BlockSize, Lba};

use crate::extents::combine;
use crate::gather::Gather;
use crate::split::{self, LayoutError};
use crate::{
    BlockDevice, BlockError, BlockQueue, Direction, Geometry, Op, Outcome, Request, Ticket,
};

/// Largest stripe unit in bytes.
const UNIT_MAX_BYTES: u32 = 1 << 30;

/// A device striped over others.
pub struct Stripe {
    name: String,
    block_size: BlockSize,
    map: Map,
    blocks: AtomicU64,
    columns: Vec<Arc<dyn BlockDevice>>,
}

/// Where blocks lie.
#[derive(Clone, Copy)]
struct Map {
    /// log2 of the blocks of a unit.
    unit_shift: u32,
    /// Number of columns.
    width: u64,
}

impl Stripe {
    /// A device striped over `columns`, which all have its block size, in units of `unit_bytes`.
    ///
    /// # Errors
    /// [`LayoutError`] where there is no column, the unit is not served, or block sizes differ.
    pub fn new(
        name: &str,
        unit_bytes: u32,
        columns: Vec<Arc<dyn BlockDevice>>,
    ) -> Result<Arc<Stripe>, LayoutError> {
        let owned = || name.to_owned();
        let Some(first) = columns.first() else {
            return Err(LayoutError::Empty { name: owned() });
        };
        let block_size = first.geometry().block_size;
        let other = columns
            .iter()
            .find(|column| column.geometry().block_size != block_size);
        if let Some(other) = other {
            return Err(LayoutError::BlockSize {
                name: owned(),
                device: other.name().to_owned(),
                block_size_bytes: block_size.bytes(),
                device_block_size_bytes: other.geometry().block_size.bytes(),
            });
        }
        let limits = block_size.bytes()..=UNIT_MAX_BYTES;
        if !unit_bytes.is_power_of_two() || !limits.contains(&unit_bytes) {
            return Err(LayoutError::StripeUnit {
                name: owned(),
                unit_bytes,
            });
        }
        let map = Map {
            unit_shift: (unit_bytes / block_size.bytes()).trailing_zeros(),
            width: columns.len() as u64,
        };
        let stripe = Stripe {
            name: owned(),
            block_size,
            map,
            blocks: AtomicU64::new(0),
            columns,
        };
        stripe.refresh();
        Ok(Arc::new(stripe))
    }

    /// Looks at the columns' sizes again and takes all that they hold without a gap.
    pub fn refresh(&self) {
        let sizes = self.columns.iter().map(|column| column.geometry().blocks);
        let blocks = self.map.capacity(sizes);
        self.blocks.store(blocks, Ordering::Release);
    }
}

impl Map {
    fn unit(self) -> u64 {
        1 << self.unit_shift
    }

    /// Blocks without a gap on columns of these sizes.
    fn capacity(self, columns: impl Iterator<Item = u64> + Clone) -> u64 {
        let full = columns.clone().min().unwrap_or(0) >> self.unit_shift;
        let mut blocks = (full << self.unit_shift).saturating_mul(self.width);
        for column in columns {
            let more = (column - (full << self.unit_shift)).min(self.unit());
            blocks = blocks.saturating_add(more);
            if more < self.unit() {
                break;
            }
        }
        blocks
    }

    /// Column of a block and the block there.
    fn place(self, lba: u64) -> (usize, u64) {
        let unit = lba >> self.unit_shift;
        let within = lba & (self.unit() - 1);
        let column = usize::try_from(unit % self.width).unwrap_or(0);
        (column, ((unit / self.width) << self.unit_shift) + within)
    }

    /// Whether `blocks` (at least one) from `lba` lie in one unit.
    fn in_one_unit(self, lba: u64, blocks: u64) -> bool {
        lba >> self.unit_shift == (lba + blocks - 1) >> self.unit_shift
    }

    /// What lies on `column` of the blocks from `lba` to before `end`: first block there and count.
    fn on_column(self, column: usize, lba: u64, end: u64) -> Option<(u64, u64)> {
        let column = column as u64;
        let (first, last) = (lba >> self.unit_shift, (end - 1) >> self.unit_shift);
        // The first unit of the range on the column, and the last.
        let ahead = (column + self.width - first % self.width) % self.width;
        let behind = (last % self.width + self.width - column) % self.width;
        let from_unit = first.checked_add(ahead)?;
        let to_unit = last.checked_sub(behind)?;
        if from_unit > to_unit {
            return None;
        }
        let from = self.place(lba.max(from_unit << self.unit_shift)).1;
        let to = self
            .place((end - 1).min((to_unit << self.unit_shift) + self.unit() - 1))
            .1;
        Some((from, to + 1 - from))
    }
}

impl BlockDevice for Stripe {
    fn geometry(&self) -> Geometry {
        let blocks = self.blocks.load(Ordering::Acquire);
        let below = self.columns.iter().map(|column| column.geometry());
        combine(self.block_size, blocks, below)
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn open(self: Arc<Self>) -> Result<Rc<dyn BlockQueue>, BlockError> {
        let columns: Result<Vec<_>, _> = self
            .columns
            .iter()
            .map(|column| Arc::clone(column).open())
            .collect();
        Ok(Rc::new(StripeQueue {
            columns: columns?,
            stripe: self,
        }))
    }
}

struct StripeQueue {
    stripe: Arc<Stripe>,
    columns: Vec<Rc<dyn BlockQueue>>,
}

impl StripeQueue {
    fn on(&self, column: usize, op: Op, lba: u64, blocks: u64, payload: Payload) -> Ticket {
        self.columns[column].submit(Request {
            op,
            lba: Lba(lba),
            blocks,
            payload,
        })
    }

    fn flush(&self, request: Request) -> Ticket {
        let mut gather = Gather::new();
        for column in 0..self.columns.len() {
            gather.add(self.on(column, Op::Flush, 0, 0, Payload::none()));
        }
        gather.into_ticket(request.payload)
    }

    /// A request that moves data, unit by unit.
    fn moved(&self, request: Request) -> Ticket {
        let map = self.stripe.map;
        let (first, end) = (request.lba.0, request.lba.0 + request.blocks);
        let bytes = |blocks: u64| blocks << self.stripe.block_size.shift();
        let mut gather = Gather::new();
        let mut lba = first;
        while lba < end {
            let border = ((lba >> map.unit_shift) + 1) << map.unit_shift;
            let blocks = border.min(end) - lba;
            let part = split::slice(&request.payload, bytes(lba - first), bytes(blocks));
            let (column, at) = map.place(lba);
            gather.add(self.on(column, request.op, at, blocks, part));
            lba += blocks;
        }
        gather.into_ticket(request.payload)
    }

    /// A request without payload: one a column.
    fn spread(&self, request: Request) -> Ticket {
        let (first, end) = (request.lba.0, request.lba.0 + request.blocks);
        let mut gather = Gather::new();
        for column in 0..self.columns.len() {
            if let Some((lba, blocks)) = self.stripe.map.on_column(column, first, end) {
                gather.add(self.on(column, request.op, lba, blocks, Payload::none()));
            }
        }
        gather.into_ticket(request.payload)
    }
}

impl BlockQueue for StripeQueue {
    fn submit(&self, request: Request) -> Ticket {
        if request.op == Op::Flush {
            return self.flush(request);
        }
        let stripe = &self.stripe;
        let ended = |result, payload| Ticket::ready(Outcome { result, payload });
        let blocks = stripe.blocks.load(Ordering::Acquire);
        if let Err(error) = split::check(&request, blocks, stripe.block_size) {
            return ended(Err(error), request.payload);
        }
        if request.blocks == 0 {
            return ended(Ok(()), request.payload);
        }
        if stripe.map.in_one_unit(request.lba.0, request.blocks) {
            let (column, lba) = stripe.map.place(request.lba.0);
            return self.on(column, request.op, lba, request.blocks, request.payload);
        }
        if split::moves_data(request.op) {
            self.moved(request)
        } else {
            self.spread(request)
        }
    }

    fn lend(&self, direction: Direction, lba: Lba, blocks: u64) -> Option<Lease> {
        let end = lba.checked_add(blocks)?;
        let inside = blocks > 0 && end.0 <= self.stripe.blocks.load(Ordering::Acquire);
        if !inside || !self.stripe.map.in_one_unit(lba.0, blocks) {
            return None;
        }
        let (column, at) = self.stripe.map.place(lba.0);
        self.columns[column].lend(direction, Lba(at), blocks)
    }
}

#[cfg(test)]
#[path = "stripe_tests.rs"]
mod tests;
