//! From a plan to what the kernel is told. Pure: same input, same bytes.

pub mod element;
pub mod exits;
pub mod nft;
pub mod policy;
pub mod routes;
