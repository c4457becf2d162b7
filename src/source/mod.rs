//! How we read: one module per source, each turning what the kernel or a daemon says into plain values.
//!
//! A source knows no metric name and keeps no opinion: it says what it read, and what it could not read.

pub mod multipathd;
