//! Whom a node might contact first.
