//! Keys of `[nvme]`.

use super::*;

#[test]
fn spdk_drives_drives_only_where_it_is_built_in() {
    let text = format!("[nvme]\ndriver = \"spdk\"\nspdk_memory_mib = 64\n{LISTENER}{SUBSYSTEM}");
    if cfg!(feature = "spdk") {
        let spdk = penstock_async_nvme::SpdkOptions {
            memory_mib: 64,
            hugepages: true,
        };
        assert_eq!(parse(&text).unwrap().nvme.driver, DriverChoice::Spdk(spdk));
        let text = text.replace("[nvme]\n", "[nvme]\nqueues_in_drive_memory = true\n");
        refused(
            &text,
            2,
            &["nvme.queues_in_drive_memory", "driver = \"penstock\""],
        );
    } else {
        let parts = ["nvme.driver", "built without SPDK", "--features spdk"];
        refused(&text, 2, &parts);
    }
    refused(
        &text.replace("spdk\"", "mine\""),
        2,
        &["use one of: penstock, spdk"],
    );
}
