//! `penstock volume`.

use clap::{Args, Subcommand};
use penstock_api::v1::volume_spec::Redundancy;
use penstock_api::v1::{BlockSize, Placement, Stripe, Volume, VolumeSpec};

use super::Session;
use super::shared::{EtagArgs, GuardArgs, LabelArgs, RelabelArgs, WaitArgs, parse_pair, to_map};
use super::verbs::{
    Delete, Describe, Get, List, Watch, create, full_names, full_or_empty, something_given, update,
};
use crate::failure::{Failure, Outcome};
use crate::name::{Kind, short};
use crate::object::{Common, Object};
use crate::output::{self, Format, line, to_value};
use crate::quantity::{parse_size, size};
use crate::view::{Column, Table};

const KIND: Kind = Kind::Volume;

/// What can be done with volumes.
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Make a volume
    Create(Create),
    /// Print volumes by name
    Get(Get),
    /// Print all volumes
    List(ListVolumes),
    /// Tell everything about volumes: layout, conditions, events
    Describe(Describe),
    /// Change labels, or the size (which only grows)
    Update(Update),
    /// Make a volume larger
    Grow(Grow),
    /// Tell where a volume lies and how hosts reach it
    Layout(Layout),
    /// Delete volumes and their data
    Delete(Delete),
    /// Print changes of volumes as they happen
    Watch(Watch),
}

/// `volume list`.
#[derive(Args, Debug)]
pub struct ListVolumes {
    /// Only volumes on this node
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
    #[command(flatten)]
    list: List,
}

/// `volume create`.
#[derive(Args, Debug)]
pub struct Create {
    /// Name: a-z, 0-9 and -, up to 63 characters
    name: String,
    /// Size, like 100GiB: a multiple of 1 MiB
    #[arg(long, value_parser = parse_size_signed, allow_hyphen_values = true)]
    size: i64,
    /// Only on this node
    #[arg(long)]
    node: Option<String>,
    /// Only on this device, like n1/d0; may be repeated
    #[arg(long, value_name = "DEVICE")]
    device: Vec<String>,
    /// Only on nodes with this label; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_pair)]
    node_label: Vec<(String, String)>,
    /// Only on devices of this NUMA node
    #[arg(long, value_name = "NUMBER")]
    numa_node: Option<u32>,
    /// Keep apart from other volumes of this group where possible
    #[arg(long, value_name = "GROUP")]
    anti_affinity_group: Option<String>,
    /// Logical block size that hosts see [default: the server's, 4096]
    #[arg(long, value_name = "BYTES", value_parser = ["512", "4096"])]
    block_size: Option<String>,
    /// Stripe over this many devices of one node, 2 to 32
    #[arg(long, value_name = "DEVICES")]
    stripe_width: Option<u32>,
    /// Put this much on one device before the next, like 128KiB: a power of two
    #[arg(long, value_name = "SIZE", value_parser = parse_size_u32, requires = "stripe_width")]
    stripe_unit: Option<u32>,
    #[command(flatten)]
    labels: LabelArgs,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    guard: GuardArgs,
}

/// `volume update`.
#[derive(Args, Debug)]
pub struct Update {
    /// Name, short or full
    name: String,
    /// New size, like 200GiB, or +100GiB for that much more
    #[arg(long)]
    size: Option<String>,
    #[command(flatten)]
    labels: RelabelArgs,
    #[command(flatten)]
    etag: EtagArgs,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    guard: GuardArgs,
}

/// `volume grow`.
#[derive(Args, Debug)]
pub struct Grow {
    /// Name, short or full
    name: String,
    /// New size, like 200GiB, or +100GiB for that much more
    #[arg(long)]
    size: String,
    #[command(flatten)]
    etag: EtagArgs,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    guard: GuardArgs,
}

/// `volume layout`.
#[derive(Args, Debug)]
pub struct Layout {
    /// Name, short or full
    name: String,
}

impl Verb {
    /// Does it.
    pub async fn run(self, session: &Session) -> Outcome {
        match self {
            Verb::Create(args) => args.run(session).await,
            Verb::Get(args) => args.run(KIND, session).await,
            Verb::List(args) => args.run(session).await,
            Verb::Describe(args) => args.run(KIND, session).await,
            Verb::Update(args) => args.run(session).await,
            Verb::Grow(args) => args.run(session).await,
            Verb::Layout(args) => args.run(session).await,
            Verb::Delete(args) => args.run(KIND, session).await,
            Verb::Watch(args) => args.run(KIND, session).await,
        }
    }
}

impl ListVolumes {
    async fn run(self, session: &Session) -> Outcome {
        let node = full_or_empty(Kind::Node, self.node.as_ref())?;
        let here = |object: &Object| {
            let Object::Volume(volume) = object else {
                return false;
            };
            let layout = volume
                .status
                .as_ref()
                .and_then(|status| status.layout.as_ref());
            node.is_empty() || layout.is_some_and(|layout| layout.node == node)
        };
        self.list.run(KIND, "", session, here).await
    }
}

impl Create {
    async fn run(self, session: &Session) -> Outcome {
        let wait = self.wait.wait;
        let guard = self.guard.clone();
        create(session, self.object()?, wait, &guard).await
    }

    fn object(self) -> Outcome<Object> {
        let placement = Placement {
            node: full_or_empty(Kind::Node, self.node.as_ref())?,
            devices: full_names(Kind::Device, &self.device)?,
            node_labels: to_map(&self.node_label)?,
            numa_node: self.numa_node,
            anti_affinity_group: self.anti_affinity_group.unwrap_or_default(),
        };
        let block_size = match self.block_size.as_deref() {
            Some("512") => BlockSize::BlockSize512,
            Some(_) => BlockSize::BlockSize4096,
            None => BlockSize::Unspecified,
        };
        let stripe = self.stripe_width.map(|width| {
            let unit_bytes = self.stripe_unit.unwrap_or_default();
            Redundancy::Stripe(Stripe { width, unit_bytes })
        });
        let spec = VolumeSpec {
            size_bytes: self.size,
            block_size: block_size.into(),
            placement: (placement != Placement::default()).then_some(placement),
            redundancy: stripe,
        };
        Ok(Object::Volume(Volume {
            name: KIND.full(&self.name)?,
            labels: self.labels.map()?,
            spec: Some(spec),
            ..Volume::default()
        }))
    }
}

impl Update {
    async fn run(self, session: &Session) -> Outcome {
        let given = self.size.is_some() || self.labels.given();
        something_given(given, "--size, --label or --remove-label")?;
        let mut mask = Vec::new();
        if self.size.is_some() {
            mask.push("spec.size_bytes");
        }
        if self.labels.given() {
            mask.push("labels");
        }
        let guards = (&self.etag, &self.wait, &self.guard);
        update(session, (KIND, &self.name), &mask, guards, |object| {
            if let Some(labels) = object.labels_mut() {
                self.labels.apply(labels)?;
            }
            self.size
                .as_deref()
                .map_or(Ok(()), |size| resize(object, size))
        })
        .await
    }
}

impl Grow {
    async fn run(self, session: &Session) -> Outcome {
        let guards = (&self.etag, &self.wait, &self.guard);
        update(
            session,
            (KIND, &self.name),
            &["spec.size_bytes"],
            guards,
            |object| resize(object, &self.size),
        )
        .await
    }
}

/// Sets the size as it is written: absolute, or `+` that much more.
fn resize(object: &mut Object, written: &str) -> Outcome {
    let Object::Volume(volume) = object else {
        return Ok(());
    };
    let spec = volume.spec.get_or_insert_default();
    let (more, text) = match written.strip_prefix('+') {
        Some(rest) => (true, rest),
        None => (false, written),
    };
    let bytes = parse_size_signed(text).map_err(Failure::usage)?;
    let wanted = if more {
        spec.size_bytes.saturating_add(bytes)
    } else {
        bytes
    };
    if wanted < spec.size_bytes {
        let now = size(u64::try_from(spec.size_bytes).unwrap_or(0));
        let told = format!(
            "{} is {now} large and only grows: a volume that is made smaller loses data; make a \
             new one and copy",
            volume.name
        );
        return Err(Failure::usage(told));
    }
    spec.size_bytes = wanted;
    Ok(())
}

impl Layout {
    async fn run(self, session: &Session) -> Outcome {
        let told = session.api.layout(&KIND.full(&self.name)?).await?;
        match session.format {
            Format::Table => {}
            Format::Name => return line(&told.volume),
            format => return output::value(format, &to_value(&told)),
        }
        let layout = told.layout.clone().unwrap_or_default();
        line(&format!(
            "{} on {}: {}, blocks of {} bytes, epoch {}",
            told.volume,
            layout.node,
            size(told.size_bytes),
            told.block_size_bytes,
            layout.epoch
        ))?;
        if layout.stripe_width > 1 {
            let unit = size(u64::from(layout.stripe_unit_bytes));
            line(&format!(
                "striped over {} devices, {unit} each in turn",
                layout.stripe_width
            ))?;
        }
        let columns = [
            Column::left("EXTENT ON"),
            Column::right("OFFSET"),
            Column::right("LENGTH"),
        ];
        let mut extents = Table::new(&columns);
        for extent in &layout.extents {
            let (offset, length) = (size(extent.offset_bytes), size(extent.length_bytes));
            extents.push(vec![short(&extent.device), offset, length]);
        }
        line(&extents.to_string())?;
        paths(&told)
    }
}

fn paths(told: &penstock_api::v1::VolumeLayout) -> Outcome {
    if told.paths.is_empty() {
        let short = short(&told.volume);
        return line(&format!(
            "no namespace serves it: penstock namespace create SUBSYSTEM/NAME --volume {short}"
        ));
    }
    let columns = [
        Column::left("REACHED AT"),
        Column::left("TRANSPORT"),
        Column::right("NSID"),
        Column::left("NQN"),
    ];
    let mut table = Table::new(&columns);
    for path in &told.paths {
        let address = path.address.clone().unwrap_or_default();
        let at = match address.address.contains(':') {
            true => format!("[{}]:{}", address.address, address.port),
            false => format!("{}:{}", address.address, address.port),
        };
        table.push(vec![
            at,
            address.transport,
            path.nsid.to_string(),
            path.nqn.clone(),
        ]);
    }
    line(&table.to_string())
}

fn parse_size_signed(written: &str) -> Result<i64, String> {
    let bytes = parse_size(written)?;
    i64::try_from(bytes)
        .map_err(|_| format!("\"{written}\" is more than the largest volume, 8 EiB"))
}

fn parse_size_u32(written: &str) -> Result<u32, String> {
    let bytes = parse_size(written)?;
    u32::try_from(bytes).map_err(|_| format!("\"{written}\" is more than the largest unit, 16MiB"))
}
