//! A stream of numbered datagrams between two namespaces, and what became of it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::ns::Ns;
use crate::probe;

/// What a stream came to.
#[derive(Clone, Debug)]
pub struct Report {
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams received, each counted once.
    pub received: u64,
    /// Sends that the kernel refused.
    pub refused: u64,
    /// Longest time between two datagrams at the receiver.
    pub longest_gap: Duration,
}

impl Report {
    /// Datagrams that never came.
    pub fn lost(&self) -> u64 {
        self.sent.saturating_sub(self.received)
    }
}

/// A running stream.
pub struct Stream {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    refused: Arc<AtomicU64>,
    sender: Option<JoinHandle<()>>,
    receiver: Option<JoinHandle<(u64, Duration)>>,
}

impl Stream {
    /// One datagram each `every` from `from` to `to` in `into`. Starts once the first has arrived.
    pub fn start(from: &Ns, into: &Ns, to: IpAddr, every: Duration) -> Stream {
        let at = SocketAddr::new(to, probe::port());
        let inlet = into.udp(at, Duration::from_millis(100));
        let outlet = from.udp(SocketAddr::new(probe::any(to), 0), Duration::from_millis(100));
        let arrived = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let (sent, refused) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (s, a) = (stop.clone(), arrived.clone());
        let receiver = std::thread::spawn(move || {
            let mut buffer = [0u8; 64];
            let (mut seen, mut last, mut gap) = (0u64, None::<Instant>, Duration::ZERO);
            loop {
                match inlet.recv_from(&mut buffer) {
                    Ok(_) => {
                        seen += 1;
                        a.store(seen, Ordering::Relaxed);
                        gap = gap.max(last.map_or(Duration::ZERO, |l| l.elapsed()));
                        last = Some(Instant::now());
                    }
                    // What is under way gets 100 ms to arrive after the last was sent.
                    Err(_) if s.load(Ordering::Relaxed) => return (seen, gap),
                    Err(_) => (),
                }
            }
        });
        let (s, n, r) = (stop.clone(), sent.clone(), refused.clone());
        let sender = std::thread::spawn(move || {
            let mut next = Instant::now();
            while !s.load(Ordering::Relaxed) {
                let number = n.load(Ordering::Relaxed);
                match outlet.send_to(&number.to_be_bytes(), at) {
                    Ok(_) => n.fetch_add(1, Ordering::Relaxed),
                    Err(_) => r.fetch_add(1, Ordering::Relaxed),
                };
                next += every;
                std::thread::sleep(next.saturating_duration_since(Instant::now()));
            }
        });
        let began = Instant::now();
        while arrived.load(Ordering::Relaxed) == 0 {
            assert!(began.elapsed() < Duration::from_secs(5), "no packet of the stream {} -> {at} arrives", from.label);
            std::thread::sleep(Duration::from_millis(5));
        }
        Stream { stop, sent, refused, sender: Some(sender), receiver: Some(receiver) }
    }

    /// Ends it.
    pub fn finish(mut self) -> Report {
        let (received, longest_gap) = self.halt();
        Report {
            sent: self.sent.load(Ordering::Relaxed),
            received,
            refused: self.refused.load(Ordering::Relaxed),
            longest_gap,
        }
    }

    fn halt(&mut self) -> (u64, Duration) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(sender) = self.sender.take() {
            let _ = sender.join();
        }
        self.receiver.take().and_then(|r| r.join().ok()).unwrap_or_default()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.halt();
    }
}
