//! The node's own side: what it stands on, and our routes and rules.

mod routes;
mod segment;
mod underlay;

pub use routes::{Applied, PodRoutes, apply};
pub(crate) use routes::{observed_routes, observed_rules};
pub use segment::{Segment, look_up, segment};
pub use underlay::{Underlay, UnderlayError, underlay};

pub use crate::render::routes::NotOnLink;
