//! Asks the fabric whether it carries pod packets bare, as the plan's probes say, and keeps what it answers.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use overlane_core::cidr::Cidr;
use overlane_core::family::Family;
use overlane_core::plan::ProbePlan;
use overlane_datapath::echo::EchoSocket;

use crate::reconcile::Wake;

/// How long one look at a socket waits.
const LOOK: Duration = Duration::from_millis(100);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often each target is asked, as long as there are no more than a second's worth of them.
const INTERVAL: Duration = Duration::from_secs(1);
/// Most questions a second.
const RATE: u32 = 200;
/// So many unanswered questions in a row are a no: one packet may be lost on the way.
const MISSES: u32 = 3;
/// A target that had passed and then failed is asked so often before it counts as passing again.
const AGAIN: u32 = 10;
/// Sockets that could not be made are tried again.
const RETRY: Duration = Duration::from_secs(5);

/// What the fabric answers of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing yet.
    Unknown,
    /// Bare packets come there, and back.
    Passes,
    /// They do not.
    Fails,
}

/// What the prober and the reconciler tell each other.
#[derive(Debug, Default)]
pub struct Prober {
    shared: Mutex<Shared>,
    news: Condvar,
}

#[derive(Debug, Default)]
struct Shared {
    wanted: Wanted,
    verdicts: BTreeMap<Cidr, Verdict>,
    fault: Option<String>,
}

/// What is to be asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Wanted {
    plan: ProbePlan,
    /// Bytes of an IP packet.
    size: usize,
}

impl Prober {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has this asked from now on, in IP packets of `size` bytes.
    pub fn want(&self, plan: &ProbePlan, size: u32) {
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let mut shared = self.lock();
        if shared.wanted.plan != *plan || shared.wanted.size != size {
            shared.wanted = Wanted { plan: plan.clone(), size };
            shared.verdicts.retain(|block, _| plan.targets.contains_key(block));
            self.news.notify_one();
        }
    }

    /// What is known, of what is asked.
    pub fn verdicts(&self) -> BTreeMap<Cidr, Verdict> {
        self.lock().verdicts.clone()
    }

    /// Why nothing can be asked.
    pub fn fault(&self) -> Option<String> {
        self.lock().fault.clone()
    }

    /// What is wanted, once there is something to ask.
    fn wait(&self) -> Wanted {
        let mut shared = self.lock();
        while shared.wanted.plan.targets.is_empty() {
            shared = self.news.wait(shared).unwrap_or_else(PoisonError::into_inner);
        }
        shared.wanted.clone()
    }
}

/// Asks until the process ends.
pub fn run(prober: &Arc<Prober>, wake: &Sender<Wake>) {
    let mut asker = Asker::default();
    loop {
        let wanted = prober.wait();
        let news = match asker.turn(&wanted) {
            Ok(news) => {
                prober.lock().fault = None;
                news
            }
            Err(error) => {
                // Without sockets nothing is known, and pods stay in the tunnel.
                let fault = format!("ask the fabric: {error}");
                let news = prober.lock().fault.replace(fault.clone()).is_none();
                if news {
                    tracing::warn!("{fault}; tried again");
                }
                asker = Asker::default();
                std::thread::sleep(RETRY);
                news
            }
        };
        if news {
            let verdicts = asker.tracks.iter().map(|(block, track)| (*block, track.verdict));
            prober.lock().verdicts = verdicts.collect();
            if wake.send(Wake::Fabric).is_err() {
                return;
            }
        }
    }
}

/// One target.
#[derive(Debug)]
struct Track {
    to: IpAddr,
    verdict: Verdict,
    misses: u32,
    passes: u32,
    /// So many answers in a row make it pass.
    needed: u32,
    /// The question that is out: its number, and when it was asked.
    asked: Option<(u16, Instant)>,
    next: Instant,
}

impl Track {
    fn new(to: IpAddr, next: Instant) -> Self {
        Self { to, verdict: Verdict::Unknown, misses: 0, passes: 0, needed: 1, asked: None, next }
    }

    /// Whether that is news.
    fn answered(&mut self) -> bool {
        self.asked = None;
        self.misses = 0;
        self.passes = self.passes.saturating_add(1);
        let news = self.verdict != Verdict::Passes && self.passes >= self.needed;
        if news {
            self.verdict = Verdict::Passes;
        }
        news
    }

    /// Whether that is news. Asks again at once while it is not sure.
    fn missed(&mut self, now: Instant) -> bool {
        self.asked = None;
        self.passes = 0;
        self.misses = self.misses.saturating_add(1);
        if self.misses < MISSES {
            self.next = now;
            return false;
        }
        if self.verdict == Verdict::Passes {
            self.needed = AGAIN;
        }
        std::mem::replace(&mut self.verdict, Verdict::Fails) != Verdict::Fails
    }
}

#[derive(Default)]
struct Asker {
    wanted: Wanted,
    sockets: BTreeMap<Family, EchoSocket>,
    tracks: BTreeMap<Cidr, Track>,
    sequence: u16,
}

impl Asker {
    /// One turn: asks what is due, hears what comes. Whether there is news.
    fn turn(&mut self, wanted: &Wanted) -> io::Result<bool> {
        let mut news = self.adopt(wanted)?;
        let interval = INTERVAL.max(INTERVAL * u32::try_from(self.tracks.len()).unwrap_or(u32::MAX) / RATE);
        let now = Instant::now();
        for (block, track) in &mut self.tracks {
            if track.asked.is_some_and(|(_, at)| now.duration_since(at) >= PATIENCE) {
                news |= track.missed(now);
            }
            let Some(socket) = self.sockets.get(&block.family()).filter(|_| track.asked.is_none() && track.next <= now)
            else {
                continue;
            };
            self.sequence = self.sequence.wrapping_add(1);
            track.next = now + interval;
            track.asked = Some((self.sequence, now));
            // What cannot be sent gets no answer.
            if let Err(error) = socket.ask(track.to, self.sequence, self.wanted.size) {
                tracing::debug!(%error, to = %track.to, "ask the fabric");
            }
        }
        for socket in self.sockets.values() {
            while let Some(answer) = socket.answer()? {
                let asked = |track: &&mut Track| {
                    track.to == answer.from && track.asked.is_some_and(|(sequence, _)| sequence == answer.sequence)
                };
                news |= self.tracks.values_mut().find(asked).is_some_and(Track::answered);
            }
        }
        Ok(news)
    }

    fn adopt(&mut self, wanted: &Wanted) -> io::Result<bool> {
        if self.wanted == *wanted {
            return Ok(false);
        }
        if self.wanted.plan.own != wanted.plan.own {
            let identifier = u16::try_from(std::process::id() & 0xffff).unwrap_or_default();
            let open = |(family, own): (&Family, &IpAddr)| Ok((*family, EchoSocket::open(*own, identifier, LOOK)?));
            self.sockets = wanted.plan.own.iter().map(open).collect::<io::Result<_>>()?;
        }
        let before = self.tracks.len();
        let targets = &wanted.plan.targets;
        self.tracks.retain(|block, track| targets.get(block) == Some(&track.to));
        let mut news = self.tracks.len() != before;
        let now = Instant::now();
        for (block, to) in targets {
            news |= !self.tracks.contains_key(block);
            self.tracks.entry(*block).or_insert_with(|| Track::new(*to, now));
        }
        self.wanted = wanted.clone();
        Ok(news)
    }
}

#[cfg(test)]
mod tests {
    //! Must catch: one lost packet that counts as a no.

    use super::*;

    #[test]
    fn one_answer_is_enough_and_one_silence_is_not() {
        let now = Instant::now();
        let mut track = Track::new([10, 244, 1, 255].into(), now);
        assert!(!track.missed(now) && !track.missed(now));
        assert_eq!((track.verdict, track.next), (Verdict::Unknown, now), "asked again at once");
        assert!(track.answered());
        assert!(!track.answered(), "no news");
        assert!(!track.missed(now) && !track.missed(now) && track.missed(now));
        assert_eq!(track.verdict, Verdict::Fails);
        assert!(!track.missed(now), "no news");
        // It has failed before: it has to do better now.
        assert!((1..AGAIN).all(|_| !track.answered()));
        assert!(track.answered());
        assert_eq!(track.verdict, Verdict::Passes);
    }
}
