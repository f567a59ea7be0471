//! What there is in a run: the store, servers, nodes, the links between them, and the dice.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use penstock_control::agents::Agents;
use penstock_control::config::Settings;
use penstock_control::control::Control;
use penstock_control::env::Env;
use penstock_store::sim::SimStore;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::disk::Disk;
use crate::node::{Node, View};

/// What kind of run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Everything but restored backups.
    Outages,
    /// Backups of the store are restored as well.
    Restores,
}

/// Random numbers of a seed; clones share the sequence.
#[derive(Clone)]
pub struct Dice(Arc<Mutex<u64>>);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(Arc::new(Mutex::new(seed)))
    }

    /// The next number of a splitmix64 sequence.
    fn next(&self) -> u64 {
        let mut state = self.0.lock().unwrap();
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 to `n` - 1.
    pub fn below(&self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    /// Between two numbers of milliseconds.
    pub fn millis(&self, low: u64, high: u64) -> Duration {
        Duration::from_millis(low + self.below(high - low + 1))
    }

    /// One of these.
    pub fn pick<'a, T>(&self, of: &'a [T]) -> Option<&'a T> {
        let index = usize::try_from(self.below(of.len() as u64)).unwrap();
        of.get(index)
    }
}

/// What happened, and what users have agreed to.
#[derive(Clone, Default)]
pub struct Story(Arc<Mutex<Told>>);

#[derive(Default)]
struct Told {
    lines: Vec<String>,
    /// Volumes that somebody asked to delete, everywhere (no node) or what a node holds of them.
    condemned: BTreeSet<(Option<String>, String)>,
    wrong: Vec<String>,
}

impl Story {
    pub fn note(&self, what: &str) {
        // Time is the simulation's; the story does not need more of it than its order.
        self.0.lock().unwrap().lines.push(what.to_owned());
    }

    pub fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().lines.clone()
    }

    /// A person wants this volume gone.
    pub fn condemn(&self, uid: &str) {
        let mut told = self.0.lock().unwrap();
        told.condemned.insert((None, uid.to_owned()));
    }

    /// A person wants gone what this node holds of it, and nothing elsewhere.
    pub fn condemn_on(&self, node: &str, uid: &str) {
        let mut told = self.0.lock().unwrap();
        told.condemned
            .insert((Some(node.to_owned()), uid.to_owned()));
    }

    /// A node clears the data of these volumes for good.
    pub fn cleared(&self, node: &str, uids: &BTreeSet<String>) {
        let mut told = self.0.lock().unwrap();
        for uid in uids {
            let places = [None, Some(node.to_owned())];
            if !places
                .map(|place| told.condemned.contains(&(place, uid.clone())))
                .contains(&true)
            {
                told.wrong.push(format!(
                    "{node} clears the data of {uid} without a person's word"
                ));
            }
        }
    }

    pub fn wrong(&self) -> Vec<String> {
        self.0.lock().unwrap().wrong.clone()
    }
}

/// Which servers are there, and whom each node can reach.
#[derive(Clone)]
pub struct Links(Arc<Mutex<Net>>, Arc<Notify>);

struct Net {
    servers: Vec<Option<Agents>>,
    cut: BTreeSet<(String, usize)>,
}

impl Links {
    fn new(servers: usize) -> Links {
        let net = Net {
            servers: vec![None; servers],
            cut: BTreeSet::new(),
        };
        Links(Arc::new(Mutex::new(net)), Arc::new(Notify::new()))
    }

    /// A server that the node can reach.
    pub fn pick(&self, node: &str, dice: &mut Dice) -> Option<(usize, Agents)> {
        let net = self.0.lock().unwrap();
        let reachable: Vec<usize> = (0..net.servers.len())
            .filter(|server| net.reaches(node, *server))
            .collect();
        let server = *dice.pick(&reachable)?;
        net.servers[server].clone().map(|agents| (server, agents))
    }

    /// Waits until the node cannot reach the server.
    pub async fn broken(&self, node: &str, server: usize) {
        loop {
            let changed = self.1.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if !self.0.lock().unwrap().reaches(node, server) {
                return;
            }
            changed.await;
        }
    }

    fn change(&self, how: impl FnOnce(&mut Net)) {
        how(&mut self.0.lock().unwrap());
        self.1.notify_waiters();
    }
}

impl Net {
    fn reaches(&self, node: &str, server: usize) -> bool {
        self.servers[server].is_some() && !self.cut.contains(&(node.to_owned(), server))
    }
}

/// A node, running or not.
pub struct Machine {
    pub name: String,
    pub disk: Arc<Mutex<Disk>>,
    pub view: Arc<Mutex<View>>,
    /// How many of a hundred steps fail, as devices do that are worn out.
    pub failing: Arc<AtomicU64>,
    task: Option<JoinHandle<()>>,
}

/// Everything.
pub struct World {
    pub seed: u64,
    pub plan: Plan,
    pub dice: Dice,
    pub story: Story,
    pub store: SimStore,
    pub servers: Vec<Option<Control>>,
    pub machines: Vec<Machine>,
    links: Links,
    started: u64,
}

/// Servers and nodes of a run.
pub const SERVERS: usize = 2;
pub const NODES: usize = 2;

impl World {
    pub fn new(seed: u64, plan: Plan) -> World {
        let machines = (0..NODES).map(|index| Machine {
            name: format!("n{index}"),
            disk: Arc::default(),
            view: Arc::default(),
            failing: Arc::default(),
            task: None,
        });
        let mut world = World {
            seed,
            plan,
            dice: Dice::new(seed),
            story: Story::default(),
            store: SimStore::new(seed),
            servers: (0..SERVERS).map(|_| None).collect(),
            machines: machines.collect(),
            links: Links::new(SERVERS),
            started: 0,
        };
        (0..SERVERS).for_each(|server| world.start_server(server));
        (0..NODES).for_each(|node| world.start_node(node));
        world
    }

    pub fn start_server(&mut self, server: usize) {
        if self.servers[server].is_some() {
            return;
        }
        self.started += 1;
        let settings = Settings {
            name: format!("c{server}"),
            auto_register: true,
            ..Settings::default()
        };
        let store = self.store.client(&format!("c{server}"));
        // Identities differ from start to start, and repeat with the seed.
        let seed = self.seed.wrapping_mul(1_000_003).wrapping_add(self.started);
        let control = Control::start(Env::seeded(store, settings, seed));
        let agents = control.agents.clone();
        self.servers[server] = Some(control);
        self.links.change(|net| net.servers[server] = Some(agents));
    }

    pub fn crash_server(&mut self, server: usize) {
        self.links.change(|net| net.servers[server] = None);
        self.servers[server] = None;
    }

    pub fn start_node(&mut self, node: usize) {
        let machine = &mut self.machines[node];
        if machine.task.is_some() {
            return;
        }
        let process = Node {
            name: machine.name.clone(),
            disk: Arc::clone(&machine.disk),
            links: self.links.clone(),
            dice: self.dice.clone(),
            story: self.story.clone(),
            view: Arc::clone(&machine.view),
            failing: Arc::clone(&machine.failing),
        };
        machine.task = Some(tokio::spawn(process.run()));
    }

    pub fn crash_node(&mut self, node: usize) {
        let machine = &mut self.machines[node];
        if let Some(task) = machine.task.take() {
            task.abort();
            machine.disk.lock().unwrap().crash();
            *machine.view.lock().unwrap() = View::default();
        }
    }

    /// The server that takes itself for the leader.
    pub fn leader(&self) -> Option<usize> {
        self.servers.iter().position(|server| {
            let control = server.as_ref();
            control.is_some_and(|control| control.env.metrics.leader.get() == 1)
        })
    }

    pub fn cut(&self, node: usize, server: usize, cut: bool) {
        let link = (self.machines[node].name.clone(), server);
        self.links.change(|net| {
            if cut {
                net.cut.insert(link);
            } else {
                net.cut.remove(&link);
            }
        });
    }

    /// Everything works again.
    pub fn heal(&mut self) {
        self.store.set_available(true);
        self.store.set_full(false);
        self.store.set_lost_answers(0.0);
        self.store
            .set_latency(Duration::ZERO, Duration::from_millis(2));
        self.store.set_watch_latency(Duration::ZERO, Duration::ZERO);
        for server in 0..SERVERS {
            self.store.partition(&format!("c{server}"), false);
            self.start_server(server);
        }
        for node in 0..NODES {
            self.start_node(node);
            self.machines[node].failing.store(0, Ordering::Relaxed);
            (0..SERVERS).for_each(|server| self.cut(node, server, false));
        }
    }

    /// What the nodes' disks and the story complain of.
    pub fn wrong(&self) -> Result<(), String> {
        let mut wrong = self.story.wrong();
        for machine in &self.machines {
            wrong.extend(machine.disk.lock().unwrap().wrong.iter().cloned());
        }
        match wrong.first() {
            Some(first) => Err(first.clone()),
            None => Ok(()),
        }
    }
}
