//! What listens: the HTTP server, its routes, and what each of them answers. Nothing here opens a file or waits for a
//! device: an answer is made of what the monitor last published.
//!
//! ```text
//! server/     connections, deadlines, shutdown
//! routes.rs   path ─► answer       negotiate.rs: which format, compressed or not
//!                                  hosts.rs: by which names a browser may ask
//! api.rs      the JSON documents   stream.rs: events as they come
//! held.rs     the memory of answers that clients have yet to take
//! page/       what a person sees
//! ```

mod api;
mod held;
pub mod hosts;
pub mod negotiate;
mod page;
pub mod routes;
pub mod server;
mod stream;
