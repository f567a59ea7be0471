//! Identify (Base 2.1, 5.1.13; NVM 1.1, 4.1.5).

use penstock_nvme::command::Identify;
use penstock_nvme::identify::{
    ANACAP_OPTIMIZED, CMIC_ANA, CMIC_MULTI_CONTROLLER, CMIC_MULTI_PORT, CNTRLTYPE_DISCOVERY,
    CNTRLTYPE_IO, COMMAND_SET_NVM, CSI_NVM, CTRATT_HOST_ID_128, CTRATT_TBKAS, Cns,
    CommandSetCombinations, ControllerList, DLFEAT_READ_ZEROES, DLFEAT_WRITE_ZEROES_DEAC,
    FUSES_COMPARE_WRITE, IdentifyController, IdentifyIndependentNamespace, IdentifyNamespace,
    IdentifyNvmController, IdentifyNvmNamespace, LPA_EFFECTS, LPA_EXTENDED, LPA_SUPPORTED_PAGES,
    NMIC_SHARED, NSFEAT_OPTPERF, NSTAT_READY, NamespaceDescriptor, NamespaceList, OFCS_DISCONNECT,
    ONCS_COMPARE, ONCS_DATASET_MANAGEMENT, ONCS_FEATURE_SAVE, ONCS_VERIFY, ONCS_WRITE_ZEROES,
    SGLS_OFFSET, SGLS_SUPPORTED, SGLS_TRANSPORT, VWC_FLUSH_BROADCAST_YES, VWC_PRESENT,
    encode_namespace_descriptors,
};
use penstock_nvme::nqn::nqn_field;
use penstock_nvme::register::VERSION_2_1;
use penstock_nvme::{
    FromZeros, Immutable, IntoBytes, Le16, Le32, Le64, Le128, Status, ascii_field,
};
use penstock_seam::Reply;
use penstock_units::Nsid;

use super::feature::event_bits;
use super::{ABORTS_MAX, Admin, EVENT_REQUESTS_MAX, KEEP_ALIVE_GRANULARITY};
use crate::error_log;
use crate::namespace::Namespace;
use crate::status::{Fail, at};
use crate::subsystem::SubsystemKind;

/// The one ANA group.
pub(crate) const ANA_GROUP: u32 = 1;
/// Bit of the independent namespace structure's NSFEAT: no volatile write cache here.
const NSFEAT_NO_WRITE_CACHE: u8 = 1 << 5;
/// Longest time a controller may take to shut down, in microseconds: 5 s.
const SHUTDOWN_LATENCY_US: u32 = 5_000_000;
/// Command retry delay 1, in 100 ms, for Command Interrupted and the like.
const RETRY_DELAY: u16 = 1;

impl Admin<'_> {
    pub(super) async fn identify(&self) -> Result<Reply, Fail> {
        let asked = Identify::decode(self.sqe);
        let invalid = Fail::invalid_field(at::CDW10);
        let cns = Cns::try_from(asked.cns).map_err(|_| invalid)?;
        let discovery = self.controller.subsystem().kind() == SubsystemKind::Discovery;
        if discovery && cns != Cns::Controller {
            return Err(invalid);
        }
        match cns {
            Cns::Namespace | Cns::AllocatedNamespace => {
                self.of_namespace(asked.nsid, namespace_data).await
            }
            Cns::Controller => self.send(&self.controller_data()).await,
            Cns::ActiveNamespaces | Cns::AllocatedNamespaces => {
                self.namespace_list(asked.nsid).await
            }
            Cns::NamespaceDescriptors => self.descriptors(asked.nsid).await,
            Cns::CommandSetNamespace => {
                of_nvm(&asked)?;
                self.of_namespace(asked.nsid, |_| IdentifyNvmNamespace::new_zeroed())
                    .await
            }
            Cns::CommandSetController => {
                of_nvm(&asked)?;
                self.send(&self.nvm_controller()).await
            }
            Cns::CommandSetActiveNamespaces | Cns::CommandSetAllocatedNamespaces => {
                of_nvm(&asked)?;
                self.namespace_list(asked.nsid).await
            }
            Cns::IndependentNamespace => self.of_namespace(asked.nsid, independent).await,
            Cns::NamespaceControllers => {
                self.existing_namespace(asked.nsid)?;
                self.controller_list(asked.cntid).await
            }
            Cns::SubsystemControllers => self.controller_list(asked.cntid).await,
            Cns::CommandSetCombinations => self.combinations(asked.cntid).await,
            // Not here: NVM sets, format indices, virtualization, granularity, UUID list,
            // domains, endurance groups and what came after.
            _ => Err(invalid),
        }
    }

    async fn send(&self, data: &(impl IntoBytes + Immutable)) -> Result<Reply, Fail> {
        self.data(data.as_bytes(), 0).await
    }

    /// A structure of one namespace: zeroes where the number is valid and nothing is there.
    async fn of_namespace<T: IntoBytes + FromZeros + Immutable>(
        &self,
        nsid: u32,
        fill: impl FnOnce(&Namespace) -> T,
    ) -> Result<Reply, Fail> {
        let invalid = Fail::field(Status::INVALID_NAMESPACE.dnr(), at::NSID);
        let nsid = Nsid::new(nsid).ok_or(invalid)?;
        let subsystem = self.controller.subsystem();
        if nsid.get() > subsystem.config().namespaces_max {
            return Err(invalid);
        }
        let data = match subsystem.namespace(nsid) {
            Some(namespace) => fill(&namespace),
            None => T::new_zeroed(),
        };
        self.send(&data).await
    }

    async fn namespace_list(&self, after: u32) -> Result<Reply, Fail> {
        if after >= u32::MAX - 1 {
            return Err(Fail::field(Status::INVALID_NAMESPACE.dnr(), at::NSID));
        }
        let namespaces = self.controller.subsystem().namespaces();
        let list = NamespaceList::after(after, namespaces.keys().map(|nsid| nsid.get()));
        self.send(&list).await
    }

    async fn descriptors(&self, nsid: u32) -> Result<Reply, Fail> {
        let nsid = self.existing_namespace(nsid)?;
        let mut descriptors = Vec::new();
        if let Some(namespace) = self.controller.subsystem().namespace(nsid) {
            let config = namespace.config();
            if config.eui64 != [0; 8] {
                descriptors.push(NamespaceDescriptor::Eui64(config.eui64));
            }
            if config.nguid != [0; 16] {
                descriptors.push(NamespaceDescriptor::Nguid(config.nguid));
            }
            if config.uuid != [0; 16] {
                descriptors.push(NamespaceDescriptor::Uuid(config.uuid));
            }
            descriptors.push(NamespaceDescriptor::Csi(CSI_NVM));
        }
        let mut list = [0; 4096];
        encode_namespace_descriptors(&mut list, &descriptors);
        self.data(&list, 0).await
    }

    async fn controller_list(&self, from: u16) -> Result<Reply, Fail> {
        let controllers = self.controller.subsystem().controllers();
        let list = ControllerList::from(from, controllers.iter().map(|c| c.id().0));
        self.send(&list).await
    }

    async fn combinations(&self, cntlid: u16) -> Result<Reply, Fail> {
        let subsystem = self.controller.subsystem();
        if cntlid != 0xffff && subsystem.controller(cntlid).is_none() {
            return Err(Fail::invalid_field(at::CDW10 + 2));
        }
        let mut combinations = CommandSetCombinations::new_zeroed();
        combinations.vectors[0] = Le64::new(COMMAND_SET_NVM);
        self.send(&combinations).await
    }

    /// Maximum data transfer size in the units of Identify: log2 of 4-KiB pages.
    fn mdts(&self) -> u8 {
        let pages = self.controller.subsystem().target().mdts_bytes / 4096;
        u8::try_from(pages.max(1).ilog2()).unwrap_or(0)
    }

    fn nvm_controller(&self) -> IdentifyNvmController {
        let mut data = IdentifyNvmController::new_zeroed();
        // Verify is done in pieces, Write Zeroes without data, Deallocate range by range: no limit
        // but those of the commands' own fields.
        data.ver = Le32::new(0x0001_0100);
        data
    }

    fn controller_data(&self) -> IdentifyController {
        let subsystem = self.controller.subsystem();
        let (config, target) = (subsystem.config(), subsystem.target());
        let mut data = IdentifyController::zeroed();
        data.sn = ascii_field(&config.serial);
        data.mn = ascii_field(&config.model);
        data.fr = ascii_field(&target.firmware);
        data.mdts = self.mdts();
        data.cntlid = Le16::new(self.controller.id().0);
        data.ver = Le32::new(VERSION_2_1);
        data.rtd3e = Le32::new(SHUTDOWN_LATENCY_US);
        data.oaes = Le32::new(event_bits(subsystem.kind()) & !0xff);
        data.ctratt = Le32::new(CTRATT_HOST_ID_128 | CTRATT_TBKAS);
        data.crdt1 = Le16::new(RETRY_DELAY);
        data.aerl = u8::try_from(EVENT_REQUESTS_MAX - 1).unwrap_or(0);
        data.frmw = 0b0000_0011;
        data.lpa = LPA_EXTENDED;
        data.elpe = u8::try_from(error_log::ENTRIES - 1).unwrap_or(0);
        data.kas = Le16::new(KEEP_ALIVE_GRANULARITY);
        data.sqes = 0x66;
        data.cqes = 0x44;
        data.maxcmd = Le16::new(target.queue_entries_max);
        data.sgls = Le32::new(SGLS_SUPPORTED | SGLS_OFFSET | SGLS_TRANSPORT);
        if let Some(nqn) = nqn_field(subsystem.nqn()) {
            data.subnqn = nqn;
        }
        let capsule = 64 + target.in_capsule_data_bytes;
        data.ioccsz = Le32::new(capsule / 16);
        data.iorcsz = Le32::new(1);
        data.msdbd = 1;
        match subsystem.kind() {
            SubsystemKind::Discovery => {
                data.cntrltype = CNTRLTYPE_DISCOVERY;
                data.dctype = 1;
            }
            SubsystemKind::Nvm => self.io_controller(&mut data),
        }
        data
    }

    /// The fields of I/O controllers only.
    fn io_controller(&self, data: &mut IdentifyController) {
        let subsystem = self.controller.subsystem();
        let max = subsystem.config().namespaces_max;
        data.cntrltype = CNTRLTYPE_IO;
        data.cmic = CMIC_MULTI_PORT | CMIC_MULTI_CONTROLLER | CMIC_ANA;
        data.acl = u8::try_from(ABORTS_MAX - 1).unwrap_or(0);
        data.lpa |= LPA_EFFECTS | LPA_SUPPORTED_PAGES;
        data.anacap = ANACAP_OPTIMIZED;
        // "At once" is not a value: the group never changes its state.
        data.anatt = 1;
        data.anagrpmax = Le32::new(ANA_GROUP);
        data.nanagrpid = Le32::new(1);
        data.nn = Le32::new(max);
        data.mnan = Le32::new(max);
        data.oncs = Le16::new(
            ONCS_COMPARE
                | ONCS_DATASET_MANAGEMENT
                | ONCS_WRITE_ZEROES
                | ONCS_FEATURE_SAVE
                | ONCS_VERIFY,
        );
        data.fuses = Le16::new(FUSES_COMPARE_WRITE);
        // Always announced: a namespace with a cache may be added while hosts are connected, and
        // they look only once. Namespaces without one say so (CNS 08h).
        data.vwc = VWC_PRESENT | VWC_FLUSH_BROADCAST_YES;
        data.ofcs = Le16::new(OFCS_DISCONNECT);
        data.tnvmcap = Le128::new(capacity(subsystem.namespaces().values().map(|ns| &**ns)));
    }
}

fn capacity<'a>(namespaces: impl Iterator<Item = &'a Namespace>) -> u128 {
    namespaces
        .map(|ns| u128::from(ns.blocks()) << ns.geometry().block_size.shift())
        .sum()
}

/// Refuses command sets other than NVM.
fn of_nvm(asked: &Identify) -> Result<(), Fail> {
    if asked.csi == CSI_NVM {
        Ok(())
    } else {
        Err(Fail::invalid_field(at::CDW11 + 3))
    }
}

fn namespace_data(namespace: &Namespace) -> IdentifyNamespace {
    let geometry = namespace.geometry();
    let blocks = namespace.blocks();
    let mut data = IdentifyNamespace::new_zeroed();
    data.nsze = Le64::new(blocks);
    data.ncap = Le64::new(blocks);
    data.nuse = Le64::new(blocks);
    data.nsfeat = NSFEAT_OPTPERF;
    data.nmic = NMIC_SHARED;
    data.dlfeat = DLFEAT_WRITE_ZEROES_DEAC;
    if geometry.deallocated_reads_zero {
        data.dlfeat |= DLFEAT_READ_ZEROES;
    }
    let optimal = geometry.optimal_blocks.max(1) - 1;
    let optimal = Le16::new(u16::try_from(optimal).unwrap_or(u16::MAX));
    data.npwg = optimal;
    data.npwa = optimal;
    data.npdg = optimal;
    data.npda = optimal;
    data.nows = optimal;
    data.nvmcap = Le128::new(u128::from(blocks) << geometry.block_size.shift());
    data.anagrpid = Le32::new(ANA_GROUP);
    data.nsattr = u8::from(namespace.read_only());
    data.nguid = namespace.config().nguid;
    data.eui64 = namespace.config().eui64;
    data.lbaf[0].lbads = geometry.block_size.shift();
    data
}

fn independent(namespace: &Namespace) -> IdentifyIndependentNamespace {
    let mut data = IdentifyIndependentNamespace::new_zeroed();
    if !namespace.geometry().volatile_cache {
        data.nsfeat |= NSFEAT_NO_WRITE_CACHE;
    }
    data.nmic = NMIC_SHARED;
    data.anagrpid = Le32::new(ANA_GROUP);
    data.nsattr = u8::from(namespace.read_only());
    data.nstat = NSTAT_READY;
    data
}
