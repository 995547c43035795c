//! The same API over HTTP/1.1: with kube's own client, and with bytes that no client would send.
//!
//! Must catch: a watch that holds back an event until more data comes, or a listener whose end leaves watches open.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use common::{config_map, post, refusal, server, soon, widget, widgets};
use futures::{StreamExt, pin_mut};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ListParams, Patch, PatchParams, WatchEvent, WatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Config, ResourceExt};
use overlane_apiserver::ApiServer;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

struct Served {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<std::io::Result<()>>,
}

impl Served {
    fn new(server: &ApiServer) -> Self {
        Self::at(server, "127.0.0.1:0".parse().unwrap())
    }

    fn at(server: &ApiServer, address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let server = server.clone();
        let shutdown = async move { drop(stopped.await) };
        let task = tokio::spawn(async move { server.serve(listener, shutdown).await });
        Self { address, stop, task }
    }

    fn client(&self) -> Client {
        let url = format!("http://{}", self.address).parse().unwrap();
        Client::try_from(Config::new(url)).unwrap()
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        soon(self.task).await.unwrap().unwrap();
    }
}

fn maps(client: &Client) -> Api<ConfigMap> {
    Api::default_namespaced(client.clone())
}

/// Sends bytes and reads what comes until the server closes or falls silent.
async fn raw(address: SocketAddr, bytes: &'static [u8]) -> String {
    tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        stream.write_all(bytes).unwrap();
        let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            answer.extend_from_slice(&buffer[..count]);
        }
        String::from_utf8_lossy(&answer).into_owned()
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_over_http_are_those_in_process() {
    let server = server();
    let served = Served::new(&server);
    let remote = widgets(&served.client());
    let made = remote.create(&post(), &widget("w", 1)).await.unwrap();
    assert_eq!(widgets(&server.client()).get("w").await.unwrap().uid(), made.uid());
    assert_eq!(refusal(remote.create(&post(), &widget("w", 1)).await).0, 409);
    assert_eq!(refusal(remote.get("none").await), (404, "NotFound".to_owned()));
    let patch = Patch::Merge(json!({"spec": {"size": 2}}));
    remote.patch("w", &PatchParams::default(), &patch).await.unwrap();
    assert_eq!(remote.list(&ListParams::default()).await.unwrap().items[0].spec.size, 2);
    assert_eq!(served.client().apiserver_version().await.unwrap().major, "1");
    let groups = kube::Discovery::new(served.client()).run().await.unwrap();
    assert!(groups.has_group("test.overlane.io"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_sends_each_event_at_once() {
    let server = server();
    let served = Served::new(&server);
    let stream = maps(&served.client()).watch(&WatchParams::default(), "0").await.unwrap();
    pin_mut!(stream);
    for index in 0..20 {
        let name = format!("m{index}");
        maps(&server.client()).create(&post(), &config_map(&name)).await.unwrap();
        let event = tokio::time::timeout(Duration::from_secs(1), stream.next()).await;
        let event = event.expect("the event is held back").unwrap().unwrap();
        assert!(matches!(event, WatchEvent::Added(map) if map.name_any() == name));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_ends_with_its_watches_and_another_takes_over() {
    let server = server();
    let served = Served::new(&server);
    let address = served.address;
    let (other, client) = (Served::new(&server), served.client());
    let watch = maps(&client).watch(&WatchParams::default(), "0").await.unwrap();
    let stream = watcher(maps(&client), watcher::Config::default()).default_backoff();
    pin_mut!(watch, stream);
    soon(stream.next()).await.unwrap().unwrap();
    served.stop().await;
    assert!(soon(watch.next()).await.is_none(), "the watch is ended, not torn off");
    assert!(TcpStream::connect(address).is_err());
    maps(&other.client()).create(&post(), &config_map("while-away")).await.unwrap();

    let _again = Served::at(&server, address);
    let found = async {
        loop {
            if let Ok(watcher::Event::Apply(map) | watcher::Event::InitApply(map)) = stream.next().await.unwrap() {
                break map.name_any();
            }
        }
    };
    assert_eq!(soon(found).await, "while-away");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_ends_whole_when_its_listener_ends() {
    let server = server();
    let served = Served::new(&server);
    let mut stream = TcpStream::connect(served.address).unwrap();
    stream.write_all(b"GET /api/v1/pods?watch=1 HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let (seen, told) = oneshot::channel();
    let reading = tokio::task::spawn_blocking(move || {
        let (mut head, mut rest) = ([0; 12], Vec::new());
        stream.read_exact(&mut head).unwrap();
        seen.send(()).unwrap();
        stream.read_to_end(&mut rest).unwrap();
        String::from_utf8(rest).unwrap()
    });
    soon(told).await.unwrap();
    served.stop().await;
    assert!(soon(reading).await.unwrap().ends_with("0\r\n\r\n"), "the body has no end");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_serves_several_requests() {
    let served = Served::new(&server());
    let answer = raw(
        served.address,
        b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\nGET /api/v1/namespaces/default HTTP/1.1\r\nhost: x\r\n\r\n",
    )
    .await;
    assert_eq!(answer.matches("200 OK").count(), 2, "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_is_answered_with_a_status_and_harms_nobody() {
    let server = server();
    let served = Served::new(&server);
    for (request, expected) in [
        (&b"\x16\x03\x01\x02\x00\x01\x00"[..], "400 Bad Request"),
        (b"BREW /api/v1/nodes HTTP/1.1\r\nhost: x\r\n\r\n", "405 Method"),
        (b"GET /api/v1/%ff%00/%zz HTTP/1.1\r\nhost: x\r\n\r\n", "404 Not Found"),
        (b"GET /api/v1/pods?limit=-1 HTTP/1.1\r\nhost: x\r\n\r\n", "400 Bad Request"),
        (b"GET /api/v1/pods?limit=1&continue=%2F%2F HTTP/1.1\r\nhost: x\r\n\r\n", "400 Bad Request"),
        (b"GET /api/v1/pods?watch=1&timeoutSeconds=18446744073709551615 HTTP/1.1\r\nhost: x\r\n\r\n", "200 OK"),
        (b"GET /api/v1/pods?watch=1&resourceVersion=x HTTP/1.1\r\nhost: x\r\n\r\n", "400 Bad Request"),
        (b"GET /api/v1/pods?resourceVersion=99999999999 HTTP/1.1\r\nhost: x\r\n\r\n", "504 Gateway"),
        (b"DELETE /api/v1/pods HTTP/1.1\r\nhost: x\r\n\r\n", "405 Method"),
        (b"POST /api/v1/nodes HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n[]", "400 Bad Request"),
        (b"POST /api/v1/nodes HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\n{\"a\"", "400 Bad Request"),
        (b"POST /api/v1/nodes HTTP/1.1\r\nhost: x\r\ncontent-length: 14\r\n\r\n{\"metadata\":3}", "422 Unprocessable"),
        (
            b"PATCH /api/v1/namespaces/default HTTP/1.1\r\nhost: x\r\ncontent-type: application/merge-patch+json\r\n\
              content-length: 1\r\n\r\n3",
            "400 Bad Request",
        ),
        (
            b"POST /api/v1/namespaces HTTP/1.1\r\nhost: x\r\ncontent-type: application/vnd.kubernetes.protobuf\r\n\
              content-length: 6\r\n\r\nk8s\0\xff\xff",
            "415 Unsupported",
        ),
        (b"POST /api/v1/nodes HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999\r\n\r\n", "413 Payload"),
    ] {
        let answer = raw(served.address, request).await;
        assert!(answer.contains(expected), "{} -> {answer}", String::from_utf8_lossy(request));
    }
    maps(&served.client()).create(&post(), &config_map("still-here")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_and_partial_objects_are_served_by_accept() {
    let server = server();
    widgets(&server.client()).create(&post(), &widget("w", 7)).await.unwrap();
    let served = Served::new(&server);
    let client = served.client();
    let get = async |accept: &str| {
        let path = "/apis/test.overlane.io/v1/namespaces/default/widgets";
        let request = http::Request::get(path).header("accept", accept).body(Vec::new()).unwrap();
        client.request::<Value>(request).await.unwrap()
    };
    let table = get("application/json;as=Table;v=v1;g=meta.k8s.io,application/json").await;
    assert_eq!(table["rows"][0]["cells"], json!(["w", 7, null]));
    assert_eq!(table["columnDefinitions"][1]["name"], "Size");
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let partial = get("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1").await;
    assert_eq!(partial["kind"], "PartialObjectMetadataList");
    assert!(partial["items"][0].get("spec").is_none());
    let plain = get("application/vnd.kubernetes.protobuf,application/json").await;
    assert_eq!(plain["items"][0]["spec"]["size"], 7);
}
