//! What was learnt, whether from a watch, a read or the answer to a write, and how it gets into the world.

use overlane_core::blocks::{Source, World};

use crate::watch::Object;

/// Puts an object into the world. Clusters are no part of it.
pub fn learn(world: &mut World, object: Object, source: Source, now_ms: u64) {
    let known = |uid: String| (!uid.is_empty()).then_some(uid);
    match object {
        Object::Node(view) => world.upsert_node(view, source, now_ms),
        Object::NodeGone(name, uid) => world.remove_node(&name, known(uid).as_deref(), now_ms),
        Object::Block(claim) => world.upsert_claim(claim, source),
        Object::BlockGone(block, uid) => world.remove_claim(&block, known(uid).as_deref()),
        Object::State(view) => world.upsert_state(view, source, now_ms),
        Object::StateGone(name, uid) => world.remove_state(&name, known(uid).as_deref(), now_ms),
        Object::Config(view) => world.upsert_config(view, source),
        Object::ConfigGone(name, uid) => world.remove_config(&name, known(uid).as_deref()),
        Object::Cluster(_) | Object::ClusterGone(_) => {}
    }
}
