//! What the device or the kernel wants heard: MSI-X vectors, a demand to let the device go, errors.

use super::error::DeviceError;
use super::sys;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use crate::event::Event;

/// How many interrupts `index` has.
pub(super) fn count(device: &File, index: u32) -> io::Result<u32> {
    let mut info = sys::IrqInfo {
        argsz: sys::size_field::<sys::IrqInfo>(),
        index,
        ..Default::default()
    };
    // SAFETY: the structure's size is told.
    unsafe { sys::call_with(device.as_fd(), sys::DEVICE_GET_IRQ_INFO, &mut info)? };
    Ok(info.count)
}

/// Makes the kernel signal `events` for the interrupts of `index`, the first for the first.
pub(super) fn signal(device: &File, index: u32, events: &[Event]) -> io::Result<()> {
    let descriptors = events.iter().map(|event| event.as_fd().as_raw_fd());
    set(device, index, sys::IRQ_DATA_EVENTFD, descriptors)
}

/// Ends what [`signal`] began.
pub(super) fn silence(device: &File, index: u32) -> io::Result<()> {
    set(device, index, sys::IRQ_DATA_NONE, std::iter::empty())
}

/// `struct vfio_irq_set` with descriptors as its data.
fn set(
    device: &File,
    index: u32,
    data: u32,
    descriptors: impl ExactSizeIterator<Item = i32>,
) -> io::Result<()> {
    let too_many = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let count = u32::try_from(descriptors.len()).map_err(too_many)?;
    let mut words = vec![0, data | sys::IRQ_TRIGGER, index, 0, count];
    words.extend(descriptors.map(i32::cast_unsigned));
    words[0] = u32::try_from(words.len() * 4).map_err(too_many)?;
    // SAFETY: the first word tells how many bytes there are.
    unsafe { sys::call_words(device.as_fd(), sys::DEVICE_SET_IRQS, &mut words) }.map(drop)
}

/// MSI-X vectors of a device, each with a descriptor to wait on. Switched off when dropped.
pub struct Interrupts {
    device: Arc<File>,
    events: Vec<Event>,
}

impl Interrupts {
    pub(super) fn new(device: &Arc<File>, wanted: u32) -> Result<Interrupts, DeviceError> {
        let kernel = |step| move |source| DeviceError::Kernel { step, source };
        let offered = count(device, sys::MSIX_IRQS).map_err(kernel("ask about interrupts"))?;
        if wanted == 0 || wanted > offered {
            return Err(DeviceError::TooFewInterrupts {
                asked: wanted,
                offered,
            });
        }
        let events: Result<Vec<_>, _> = (0..wanted).map(|_| Event::new()).collect();
        let events = events.map_err(kernel("make an eventfd"))?;
        signal(device, sys::MSIX_IRQS, &events).map_err(kernel("switch interrupts on"))?;
        Ok(Interrupts {
            device: Arc::clone(device),
            events,
        })
    }

    /// How many vectors there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether there are none; never so.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// What is signalled each time that `vector` is raised.
    #[must_use]
    pub fn event(&self, vector: usize) -> Option<&Event> {
        self.events.get(vector)
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        if let Err(err) = silence(&self.device, sys::MSIX_IRQS) {
            tracing::warn!(%err, "cannot switch a drive's interrupts off");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_device_is_an_error_and_not_none() {
        let file = tempfile::tempfile().unwrap();
        assert!(count(&file, 0).is_err() && silence(&file, 0).is_err());
        let err = Interrupts::new(&Arc::new(file), 1).err().unwrap();
        assert!(matches!(err, DeviceError::Kernel { .. }), "{err}");
    }
}
