//! I/O commands of the NVM command set (NVM 1.1, 3.3; Base 2.1, 7.2).

use penstock_nvme::command::{BlockRange, DSM_DEALLOCATE, DatasetManagement, DsmRange};
use penstock_nvme::sqe::{NSID_BROADCAST, Psdt};
use penstock_nvme::{FromZeros, IntoBytes, IoOpcode, Sqe, Status, identify};

use super::config::SoftSgl;
use super::machine::{Answer, Machine};
use super::media::{Media, MediaFault};
use super::pointers;

impl Machine {
    pub(super) fn execute_io(&mut self, sqe: &Sqe) -> Answer {
        if sqe.psdt() != Psdt::Prp && self.config.sgl == SoftSgl::None {
            return Err(Status::INVALID_FIELD.dnr());
        }
        let Ok(opcode) = IoOpcode::try_from(sqe.opcode) else {
            return Err(Status::INVALID_OPCODE.dnr());
        };
        let offered = |bit: u16| self.config.oncs & bit != 0;
        let answer = match opcode {
            IoOpcode::Flush => self.flush(sqe),
            IoOpcode::Read => self.read(sqe),
            IoOpcode::Write => self.write(sqe),
            IoOpcode::Compare if offered(identify::ONCS_COMPARE) => self.compare(sqe),
            IoOpcode::WriteZeroes if offered(identify::ONCS_WRITE_ZEROES) => self.zero(sqe),
            IoOpcode::WriteUncorrectable if offered(identify::ONCS_WRITE_UNCORRECTABLE) => {
                self.spoil(sqe)
            }
            IoOpcode::Verify if offered(identify::ONCS_VERIFY) => self.verify(sqe),
            IoOpcode::DatasetManagement if offered(identify::ONCS_DATASET_MANAGEMENT) => {
                self.manage_dataset(sqe)
            }
            _ => Err(Status::INVALID_OPCODE),
        };
        answer.map_err(Machine::refusal)
    }

    fn namespace(&mut self, sqe: &Sqe) -> Result<&mut Media, Status> {
        let found = self.media.get_mut(&sqe.nsid.get());
        found.ok_or(Status::INVALID_NAMESPACE)
    }

    /// The command's blocks, which are all there, and the bytes they are.
    fn range(&mut self, sqe: &Sqe) -> Result<(BlockRange, u64), Status> {
        let media = self.namespace(sqe)?;
        let range = BlockRange::decode(sqe);
        let end = range.slba.0.checked_add(range.blocks.into());
        if end.is_none_or(|end| end > media.blocks()) {
            return Err(Status::LBA_OUT_OF_RANGE);
        }
        let bytes = u64::from(range.blocks) * media.block_bytes() as u64;
        Ok((range, bytes))
    }

    /// As `range`, for a command with data, whose place is found.
    fn data_range(&mut self, sqe: &Sqe, to_host: bool) -> Result<(BlockRange, usize), Status> {
        let (range, bytes) = self.range(sqe)?;
        let len = self.within_transfer(bytes)?;
        let rules = self.data_rules(to_host);
        pointers::segments(&self.bus, rules, sqe, len, &mut self.segments)?;
        Ok((range, len))
    }

    fn readable(&mut self, sqe: &Sqe, range: &BlockRange) -> Result<(), Status> {
        let media = self.namespace(sqe)?;
        let bad = media.fault(range.slba.0, range.blocks.into(), MediaFault::Read);
        if bad.is_some() {
            self.media_errors += 1;
            return Err(Status::UNRECOVERED_READ_ERROR);
        }
        Ok(())
    }

    fn writable(&mut self, sqe: &Sqe, range: &BlockRange) -> Result<(), Status> {
        let media = self.namespace(sqe)?;
        let bad = media.fault(range.slba.0, range.blocks.into(), MediaFault::Write);
        if bad.is_some() {
            self.media_errors += 1;
            return Err(Status::WRITE_FAULT);
        }
        Ok(())
    }

    fn flush(&mut self, sqe: &Sqe) -> Answer {
        if sqe.nsid.get() == NSID_BROADCAST {
            self.media.values_mut().for_each(Media::flush);
        } else {
            self.namespace(sqe)?.flush();
        }
        Ok(0)
    }

    fn read(&mut self, sqe: &Sqe) -> Answer {
        let (range, len) = self.data_range(sqe, true)?;
        self.readable(sqe, &range)?;
        let mut data = std::mem::take(&mut self.scratch);
        data.resize(len, 0);
        if let Some(media) = self.media.get(&sqe.nsid.get()) {
            media.read(range.slba.0, &mut data);
        }
        let done = pointers::scatter(&self.bus, &self.segments, &data);
        self.bytes_read += len as u64;
        self.scratch = data;
        done.map(|()| 0)
    }

    /// Calls `with` with the data that the host has for the command.
    fn with_host_data<T>(
        &mut self,
        len: usize,
        with: impl FnOnce(&mut Machine, &mut [u8]) -> Result<T, Status>,
    ) -> Result<T, Status> {
        let mut data = std::mem::take(&mut self.scratch);
        data.resize(len, 0);
        let done = pointers::gather(&self.bus, &self.segments, &mut data)
            .and_then(|()| with(self, &mut data));
        self.scratch = data;
        done
    }

    fn write(&mut self, sqe: &Sqe) -> Answer {
        let (range, len) = self.data_range(sqe, false)?;
        self.writable(sqe, &range)?;
        let durable = range.fua || !self.features.write_cache();
        self.bytes_written += len as u64;
        self.with_host_data(len, |machine, data| {
            machine.namespace(sqe)?.write(range.slba.0, data, durable);
            Ok(0)
        })
    }

    fn compare(&mut self, sqe: &Sqe) -> Answer {
        let (range, len) = self.data_range(sqe, false)?;
        self.readable(sqe, &range)?;
        self.bytes_read += len as u64;
        self.with_host_data(len, |machine, data| {
            let mut there = vec![0; len];
            machine.namespace(sqe)?.read(range.slba.0, &mut there);
            match there == data {
                true => Ok(0),
                false => Err(Status::COMPARE_FAILURE),
            }
        })
    }

    fn zero(&mut self, sqe: &Sqe) -> Answer {
        let (range, bytes) = self.range(sqe)?;
        let shift = 12 + u32::from(self.config.mpsmin) + u32::from(self.config.wzsl);
        if self.config.wzsl > 0 && bytes > 1u64.checked_shl(shift).unwrap_or(u64::MAX) {
            return Err(Status::INVALID_FIELD);
        }
        self.writable(sqe, &range)?;
        let durable = range.fua || !self.features.write_cache();
        let media = self.namespace(sqe)?;
        media.deallocate(range.slba.0, range.blocks.into(), durable);
        Ok(0)
    }

    fn spoil(&mut self, sqe: &Sqe) -> Answer {
        let (range, _) = self.range(sqe)?;
        let media = self.namespace(sqe)?;
        for lba in range.slba.0..range.slba.0 + u64::from(range.blocks) {
            media.set_fault(lba, Some(MediaFault::Read));
        }
        Ok(0)
    }

    fn verify(&mut self, sqe: &Sqe) -> Answer {
        let (range, _) = self.range(sqe)?;
        self.readable(sqe, &range)?;
        Ok(0)
    }

    /// NVM 1.1, 3.3.3.
    fn manage_dataset(&mut self, sqe: &Sqe) -> Answer {
        let command = DatasetManagement::decode(sqe);
        let blocks = self.namespace(sqe)?.blocks();
        let len = command.ranges as usize * size_of::<DsmRange>();
        let rules = self.data_rules(false);
        pointers::segments(&self.bus, rules, sqe, len, &mut self.segments)?;
        let mut ranges = vec![DsmRange::new_zeroed(); command.ranges as usize];
        pointers::gather(&self.bus, &self.segments, ranges.as_mut_bytes())?;
        for range in &ranges {
            let end = range.slba.get().checked_add(range.blocks.get().into());
            if end.is_none_or(|end| end > blocks) {
                return Err(Status::LBA_OUT_OF_RANGE);
            }
        }
        if command.attributes & DSM_DEALLOCATE == 0 {
            return Ok(0);
        }
        let durable = !self.features.write_cache();
        let media = self.namespace(sqe)?;
        for range in &ranges {
            media.deallocate(range.slba.get(), range.blocks.get().into(), durable);
        }
        Ok(0)
    }
}
