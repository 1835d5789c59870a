//! Coordinated reads and writes, read repair, hints and exchanges, as pure machines.
