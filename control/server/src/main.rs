//! `penstock-control`: the control server. See the library for how it is built.
#![forbid(unsafe_code)]

fn main() {}
