//! The API server is away, or forgets.
//!
//! Must catch: a watch that does not go on, nodes that are given up while the API cannot be heard.

use std::net::TcpListener;
use std::time::Duration;

use kube::{Client, Config};
use tokio::sync::oneshot;

use crate::common::{Cluster, Controller, FAMILIES, SETTINGS, until};

fn serve(cluster: &Cluster, listener: TcpListener) -> (oneshot::Sender<()>, tokio::task::JoinHandle<()>) {
    let (stop, stopped) = oneshot::channel::<()>();
    let server = cluster.server.clone();
    let task = tokio::spawn(async move {
        server.serve(listener, async { _ = stopped.await }).await.unwrap();
    });
    (stop, task)
}

#[tokio::test]
async fn away_and_back_over_http() {
    let cluster = Cluster::new(FAMILIES[2]).await;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, task) = serve(&cluster, listener);
    let client = Client::try_from(Config::new(format!("http://{address}").parse().unwrap())).unwrap();
    let remote = Cluster { server: cluster.server.clone(), client };
    let controller: Controller = remote.start(SETTINGS);
    cluster.join("n1", "b1").await;
    cluster.until_announced("n1", 2).await;
    stop.send(()).unwrap();
    task.await.unwrap();
    // Things happen that it does not hear of.
    cluster.join("n2", "b2").await;
    cluster.delete_node("n1").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(cluster.announced("n2").await.is_empty());
    let listener = TcpListener::bind(address).unwrap();
    listener.set_nonblocking(true).unwrap();
    let (_stop, _task) = serve(&cluster, listener);
    cluster.until_announced("n2", 2).await;
    until("n1 is withdrawn", async || cluster.announced("n1").await.is_empty().then_some(())).await;
    controller.stop().await;
}

#[tokio::test]
async fn a_history_that_is_compacted_under_the_watches() {
    let cluster = Cluster::new(FAMILIES[2]).await;
    let controller = cluster.start(SETTINGS);
    for number in 0..5 {
        let name = format!("n{number}");
        cluster.join(&name, &name).await;
        cluster.server.compact();
        cluster.until_announced(&name, 2).await;
    }
    cluster.delete_node("n0").await;
    cluster.server.compact();
    until("withdrawn", async || (cluster.configs().await.len() == 4).then_some(())).await;
    cluster.assert_sound().await;
    controller.stop().await;
}
