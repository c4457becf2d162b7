//! What listens: the HTTP server, its routes, and what each of them answers.

pub mod negotiate;
pub mod server;
