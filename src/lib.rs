//! multipath_exporter: tells Prometheus that a server is losing its paths to its storage.

pub mod source;
pub mod topology;
pub mod web;
