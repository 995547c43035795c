//! Watching, in-process, with the watcher and reflector that controllers use.
//!
//! Must catch: a watch that loses an event, or goes on from a resourceVersion whose history is gone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use common::{config_map, pod, post, server, soon, widget, widgets};
use futures::{Stream, StreamExt, TryStreamExt, pin_mut};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, WatchEvent, WatchParams};
use kube::runtime::{WatchStreamExt, reflector, watcher};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

fn maps(client: &Client) -> Api<ConfigMap> {
    Api::default_namespaced(client.clone())
}

async fn set_labels(api: &Api<Pod>, name: &str, app: &str) {
    let patch = Patch::Merge(json!({"metadata": {"labels": {"app": app}}}));
    api.patch(name, &PatchParams::default(), &patch).await.unwrap();
}

async fn next<T>(stream: &mut (impl Stream<Item = kube::Result<WatchEvent<T>>> + Unpin)) -> WatchEvent<T> {
    soon(stream.next()).await.expect("the watch ended").unwrap()
}

#[tokio::test]
async fn a_watch_tells_everything_after_its_revision() {
    let client = server().client();
    let maps = maps(&client);
    maps.create(&post(), &config_map("before")).await.unwrap();
    let listed = maps.list(&Default::default()).await.unwrap();
    let from = listed.metadata.resource_version.unwrap();
    maps.create(&post(), &config_map("a")).await.unwrap();
    let stream = maps.watch(&WatchParams::default(), &from).await.unwrap();
    pin_mut!(stream);
    assert!(matches!(next(&mut stream).await, WatchEvent::Added(map) if map.name_any() == "a"));
    let patch = Patch::Merge(json!({"data": {"a": "2"}}));
    maps.patch("a", &PatchParams::default(), &patch).await.unwrap();
    maps.delete("a", &DeleteParams::default()).await.unwrap();
    assert!(matches!(next(&mut stream).await, WatchEvent::Modified(map) if map.data.as_ref().unwrap()["a"] == "2"));
    let WatchEvent::Deleted(gone) = next(&mut stream).await else { panic!("expected the end of a") };
    let newest = maps.list(&Default::default()).await.unwrap().metadata.resource_version;
    assert_eq!(gone.resource_version(), newest, "a deletion bears its own revision");
}

#[tokio::test]
async fn what_leaves_a_selection_is_told_as_deleted() {
    let client = server().client();
    let pods: Api<Pod> = Api::default_namespaced(client);
    let params = WatchParams::default().labels("app=web").fields("spec.nodeName=n1");
    let stream = pods.watch(&params, "0").await.unwrap();
    pin_mut!(stream);
    pods.create(&post(), &pod("other", "n2")).await.unwrap();
    pods.create(&post(), &pod("p", "n1")).await.unwrap();
    assert!(matches!(next(&mut stream).await, WatchEvent::Added(pod) if pod.name_any() == "p"));
    set_labels(&pods, "p", "db").await;
    let WatchEvent::Deleted(left) = next(&mut stream).await else { panic!("expected p to leave") };
    assert_eq!(left.labels()["app"], "web", "shown as it last was in the selection");
    assert_eq!(left.resource_version(), pods.get("p").await.unwrap().resource_version());
    set_labels(&pods, "p", "web").await;
    assert!(matches!(next(&mut stream).await, WatchEvent::Added(_)));
}

#[tokio::test]
async fn a_compacted_revision_is_gone_and_a_live_watch_goes_on() {
    let server = server();
    let maps = maps(&server.client());
    let old = maps.create(&post(), &config_map("a")).await.unwrap().resource_version().unwrap();
    let live = maps.watch(&WatchParams::default(), &old).await.unwrap();
    pin_mut!(live);
    maps.create(&post(), &config_map("b")).await.unwrap();
    assert!(matches!(next(&mut live).await, WatchEvent::Added(_)));
    server.compact();
    let late = maps.watch(&WatchParams::default(), &old).await.unwrap();
    pin_mut!(late);
    assert!(matches!(next(&mut late).await, WatchEvent::Error(status) if status.code == 410));
    assert!(soon(late.next()).await.is_none());
    maps.create(&post(), &config_map("c")).await.unwrap();
    assert!(matches!(next(&mut live).await, WatchEvent::Added(map) if map.name_any() == "c"));
}

#[tokio::test]
async fn more_events_than_are_kept_end_a_watch_that_fell_behind() {
    let server = server();
    let maps = maps(&server.client());
    let old = maps.create(&post(), &config_map("a")).await.unwrap().resource_version().unwrap();
    for count in 0..10_001 {
        let patch = Patch::Merge(json!({"data": {"a": count.to_string()}}));
        maps.patch("a", &PatchParams::default(), &patch).await.unwrap();
    }
    let late = maps.watch(&WatchParams::default(), &old).await.unwrap();
    pin_mut!(late);
    assert!(matches!(next(&mut late).await, WatchEvent::Error(status) if status.code == 410));
    let newer = (old.parse::<u64>().unwrap() + 1).to_string();
    let kept = maps.watch(&WatchParams::default().timeout(1), &newer).await.unwrap();
    let told: Vec<_> = soon(kept.try_collect()).await.unwrap();
    let changes = told.iter().filter(|event| matches!(event, WatchEvent::Modified(_)));
    assert_eq!(changes.count(), 10_000);
}

#[tokio::test(start_paused = true)]
async fn bookmarks_tell_how_far_a_quiet_watch_is() {
    let server = server();
    let maps = maps(&server.client());
    let stream = maps.watch(&WatchParams::default().timeout(40), "0").await.unwrap();
    widgets(&server.client()).create(&post(), &widget("w", 1)).await.unwrap();
    let events: Vec<_> = stream.try_collect().await.unwrap();
    let revisions: Vec<&str> = events
        .iter()
        .map(|event| match event {
            WatchEvent::Bookmark(bookmark) => bookmark.metadata.resource_version.as_str(),
            other => panic!("expected bookmarks only, found {other:?}"),
        })
        .collect();
    let revision = server.stats().revision.to_string();
    assert_eq!(revisions, [revision.as_str(), &revision], "one after 30 seconds, one at the end");
    assert_eq!(server.stats().watches, 0);
}

/// Follows a watcher until it knows exactly these names. Errors are what it recovers from.
async fn settles(
    stream: &mut (impl Stream<Item = Result<watcher::Event<ConfigMap>, watcher::Error>> + Unpin),
    known: &mut BTreeSet<String>,
    wanted: &[&str],
) {
    let wanted: BTreeSet<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
    soon(async {
        let mut complete = true;
        while *known != wanted || !complete {
            match stream.next().await.unwrap() {
                Ok(watcher::Event::Init) => {
                    known.clear();
                    complete = false;
                }
                Ok(watcher::Event::InitDone) => complete = true,
                Ok(watcher::Event::InitApply(map) | watcher::Event::Apply(map)) => {
                    known.insert(map.name_any());
                }
                Ok(watcher::Event::Delete(map)) => {
                    known.remove(&map.name_any());
                }
                Err(_) => {}
            }
        }
    })
    .await;
}

#[tokio::test]
async fn watchers_of_both_strategies_recover_from_a_restored_store() {
    for config in [watcher::Config::default(), watcher::Config::default().streaming_lists()] {
        let server = server();
        let maps = maps(&server.client());
        let stream = watcher(maps.clone(), config).default_backoff();
        pin_mut!(stream);
        let mut known = BTreeSet::new();
        maps.create(&post(), &config_map("kept")).await.unwrap();
        settles(&mut stream, &mut known, &["kept"]).await;
        let snapshot = server.snapshot();
        let before = server.stats().revision;
        maps.create(&post(), &config_map("forgotten")).await.unwrap();
        settles(&mut stream, &mut known, &["kept", "forgotten"]).await;
        server.restore(&snapshot).unwrap();
        assert!(server.stats().revision > before);
        settles(&mut stream, &mut known, &["kept"]).await;
        maps.create(&post(), &config_map("after")).await.unwrap();
        settles(&mut stream, &mut known, &["kept", "after"]).await;
        let made = maps.get("after").await.unwrap().resource_version().unwrap();
        assert!(made.parse::<u64>().unwrap() > before, "no revision is given twice");
    }
}

#[tokio::test]
async fn a_restored_store_has_its_definitions_identities_and_no_orphans() {
    let server = server();
    let client = server.client();
    let made = widgets(&client).create(&post(), &widget("w", 1)).await.unwrap();
    let snapshot = server.snapshot();
    maps(&client).create(&post(), &config_map("later")).await.unwrap();
    let other = overlane_apiserver::ApiServer::new();
    other.restore(&snapshot).unwrap();
    assert!(other.stats().revision > server.stats().revision, "a client may have seen later revisions");
    let seen = server.stats().revision.to_string();
    let late = maps(&other.client()).watch(&WatchParams::default(), &seen).await.unwrap();
    pin_mut!(late);
    assert!(matches!(next(&mut late).await, WatchEvent::Error(status) if status.code == 410));
    let found = widgets(&other.client()).get("w").await.unwrap();
    assert_eq!((found.uid(), found.resource_version()), (made.uid(), made.resource_version()));
    assert!(other.restore(b"{}").is_err());
    assert!(other.restore(&snapshot[..snapshot.len() / 2]).is_err());
    assert!(widgets(&other.client()).get_opt("w").await.unwrap().is_some(), "a refused snapshot changes nothing");
}

#[tokio::test]
async fn a_reflector_shows_the_store() {
    let client = server().client();
    let (reader, writer) = reflector::store();
    let stream = reflector::reflector(writer, watcher(widgets(&client), watcher::Config::default().page_size(3)));
    let task = tokio::spawn(stream.applied_objects().for_each(|_| async {}));
    for index in 0..10 {
        widgets(&client).create(&post(), &widget(&format!("w{index}"), 1)).await.unwrap();
    }
    soon(reader.wait_until_ready()).await.unwrap();
    soon(async {
        while reader.len() < 10 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    task.abort();
}

#[tokio::test]
async fn a_thousand_watches_all_see_everything() {
    const WATCHES: usize = 1_000;
    const EVENTS: usize = 50;
    let client = server().client();
    let maps = maps(&client);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..WATCHES {
        let stream = maps.watch(&WatchParams::default(), "0").await.unwrap();
        tasks.spawn(async move { stream.take(EVENTS).try_collect::<Vec<_>>().await.unwrap().len() });
    }
    for index in 0..EVENTS {
        maps.create(&post(), &config_map(&format!("m{index}"))).await.unwrap();
    }
    let seen = tokio::time::timeout(Duration::from_secs(60), tasks.join_all()).await.unwrap();
    assert_eq!(seen, [EVENTS; WATCHES]);
}
