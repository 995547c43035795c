//! What was learnt, whether from a watch, a read or the answer to a write, and how it gets into the world.

use overlane_core::blocks::{NodeView, Source, World};
use overlane_core::policy::PolicyNode;

use crate::gateways::Gateways;
use crate::watch::Object;

/// Puts an object into the world, and what gateways depend on into these. Clusters, gateways
/// and slices themselves are no part of it.
pub fn learn(world: &mut World, gateways: &mut Gateways, object: Object, source: Source, now_ms: u64) {
    let known = |uid: String| (!uid.is_empty()).then_some(uid);
    match object {
        Object::Node(view, node) => learn_node(world, gateways, view, &node, source, now_ms),
        Object::NodeGone(name, uid) => {
            world.remove_node(&name, known(uid).as_deref(), now_ms);
            if !world.nodes().contains_key(&name) {
                gateways.forget_labels(&name);
            }
        }
        Object::Block(claim) => world.upsert_claim(claim, source),
        Object::BlockGone(block, uid) => world.remove_claim(&block, known(uid).as_deref()),
        Object::State(view) => world.upsert_state(view, source, now_ms),
        Object::StateGone(name, uid) => world.remove_state(&name, known(uid).as_deref(), now_ms),
        Object::Config(view) => {
            world.upsert_config(view, source);
            gateways.look_again();
        }
        Object::ConfigGone(name, uid) => {
            world.remove_config(&name, known(uid).as_deref());
            gateways.look_again();
        }
        Object::Cluster(_) | Object::ClusterGone(_) | Object::Gateway(_) | Object::GatewayGone(..) => {}
        Object::Pod(_) | Object::PodGone(_) | Object::Slice(_) | Object::SliceGone(..) => {}
        Object::Policy(..) | Object::PolicyGone(_) => {}
    }
}

fn learn_node(
    world: &mut World,
    gateways: &mut Gateways,
    view: NodeView,
    node: &PolicyNode,
    source: Source,
    now_ms: u64,
) {
    let (name, object) = (view.name.clone(), view.object.clone());
    if world.nodes().get(&name).is_none_or(|node| node.addresses != view.addresses) {
        gateways.look_again();
    }
    world.upsert_node(view, source, now_ms);
    // What is too old for the world is too old for them.
    if world.nodes().get(&name).is_some_and(|node| node.object == object) {
        gateways.hear_labels(&name, &node.labels);
    }
}
