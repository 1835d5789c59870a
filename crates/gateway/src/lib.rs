//! Redis protocol and HTTP: parse, call an application, answer.
