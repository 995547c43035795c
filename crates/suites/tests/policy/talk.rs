//! Two programs that go on speaking to each other over one flow, and what each of them hears.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use overlane_suites::packet::{checksum, sum_between};
use overlane_suites::wait::{millis, secs};
use overlane_suites::{Ns, probe};
use socket2::{Domain, Protocol, Socket, Type};

/// How often each of the two says something.
const BEAT: Duration = Duration::from_millis(20);
/// How long a listener waits before it looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(50);
/// Protocol number of ICMPv6.
const ICMP6: u8 = 58;

/// What is spoken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// TCP, both speak.
    Tcp(u16),
    /// UDP, both speak.
    Udp(u16),
    /// Echo requests of one number; the other side's kernel answers.
    Echo,
}

/// One of the two.
#[derive(Debug, Default)]
pub struct Side {
    mute: AtomicBool,
    sent: AtomicU64,
    heard: AtomicU64,
    /// Heard what was not the next to be heard, or the flow was ended.
    broken: AtomicBool,
}

impl Side {
    /// What it has heard so far.
    pub fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }

    /// What it has said so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Whether it heard something out of order, or that the flow has ended.
    pub fn broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// Lets it be silent, or speak again.
    pub fn mute(&self, mute: bool) {
        self.mute.store(mute, Ordering::Relaxed);
    }

    fn speaks(&self) -> bool {
        !self.mute.load(Ordering::Relaxed)
    }

    fn said(&self) -> u64 {
        self.sent.fetch_add(1, Ordering::Relaxed)
    }

    fn hears(&self) {
        self.heard.fetch_add(1, Ordering::Relaxed);
    }

    fn breaks(&self) {
        self.broken.store(true, Ordering::Relaxed);
    }
}

/// A conversation, until it is dropped.
pub struct Talk {
    /// Who speaks to whom, over what.
    pub name: String,
    /// What it is over.
    pub over: Over,
    /// The one that opened it.
    pub client: Arc<Side>,
    /// The other.
    pub server: Arc<Side>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Talk {
    /// Opens one.
    pub fn open(from: &Ns, into: &Ns, to: IpAddr, over: Over) -> Talk {
        let at = match over {
            Over::Tcp(port) | Over::Udp(port) => SocketAddr::new(to, port),
            Over::Echo => SocketAddr::new(to, 0),
        };
        Talk::by_way_of(from, into, at, to, over)
    }

    /// Opens one with who listens at `at`, by another address, and the port that `over` names.
    pub fn by_way_of(from: &Ns, into: &Ns, at: SocketAddr, to: IpAddr, over: Over) -> Talk {
        let mut talk = Talk {
            name: format!("{} -> {} ({to}) {over:?}", from.label, into.label),
            over,
            client: Arc::default(),
            server: Arc::default(),
            stop: Arc::default(),
            threads: Vec::new(),
        };
        match over {
            Over::Tcp(port) => talk.tcp(from, into, at, SocketAddr::new(to, port)),
            Over::Udp(port) => talk.udp(from, into, at, SocketAddr::new(to, port)),
            Over::Echo => talk.echo(from, to),
        }
        talk
    }

    /// What arrived at either side so far. The server of an echo is a kernel, which does not say what it hears.
    pub fn heard(&self) -> [u64; 2] {
        [&self.client, &self.server].map(|side| side.heard())
    }

    /// Those who listen and have something to say.
    pub fn sides(&self) -> Vec<&Arc<Side>> {
        if self.over == Over::Echo { vec![&self.client] } else { vec![&self.client, &self.server] }
    }

    /// What was said and never arrived, either way, once all that is under way has had its time. Both fall silent.
    pub fn lost(&self) -> u64 {
        self.client.mute(true);
        self.server.mute(true);
        std::thread::sleep(millis(500));
        let pairs: &[_] = if self.over == Over::Echo {
            &[(&self.client, &self.client)]
        } else {
            &[(&self.client, &self.server), (&self.server, &self.client)]
        };
        pairs.iter().map(|(from, to)| from.sent().saturating_sub(to.heard())).sum()
    }

    fn spawn(&mut self, side: &Arc<Side>, work: impl FnOnce(&Side, &AtomicBool) + Send + 'static) {
        let (side, stop) = (side.clone(), self.stop.clone());
        self.threads.push(std::thread::spawn(move || work(&side, &stop)));
    }

    fn tcp(&mut self, from: &Ns, into: &Ns, at: SocketAddr, to: SocketAddr) {
        let listener = into.listen(at);
        let client = from.connect(to, None, secs(5)).unwrap_or_else(|e| panic!("{}: {e}", self.name));
        let (server, _) = listener.accept().unwrap();
        for (side, stream) in [(self.client.clone(), client), (self.server.clone(), server)] {
            stream.set_nodelay(true).unwrap();
            stream.set_read_timeout(Some(LOOK)).unwrap();
            let reader = stream.try_clone().unwrap();
            self.spawn(&side, move |side, stop| write_stream(stream, side, stop));
            self.spawn(&side, move |side, stop| read_stream(reader, side, stop));
        }
    }

    fn udp(&mut self, from: &Ns, into: &Ns, at: SocketAddr, to: SocketAddr) {
        let server = into.udp(at, LOOK);
        let client = from.udp(SocketAddr::new(probe::any(at.ip()), 0), LOOK);
        client.connect(to).unwrap();
        let peer: Arc<Mutex<Option<SocketAddr>>> = Arc::default();
        let (reader, known) = (client.try_clone().unwrap(), peer.clone());
        self.spawn(&self.client.clone(), move |side, stop| send(side, stop, |word| client.send(word)));
        self.spawn(&self.client.clone(), move |side, stop| receive(&reader, side, stop, |_| ()));
        let reader = server.try_clone().unwrap();
        let speak = move |word: &[u8]| match *peer.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(peer) => server.send_to(word, peer),
            None => Err(std::io::ErrorKind::NotConnected.into()),
        };
        self.spawn(&self.server.clone(), move |side, stop| send(side, stop, speak));
        let learn = move |peer| *known.lock().unwrap_or_else(PoisonError::into_inner) = Some(peer);
        self.spawn(&self.server.clone(), move |side, stop| receive(&reader, side, stop, learn));
    }

    fn echo(&mut self, from: &Ns, to: IpAddr) {
        let (domain, protocol) =
            if to.is_ipv4() { (Domain::IPV4, Protocol::ICMPV4) } else { (Domain::IPV6, Protocol::ICMPV6) };
        let open = || -> std::io::Result<UdpSocket> {
            let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
            socket.set_read_timeout(Some(LOOK))?;
            socket.connect(&SocketAddr::new(to, 0).into())?;
            Ok(socket.into())
        };
        let socket = from.run(|| open().unwrap_or_else(|e| panic!("{}: {e}", self.name)));
        let reader = socket.try_clone().unwrap();
        // One number for the whole: it is one flow to connection tracking.
        let id = probe::port();
        let speak = move |word: &[u8]| socket.send(&echo_request(to, id, word));
        self.spawn(&self.client.clone(), move |side, stop| send(side, stop, speak));
        self.spawn(&self.client.clone(), move |side, stop| hear_echoes(&reader, to, id, side, stop));
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn write_stream(mut stream: TcpStream, side: &Side, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        if side.speaks() {
            let number = side.sent();
            if stream.write_all(&number.to_be_bytes()).is_err() {
                return side.breaks();
            }
            side.said();
        }
        std::thread::sleep(BEAT);
    }
}

fn read_stream(mut stream: TcpStream, side: &Side, stop: &AtomicBool) {
    let (mut pending, mut buffer) = (Vec::new(), [0; 4096]);
    while !stop.load(Ordering::Relaxed) {
        match stream.read(&mut buffer) {
            Ok(0) => return side.breaks(),
            Ok(length) => pending.extend_from_slice(&buffer[..length]),
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => (),
            Err(_) => return side.breaks(),
        }
        while pending.len() >= 8 {
            let number: Vec<u8> = pending.drain(..8).collect();
            if number != side.heard().to_be_bytes() {
                side.breaks();
            }
            side.hears();
        }
    }
}

fn send(side: &Side, stop: &AtomicBool, speak: impl Fn(&[u8]) -> std::io::Result<usize>) {
    while !stop.load(Ordering::Relaxed) {
        // What the kernel refuses was not said.
        if side.speaks() && speak(&side.sent().to_be_bytes()).is_ok() {
            side.said();
        }
        std::thread::sleep(BEAT);
    }
}

fn receive(socket: &UdpSocket, side: &Side, stop: &AtomicBool, learn: impl Fn(SocketAddr)) {
    let mut buffer = [0; 64];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((8, peer)) = socket.recv_from(&mut buffer) {
            learn(peer);
            side.hears();
        }
    }
}

fn echo_request(to: IpAddr, id: u16, word: &[u8]) -> Vec<u8> {
    let mut message = vec![if to.is_ipv4() { 8 } else { 128 }, 0, 0, 0];
    message.extend(id.to_be_bytes());
    message.extend([0, 1]);
    message.extend(word);
    // Of ICMPv6 the kernel fills it in, since it knows the source.
    let sum = if to.is_ipv4() { checksum(&message) } else { sum_between(to, to, ICMP6, &message) };
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

fn hear_echoes(socket: &UdpSocket, to: IpAddr, id: u16, side: &Side, stop: &AtomicBool) {
    let mut buffer = [0; 256];
    while !stop.load(Ordering::Relaxed) {
        let Ok((length, _)) = socket.recv_from(&mut buffer) else { continue };
        let header = if to.is_ipv4() { usize::from(buffer[0] & 15) * 4 } else { 0 };
        let message = buffer[..length].get(header..).unwrap_or_default();
        let answer = if to.is_ipv4() { 0 } else { 129 };
        if message.first() == Some(&answer) && message.get(4..6) == Some(&id.to_be_bytes()[..]) {
            side.hears();
        }
    }
}
