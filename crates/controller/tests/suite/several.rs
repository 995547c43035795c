//! Two controllers at once, without an election.
//!
//! Must catch: anything but the API's own refusal that keeps a block from two nodes, and a block that leaks where two
//! controllers each claim one for the same node.

use std::collections::BTreeSet;

use crate::common::{Cluster, FAMILIES, SETTINGS, spec, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_nodes_and_two_controllers() {
    let cluster = Cluster::bare();
    cluster.create_network(spec(&["10.240.0.0/12", "fd12:3456:789a::/64"])).await;
    let (one, two) = (cluster.start_with("one", false, SETTINGS), cluster.start_with("two", false, SETTINGS));
    for number in 0..500 {
        cluster.join(&format!("n{number}"), &format!("b{number}")).await;
    }
    until("all are served", async || {
        let configs = cluster.configs().await;
        let served = configs
            .values()
            .filter(|config| config.status.as_ref().is_some_and(|status| status.network_containers.len() == 2));
        (served.count() == 500).then_some(())
    })
    .await;
    cluster.settle().await;
    cluster.assert_sound().await;
    let live: Vec<_> = cluster.blocks().await.into_values().filter(|block| block.spec.released_at.is_none()).collect();
    assert_eq!(live.len(), 1000, "a block of each family a node, and none more");
    for number in 0..500 {
        let name = format!("n{number}");
        let announced = cluster.announced(&name).await;
        assert_eq!(cluster.live_blocks_of(&name).await, announced.iter().cloned().collect::<BTreeSet<_>>());
        assert_eq!(cluster.node(&name).await.spec.unwrap().pod_cidrs, Some(announced));
    }
    let refused = one.conflicts("claim-block") + two.conflicts("claim-block");
    assert!(refused > 0, "the two never wanted one block: this run shows nothing");
    let events = cluster.events().await;
    assert!(events.is_empty(), "nothing was wrong, yet: {:?}", &events[..events.len().min(3)]);
    one.stop().await;
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_come_and_go_under_two_controllers_in_every_family() {
    for pod_cidrs in FAMILIES {
        let cluster = Cluster::new(pod_cidrs).await;
        let (one, two) = (cluster.start_with("one", false, SETTINGS), cluster.start_with("two", false, SETTINGS));
        for round in 0..4 {
            for number in 0..12 {
                let name = format!("n{number}");
                if (number + round) % 3 == 0 && round > 0 {
                    cluster.delete_node(&name).await;
                    cluster.assert_sound_of_nodes().await;
                    // Every other one is a new machine.
                    let boot = if number % 2 == 0 { format!("b{number}-{round}") } else { format!("b{number}") };
                    cluster.join(&name, &boot).await;
                } else if round == 0 {
                    cluster.join(&name, &format!("b{number}")).await;
                }
            }
        }
        for number in 0..12 {
            cluster.until_announced(&format!("n{number}"), pod_cidrs.len()).await;
        }
        cluster.settle().await;
        cluster.assert_sound().await;
        let live = cluster.blocks().await.into_values().filter(|block| block.spec.released_at.is_none()).count();
        assert_eq!(live, 12 * pod_cidrs.len());
        one.stop().await;
        two.stop().await;
    }
}
