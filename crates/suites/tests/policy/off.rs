//! Network policy switched off opens everything and leaves nothing behind; switched on, it is as before.

use overlane_suites::nft;
use overlane_suites::wait::{ensure, eventually, millis, secs};
use serde_json::{Value, json};

use crate::canary;
use crate::objects;
use crate::scene;
use crate::stage::Range;

const NETWORK: &str = "/apis/overlane.io/v1alpha1/clusternetworks/default";

fn switch(range: &Range, to: &str) {
    range.api().merge(NETWORK, &json!({"spec": {"networkPolicy": to}}));
    eventually(secs(30), &format!("networkPolicy {to} is applied"), || {
        let network = range.api().get(NETWORK);
        ensure(network["status"]["applied"]["networkPolicy"] == to, || network["status"].to_string())
    });
}

/// Names of what a node's table has for policies, of any kind: chains, maps, sets, counters.
fn left(range: &Range) -> Vec<String> {
    let mut found = Vec::new();
    for node in &range.stage.nodes {
        for object in nft::list(&node.ns, "table inet overlane") {
            let Some((kind, value)) = object.as_object().and_then(|object| object.iter().next()) else { continue };
            let name = value["name"].as_str().unwrap_or_default();
            let is_rule = kind == "rule" && value["comment"].as_str().is_some_and(|text| text.contains("policy"));
            if name.starts_with("policy") || is_rule {
                found.push(format!("{}: {kind} {name}{}", node.name, value["comment"].as_str().unwrap_or_default()));
            }
        }
    }
    found
}

#[test]
fn off_is_off_and_on_again() {
    let range = scene::shop(|_| ());
    let (open, shut) = scene::packets(&range);
    let policy: Value = scene::closings()[0].1.clone();
    objects::put(range.api(), &policy);
    canary::settle(&range);
    assert!(!left(&range).is_empty(), "what is looked for is not there while policies are in force");
    for _ in 0..2 {
        switch(&range, "none");
        eventually(secs(30), "everything passes", || {
            let lost = range.unanswered(&[open.clone(), shut.clone()].concat()).len();
            ensure(lost == 0, || format!("{lost} packets do not pass"))
        });
        eventually(secs(30), "nothing is left", || {
            let left = left(&range);
            ensure(left.is_empty(), || format!("{left:#?}"))
        });
        switch(&range, "overlane");
        canary::settle(&range);
        let through = range.fire(&shut, millis(300)).iter().filter(|fate| fate.arrived).count();
        assert_eq!(through, 0, "policies are in force again");
        assert!(range.unanswered(&open).is_empty(), "what is allowed passes");
    }
}
