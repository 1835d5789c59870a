//! A seeded simulator of whole nodes, with faults and checkers.
