//! How resources look to people.

mod describe;
mod rows;
mod table;
mod time;

pub use describe::describe;
pub use rows::{columns, row, summary};
pub use table::{Column, Table, pad};
pub use time::clock;
