//! Many single packets at once, of every protocol that policies know, and what became of each: whether the host that it was
//! for got it, and whether an answer came back.
//!
//! No program has to listen anywhere. A raw socket sees what a host's packet filter has let through to the host itself;
//! the host's kernel answers TCP and echoes, this module the rest. A packet bears a number by which it is known again after
//! any translation.

mod ears;
mod shape;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::ns::Ns;

/// What a packet carries, and the port at its destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Carries {
    /// The first segment of a TCP connection.
    Tcp(u16),
    /// A datagram.
    Udp(u16),
    /// The first chunk of an SCTP association.
    Sctp(u16),
    /// An echo request.
    Echo,
}

/// A packet to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shot {
    /// The place that sends it.
    pub from: usize,
    /// The source that it bears.
    pub source: IpAddr,
    /// The destination that it bears.
    pub to: IpAddr,
    /// The place that it must arrive at.
    pub into: usize,
    /// The destination that it bears there: another if it is translated on its way.
    pub at: IpAddr,
    /// What it carries.
    pub carries: Carries,
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fate {
    /// It arrived where it must.
    pub arrived: bool,
    /// Its answer came back.
    pub answered: bool,
    /// It arrived somewhere else.
    pub astray: Option<usize>,
}

#[derive(Debug)]
struct Record {
    shot: Shot,
    fate: Fate,
}

type Book = Mutex<BTreeMap<u32, Record>>;

fn open(book: &Book) -> MutexGuard<'_, BTreeMap<u32, Record>> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Packets that were fired together. What became of them may be asked again later.
#[derive(Clone, Debug)]
pub struct Volley(Range<u32>);

/// Hosts that send and are listened to.
pub struct Field {
    book: Arc<Book>,
    mouths: Arc<Vec<Mouth>>,
    next: AtomicU32,
    stop: Arc<AtomicBool>,
    listener: Option<JoinHandle<()>>,
}

/// Where a place sends from.
struct Mouth {
    v4: UdpSocket,
    v6: UdpSocket,
}

impl Mouth {
    fn of(ns: &Ns) -> Mouth {
        // IPPROTO_RAW: what is written begins with the IP header.
        let [v4, v6] = [Domain::IPV4, Domain::IPV6].map(|domain| raw(ns, domain, 255));
        Mouth { v4, v6 }
    }

    fn say(&self, to: IpAddr, packet: &[u8]) -> std::io::Result<()> {
        let socket = if to.is_ipv4() { &self.v4 } else { &self.v6 };
        socket.send_to(packet, SocketAddr::new(to, 0)).map(drop)
    }
}

/// A raw socket; the type of the standard library has the calls that are wanted of it.
fn raw(ns: &Ns, domain: Domain, protocol: i32) -> UdpSocket {
    let make = || -> std::io::Result<UdpSocket> {
        let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(protocol)))?;
        socket.set_recv_buffer_size(4 << 20)?;
        socket.set_nonblocking(true)?;
        Ok(socket.into())
    };
    ns.run(|| make().unwrap_or_else(|e| panic!("open a raw socket of protocol {protocol} in {}: {e}", ns.label)))
}

/// How often a field that waits looks again.
const STEP: Duration = Duration::from_millis(2);

impl Field {
    /// Begins to listen at these places, which are named by their order from now on.
    pub fn new(places: &[Ns]) -> Field {
        let mouths: Arc<Vec<Mouth>> = Arc::new(places.iter().map(Mouth::of).collect());
        let book = Arc::new(Book::default());
        let stop = Arc::new(AtomicBool::new(false));
        let ears = ears::Ears::at(places);
        let (b, m, s) = (book.clone(), mouths.clone(), stop.clone());
        let listener = std::thread::spawn(move || ears.listen(&b, &m, &s));
        // Numbers of runs side by side do not meet: others' packets are not ours.
        let first = std::process::id().wrapping_mul(0x9E37_79B1) & 0x3FFF_FFFF;
        Field { book, mouths, next: AtomicU32::new(first), stop, listener: Some(listener) }
    }

    /// Sends packets, and waits until each has its answer, or so long.
    pub fn fire(&self, shots: &[Shot], patience: Duration) -> Volley {
        let count = u32::try_from(shots.len()).expect("a countable volley");
        let first = self.next.fetch_add(count, Ordering::Relaxed);
        let volley = Volley(first..first + count);
        let records = shots.iter().map(|shot| Record { shot: *shot, fate: Fate::default() });
        open(&self.book).extend(volley.0.clone().zip(records));
        for (id, shot) in volley.0.clone().zip(shots) {
            let packet = shape::question(shot, id);
            // A sender without a route for the family, say: the packet has not arrived, which is judged later.
            if let Err(error) = self.mouths[shot.from].say(shot.to, &packet) {
                println!("{shot:?} is not sent: {error}");
            }
        }
        let until = Instant::now() + patience;
        while Instant::now() < until && !self.fates(&volley).iter().all(|fate| fate.answered) {
            std::thread::sleep(STEP);
        }
        volley
    }

    /// What has become of each so far.
    pub fn fates(&self, volley: &Volley) -> Vec<Fate> {
        let book = open(&self.book);
        volley.0.clone().filter_map(|id| book.get(&id)).map(|record| record.fate).collect()
    }

    /// What has become of one so far.
    pub fn fate(&self, volley: &Volley, number: usize) -> Fate {
        let id = volley.0.clone().nth(number).unwrap_or_else(|| panic!("{volley:?} has no number {number}"));
        open(&self.book).get(&id).map(|record| record.fate).unwrap_or_default()
    }
}

impl Drop for Field {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}
