//! One netlink type for every protocol: requests, batches, dumps, subscriptions.
//!
//! A dump is either complete or an error. A batch answers for each of its messages. Errors carry the kernel's own
//! words and name the object that the message was about.

mod codec;
mod error;
mod message;
mod protocol;
mod socket;

pub use codec::{Attrs, Request, attrs, find, ip_of, text, u16_of, u32_of};
pub use error::{NetlinkError, Refused};
pub use message::Message;
pub use protocol::Protocol;
pub use socket::Socket;
