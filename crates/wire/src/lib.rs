//! Frames between peers: their encoding, versions and limits.
