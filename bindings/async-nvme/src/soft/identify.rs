//! Identify (Base 2.1, 5.1.13; NVM 1.1, 4.1.5).

use penstock_nvme::command::Identify;
use penstock_nvme::feature::AsyncEventConfig;
use penstock_nvme::identify::{
    self as id, CSI_NVM, Cns, CommandSetCombinations, IdentifyController,
    IdentifyIndependentNamespace, IdentifyNamespace, IdentifyNvmController, IdentifyNvmNamespace,
    NamespaceDescriptor, NamespaceList, encode_namespace_descriptors,
};
use penstock_nvme::{FromZeros, IntoBytes, Le16, Le32, Le64, Le128, Sqe, Status, ascii_field};

use super::config::SoftSgl;
use super::log;
use super::machine::{Answer, Machine};
use super::media::Media;

/// Largest namespace identifier (NN).
pub(super) const NAMESPACES_MAX: u32 = 64;

impl Machine {
    pub(super) fn identify(&mut self, sqe: &Sqe) -> Answer {
        let command = Identify::decode(sqe);
        let cns = Cns::try_from(command.cns).map_err(|_| Status::INVALID_FIELD)?;
        let nsid = command.nsid;
        let data = match cns {
            Cns::Controller => self.identify_controller().as_bytes().to_vec(),
            Cns::Namespace => self.of_namespace(nsid, Self::identify_namespace)?,
            Cns::ActiveNamespaces => self.active_namespaces(nsid)?,
            Cns::CommandSetActiveNamespaces if command.csi == CSI_NVM => {
                self.active_namespaces(nsid)?
            }
            Cns::NamespaceDescriptors => self.namespace_descriptors(nsid)?,
            Cns::CommandSetNamespace if command.csi == CSI_NVM => self
                .of_namespace(nsid, |_, _, _| {
                    IdentifyNvmNamespace::new_zeroed().as_bytes().to_vec()
                })?,
            Cns::CommandSetController if command.csi == CSI_NVM => {
                let mut data = IdentifyNvmController::new_zeroed();
                data.wzsl = self.config.wzsl;
                data.as_bytes().to_vec()
            }
            Cns::IndependentNamespace => self.of_namespace(nsid, |_, _, _| {
                let mut data = IdentifyIndependentNamespace::new_zeroed();
                data.nstat = id::NSTAT_READY;
                data.as_bytes().to_vec()
            })?,
            Cns::CommandSetCombinations => {
                let mut data = CommandSetCombinations::new_zeroed();
                data.vectors[0] = Le64::new(id::COMMAND_SET_NVM);
                data.as_bytes().to_vec()
            }
            _ => return Err(Status::INVALID_FIELD),
        };
        self.reply(sqe, &data)?;
        Ok(0)
    }

    /// What `describe` makes of a namespace; zeroes for an identifier that is not active.
    fn of_namespace(
        &self,
        nsid: u32,
        describe: impl Fn(&Machine, u32, &Media) -> Vec<u8>,
    ) -> Result<Vec<u8>, Status> {
        if nsid == 0 || nsid > NAMESPACES_MAX {
            return Err(Status::INVALID_NAMESPACE);
        }
        Ok(match self.media.get(&nsid) {
            Some(media) => describe(self, nsid, media),
            None => vec![0; id::IDENTIFY_BYTES],
        })
    }

    fn active_namespaces(&self, after: u32) -> Result<Vec<u8>, Status> {
        if after >= u32::MAX - 1 {
            return Err(Status::INVALID_NAMESPACE);
        }
        let list = NamespaceList::after(after, self.media.keys().copied());
        Ok(list.as_bytes().to_vec())
    }

    /// Identifier of a namespace that the seed decides.
    fn uuid(&self, nsid: u32) -> [u8; 16] {
        let mut uuid = [0; 16];
        uuid[..8].copy_from_slice(&self.config.seed.to_be_bytes());
        uuid[12..].copy_from_slice(&nsid.to_be_bytes());
        // Version 8 (custom) and the variant of RFC 9562.
        uuid[6] = uuid[6] & 0x0f | 0x80;
        uuid[8] = 0x80;
        uuid
    }

    fn namespace_descriptors(&self, nsid: u32) -> Result<Vec<u8>, Status> {
        if !self.media.contains_key(&nsid) {
            return Err(Status::INVALID_NAMESPACE);
        }
        let mut data = [0; id::IDENTIFY_BYTES];
        let descriptors = [
            NamespaceDescriptor::Uuid(self.uuid(nsid)),
            NamespaceDescriptor::Csi(CSI_NVM),
        ];
        encode_namespace_descriptors(&mut data, &descriptors);
        Ok(data.to_vec())
    }

    fn identify_namespace(&self, _nsid: u32, media: &Media) -> Vec<u8> {
        let mut data = IdentifyNamespace::new_zeroed();
        data.nsze = Le64::new(media.blocks());
        data.ncap = data.nsze;
        data.nuse = Le64::new(media.blocks_used());
        data.nsfeat = id::NSFEAT_THIN;
        let formats = u8::try_from(media.formats.len()).unwrap_or(64);
        data.nlbaf = formats.saturating_sub(1);
        data.flbas = media.format & 0xf | (media.format & 0x30) << 1;
        data.dlfeat = id::DLFEAT_READ_ZEROES | id::DLFEAT_WRITE_ZEROES_DEAC;
        data.noiob = Le16::new(media.noiob);
        data.nvmcap = Le128::new(media.bytes.into());
        for (to, format) in data.lbaf.iter_mut().zip(&media.formats) {
            *to = *format;
        }
        data.as_bytes().to_vec()
    }

    fn identify_controller(&self) -> IdentifyController {
        let config = &self.config;
        let mut data = IdentifyController::zeroed();
        // Vendor identifier of QEMU's devices; the model is no product of anybody.
        data.vid = Le16::new(0x1b36);
        data.ssvid = data.vid;
        data.sn = ascii_field(&format!("SOFT{:016X}", config.seed));
        data.mn = ascii_field("Penstock software controller");
        data.fr = ascii_field(log::FIRMWARE);
        data.mdts = config.mdts;
        data.ver = Le32::new(config.version);
        data.oaes = Le32::new(AsyncEventConfig::NAMESPACE);
        data.cntrltype = id::CNTRLTYPE_IO;
        let shadow = match config.doorbell_buffer {
            true => id::OACS_DOORBELL_BUFFER,
            false => 0,
        };
        data.oacs = Le16::new(id::OACS_FORMAT | shadow);
        data.acl = 3;
        data.aerl = config.event_requests_max.max(1) - 1;
        // One slot, read only.
        data.frmw = 0b11;
        data.lpa = log::ATTRIBUTES;
        data.elpe = u8::try_from(log::ERROR_ENTRIES - 1).unwrap_or(u8::MAX);
        data.wctemp = Le16::new(343);
        data.cctemp = Le16::new(353);
        data.tnvmcap = Le128::new(self.media.values().map(|m| u128::from(m.bytes)).sum());
        data.kas = Le16::new(config.kas);
        data.rtd3e = Le32::new(u32::try_from(config.shutdown_after_ns / 1000).unwrap_or(u32::MAX));
        data.sqes = 0x66;
        data.cqes = 0x44;
        data.nn = Le32::new(NAMESPACES_MAX);
        data.oncs = Le16::new(config.oncs | id::ONCS_FEATURE_SAVE);
        data.fuses = Le16::new(u16::from(config.fused) * id::FUSES_COMPARE_WRITE);
        data.vwc = match config.write_cache {
            true => id::VWC_PRESENT | id::VWC_FLUSH_BROADCAST_YES,
            false => id::VWC_FLUSH_BROADCAST_YES,
        };
        data.sgls = Le32::new(match config.sgl {
            SoftSgl::None => 0,
            SoftSgl::Byte => id::SGLS_SUPPORTED,
            SoftSgl::Dword => id::SGLS_SUPPORTED_DWORD,
        });
        let nqn = format!("nqn.2014-08.org.nvmexpress:uuid:soft-{:016x}", config.seed);
        let room = nqn.len().min(data.subnqn.len());
        data.subnqn[..room].copy_from_slice(&nqn.as_bytes()[..room]);
        data
    }
}
