//! What the cluster says: from an API server or from files, folded into one view.

pub mod cache;
pub mod cluster;
pub mod fold;
pub mod follow;
pub mod item;
pub mod kept;
pub mod leavers;
pub mod masq_maps;
pub mod objects;
pub mod policies;
pub mod shelf;
pub mod task;
pub mod view;
