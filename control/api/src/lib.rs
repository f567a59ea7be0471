//! The control API: `penstock.v1`, generated from `proto/penstock/v1`, where every field is
//! documented with its unit and limits.
//!
//! Nothing here has a policy: what may be stored, in which order things happen and who may do what
//! is the server's.
#![forbid(unsafe_code)]

pub mod names;
pub mod resource;

pub use pbjson_types as well_known;

/// The messages, clients and servers of `penstock.v1`.
#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    reason = "generated; documented in proto/"
)]
pub mod v1 {
    tonic::include_proto!("penstock.v1");
    include!(concat!(env!("OUT_DIR"), "/penstock.v1.serde.rs"));
}

/// The descriptors of all files, for server reflection: an encoded `FileDescriptorSet`.
pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("penstock.v1");
