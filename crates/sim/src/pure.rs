//! The pure machines by themselves: replicas without nodes, a scheduler without time, one seed a game.
//!
//! The machines of the data path run as they are, on cells as they are; all around them is drawn at each step:
//! which message arrives, twice or never, which replica dies and what it forgets, whose time is up. What must
//! hold of a machine is checked whenever it has been given an input, what must hold of replicas when a client is
//! answered and, after everything has been delivered and exchanged, at the end. Reading order: `game` moves,
//! `replica` stores, `request` is what a coordinator has under way, `referee` knows what was promised.
//! `layouts` is a game of its own about the layout document, `forming` one about who founds a cluster.

mod forming;
mod game;
mod layouts;
mod machines;
mod network;
mod referee;
mod replica;
mod request;
mod settlement;

pub use forming::{Formed, FoundingMachine, Starter, play as play_forming};
pub use game::{Rules, Score, play};
pub use layouts::play as play_layouts;
pub use machines::{Machines, Product, ReadMachine, WriteMachine};
