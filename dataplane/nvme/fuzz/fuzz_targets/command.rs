//! Fuzzes `decoders::command`.
#![no_main]

#[allow(dead_code, reason = "this target uses one of the decoders")]
#[path = "../decoders.rs"]
mod decoders;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| decoders::command(bytes));
