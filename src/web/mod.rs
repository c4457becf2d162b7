//! The HTTP server, its routes, and their responses. No code here opens a file or waits for a
//! device: responses are made from the last snapshot.
//!
//! ```text
//! server/     connections, deadlines, shutdown
//! routes.rs   path ─► response     negotiate.rs: which format, compressed or not
//!                                  hosts.rs: the names that a browser may use
//! api.rs      the JSON documents   stream.rs: the live event stream
//! held.rs     the memory of responses that clients have not read yet
//! page/       the status page
//! ```

mod api;
mod held;
pub(crate) mod hosts;
pub(crate) mod negotiate;
mod page;
pub(crate) mod routes;
pub mod server;
mod stream;
