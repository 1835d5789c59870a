//! The nouns of Slipring: ids, positions, time, dots, policies, limits.
