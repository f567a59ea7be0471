//! Commands decoded from, and built into, submission queue entries. 0's-based counts become
//! counts from one here; fields are shifted and masked nowhere else.

mod admin;
mod io;

pub use admin::{
    Abort, GetFeatures, GetLogPage, Identify, SetFeatures, async_event_request, keep_alive,
};
pub use io::{BlockRange, DSM_DEALLOCATE, DSM_RANGES_MAX, DatasetManagement, DsmRange, flush};
