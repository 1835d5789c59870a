//! Storage engines: disk, memory, and the small store for what nothing can repair.
