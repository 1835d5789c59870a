//! The built-in applications, each a service like any author's.
