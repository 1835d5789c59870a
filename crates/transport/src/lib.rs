//! Connections between peers: one multiplexed stream per pair, with back-pressure.
