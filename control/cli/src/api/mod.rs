//! The API of control as this program uses it: every kind by the same few verbs.

mod connection;
mod verbs;

pub use connection::Api;
pub use verbs::{Changed, Guard};
