//! What `cargo xtask fix` makes of the protos: messages, services, and descriptors for reflection.

pub(super) mod v1;

/// The descriptors of everything in [`v1`]: an encoded `FileDescriptorSet`.
pub(super) const DESCRIPTORS: &[u8] = include_bytes!("generated/v1.bin");
