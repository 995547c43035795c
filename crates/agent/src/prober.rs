//! Asks the fabric whether it carries pod packets bare, as the plan's probes say, and keeps what it answers.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::net::IpAddr;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use overlane_core::cidr::Cidr;
use overlane_core::family::Family;
use overlane_core::plan::{ProbePlan, ProbeTarget};
use overlane_datapath::echo::EchoSocket;

use crate::reconcile::Wake;

/// How long one look at a socket waits.
const LOOK: Duration = Duration::from_millis(100);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often each target is asked, as long as there are no more than a second's worth of them.
pub const INTERVAL: Duration = Duration::from_secs(1);
const SECOND: Duration = Duration::from_secs(1);
/// The same of one that passes, where its packets have no other way anyway.
const CALM: Duration = Duration::from_secs(5);
/// Most questions a second, and at once.
const RATE: u32 = 200;
const BURST: f64 = 50.0;
/// So many unanswered questions in a row are a no: one packet may be lost on the way.
const MISSES: u32 = 3;
/// A target that had passed and then failed is asked so often before it counts as passing again, where its packets have
/// another way meanwhile.
pub const AGAIN: u32 = 10;
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
    /// What fails goes another way.
    other_way: bool,
    /// How often each target is asked, as long as there are no more than the rate allows.
    every: Duration,
    /// So many answers in a row make a target pass that came later than the first ones.
    newcomers: u32,
}

/// How targets are asked.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// Bytes of an IP packet.
    pub size: u32,
    /// Packets for what fails are sent in something else.
    pub other_way: bool,
    /// How often each is asked, as long as there are no more than the rate allows.
    pub every: Duration,
    /// So many answers in a row make one pass that came later than the first ones.
    pub newcomers: u32,
}

impl Prober {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has this asked from now on, in this manner.
    pub fn want(&self, plan: &ProbePlan, manner: Manner) {
        let Manner { size, other_way, every, newcomers } = manner;
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let wanted = Wanted { plan: plan.clone(), size, other_way, every, newcomers };
        let mut shared = self.lock();
        if shared.wanted != wanted {
            shared.wanted = wanted;
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

    /// What is wanted, as soon as it is not what is `asked`, or it is time; without a time, there is nothing to ask.
    fn wanted(&self, asked: &Wanted, time: Option<Instant>) -> Wanted {
        let mut shared = self.lock();
        while shared.wanted == *asked {
            let left = time.map(|time| time.saturating_duration_since(Instant::now()));
            shared = match left {
                None => self.news.wait(shared).unwrap_or_else(PoisonError::into_inner),
                Some(left) if left.is_zero() => break,
                Some(left) => self.news.wait_timeout(shared, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
        shared.wanted.clone()
    }

    /// Whether that is news.
    fn tell(&self, verdicts: BTreeMap<Cidr, Verdict>, fault: Option<String>) -> bool {
        let mut shared = self.lock();
        let news = shared.verdicts != verdicts || shared.fault != fault;
        (shared.verdicts, shared.fault) = (verdicts, fault);
        news
    }
}

/// Asks until the process ends.
pub fn run(prober: &Arc<Prober>, wake: &Sender<Wake>) {
    let mut asker = Asker::default();
    loop {
        let wanted = prober.wanted(&asker.wanted, asker.next_turn());
        let fault = asker.turn(&wanted).err().map(|error| format!("ask the fabric: {error}"));
        if fault.is_some() {
            // Without sockets nothing is known.
            asker = Asker::default();
        }
        if std::mem::take(&mut asker.changed) && prober.tell(asker.verdicts(), fault.clone()) {
            if let Some(fault) = &fault {
                tracing::warn!("{fault}; tried again");
            }
            if wake.send(Wake::Fabric).is_err() {
                return;
            }
        }
        if fault.is_some() {
            std::thread::sleep(RETRY);
        }
    }
}

/// One target.
#[derive(Debug)]
struct Track {
    target: ProbeTarget,
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
    fn new(target: ProbeTarget, next: Instant) -> Self {
        Self { target, verdict: Verdict::Unknown, misses: 0, passes: 0, needed: 1, asked: None, next }
    }

    /// Asks anew; what was known counts until that is answered, or not.
    fn start_over(&mut self, now: Instant) {
        (self.misses, self.passes, self.asked, self.next) = (0, 0, None, now);
    }

    fn answered(&mut self) {
        self.asked = None;
        self.misses = 0;
        self.passes = self.passes.saturating_add(1);
        if self.passes >= self.needed {
            self.verdict = Verdict::Passes;
        }
    }

    /// Asks again at once while it is not sure; a fall has to be made good by `again` answers.
    fn missed(&mut self, now: Instant, again: u32) {
        self.asked = None;
        self.passes = 0;
        self.misses = self.misses.saturating_add(1);
        if self.misses < MISSES {
            self.next = now;
            return;
        }
        if self.verdict == Verdict::Passes {
            self.needed = again;
        }
        self.verdict = Verdict::Fails;
    }
}

struct Asker {
    wanted: Wanted,
    sockets: BTreeMap<Family, EchoSocket>,
    tracks: BTreeMap<Cidr, Track>,
    sequence: u16,
    /// Which target a question that is out was for, by its number.
    out: HashMap<u16, Cidr>,
    /// What makes tokens that nobody else can tell.
    secret: RandomState,
    /// The last target that was asked: the next turn goes on behind it.
    last: Option<Cidr>,
    /// Questions that may be asked now, and when that was worked out.
    budget: (f64, Instant),
    /// The verdicts are not those that were told.
    changed: bool,
}

impl Default for Asker {
    fn default() -> Self {
        Self {
            wanted: Wanted::default(),
            sockets: BTreeMap::new(),
            tracks: BTreeMap::new(),
            sequence: 0,
            out: HashMap::new(),
            secret: RandomState::new(),
            last: None,
            budget: (BURST, Instant::now()),
            changed: true,
        }
    }
}

impl Asker {
    fn verdicts(&self) -> BTreeMap<Cidr, Verdict> {
        self.tracks.iter().map(|(block, track)| (*block, track.verdict)).collect()
    }

    /// When there is something to do next; `None` where nothing is asked.
    fn next_turn(&self) -> Option<Instant> {
        let now = Instant::now();
        let next = self.tracks.values().map(|track| track.next).min()?;
        // What is due and was not asked waits for the rate.
        Some(if !self.out.is_empty() {
            now
        } else if next <= now {
            now + LOOK
        } else {
            next
        })
    }

    /// One turn: asks what is due, hears what comes.
    fn turn(&mut self, wanted: &Wanted) -> io::Result<()> {
        self.adopt(wanted)?;
        let now = Instant::now();
        let again = if self.wanted.other_way { AGAIN } else { 1 };
        let late = |track: &Track| track.asked.filter(|(_, at)| now.duration_since(*at) >= PATIENCE);
        for track in self.tracks.values_mut() {
            if let Some((sequence, _)) = late(track) {
                self.out.remove(&sequence);
                let before = track.verdict;
                track.missed(now, again);
                self.changed |= track.verdict != before;
            }
        }
        self.ask(now);
        // Whatever else comes, the turn ends in time.
        let each = LOOK / u32::try_from(self.sockets.len().max(1)).unwrap_or(1);
        let mut deadline = now;
        for socket in self.sockets.values() {
            deadline = deadline.max(Instant::now()) + each;
            while !self.out.is_empty()
                && let Some(answer) = socket.answer(deadline)?
            {
                let Some(block) = self.out.get(&answer.sequence).copied() else { continue };
                let Some(track) = self.tracks.get_mut(&block) else { continue };
                if track.target.at == answer.from && answer.token == token(&self.secret, &block, answer.sequence) {
                    self.out.remove(&answer.sequence);
                    let before = track.verdict;
                    track.answered();
                    self.changed |= track.verdict != before;
                }
            }
        }
        Ok(())
    }

    fn ask(&mut self, now: Instant) {
        for block in self.pick(now) {
            let (Some(socket), Some(track)) = (self.sockets.get(&block.family()), self.tracks.get(&block)) else {
                continue;
            };
            let Some((sequence, _)) = track.asked else { continue };
            let token = token(&self.secret, &block, sequence);
            // What cannot be sent gets no answer.
            if let Err(error) = socket.ask(track.target.at, sequence, token, self.wanted.size) {
                tracing::debug!(%error, to = %track.target.at, "ask the fabric");
            }
        }
    }

    /// Whom to ask now: what is due, as far as the rate allows, in turns.
    fn pick(&mut self, now: Instant) -> Vec<Cidr> {
        let (left, at) = self.budget;
        let mut left = (left + now.duration_since(at).as_secs_f64() * f64::from(RATE)).min(BURST);
        let (many, other_way, every) = (self.tracks.len(), self.wanted.other_way, self.wanted.every);
        let due = |track: &Track| track.asked.is_none() && track.next <= now;
        let blocks: Vec<Cidr> = self.tracks.iter().filter(|(_, track)| due(track)).map(|(block, _)| *block).collect();
        let start = blocks.partition_point(|block| Some(*block) <= self.last);
        let (before, after) = blocks.split_at(start);
        let mut picked = Vec::new();
        for block in after.iter().chain(before).copied() {
            let Some(track) = self.tracks.get_mut(&block).filter(|_| left >= 1.0) else { break };
            left -= 1.0;
            self.sequence = self.sequence.wrapping_add(1);
            let calm = track.verdict == Verdict::Passes && !other_way;
            (track.next, track.asked) = (now + interval(every, many, calm), Some((self.sequence, now)));
            self.out.insert(self.sequence, block);
            self.last = Some(block);
            picked.push(block);
        }
        self.budget = (left, now);
        picked
    }

    fn adopt(&mut self, wanted: &Wanted) -> io::Result<()> {
        if self.wanted == *wanted {
            return Ok(());
        }
        let now = Instant::now();
        if self.wanted.plan.own != wanted.plan.own {
            let identifier = u16::try_from(std::process::id() & 0xffff).unwrap_or_default();
            let open = |(family, own): (&Family, &IpAddr)| Ok((*family, EchoSocket::open(*own, identifier)?));
            self.sockets = wanted.plan.own.iter().map(open).collect::<io::Result<_>>()?;
        }
        // What was found out by another address, or for packets of another size, is asked again.
        if self.wanted.plan.own != wanted.plan.own || self.wanted.size != wanted.size {
            self.out.clear();
            self.tracks.values_mut().for_each(|track| track.start_over(now));
        }
        let targets = &wanted.plan.targets;
        let needed = if self.tracks.is_empty() { 1 } else { wanted.newcomers.max(1) };
        self.tracks.retain(|block, track| targets.get(block) == Some(&track.target));
        for (block, target) in targets {
            self.tracks.entry(*block).or_insert_with(|| Track { needed, ..Track::new(*target, now) });
        }
        self.out.retain(|_, block| self.tracks.contains_key(block));
        self.wanted = wanted.clone();
        self.changed = true;
        Ok(())
    }
}

/// How long after a question the next one to the same target comes, with so many targets.
fn interval(every: Duration, targets: usize, calm: bool) -> Duration {
    let least = if calm { CALM } else { every };
    least.max(SECOND * u32::try_from(targets).unwrap_or(u32::MAX) / RATE)
}

fn token(secret: &RandomState, block: &Cidr, sequence: u16) -> u64 {
    secret.hash_one((block, sequence))
}

#[cfg(test)]
mod tests {
    //! Must catch: one lost packet that counts as a no; all questions of a large cluster at once; a
    //! thread that never sleeps.

    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::collections::BTreeSet;

    use super::*;

    fn target() -> ProbeTarget {
        ProbeTarget { at: [10, 244, 1, 255].into(), node_ip: [10, 224, 0, 5].into() }
    }

    #[test]
    fn one_answer_is_enough_and_one_silence_is_not() {
        let now = Instant::now();
        let mut track = Track::new(target(), now);
        track.missed(now, AGAIN);
        track.missed(now, AGAIN);
        assert_eq!((track.verdict, track.next), (Verdict::Unknown, now), "asked again at once");
        track.answered();
        assert_eq!(track.verdict, Verdict::Passes);
        (0..2).for_each(|_| track.missed(now, AGAIN));
        assert_eq!(track.verdict, Verdict::Passes);
        track.missed(now, AGAIN);
        assert_eq!(track.verdict, Verdict::Fails);
        // It has failed before: it has to do better now.
        (1..AGAIN).for_each(|_| track.answered());
        assert_eq!(track.verdict, Verdict::Fails);
        track.answered();
        assert_eq!(track.verdict, Verdict::Passes);
    }

    #[test]
    fn without_another_way_one_answer_gives_it_back() {
        let now = Instant::now();
        let mut track = Track::new(target(), now);
        track.answered();
        (0..MISSES).for_each(|_| track.missed(now, 1));
        assert_eq!(track.verdict, Verdict::Fails);
        track.answered();
        assert_eq!(track.verdict, Verdict::Passes);
    }

    #[test]
    fn newcomers_show_more() {
        let other = ProbeTarget { at: [10, 244, 2, 255].into(), ..target() };
        let first = (Cidr::host_range(target().at), target());
        let later = (Cidr::host_range(other.at), other);
        let mut asker = Asker::default();
        let wanted = |targets: &[(Cidr, ProbeTarget)]| {
            let plan = ProbePlan { targets: targets.iter().copied().collect(), ..ProbePlan::default() };
            Wanted { plan, newcomers: AGAIN, ..Wanted::default() }
        };
        asker.adopt(&wanted(&[first])).unwrap();
        asker.adopt(&wanted(&[first, later])).unwrap();
        assert_eq!((asker.tracks[&first.0].needed, asker.tracks[&later.0].needed), (1, AGAIN));
    }

    #[test]
    fn who_has_nothing_to_do_sleeps() {
        let mut asker = Asker::default();
        assert_eq!(asker.next_turn(), None);
        let targets = [(Cidr::host_range(target().at), target())].into();
        asker
            .adopt(&Wanted {
                plan: ProbePlan { targets, ..ProbePlan::default() },
                every: INTERVAL,
                ..Wanted::default()
            })
            .unwrap();
        let now = Instant::now();
        assert_eq!(asker.pick(now).len(), 1);
        assert!(asker.next_turn() <= Some(Instant::now()), "an answer may come");
        asker.out.clear();
        assert_eq!(asker.next_turn(), Some(now + INTERVAL));
    }

    #[test]
    fn questions_are_spread_and_everybody_has_a_turn() {
        let block = |n: u32| Cidr::around(IpAddr::V4((0x0af4_0000 + (n << 8)).into()), 24).unwrap();
        let targets = (0..1000).map(|n| (block(n), target())).collect();
        let mut asker = Asker::default();
        asker
            .adopt(&Wanted {
                plan: ProbePlan { targets, ..ProbePlan::default() },
                size: 100,
                other_way: true,
                every: INTERVAL,
                newcomers: 1,
            })
            .unwrap();
        let begun = Instant::now();
        let mut asked = BTreeSet::new();
        for turn in 1..=50_u32 {
            let picked = asker.pick(begun + Duration::from_millis(100) * turn);
            assert!(picked.len() <= if turn == 1 { 50 } else { 21 }, "{} in turn {turn}", picked.len());
            asked.extend(picked);
        }
        assert_eq!(asked.len(), 1000, "each of them");
        assert_eq!(interval(INTERVAL, 2000, true), Duration::from_secs(10));
        assert_eq!((interval(INTERVAL, 20, true), interval(INTERVAL, 20, false)), (CALM, INTERVAL));
    }
}
