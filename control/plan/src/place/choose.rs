//! The choice of a place.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use penstock_api::v1::volume_spec::Redundancy;
use penstock_api::v1::{Layout, Placement, VolumeSpec};

use super::grow::{extent, free_text};
use super::space::GRANULE_BYTES;
use super::text::{bytes, short};
use super::{DeviceFacts, NoPlace, NodeFacts, Placed, Pool};
use crate::desired::block_size_bytes;

/// Bytes on one device before the next follows, where the spec does not say.
const DEFAULT_STRIPE_UNIT_BYTES: u32 = 128 << 10;

/// Most candidates named in a message.
const NAMED_MAX: usize = 8;

/// What a spec asks for.
struct Wish {
    size_bytes: u64,
    width: usize,
    /// 0 without striping.
    unit_bytes: u32,
    /// Length of the extent on each device.
    column_bytes: u64,
    block_size_bytes: u32,
    placement: Placement,
}

/// A node that has room: devices in the order of the stripe.
struct Candidate<'a> {
    node: &'a str,
    devices: Vec<(&'a str, &'a DeviceFacts)>,
    /// Volumes of the group in each failure domain, the largest domain first.
    crowd: Vec<(String, usize)>,
    /// Devices of all nodes that would do as well, set at the end.
    free_bytes: u64,
}

/// Why something is out: what it is, why, and how near it came.
struct Out {
    what: String,
    why: String,
    reason: &'static str,
}

impl Pool {
    /// Chooses a place for a new volume. Nothing is noted: [`Pool::occupy`] it.
    ///
    /// # Errors
    /// [`NoPlace`] where there is none now.
    pub fn place(&self, spec: &VolumeSpec) -> Result<Placed, NoPlace> {
        let wish = Wish::of(spec)?;
        let volatile = self.may_be_volatile(&wish);
        let mut outs = Vec::new();
        let mut candidates = Vec::new();
        let mut fitting = 0;
        for (name, facts) in &self.nodes {
            if let Some(why) = node_out(name, facts, &wish) {
                outs.push(Out {
                    what: short(name),
                    why,
                    reason: "NoNode",
                });
                continue;
            }
            let mut devices = self.fitting(name, &wish, volatile, &mut outs);
            fitting += devices.len();
            if devices.len() < wish.width {
                if wish.width > 1 {
                    let why = format!("{} of {} devices fit", devices.len(), wish.width);
                    outs.push(Out {
                        what: short(name),
                        why,
                        reason: "NoSpace",
                    });
                }
                continue;
            }
            devices.sort_by_key(|(name, facts)| (Reverse(facts.space.free_bytes()), *name));
            devices.truncate(wish.width);
            candidates.push(Candidate {
                node: name,
                free_bytes: devices
                    .iter()
                    .map(|(_, facts)| facts.space.free_bytes())
                    .sum(),
                devices,
                crowd: self.crowd(&wish.placement.anti_affinity_group, facts),
            });
        }
        let best = candidates.iter().min_by_key(|candidate| {
            let counts: Vec<usize> = candidate.crowd.iter().map(|(_, count)| *count).collect();
            (counts, Reverse(candidate.free_bytes), candidate.node)
        });
        match best {
            Some(best) => best.placed(&wish, fitting),
            None => Err(self.no_place(&wish, &outs)),
        }
    }

    /// Whether the volume would have a place if all known nodes were online and all devices empty.
    /// Without any device that fits otherwise that is unknown, and no refusal.
    ///
    /// # Errors
    /// [`NoPlace`] with reason `SizeBeyondPool`, or `InvalidSpec`.
    pub fn could_hold(&self, spec: &VolumeSpec) -> Result<(), NoPlace> {
        let wish = Wish::of(spec)?;
        let mut largest = 0;
        for (name, facts) in &self.nodes {
            if node_forbidden(name, facts, &wish).is_some() {
                continue;
            }
            let devices = self.devices.get(name).into_iter().flatten();
            let mut sizes: Vec<u64> = devices
                .filter(|(name, facts)| device_forbidden(name, facts, &wish).is_none())
                .map(|(_, facts)| facts.space.size_bytes())
                .collect();
            sizes.sort_unstable_by_key(|size| Reverse(*size));
            // The smallest of the largest devices bounds the columns.
            let column = sizes.get(wish.width - 1).copied().unwrap_or(0);
            largest = largest.max(column.saturating_mul(wish.width as u64));
        }
        if largest == 0 || wish.column_bytes.saturating_mul(wish.width as u64) <= largest {
            return Ok(());
        }
        Err(NoPlace {
            reason: "SizeBeyondPool",
            message: format!(
                "{} is more than any allowed place could ever hold: the largest holds {}; make it \
                 smaller, stripe it over more devices, or add devices",
                bytes(wish.size_bytes),
                bytes(largest)
            ),
        })
    }

    /// Devices that forget their data are only for those who name them or have nothing else.
    fn may_be_volatile(&self, wish: &Wish) -> bool {
        let nodes = self
            .nodes
            .iter()
            .filter(|(n, f)| node_forbidden(n, f, wish).is_none());
        let mut devices = nodes
            .filter_map(|(name, _)| self.devices.get(name))
            .flatten();
        !wish.placement.devices.is_empty()
            || !devices.any(|(name, facts)| {
                device_forbidden(name, facts, wish).is_none()
                    && facts
                        .inventory
                        .as_ref()
                        .is_some_and(|inventory| inventory.persistent)
            })
    }

    /// The node's devices that have room; the others go to `outs`.
    fn fitting<'a>(
        &'a self,
        node: &str,
        wish: &Wish,
        volatile: bool,
        outs: &mut Vec<Out>,
    ) -> Vec<(&'a str, &'a DeviceFacts)> {
        let mut fit = Vec::new();
        for (name, facts) in self.devices.get(node).into_iter().flatten() {
            let persistent = facts.inventory.as_ref().is_some_and(|i| i.persistent);
            let (why, reason) = if let Some(why) = device_forbidden(name, facts, wish) {
                (why, "NoDevice")
            } else if facts.cordoned {
                ("cordoned".to_owned(), "NoDevice")
            } else if !persistent && !volatile {
                ("forgets its data, name it to use it".to_owned(), "NoDevice")
            } else if facts.space.best_fit(wish.column_bytes).is_none() {
                (free_text(facts), "NoSpace")
            } else {
                fit.push((name.as_str(), facts));
                continue;
            };
            outs.push(Out {
                what: short(name),
                why,
                reason,
            });
        }
        fit
    }

    /// Volumes of the group in each failure domain of a node, the largest domain first.
    fn crowd(&self, group: &str, node: &NodeFacts) -> Vec<(String, usize)> {
        if group.is_empty() {
            return Vec::new();
        }
        let empty = BTreeMap::new();
        let members = self.groups.get(group).unwrap_or(&empty);
        let mut kinds: Vec<&str> = self
            .nodes
            .values()
            .flat_map(|facts| facts.domains.keys())
            .map(String::as_str)
            .collect();
        kinds.sort_by_key(|kind| (*kind == "host", *kind == "rack", *kind));
        kinds.dedup();
        let count = |kind: &str| {
            let here = node.domains.get(kind);
            let same = |name: &&String| {
                self.nodes
                    .get(*name)
                    .is_some_and(|other| other.domains.get(kind) == here)
            };
            let sum = members
                .iter()
                .filter(|(name, _)| same(name))
                .map(|(_, count)| *count)
                .sum();
            let value = here.map_or("(none)", String::as_str);
            (format!("{kind} {value}"), sum)
        };
        kinds.into_iter().map(count).collect()
    }

    fn no_place(&self, wish: &Wish, outs: &[Out]) -> NoPlace {
        let size = bytes(wish.size_bytes);
        let has = |reason| outs.iter().any(|out| out.reason == reason);
        let (reason, remedy) = if has("NoSpace") {
            ("NoSpace", "Delete volumes, add devices, or ask for less")
        } else if has("NoDevice") {
            (
                "NoDevice",
                "Change the placement, or add or uncordon devices",
            )
        } else if self.nodes.is_empty() {
            (
                "NoNode",
                "No node is known: start penstock-node and create its node",
            )
        } else {
            (
                "NoNode",
                "Change the placement, or bring nodes online or uncordon them",
            )
        };
        let mut named: Vec<String> = outs
            .iter()
            .take(NAMED_MAX)
            .map(|out| format!("{}: {}", out.what, out.why))
            .collect();
        if outs.len() > NAMED_MAX {
            named.push(format!("and {} more", outs.len() - NAMED_MAX));
        }
        let each = if wish.width > 1 {
            let column = bytes(wish.column_bytes);
            format!("no place for {size} as {} columns of {column}", wish.width)
        } else {
            format!("no place for {size}")
        };
        let list = if named.is_empty() {
            "no device is known".to_owned()
        } else {
            named.join("; ")
        };
        NoPlace {
            reason,
            message: format!("{each}: {list}. {remedy}."),
        }
    }
}

impl Wish {
    fn of(spec: &VolumeSpec) -> Result<Self, NoPlace> {
        let invalid = |message: &str| NoPlace {
            reason: "InvalidSpec",
            message: format!("{message}; delete the volume and make it anew"),
        };
        let size = u64::try_from(spec.size_bytes).ok().filter(|size| *size > 0);
        let size_bytes = size.ok_or_else(|| invalid("its size is not above 0"))?;
        let (width, unit_bytes) = match &spec.redundancy {
            None => (1, 0),
            Some(Redundancy::Stripe(stripe)) => {
                let unit = match stripe.unit_bytes {
                    0 => DEFAULT_STRIPE_UNIT_BYTES,
                    unit => unit,
                };
                if stripe.width < 2 || !unit.is_power_of_two() {
                    return Err(invalid("its stripe has a width below 2 or an odd unit"));
                }
                (usize::try_from(stripe.width).unwrap_or(usize::MAX), unit)
            }
        };
        let column = size_bytes.div_ceil(width as u64);
        let column_bytes = round_up(column, GRANULE_BYTES.max(u64::from(unit_bytes)))
            .ok_or_else(|| invalid("its size is beyond all numbers"))?;
        Ok(Self {
            size_bytes,
            width,
            unit_bytes,
            column_bytes,
            block_size_bytes: block_size_bytes(spec.block_size()),
            placement: spec.placement.clone().unwrap_or_default(),
        })
    }
}

impl Candidate<'_> {
    fn placed(&self, wish: &Wish, fitting: usize) -> Result<Placed, NoPlace> {
        let mut extents = Vec::with_capacity(wish.width);
        let mut size = 0;
        for (name, facts) in &self.devices {
            let Some(start) = facts.space.best_fit(wish.column_bytes) else {
                continue;
            };
            extents.push(extent(name, start, wish.column_bytes));
            size += facts.space.size_bytes();
        }
        let names: Vec<String> = self.devices.iter().map(|(name, _)| short(name)).collect();
        let space = format!("{} of {}", bytes(self.free_bytes), bytes(size));
        let mut reason = match fitting {
            1 => format!(
                "{}: the only device that fits ({space} free)",
                names.join(", ")
            ),
            _ => format!(
                "{}: most free space ({space}) among {fitting} devices",
                names.join(", ")
            ),
        };
        let group = &wish.placement.anti_affinity_group;
        for (domain, count) in &self.crowd {
            let has = match count {
                0 => format!("no volume of group {group} yet"),
                1 => format!("1 volume of group {group}"),
                count => format!("{count} volumes of group {group}"),
            };
            reason.push_str(&format!("; {domain} has {has}"));
        }
        let layout = Layout {
            node: self.node.to_owned(),
            epoch: 1,
            stripe_unit_bytes: wish.unit_bytes,
            extents,
            stripe_width: u32::try_from(wish.width).unwrap_or(u32::MAX),
        };
        Ok(Placed { layout, reason })
    }
}

/// Why the spec forbids a node, if it does.
fn node_forbidden(name: &str, facts: &NodeFacts, wish: &Wish) -> Option<String> {
    let placement = &wish.placement;
    if !placement.node.is_empty() && placement.node != name {
        return Some("not the node asked for".to_owned());
    }
    let under = |device: &String| {
        device
            .strip_prefix(name)
            .is_some_and(|r| r.starts_with('/'))
    };
    if !placement.devices.is_empty() && !placement.devices.iter().any(under) {
        return Some("has none of the devices asked for".to_owned());
    }
    let lacking = |(key, value): &(&String, &String)| facts.labels.get(*key) != Some(*value);
    let (key, value) = placement.node_labels.iter().find(lacking)?;
    Some(format!("lacks label {key}={value}"))
}

/// Why a node is out now, if it is.
fn node_out(name: &str, facts: &NodeFacts, wish: &Wish) -> Option<String> {
    let now = if facts.cordoned {
        Some("cordoned".to_owned())
    } else {
        (!facts.online).then(|| "not online".to_owned())
    };
    node_forbidden(name, facts, wish).or(now)
}

/// Why a device cannot be used for this, full or not.
fn device_forbidden(name: &str, facts: &DeviceFacts, wish: &Wish) -> Option<String> {
    let placement = &wish.placement;
    if !placement.devices.is_empty() && !placement.devices.iter().any(|device| device == name) {
        return Some("not among the devices asked for".to_owned());
    }
    let Some(inventory) = &facts.inventory else {
        return Some("not reported".to_owned());
    };
    if !inventory.problem.is_empty() {
        return Some(format!("unusable ({})", inventory.problem));
    }
    if inventory.block_size_bytes > wish.block_size_bytes {
        let (has, wants) = (inventory.block_size_bytes, wish.block_size_bytes);
        return Some(format!("blocks of {has} bytes, {wants} wanted"));
    }
    let numa = placement.numa_node?;
    (i64::from(inventory.numa_node) != i64::from(numa)).then(|| format!("not on NUMA node {numa}"))
}

/// The next multiple; `None` where that is beyond 64 bits.
pub(super) fn round_up(value: u64, multiple: u64) -> Option<u64> {
    value.checked_next_multiple_of(multiple)
}
