//! Redis protocol, HTTP and gRPC: parse, call an application, answer.
//!
//! No state and no policy: what a request promises is decided by its bucket.

mod body;
mod grpc;
pub mod http;
mod keepalive;
pub mod resp;
