//! Commands and registers that are nonsense: the model refuses, and goes on.

use penstock_nvme::register::{CC_CSS_NVM, OFFSET_CC};
use penstock_nvme::{IoOpcode, Sqe};
use proptest::prelude::*;

use super::super::{SoftCmb, SoftConfig};
use super::host::Host;

/// A command of random bytes, some of them near what makes sense.
fn commands() -> impl Strategy<Value = (bool, Sqe)> {
    let opcode = prop_oneof![0..0x20u8, 0x7c..0x8au8, any::<u8>()];
    let address = prop_oneof![
        Just(0u64),
        (0x1_0000_0000..0x1_0010_0000u64),
        (0x1_0000_0000..0x1_0010_0000u64).prop_map(|at| at & !0xfff),
        (0x40_0000_0000..0x40_0002_0000u64),
        any::<u64>(),
        (0..64u64).prop_map(|below| u64::MAX - below),
    ];
    let dword = prop_oneof![0..64u32, any::<u32>(), (0..8u32).prop_map(|q| 7 << 16 | q)];
    let numbers = (prop::array::uniform6(dword), 0..4u32);
    let flags = prop_oneof![Just(0u8), Just(0x40), any::<u8>()];
    let kinds = prop_oneof![Just(0u8), Just(0x20), Just(0x30), any::<u8>()];
    (
        any::<bool>(),
        opcode,
        flags,
        (address.clone(), address),
        kinds,
        numbers,
    )
        .prop_map(
            |(admin, opcode, flags, (prp1, prp2), kind, (dwords, nsid))| {
                let mut sqe = Sqe::new(opcode).with_prps(prp1, prp2);
                sqe.flags = flags;
                if flags >> 6 != 0 {
                    sqe.sgl1.identifier = kind;
                }
                let [a, b, c, d, e, f] = dwords.map(penstock_nvme::Le32::new);
                (sqe.cdw10, sqe.cdw11, sqe.cdw12) = (a, b, c);
                (sqe.cdw13, sqe.cdw14, sqe.cdw15) = (d, e, f);
                sqe.nsid = penstock_nvme::Le32::new(nsid);
                (admin, sqe)
            },
        )
}

fn config(seed: u64) -> SoftConfig {
    SoftConfig {
        seed,
        cmb: Some(SoftCmb {
            legacy: true,
            ..SoftCmb::new(64 << 10)
        }),
        pmr_bytes: Some(16 << 10),
        doorbell_buffer: true,
        cqr: seed.is_multiple_of(2),
        ..SoftConfig::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn commands_may_be_anything(
        seed in any::<u64>(),
        commands in prop::collection::vec(commands(), 1..60),
    ) {
        let mut host = Host::with_queue(config(seed));
        // Lists of garbage.
        let garbage: Vec<u8> = (0..=255).cycle().take(8192).collect();
        host.data.write(0, &garbage);
        for (admin, sqe) in commands {
            host.submit(u16::from(!admin), sqe);
            for _ in 0..4 {
                host.step();
                // Data may have gone to the queues themselves, so what is there means nothing.
                (0..64).all(|_| host.poll(0).or(host.poll(1)).is_some());
            }
        }
        a_reset_mends_it(&mut host);
    }

    #[test]
    fn registers_may_be_written_anyhow(
        writes in prop::collection::vec((0..0x450u32, any::<u32>(), any::<bool>()), 1..80),
    ) {
        let mut host = Host::with_queue(config(1));
        for (word, value, enable) in writes {
            host.bar.write32(word * 4, value);
            if enable {
                let cc = host.configuration().with_css(CC_CSS_NVM).with_en(value.is_multiple_of(2));
                host.bar.write32(OFFSET_CC, cc.0);
            }
            host.wait(1000);
        }
        a_reset_mends_it(&mut host);
    }
}

fn a_reset_mends_it(host: &mut Host) {
    for _ in 0..2 {
        host.write_cc(host.configuration());
        host.step();
    }
    assert!(!host.csts().rdy());
    host.enable();
    assert!(host.csts().rdy());
    host.create_pair(1).unwrap();
    assert!(host.io(IoOpcode::Flush, 0, 1).is_ok());
}
