//! Watches: a place in a history, turned into lines.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use tokio::time::Instant;

use crate::failure::Failure;
use crate::history::{Change, Event, Gone, History, Place, line};
use crate::request::Request;
use crate::resource::Resource;
use crate::selector::Selector;
use crate::server::{Answer, Server};
use crate::store::{Object, Page};
use crate::view::View;

/// How often a quiet watch tells how far it has come.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(30);
/// How long a watch lasts whose client names no time.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(45 * 60);
/// How long a watch lasts at most.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);
/// Most events taken from the history at once.
const BATCH: usize = 256;

/// A watch under way.
pub struct Watch {
    server: Arc<Server>,
    resource: Arc<Resource>,
    namespace: Option<String>,
    selector: Selector,
    view: View,
    history: Arc<History>,
    wake: tokio::sync::watch::Receiver<()>,
    /// Where it is; gone once it is to end.
    place: Option<Place>,
    /// Objects told of before any event.
    initial: VecDeque<Arc<Object>>,
    /// Set until the bookmark that ends the initial objects is out.
    initial_end: Option<u64>,
    bookmarks: bool,
    /// Lines ready to go out.
    lines: VecDeque<Bytes>,
    first: bool,
    timeout: Duration,
    _open: Open,
}

/// Counts a watch while it lives.
struct Open(Arc<AtomicU64>);

impl Open {
    fn new(count: &Arc<AtomicU64>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Server {
    /// Starts a watch. A revision that is gone is told in the stream, as the real server does.
    ///
    /// # Errors
    /// 400 for parameters that make no sense.
    pub fn watch(self: &Arc<Self>, request: &Request) -> Result<Answer, Failure> {
        let asked = request.query.number("resourceVersion")?;
        let bookmarks = request.query.is_true("allowWatchBookmarks");
        let streaming = request.query.is_true("sendInitialEvents");
        if streaming && request.query.get("resourceVersionMatch") != "NotOlderThan" {
            let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
            return Err(Failure::bad_request(why));
        }
        let timeout = request.query.number("timeoutSeconds")?.filter(|seconds| *seconds > 0);
        let history = self.store.history(&request.resource.table);
        let mut watch = Watch {
            server: self.clone(),
            resource: request.resource.clone(),
            namespace: request.namespace.clone(),
            selector: request.selector()?,
            view: request.view,
            wake: history.subscribe(),
            history,
            place: None,
            initial: VecDeque::new(),
            initial_end: None,
            bookmarks,
            lines: VecDeque::new(),
            first: true,
            timeout: timeout.map_or(DEFAULT_TIMEOUT, Duration::from_secs).min(LONGEST_TIMEOUT),
            _open: Open::new(&self.open_watches),
        };
        match asked.filter(|asked| *asked > 0 && !streaming) {
            Some(asked) => match watch.history.after(asked) {
                Ok(place) => watch.place = Some(place),
                Err(gone) => watch.end(&Failure::expired(asked, gone.oldest)),
            },
            None => {
                let revision = watch.start_with_all(&request.page(&watch.selector))?;
                watch.initial_end = (streaming && bookmarks).then_some(revision);
            }
        }
        Ok(Answer::Watch(Box::new(watch)))
    }
}

impl Watch {
    fn start_with_all(&mut self, page: &Page) -> Result<u64, Failure> {
        // The history may be compacted between the two looks.
        for _ in 0..100 {
            let listed = self.server.store.list(&self.resource.table, page);
            if let Ok((objects, revision)) = listed
                && let Ok(place) = self.history.after(revision)
            {
                self.initial = objects.into_iter().filter(|object| self.selector.matches(&object.value)).collect();
                self.place = Some(place);
                return Ok(revision);
            }
        }
        Err(Failure::internal("the history is compacted faster than a list can be made"))
    }

    fn end(&mut self, failure: &Failure) {
        self.lines.push_back(line("ERROR", failure.status().to_string().as_bytes()));
        self.place = None;
    }

    /// The lines from now to the end.
    pub fn lines(self) -> impl Stream<Item = Bytes> + Send {
        // Timers start when the body is first read: that is surely within the runtime.
        futures::stream::unfold((self, None), |(mut watch, clock)| async move {
            let mut clock = clock.unwrap_or_else(|| Clock::new(watch.timeout));
            let bytes = watch.next(&mut clock).await?;
            Some((bytes, (watch, Some(clock))))
        })
    }

    async fn next(&mut self, clock: &mut Clock) -> Option<Bytes> {
        loop {
            if let Some(bytes) = self.ready() {
                return Some(bytes);
            }
            self.wake.borrow_and_update();
            // Read before the history: every event up to it is there, then.
            let revision = self.server.store.revision();
            let place = self.place?;
            match self.history.next(place, BATCH) {
                Err(Gone { oldest }) => self.end(&Failure::expired(revision, oldest)),
                Ok((events, next)) if !events.is_empty() => {
                    self.place = Some(next);
                    events.iter().for_each(|event| self.tell(event));
                }
                Ok(_) => self.wait(clock, revision).await?,
            }
        }
    }

    /// Waits for something to tell; nothing if the time is over.
    async fn wait(&mut self, clock: &mut Clock, revision: u64) -> Option<()> {
        let until = clock.end.min(clock.bookmark);
        if tokio::time::timeout_at(until, self.wake.changed()).await.is_ok() {
            return Some(());
        }
        if self.bookmarks {
            self.lines.push_back(self.view.bookmark(&self.resource, revision, false));
        }
        clock.bookmark = Instant::now() + BOOKMARK_INTERVAL;
        if Instant::now() < clock.end {
            return Some(());
        }
        self.place = None;
        // A last bookmark may have to go out; without one the stream ends here.
        if self.lines.is_empty() { None } else { Some(()) }
    }

    fn ready(&mut self) -> Option<Bytes> {
        if let Some(bytes) = self.lines.pop_front() {
            return Some(bytes);
        }
        if !self.initial.is_empty() {
            return Some(self.initial_chunk());
        }
        let revision = self.initial_end.take()?;
        Some(self.view.bookmark(&self.resource, revision, true))
    }

    /// Several initial objects at once: one write each would be slow for thousands.
    fn initial_chunk(&mut self) -> Bytes {
        const CHUNK: usize = 64 * 1024;
        let mut chunk = Vec::new();
        while chunk.len() < CHUNK
            && let Some(object) = self.initial.pop_front()
        {
            chunk.extend_from_slice(&self.view.told(&self.resource, &object, Change::Added, self.first));
            self.first = false;
        }
        chunk.into()
    }

    fn tell(&mut self, event: &Event) {
        if self.namespace.as_ref().is_some_and(|namespace| *namespace != event.object.key.0) {
            return;
        }
        let selected = |object: &Object| self.selector.is_empty() || self.selector.matches(&object.value);
        let before = event.previous.as_ref().is_some_and(|object| selected(object));
        let after = event.change != Change::Deleted && selected(&event.object);
        let change = match (before, after) {
            (false, false) => return,
            (false, true) => Change::Added,
            (true, true) => Change::Modified,
            (true, false) => Change::Deleted,
        };
        self.lines.push_back(self.view.event(&self.resource, event, change, self.first));
        self.first = false;
    }
}

/// When a watch ends and when it next says how far it is.
struct Clock {
    end: Instant,
    bookmark: Instant,
}

impl Clock {
    fn new(timeout: Duration) -> Self {
        let now = Instant::now();
        Self { end: now + timeout, bookmark: now + BOOKMARK_INTERVAL }
    }
}
