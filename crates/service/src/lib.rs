//! The framework contract: services, cells and the context they run in.
