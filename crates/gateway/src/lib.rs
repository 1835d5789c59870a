//! Redis protocol and HTTP: parse, call an application, answer.
//!
//! No state and no policy: what a request promises is decided by its bucket.

pub mod http;
pub mod resp;
