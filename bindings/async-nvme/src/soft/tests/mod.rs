//! Tests of the model itself, driven by a host that is nothing but rings.

mod admin;
mod faults;
mod host;
mod io;
mod memory;
mod nonsense;
mod registers;
