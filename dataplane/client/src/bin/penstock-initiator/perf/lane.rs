//! Lanes: each keeps one command in flight.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use penstock_buffer::{Lease, Pool};
use penstock_client::{ClientError, ControllerInfo, IoQueue};
use penstock_reactor::{Ticks, now, ticks_to_ns};
use penstock_units::Lba;

use super::tally::Tally;
use super::{Clock, Plan, Workload, verify};
use crate::pattern::{Stream, mix};
use crate::runtime::Crew;
use crate::session::connect_queues;

/// After so many failures a lane gives up.
const ERRORS_MAX: u64 = 100;

/// What the lanes of a reactor share.
pub struct Shared {
    pub plan: Rc<Plan>,
    pub clock: Arc<Clock>,
    pub pool: Pool,
    pub tally: RefCell<Tally>,
}

/// One lane's place among all.
pub struct Lane {
    pub queue: Rc<IoQueue>,
    pub shared: Rc<Shared>,
    /// Number among the lanes of all reactors.
    pub number: u64,
    /// Next place of this queue's sequential workload.
    cursor: Rc<Cell<u64>>,
    turns: u64,
}

/// Connects this reactor's queues, runs their lanes and waits for them.
pub async fn work(
    plan: Rc<Plan>,
    info: ControllerInfo,
    ids: Vec<u16>,
    clock: Arc<Clock>,
    pool: Pool,
) -> anyhow::Result<Tally> {
    let queues = connect_queues(&info, &ids, plan.queue_depth, &pool).await?;
    let shared = Rc::new(Shared {
        plan: Rc::clone(&plan),
        clock: Arc::clone(&clock),
        pool,
        tally: RefCell::new(Tally::new()?),
    });
    let crew = Crew::default();
    clock.ready.fetch_add(1, Ordering::Release);
    for (queue, id) in queues.iter().zip(&ids) {
        let first = plan.places / u64::from(plan.queue_pairs) * u64::from(id - 1);
        let cursor = Rc::new(Cell::new(first));
        for number in 0..u64::from(plan.queue_depth) {
            let lane = Lane {
                queue: Rc::clone(queue),
                shared: Rc::clone(&shared),
                number: u64::from(id - 1) * u64::from(plan.queue_depth) + number,
                cursor: Rc::clone(&cursor),
                turns: 0,
            };
            crew.spawn(lane.run());
        }
    }
    crew.finished().await;
    for queue in queues {
        if queue.closed().is_none() {
            (*queue).clone().disconnect().await?;
        }
    }
    Ok(shared.tally.replace(Tally::new()?))
}

impl Lane {
    async fn run(mut self) {
        if self.shared.plan.workload == Workload::Verify {
            verify::run(&mut self).await;
            return;
        }
        let mut lease = None;
        let clock = Arc::clone(&self.shared.clock);
        let (mut begun, stream) = (now(), Stream::new(self.shared.plan.seed ^ self.number));
        while begun < clock.end() {
            let memory = match lease.take() {
                Some(memory) => memory,
                None => match self.memory() {
                    Some(memory) => {
                        fill(&memory, stream);
                        memory
                    }
                    None => return,
                },
            };
            let write = self.next_is_write();
            let lba = self.next_place();
            let result = self.one(write, lba, memory).await;
            let ended = now();
            lease = self.note(write, begun, ended, result);
            begun = ended;
            if lease.is_none() && self.is_hopeless() {
                return;
            }
        }
    }

    /// Memory for one command; `None`, and noted, where failed commands still hold all of it.
    pub fn memory(&self) -> Option<Lease> {
        let lease = self.shared.pool.try_lease(self.shared.plan.io_bytes);
        if lease.is_none() {
            let told = "commands that timed out hold all memory: a lane gave up";
            self.shared.tally.borrow_mut().fail(told);
        }
        lease
    }

    /// One command.
    pub async fn one(&self, write: bool, lba: Lba, memory: Lease) -> Result<Lease, ClientError> {
        let plan = &self.shared.plan;
        let (nsid, blocks) = (plan.geometry.nsid, plan.io_blocks);
        if write {
            self.queue.write(nsid, lba, blocks, memory, false).await
        } else {
            self.queue.read(nsid, lba, blocks, memory).await
        }
    }

    /// Counts a command; gives its memory back where it succeeded.
    pub fn note(
        &self,
        write: bool,
        begun: Ticks,
        ended: Ticks,
        result: Result<Lease, ClientError>,
    ) -> Option<Lease> {
        let clock = &self.shared.clock;
        let mut tally = self.shared.tally.borrow_mut();
        tally.attempts += 1;
        match result {
            Ok(lease) => {
                if ended >= clock.start() && ended < clock.end() {
                    tally
                        .latencies
                        .record(ticks_to_ns(ended.saturating_sub(begun)));
                    *(if write {
                        &mut tally.writes
                    } else {
                        &mut tally.reads
                    }) += 1;
                }
                Some(lease)
            }
            Err(error) => {
                tally.fail(error);
                None
            }
        }
    }

    /// Whether there is no point in going on after a failure.
    pub fn is_hopeless(&self) -> bool {
        self.queue.closed().is_some() || self.shared.tally.borrow().errors >= ERRORS_MAX
    }

    /// The next random number of this lane.
    pub fn random(&mut self) -> u64 {
        self.turns += 1;
        mix(mix(self.shared.plan.seed ^ self.number << 40) ^ self.turns)
    }

    fn next_is_write(&mut self) -> bool {
        match self.shared.plan.workload {
            Workload::Mixed => self.random() % 100 >= u64::from(self.shared.plan.read_percent),
            workload => workload.writes(),
        }
    }

    fn next_place(&mut self) -> Lba {
        let places = self.shared.plan.places;
        let place = match self.shared.plan.workload {
            Workload::Read | Workload::Write => {
                let place = self.cursor.get();
                self.cursor
                    .set(if place + 1 < places { place + 1 } else { 0 });
                place
            }
            _ => self.random() % places,
        };
        Lba(place * u64::from(self.shared.plan.io_blocks))
    }
}

/// Fills memory with a stream's content.
pub fn fill(memory: &Lease, stream: Stream) {
    const PIECE: usize = 4096;
    let mut piece = [0; PIECE];
    for offset in (0..memory.len()).step_by(PIECE) {
        stream.fill(offset as u64, &mut piece);
        memory.write_at(offset, &piece);
    }
}
