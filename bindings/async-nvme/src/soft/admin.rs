//! Admin commands (Base 2.1, 5.1 and 5.2), all but Identify, features and log pages.

use penstock_nvme::command::Abort;
use penstock_nvme::sqe::{NSID_BROADCAST, Psdt};
use penstock_nvme::{AdminOpcode, Sqe, Status};

use super::bus::Kind;
use super::config::SoftSgl;
use super::machine::{Answer, Machine};
use super::pointers::{self, Rules};
use super::queue::{Cq, Place, Sq};

/// Log2 of the entries' sizes that CC.IOSQES and CC.IOCQES must tell.
const SQE_SHIFT: u8 = 6;
const CQE_SHIFT: u8 = 4;

/// Low and high half of dword 10 or 11.
fn halves(dword: penstock_nvme::Le32) -> (u16, u16) {
    let [a, b, c, d] = dword.to_bytes();
    (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]))
}

impl Machine {
    /// `None` for what completes later by itself: an event request.
    pub(super) fn execute_admin(&mut self, sqe: &Sqe) -> Option<Answer> {
        if sqe.psdt() != Psdt::Prp {
            // Base 2.1, 4.1, PSDT: admin commands of memory-based controllers use PRPs.
            return Some(Err(Status::INVALID_FIELD.dnr()));
        }
        let Ok(opcode) = AdminOpcode::try_from(sqe.opcode) else {
            return Some(Err(Status::INVALID_OPCODE.dnr()));
        };
        let answer = match opcode {
            AdminOpcode::CreateIoCq => self.create_cq(sqe),
            AdminOpcode::CreateIoSq => self.create_sq(sqe),
            AdminOpcode::DeleteIoCq => self.delete_cq(sqe),
            AdminOpcode::DeleteIoSq => self.delete_sq(sqe),
            AdminOpcode::Identify => self.identify(sqe),
            AdminOpcode::GetLogPage => self.get_log_page(sqe),
            AdminOpcode::GetFeatures => self.get_features(sqe),
            AdminOpcode::SetFeatures => self.set_features(sqe),
            AdminOpcode::Abort => self.abort(sqe),
            AdminOpcode::AsyncEventRequest if self.events.request(sqe.cid.get()) => return None,
            AdminOpcode::AsyncEventRequest => Err(Status::ASYNC_EVENT_LIMIT_EXCEEDED),
            AdminOpcode::FormatNvm => self.format(sqe),
            AdminOpcode::DoorbellBufferConfig if self.config.doorbell_buffer => {
                self.configure_shadow(sqe)
            }
            AdminOpcode::KeepAlive if self.config.kas > 0 => Ok(0),
            _ => Err(Status::INVALID_OPCODE),
        };
        Some(answer.map_err(Machine::refusal))
    }

    /// A status with Do Not Retry where the same command would fail again.
    pub(super) fn refusal(status: Status) -> Status {
        let passing = [
            Status::DATA_TRANSFER_ERROR,
            Status::INTERNAL_ERROR,
            Status::ABORT_REQUESTED,
            Status::ABORT_FAILED_FUSED,
            Status::ABORT_MISSING_FUSED,
            Status::ASYNC_EVENT_LIMIT_EXCEEDED,
            Status::COMMAND_SEQUENCE_ERROR,
        ];
        if status.sct() == 2 || passing.contains(&status) {
            status
        } else {
            status.dnr()
        }
    }

    fn admin_rules(&self, to_host: bool) -> Rules {
        Rules {
            sgl: SoftSgl::None,
            ..self.data_rules(to_host)
        }
    }

    /// What data pointers may be in commands that move data to the host, or from it.
    pub(super) fn data_rules(&self, to_host: bool) -> Rules {
        let cmb = self.config.cmb.as_ref();
        Rules {
            page: self.page_bytes(),
            sgl: self.config.sgl,
            cmb_data: cmb.is_some_and(|cmb| if to_host { cmb.rds } else { cmb.wds }),
            cmb_lists: cmb.is_some_and(|cmb| cmb.lists),
            mixed: cmb.is_none_or(|cmb| cmb.mixed_data),
        }
    }

    /// The bytes as a length, where a command may move so many.
    pub(super) fn within_transfer(&self, bytes: u64) -> Result<usize, Status> {
        let shift = 12 + u32::from(self.config.mpsmin) + u32::from(self.config.mdts);
        let limit = match self.config.mdts {
            0 => u64::from(u32::MAX),
            _ => 1u64.checked_shl(shift).unwrap_or(u64::MAX),
        };
        if bytes > limit {
            return Err(Status::INVALID_FIELD);
        }
        usize::try_from(bytes).map_err(|_| Status::INVALID_FIELD)
    }

    /// Gives the host an admin command's data.
    pub(super) fn reply(&mut self, sqe: &Sqe, data: &[u8]) -> Result<(), Status> {
        let rules = self.admin_rules(true);
        let segments = &mut self.segments;
        pointers::segments(&self.bus, rules, sqe, data.len(), segments)?;
        pointers::scatter(&self.bus, segments, data)
    }

    /// Takes an admin command's data from the host.
    pub(super) fn receive(&mut self, sqe: &Sqe, data: &mut [u8]) -> Result<(), Status> {
        let rules = self.admin_rules(false);
        let segments = &mut self.segments;
        pointers::segments(&self.bus, rules, sqe, data.len(), segments)?;
        pointers::gather(&self.bus, segments, data)
    }

    /// Checks what both Create commands have in common: identifier and entries of a queue that is
    /// `taken` or not, and where it is.
    fn new_queue(&self, sqe: &Sqe, taken: bool, entry: u64) -> Result<(u16, u32, Place), Status> {
        let (queue, size) = halves(sqe.cdw10);
        if queue == 0 || !self.queue_ids().contains(&queue) || taken {
            return Err(Status::INVALID_QUEUE_ID);
        }
        let entries = u32::from(size) + 1;
        if size == 0 || entries > self.cap.queue_entries_max() {
            return Err(Status::INVALID_QUEUE_SIZE);
        }
        let place = self.queue_place(sqe, u64::from(entries) * entry)?;
        Ok((queue, entries, place))
    }

    fn queue_place(&self, sqe: &Sqe, bytes: u64) -> Result<Place, Status> {
        let contiguous = sqe.cdw11.get() & 1 != 0;
        let page = self.page_bytes();
        let prp1 = sqe.prps().0;
        if !prp1.is_multiple_of(page) {
            return Err(Status::PRP_OFFSET_INVALID);
        }
        let len = usize::try_from(bytes).map_err(|_| Status::INVALID_QUEUE_SIZE)?;
        let missing = Status::DATA_TRANSFER_ERROR;
        if contiguous {
            return match self.bus.reaches(prp1, len) {
                true => Ok(Place::contiguous(prp1)),
                false => Err(missing),
            };
        }
        if self.cap.cqr() {
            return Err(Status::INVALID_FIELD);
        }
        let mut pages = Vec::new();
        let mut entry = [0; 8];
        for index in 0..bytes.div_ceil(page) {
            self.bus.read(prp1 + index * 8, &mut entry)?;
            let at = u64::from_le_bytes(entry);
            if !at.is_multiple_of(page) {
                return Err(Status::PRP_OFFSET_INVALID);
            }
            pages.push(at);
        }
        let page_len = usize::try_from(page).map_err(|_| missing)?;
        match pages.iter().all(|at| self.bus.reaches(*at, page_len)) {
            true => Ok(Place::scattered(pages, page)),
            false => Err(missing),
        }
    }

    /// Base 2.1, 5.2.1.
    fn create_cq(&mut self, sqe: &Sqe) -> Answer {
        let (queue, _) = halves(sqe.cdw10);
        let taken = self.cq(queue).is_some();
        if self.cc.iocqes() != CQE_SHIFT {
            return Err(Status::INVALID_QUEUE_SIZE);
        }
        let (queue, entries, place) = self.new_queue(sqe, taken, 16)?;
        let kind = self.bus.kind(sqe.prps().0);
        let cmb = self.config.cmb.as_ref().is_some_and(|cmb| cmb.cqs);
        if kind == Kind::Pmr || (kind == Kind::Cmb && !cmb) {
            return Err(Status::INVALID_CMB_USE);
        }
        let (flags, vector) = halves(sqe.cdw11);
        let interrupts = flags & 2 != 0;
        if interrupts && vector >= self.config.vectors {
            return Err(Status::INVALID_INTERRUPT_VECTOR);
        }
        let cq = Cq::new(place, entries, interrupts.then_some(vector));
        self.cqs[usize::from(queue)] = Some(cq);
        self.begin_shadow(queue);
        Ok(0)
    }

    /// Base 2.1, 5.2.2.
    fn create_sq(&mut self, sqe: &Sqe) -> Answer {
        let (queue, _) = halves(sqe.cdw10);
        let taken = self.sq(queue).is_some();
        if self.cc.iosqes() != SQE_SHIFT {
            return Err(Status::INVALID_QUEUE_SIZE);
        }
        let (queue, entries, place) = self.new_queue(sqe, taken, 64)?;
        let kind = self.bus.kind(sqe.prps().0);
        let cmb = self.config.cmb.as_ref().is_some_and(|cmb| cmb.sqs);
        if kind == Kind::Pmr || (kind == Kind::Cmb && !cmb) {
            return Err(Status::INVALID_CMB_USE);
        }
        let (_, cqid) = halves(sqe.cdw11);
        if !self.queue_ids().contains(&cqid) {
            return Err(Status::INVALID_QUEUE_ID);
        }
        if cqid == 0 || self.cq(cqid).is_none() {
            return Err(Status::CQ_INVALID);
        }
        self.sqs[usize::from(queue)] = Some(Sq::new(place, entries, cqid, kind));
        self.begin_shadow(queue);
        Ok(0)
    }

    /// Base 2.1, 5.2.3.
    fn delete_cq(&mut self, sqe: &Sqe) -> Answer {
        let (queue, _) = halves(sqe.cdw10);
        if queue == 0 || self.cq(queue).is_none() {
            return Err(Status::INVALID_QUEUE_ID);
        }
        if self.sqs.iter().flatten().any(|sq| sq.cq == queue) {
            return Err(Status::INVALID_QUEUE_DELETION);
        }
        self.cqs[usize::from(queue)] = None;
        Ok(0)
    }

    /// Base 2.1, 5.2.4.
    fn delete_sq(&mut self, sqe: &Sqe) -> Answer {
        let (queue, _) = halves(sqe.cdw10);
        if queue == 0 || self.sq(queue).is_none() {
            return Err(Status::INVALID_QUEUE_ID);
        }
        self.abort_all(queue);
        self.sqs[usize::from(queue)] = None;
        Ok(0)
    }

    /// Base 2.1, 5.1.1: the command ends with Command Abort Requested before the Abort does.
    fn abort(&mut self, sqe: &Sqe) -> Answer {
        let Abort { sqid, cid } = Abort::decode(sqe);
        if self.faults.aborts_nothing || !self.has_room(sqid, 1) {
            return Ok(Abort::NOT_ABORTED);
        }
        let found = |running: &super::machine::Running| {
            running.queue == sqid && running.sqe.cid.get() == cid && running.second.is_none()
        };
        if let Some(index) = self.running.iter().position(found) {
            self.running.remove(index);
        } else if sqid != 0 || !self.events.abort(cid) {
            return Ok(Abort::NOT_ABORTED);
        }
        self.post(sqid, cid, 0, Status::ABORT_REQUESTED, false);
        Ok(0)
    }

    /// Base 2.1, 5.1.10.
    fn format(&mut self, sqe: &Sqe) -> Answer {
        let dword = sqe.cdw10.get();
        let [low, middle, ..] = dword.to_le_bytes();
        let format = low & 0xf | (middle >> 4 & 3) << 4;
        let erase = middle >> 1 & 7;
        if erase > 2 {
            return Err(Status::INVALID_FIELD);
        }
        // Metadata and protection settings: there are none.
        if dword & 0x1f0 != 0 {
            return Err(Status::INVALID_FORMAT);
        }
        let nsid = sqe.nsid.get();
        let chosen: Vec<u32> = match nsid {
            NSID_BROADCAST => self.media.keys().copied().collect(),
            _ if self.media.contains_key(&nsid) => vec![nsid],
            _ => return Err(Status::INVALID_NAMESPACE),
        };
        let valid = |nsid: &u32| {
            let formats = self.media.get(nsid).map(|media| &media.formats);
            let found = formats.and_then(|formats| formats.get(usize::from(format)));
            found.is_some_and(|f| f.ms.get() == 0 && (9..=16).contains(&f.lbads))
        };
        if !chosen.iter().all(valid) {
            return Err(Status::INVALID_FORMAT);
        }
        for nsid in chosen {
            if let Some(media) = self.media.get_mut(&nsid) {
                media.set_format(format);
            }
        }
        Ok(0)
    }

    /// Base 2.1, 5.2.5.
    fn configure_shadow(&mut self, sqe: &Sqe) -> Answer {
        let (shadow, index) = sqe.prps();
        let page = self.page_bytes();
        let len = usize::try_from(page).map_err(|_| Status::INVALID_FIELD)?;
        if !shadow.is_multiple_of(page) || !index.is_multiple_of(page) {
            return Err(Status::PRP_OFFSET_INVALID);
        }
        if !self.bus.reaches(shadow, len) || !self.bus.reaches(index, len) {
            return Err(Status::DATA_TRANSFER_ERROR);
        }
        self.shadow = Some((shadow, index));
        for queue in self.queue_ids() {
            self.begin_shadow(queue);
        }
        Ok(0)
    }
}
