//! The services of the API. Structs that can be called in process as well as over gRPC.

mod core;
mod list;

pub use self::core::Core;
