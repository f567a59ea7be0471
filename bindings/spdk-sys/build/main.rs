//! With the feature `spdk`: finds SPDK, declares what is used of it, links it.
#![expect(
    clippy::print_stdout,
    reason = "it is how a build script talks to cargo"
)]

#[cfg(feature = "spdk")]
mod find;

#[cfg(not(feature = "spdk"))]
fn main() {
    println!("cargo::rerun-if-changed=build");
}

#[cfg(feature = "spdk")]
fn main() {
    println!("cargo::rerun-if-changed=build");
    for name in ["PKG_CONFIG_PATH", "PKG_CONFIG_LIBDIR", "LIBCLANG_PATH"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let made = find::find().and_then(|found| declare(&found).map(|()| link(&found)));
    if let Err(message) = made {
        // It fails the build by itself; a status would have cargo print all the rest too.
        println!("cargo::error={message}");
    }
}

/// Writes the declarations to `spdk.rs`.
#[cfg(feature = "spdk")]
fn declare(found: &find::Found) -> Result<(), String> {
    let folder = std::env::var_os("OUT_DIR").ok_or("cargo names no OUT_DIR")?;
    let include = found
        .include
        .iter()
        .map(|path| format!("-I{}", path.display()));
    let builder = bindgen::Builder::default()
        .header("build/headers.h")
        .clang_args(include)
        .allowlist_function("spdk_env_(opts_init|init)")
        .allowlist_function("spdk_mem_(un)?register")
        .allowlist_function("spdk_log_set_print_level")
        .allowlist_function("spdk_pci_device_(map_bar|unmap_bar|is_removed)")
        .allowlist_function("spdk_nvme_(connect|detach)")
        .allowlist_function("spdk_nvme_ctrlr_(get_default_ctrlr_opts|get_opts|get_data)")
        .allowlist_function(
            "spdk_nvme_ctrlr_(get_pci_device|get_registers|get_regs_csts|is_failed)",
        )
        .allowlist_function(
            "spdk_nvme_ctrlr_(cmd_admin_raw|process_admin_completions|cmd_abort_ext)",
        )
        .allowlist_function("spdk_nvme_ctrlr_(register_aer_callback|reset|alloc_io_qpair)")
        .allowlist_function(
            "spdk_nvme_ctrlr_(get_default_io_qpair_opts|io_cmd_raw_no_payload_build)",
        )
        .allowlist_function("spdk_nvme_qpair_(process_completions|get_id)")
        .allowlist_var("SPDK_VERSION_(MAJOR|MINOR|PATCH)")
        // Commands and completions are handed over as the bytes they are.
        .opaque_type("spdk_nvme_cmd")
        .opaque_type("spdk_nvme_cpl")
        .opaque_type("spdk_nvme_ctrlr_data")
        .opaque_type("spdk_nvme_registers")
        .derive_default(true)
        .layout_tests(false)
        .rust_edition(bindgen::RustEdition::Edition2024);
    // Without libclang bindgen panics.
    let declared = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| builder.generate())).map_err(|_| {
        "bindgen found no libclang to read SPDK's headers with; apt-get install libclang-dev, or name \
         its folder in LIBCLANG_PATH"
            .to_owned()
    })?;
    declared
        .map_err(|error| format!("SPDK's headers cannot be read: {error}"))?
        .write_to_file(std::path::Path::new(&folder).join("spdk.rs"))
        .map_err(|error| format!("the declarations cannot be written: {error}"))
}

#[cfg(feature = "spdk")]
fn link(found: &find::Found) {
    for folder in &found.folders {
        println!("cargo::rustc-link-search=native={}", folder.display());
    }
    for library in &found.whole {
        println!("cargo::rustc-link-lib=static:+whole-archive,-bundle={library}");
    }
    for library in &found.system {
        println!("cargo::rustc-link-lib={library}");
    }
}
