//! `penstock-node`: see the library.
fn main() {}
