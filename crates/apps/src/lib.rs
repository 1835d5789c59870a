//! The built-in applications, each a service like any author's.

pub mod kv;

pub use kv::{KV, Kv};
