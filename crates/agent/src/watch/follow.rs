//! One watch on the API server: paged list, then events, for ever.
//!
//! Errors are waited out with growing, jittered pauses; what was known stays known meanwhile.

use std::fmt::Debug;
use std::hash::{BuildHasher as _, RandomState};
use std::pin::pin;
use std::time::Duration;

use futures::StreamExt as _;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::Sender;
use tokio::time::sleep;

/// A word from one of the watches.
#[derive(Debug)]
pub struct Word<T> {
    /// Which watch.
    pub what: &'static str,
    /// What it says, or why it hears nothing at the moment.
    pub said: Result<T, String>,
}

/// Pauses after errors, each a random part of one that doubles up to ten seconds: 5,000 agents come back within some
/// seconds after the API server does, not all at once.
struct Pauses {
    next: Duration,
}

const FIRST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(10);

impl Pauses {
    fn pause(&mut self) -> Duration {
        let pause = self.next / 4 + jitter(self.next * 3 / 4);
        self.next = (self.next * 2).min(LONGEST);
        pause
    }
}

/// A random time below `most`; each process draws its own.
pub fn jitter(most: Duration) -> Duration {
    let draw = RandomState::new().hash_one(std::process::id());
    let most = u64::try_from(most.as_micros()).unwrap_or(u64::MAX).max(1);
    Duration::from_micros(draw % most)
}

/// Follows one kind of object until the listener goes. `fold` makes of an event what the listener wants, so that big
/// objects live for no longer than a page.
pub async fn follow<K, T>(
    what: &'static str,
    api: Api<K>,
    config: watcher::Config,
    to: Sender<Word<T>>,
    fold: impl Fn(Event<K>) -> Option<T>,
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut events = pin!(watcher::watcher(api, config));
    let mut pauses = Pauses { next: FIRST };
    while let Some(event) = events.next().await {
        let failed = event.is_err();
        // That a list begins is no sign that the server answers.
        if !matches!(event, Err(_) | Ok(Event::Init)) {
            pauses.next = FIRST;
        }
        let said = match event {
            Ok(event) => match fold(event) {
                Some(folded) => Ok(folded),
                None => continue,
            },
            Err(error) => Err(error.to_string()),
        };
        let word = Word { what, said };
        if to.send(word).await.is_err() {
            return;
        }
        if failed {
            sleep(pauses.pause()).await;
        }
    }
}
