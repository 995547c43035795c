//! The program itself: flags, signals, pages.
//!
//! Must catch: an end other than 0 after SIGTERM, a Lease that outlives it, a usage error other than 2.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::common::{Cluster, FAMILIES, until};

const PROGRAM: &str = env!("CARGO_BIN_EXE_overlane-controller");

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn get(address: &str, path: &str) -> Option<String> {
    let mut stream = tokio::net::TcpStream::connect(address).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.ok()?;
    Some(text)
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serves_a_cluster_shows_itself_and_ends_in_order() {
    let cluster = Cluster::new(FAMILIES[2]).await;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = cluster.server.clone();
    tokio::spawn(async move { server.serve(listener, std::future::pending()).await.unwrap() });
    let address = format!("127.0.0.1:{}", free_port());
    let child = Command::new(PROGRAM)
        .args(["--api-url", &url, "--identity", "it", "--metrics-addr", &address, "--agent-grace", "0.3", "--lab", "t"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut child = Killed(child);
    cluster.join("n1", "b1").await;
    cluster.until_announced("n1", 2).await;
    until("ready", async || get(&address, "/readyz").await?.starts_with("HTTP/1.1 200").then_some(())).await;
    assert!(get(&address, "/healthz").await.unwrap().starts_with("HTTP/1.1 200"));
    let metrics = until("metrics", async || {
        let text = get(&address, "/metrics").await?;
        text.contains(r#"overlane_controller_nodes{state="announced"} 1"#).then_some(text)
    })
    .await;
    for line in [
        r#"overlane_controller_blocks{pool="10.244.0.0/16",state="total"} 256"#,
        r#"overlane_controller_blocks{pool="10.244.0.0/16",state="used"} 1"#,
        r#"overlane_controller_blocks{pool="10.244.0.0/16",state="resting"} 0"#,
        r#"overlane_controller_writes_total{kind="create-nodeblock"} 2"#,
        "overlane_controller_leader 1",
        "overlane_controller_allocation_seconds_count 1",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
    let pid = child.0.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let status = until("it ends", async || child.0.try_wait().unwrap()).await;
    assert_eq!(status.code(), Some(0));
    let lease: Lease = Api::namespaced(cluster.client.clone(), "kube-system").get("overlane-controller").await.unwrap();
    assert_eq!(lease.spec.unwrap().holder_identity.unwrap_or_default(), "");
}

#[test]
fn usage() {
    let run = |args: &[&str]| Command::new(PROGRAM).args(args).output().unwrap();
    for args in
        [&["--nonsense"][..], &["--hold-down", "-1"], &["--api-url", "x"], &["--api-url=http://a", "--kubeconfig=b"]]
    {
        let output = run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(!output.stderr.is_empty());
    }
    let shown = run(&["--print-config", "--hold-down", "60"]);
    assert_eq!(shown.status.code(), Some(0));
    assert!(String::from_utf8(shown.stdout).unwrap().contains("OVERLANE_HOLD_DOWN=60"));
    let refused = run(&["--kubeconfig", "/nonexistent", "--metrics-addr", "off"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8(refused.stderr).unwrap().contains("/nonexistent"));
}

#[tokio::test]
async fn alive_without_an_api_server_but_not_ready() {
    let address = format!("127.0.0.1:{}", free_port());
    let nowhere = format!("http://127.0.0.1:{}", free_port());
    let child = Command::new(PROGRAM)
        .args(["--api-url", &nowhere, "--metrics-addr", &address])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut child = Killed(child);
    until("alive", async || get(&address, "/healthz").await?.starts_with("HTTP/1.1 200").then_some(())).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(get(&address, "/readyz").await.unwrap().starts_with("HTTP/1.1 503"));
    let pid = child.0.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let status = until("it ends", async || child.0.try_wait().unwrap()).await;
    assert_eq!(status.code(), Some(0));
}
