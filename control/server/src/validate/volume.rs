//! What users may write into volumes.

use penstock_api::names::{Kind, ResourceName};
use penstock_api::v1::volume_spec::Redundancy;
use penstock_api::v1::{BlockSize, Placement, Stripe, Volume};

use super::{Policy, Violations, field, labels, short};

/// Sizes are multiples of this.
pub const SIZE_STEP_BYTES: i64 = 1 << 20;
/// Largest size: 8 EiB - 1 MiB.
const SIZE_BYTES_MAX: i64 = i64::MAX - (SIZE_STEP_BYTES - 1);
/// Devices of a stripe.
const WIDTH: std::ops::RangeInclusive<u32> = 2..=32;
/// Bytes of a stripe's unit.
const UNIT_BYTES: std::ops::RangeInclusive<u32> = 4_096..=16_777_216;
/// Bytes of a stripe's unit where none is given.
const UNIT_BYTES_DEFAULT: u32 = 131_072;
/// Most devices that a placement names.
const DEVICES_MAX: usize = 1_024;
/// Longest name of an anti-affinity group in bytes.
const GROUP_BYTES_MAX: usize = 63;

impl Policy for Volume {
    const FIELD: &'static str = "volume";
    const MUTABLE: &'static [&'static str] = &["labels", "spec.size_bytes"];
    const FIXED: &'static [&'static str] = &[
        "spec.block_size",
        "spec.placement",
        "spec.placement.node",
        "spec.placement.devices",
        "spec.placement.node_labels",
        "spec.placement.numa_node",
        "spec.placement.anti_affinity_group",
        "spec.stripe",
        "spec.stripe.width",
        "spec.stripe.unit_bytes",
    ];

    fn check(&self, found: &mut Violations) {
        let spec = self.spec.clone().unwrap_or_default();
        if let Some(why) = size_problem(spec.size_bytes) {
            found.add(field::<Volume>("spec.size_bytes"), why);
        }
        if BlockSize::try_from(spec.block_size).is_err() {
            found.add(
                field::<Volume>("spec.block_size"),
                format!(
                    "{} is no block size; use BLOCK_SIZE_512 or BLOCK_SIZE_4096",
                    spec.block_size
                ),
            );
        }
        if let Some(placement) = &spec.placement {
            check_placement(placement, found);
        }
        if let Some(Redundancy::Stripe(stripe)) = &spec.redundancy {
            check_stripe(stripe, spec.placement.as_ref(), found);
        }
    }

    fn fill(&mut self, _cluster: &str) {
        let spec = self.spec.get_or_insert_default();
        if spec.block_size == i32::from(BlockSize::Unspecified) {
            spec.block_size = BlockSize::BlockSize4096.into();
        }
        if let Some(Redundancy::Stripe(stripe)) = &mut spec.redundancy
            && stripe.unit_bytes == 0
        {
            stripe.unit_bytes = UNIT_BYTES_DEFAULT;
        }
        // An empty placement says as much as none.
        if spec.placement == Some(Placement::default()) {
            spec.placement = None;
        }
    }

    fn inherit(&mut self, _existing: &Volume) {
        self.fill("");
    }

    fn take(&mut self, path: &str, from: &Volume) {
        if path == "spec.size_bytes" {
            let size = from.spec.as_ref().map_or(0, |spec| spec.size_bytes);
            self.spec.get_or_insert_default().size_bytes = size;
        }
    }
}

fn size_problem(size: i64) -> Option<String> {
    const LIMITS: &str = "use a multiple of 1048576 (1 MiB) from 1048576 to 9223372036853727232";
    if size <= 0 {
        return Some(format!("it is {size}, which is not above zero; {LIMITS}"));
    }
    if size > SIZE_BYTES_MAX {
        return Some(format!("it is {size}, beyond the largest; {LIMITS}"));
    }
    let over = size % SIZE_STEP_BYTES;
    if over != 0 {
        let next = size.saturating_add(SIZE_STEP_BYTES - over);
        return Some(format!(
            "it is {size}, which is no multiple of 1 MiB; {LIMITS}, for example {next}"
        ));
    }
    None
}

fn check_placement(placement: &Placement, found: &mut Violations) {
    let path = |name: &str| field::<Volume>(&format!("spec.placement.{name}"));
    let mut node = None;
    if !placement.node.is_empty() {
        let parsed = ResourceName::parse_as(Kind::Node, &placement.node);
        node = parsed.as_ref().ok().cloned();
        found.check(path("node"), parsed);
    }
    if placement.devices.len() > DEVICES_MAX {
        found.add(
            path("devices"),
            format!(
                "there are {}; name {DEVICES_MAX} at most",
                placement.devices.len()
            ),
        );
        return;
    }
    let mut seen = std::collections::BTreeSet::new();
    for device in &placement.devices {
        let parsed = ResourceName::parse_as(Kind::Device, device);
        if !seen.insert(device) {
            found.add(
                path("devices"),
                format!("{:?} is named twice; name it once", short(device)),
            );
        }
        let parent = parsed.as_ref().ok().and_then(ResourceName::parent);
        found.check(path("devices"), parsed);
        match (&node, parent) {
            (Some(node), Some(parent)) if *node != parent => found.add(
                path("devices"),
                format!("{device} is not on {node}; name devices of one node only"),
            ),
            (None, Some(parent)) => node = Some(parent),
            _ => {}
        }
    }
    labels(&path("node_labels"), &placement.node_labels, found);
    let group = &placement.anti_affinity_group;
    if group.len() > GROUP_BYTES_MAX || group.chars().any(char::is_control) {
        found.add(
            path("anti_affinity_group"),
            format!(
                "{:?} is too long or has control characters; use {GROUP_BYTES_MAX} bytes at most",
                short(group)
            ),
        );
    }
}

fn check_stripe(stripe: &Stripe, placement: Option<&Placement>, found: &mut Violations) {
    let path = |name: &str| field::<Volume>(&format!("spec.stripe.{name}"));
    if !WIDTH.contains(&stripe.width) {
        found.add(
            path("width"),
            format!(
                "it is {}; use {} to {} devices, or leave the stripe out",
                stripe.width,
                WIDTH.start(),
                WIDTH.end()
            ),
        );
    }
    let unit = stripe.unit_bytes;
    if unit != 0 && !(unit.is_power_of_two() && UNIT_BYTES.contains(&unit)) {
        found.add(
            path("unit_bytes"),
            format!(
                "it is {unit}; use a power of two from {} to {}, or 0 for {UNIT_BYTES_DEFAULT}",
                UNIT_BYTES.start(),
                UNIT_BYTES.end()
            ),
        );
    }
    let devices = placement.map_or(0, |placement| placement.devices.len());
    let width = usize::try_from(stripe.width).unwrap_or(usize::MAX);
    if devices != 0 && devices < width {
        found.add(
            path("width"),
            format!("it is {width}, but the placement names {devices} devices only; name more"),
        );
    }
}
