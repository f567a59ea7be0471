//! SPDK's NVMe driver and environment: raw declarations, no policy.
//!
//! They are made at build time by bindgen from the headers of an installed SPDK that pkg-config finds
//! (`spdk_nvme`, `spdk_env_dpdk`), and only with the feature `spdk`: without it the crate is empty, and
//! neither SPDK nor libclang is needed. A tree that was built and not installed is found through
//! `PKG_CONFIG_PATH=SPDK/build/lib/pkgconfig:SPDK/dpdk/build/lib/pkgconfig`.

#[cfg(feature = "spdk")]
#[allow(
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    rustdoc::all,
    unsafe_op_in_unsafe_fn,
    clippy::all,
    clippy::cast_possible_truncation,
    clippy::too_many_lines,
    clippy::undocumented_unsafe_blocks,
    reason = "written by bindgen, documented in SPDK's headers"
)]
mod declarations {
    include!(concat!(env!("OUT_DIR"), "/spdk.rs"));
}

#[cfg(feature = "spdk")]
pub use declarations::*;

#[cfg(feature = "spdk")]
const _: () = assert!(
    SPDK_VERSION_MAJOR * 100 + SPDK_VERSION_MINOR >= 2509,
    "SPDK 25.09 or newer is needed: those before register memory by 2 MiB only"
);
