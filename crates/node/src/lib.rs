//! The one place where the machines meet time, disk and network.
