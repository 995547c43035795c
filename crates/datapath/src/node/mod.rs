//! The node's own side: what it stands on, and our routes and rules.

mod egress_ips;
mod exits;
mod routes;
mod segment;
mod tunnel;
mod underlay;

pub use egress_ips::{KeptEgressIps, announce_all, keep_egress_ips, observed_egress_ips};
pub use exits::{KeptExits, Surplus, keep_exits, observed_exits};
pub(crate) use routes::main_table;
pub use routes::{Applied, AwayRoutes, PodRoutes, Routed, apply, observed_routes, routed};
pub use segment::{Segment, look_up, segment};
pub use tunnel::{HeldTunnel, KeptTunnel, TunnelError, end_tunnel, keep_tunnel, tunnel_index, tunnel_kind};
pub use underlay::{Underlay, UnderlayError, addresses, underlay};

pub use crate::render::routes::{NotOnLink, TunnelGround, TunnelKind};
