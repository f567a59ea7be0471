//! The agent's state machine with a node that is only memory.

mod node;
mod property;
mod stories;
mod table;
