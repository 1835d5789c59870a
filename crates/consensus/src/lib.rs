//! The layout group: a Raft group that agrees on who holds what.
