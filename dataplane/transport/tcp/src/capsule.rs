//! What a command says about its data, checked against what its capsule carries.

use penstock_nvme::sgl::Sgl;
use penstock_nvme::sqe::Psdt;
use penstock_nvme::{DataDirection, Sqe, Status};

use crate::slot::Source;

/// Data of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Carried {
    pub(crate) source: Source,
    pub(crate) to_host: bool,
    pub(crate) data_len: u32,
}

const NOTHING: Carried = Carried {
    source: Source::None,
    to_host: false,
    data_len: 0,
};

/// Reads the SGL descriptor of a command whose capsule carries `in_capsule` bytes (Base 2.1, 4.3.2;
/// TCP 1.1, 3.3.2: in-capsule data has the offset sub type, all other the transport descriptor).
///
/// # Errors
/// The status to answer with.
#[inline]
pub(crate) fn carried(sqe: &Sqe, in_capsule: u32) -> Result<Carried, Status> {
    let direction = sqe.direction();
    if matches!(
        direction,
        DataDirection::None | DataDirection::Bidirectional
    ) {
        // Of no data, or no command we know: the handler judges by the opcode.
        return Ok(NOTHING);
    }
    let to_host = direction == DataDirection::ControllerToHost;
    let (source, data_len) = match sqe.sgl1.decode() {
        Sgl::InCapsule { .. } if to_host => return Err(Status::SGL_TYPE_INVALID.dnr()),
        Sgl::InCapsule { offset, .. } if offset != 0 => {
            return Err(Status::SGL_OFFSET_INVALID.dnr());
        }
        Sgl::InCapsule { length, .. } if length != in_capsule => {
            return Err(Status::DATA_SGL_LENGTH_INVALID.dnr());
        }
        Sgl::InCapsule { length: 0, .. } => return Ok(NOTHING),
        Sgl::InCapsule { length, .. } => (Source::Capsule, length),
        Sgl::Transport { .. } | Sgl::DataBlock { .. } if in_capsule != 0 => {
            return Err(Status::DATA_SGL_LENGTH_INVALID.dnr());
        }
        // The null descriptor of a command that may, but does not, carry data.
        Sgl::DataBlock { length: 0, .. } | Sgl::Transport { length: 0 } => return Ok(NOTHING),
        Sgl::Transport { length } if to_host => (Source::None, length),
        Sgl::Transport { length } => (Source::Fetch, length),
        Sgl::DataBlock { .. } | Sgl::Keyed { .. } | Sgl::Other { .. } => {
            return Err(Status::SGL_TYPE_INVALID.dnr());
        }
    };
    if !matches!(sqe.psdt(), Psdt::Sgl | Psdt::SglMetadataSgl) {
        return Err(Status::INVALID_FIELD.dnr());
    }
    Ok(Carried {
        source,
        to_host,
        data_len,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_nvme::SglDescriptor;

    const WRITE: u8 = 0x01;
    const READ: u8 = 0x02;
    const FLUSH: u8 = 0x00;

    fn judge(opcode: u8, sgl: SglDescriptor, in_capsule: u32) -> Result<Carried, Status> {
        carried(&Sqe::new(opcode).with_sgl(sgl), in_capsule)
    }

    #[test]
    fn good_descriptors() {
        let fetch = judge(WRITE, SglDescriptor::transport(8192), 0);
        assert_eq!(
            fetch,
            Ok(Carried {
                source: Source::Fetch,
                to_host: false,
                data_len: 8192
            })
        );
        let capsule = judge(WRITE, SglDescriptor::in_capsule(0, 512), 512);
        assert_eq!(
            capsule,
            Ok(Carried {
                source: Source::Capsule,
                to_host: false,
                data_len: 512
            })
        );
        let read = judge(READ, SglDescriptor::transport(4096), 0);
        assert_eq!(
            read,
            Ok(Carried {
                source: Source::None,
                to_host: true,
                data_len: 4096
            })
        );
        assert_eq!(judge(FLUSH, SglDescriptor::none(), 0), Ok(NOTHING));
        assert_eq!(judge(WRITE, SglDescriptor::none(), 0), Ok(NOTHING));
    }

    #[test]
    fn bad_descriptors() {
        let cases = [
            (
                WRITE,
                SglDescriptor::in_capsule(0, 512),
                511,
                Status::DATA_SGL_LENGTH_INVALID,
            ),
            (
                WRITE,
                SglDescriptor::in_capsule(0, 512),
                0,
                Status::DATA_SGL_LENGTH_INVALID,
            ),
            (
                WRITE,
                SglDescriptor::in_capsule(4, 512),
                512,
                Status::SGL_OFFSET_INVALID,
            ),
            (
                WRITE,
                SglDescriptor::transport(512),
                512,
                Status::DATA_SGL_LENGTH_INVALID,
            ),
            (
                READ,
                SglDescriptor::in_capsule(0, 512),
                512,
                Status::SGL_TYPE_INVALID,
            ),
            (
                READ,
                SglDescriptor::data_block(0, 512),
                0,
                Status::SGL_TYPE_INVALID,
            ),
            (
                WRITE,
                SglDescriptor::data_block(4096, 512),
                0,
                Status::SGL_TYPE_INVALID,
            ),
        ];
        for (opcode, sgl, in_capsule, status) in cases {
            assert_eq!(judge(opcode, sgl, in_capsule), Err(status.dnr()), "{sgl:?}");
        }
        let mut prp = Sqe::new(READ).with_sgl(SglDescriptor::transport(512));
        prp.flags = 0;
        assert_eq!(carried(&prp, 0), Err(Status::INVALID_FIELD.dnr()));
    }
}
