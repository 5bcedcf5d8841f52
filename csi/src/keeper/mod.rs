//! The keeper: holds records and descriptors for those who may be killed, and knows nothing of them.
//! It never reads a descriptor that it holds, so no secret byte is in it.

mod args;
mod prepare;
mod serve;
mod shelf;

pub use args::{Args, Command, HELP, Owner, UsageError};
pub use prepare::prepare;
pub use serve::{probe, serve};
pub use shelf::{CONTENT_LIMIT, Shelf, VOLUME_LIMIT};
