//! One question to one echo server, over one protocol. Blocking; runs on a thread that is in the asker's namespace.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use super::icmp;
use crate::echo::Answer;

/// Bytes that a bulk probe sends and wants back.
pub const BULK: usize = 64 << 10;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// A connection and a few bytes.
    Tcp,
    /// A connection and [`BULK`] bytes both ways.
    TcpBulk,
    /// A short datagram.
    Udp,
    /// A datagram that makes a packet of exactly the MTU, not to be fragmented.
    UdpFull,
    /// A short echo request.
    Icmp,
    /// An echo request of exactly the MTU, not to be fragmented.
    IcmpFull,
    /// A name looked up; not of an echo server.
    Name,
}

impl Kind {
    /// All that an echo server answers.
    pub const ALL: [Self; 6] = [Self::Tcp, Self::TcpBulk, Self::Udp, Self::UdpFull, Self::Icmp, Self::IcmpFull];
    /// One a protocol: enough where nothing is to come through.
    pub const SMALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Icmp];

    /// A column's heading.
    pub fn title(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::TcpBulk => "TCP 64K",
            Self::Udp => "UDP",
            Self::UdpFull => "UDP full",
            Self::Icmp => "ICMP",
            Self::IcmpFull => "ICMP full",
            Self::Name => "DNS",
        }
    }
}

/// Whom to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The address.
    pub ip: IpAddr,
    /// Port of the echo server.
    pub port: u16,
    /// Size of a full packet on the way there, in bytes.
    pub mtu: usize,
}

/// Nobody answered in time.
#[derive(Debug, thiserror::Error)]
#[error("no answer")]
pub struct NoAnswer;

/// Whether a probe failed because nothing came through, and not because it could not be asked at all.
pub fn came_to_nothing(error: &anyhow::Error) -> bool {
    use io::ErrorKind as K;
    let kinds = [
        K::TimedOut,
        K::WouldBlock,
        K::ConnectionRefused,
        K::ConnectionReset,
        K::HostUnreachable,
        K::NetworkUnreachable,
        // An ICMP error "administratively prohibited".
        K::PermissionDenied,
    ];
    error.downcast_ref::<NoAnswer>().is_some()
        || error.chain().any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|io| kinds.contains(&io.kind())))
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Who answered and which peer it saw; ICMP does not say.
    pub answer: Option<Answer>,
    /// How long the answer took, connecting included.
    pub took: Duration,
}

/// Asks, and waits at most `patience`.
pub fn ask(kind: Kind, target: &Target, patience: Duration) -> Result<Seen> {
    let header = if target.ip.is_ipv4() { 20 } else { 40 };
    let room = target.mtu.saturating_sub(header + 8);
    match kind {
        Kind::Tcp => tcp(target, 64, patience),
        Kind::TcpBulk => tcp(target, BULK, patience),
        Kind::Udp => udp(target, 64, patience),
        Kind::UdpFull => udp(target, room, patience),
        Kind::Icmp => icmp::ping(target.ip, 56, patience).map(|took| Seen { answer: None, took }),
        Kind::IcmpFull => icmp::ping(target.ip, room, patience).map(|took| Seen { answer: None, took }),
        Kind::Name => bail!("an echo server knows no names"),
    }
}

fn tcp(target: &Target, length: usize, patience: Duration) -> Result<Seen> {
    let began = Instant::now();
    let mut stream =
        TcpStream::connect_timeout(&SocketAddr::new(target.ip, target.port), patience).context("connect")?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    let sent: Vec<u8> = (0..length).map(|i| u8::try_from(i % 251).unwrap_or(0)).collect();
    let mut writer = stream.try_clone()?;
    let mut all = Vec::with_capacity(length + 128);
    std::thread::scope(|scope| -> Result<()> {
        // What fits into a socket's buffer needs no second thread.
        let mut write = move || -> io::Result<()> {
            writer.write_all(&sent)?;
            writer.shutdown(Shutdown::Write)
        };
        if length <= 4096 {
            write().context("send")?;
            stream.read_to_end(&mut all).context("receive")?;
            return Ok(());
        }
        let writing = scope.spawn(write);
        stream.read_to_end(&mut all).context("receive")?;
        writing.join().map_err(|_| io::Error::other("the sending thread died"))?.context("send")
    })?;
    let took = began.elapsed();
    let line = all.iter().position(|byte| *byte == b'\n').context("the answer has no line")? + 1;
    if all.len() - line != length {
        bail!("{} of {length} bytes came back", all.len() - line);
    }
    let answer = Answer::parse(&all).context("the answer does not name its peer")?;
    Ok(Seen { answer: Some(answer), took })
}

fn udp(target: &Target, length: usize, patience: Duration) -> Result<Seen> {
    let any = if target.ip.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).context("bind")?;
    socket.connect((target.ip, target.port)).context("connect")?;
    let deadline = Instant::now() + patience;
    let question = vec![b'?'; length];
    let mut buffer = vec![0; 65_536];
    loop {
        let began = Instant::now();
        socket.send(&question).with_context(|| format!("send {length} bytes"))?;
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(NoAnswer.into());
        }
        // Lost datagrams are sent again.
        socket.set_read_timeout(Some(left.min(Duration::from_millis(400))))?;
        match socket.recv(&mut buffer) {
            Ok(received) => {
                let answer = Answer::parse(buffer.get(..received).unwrap_or_default());
                let answer = answer.context("the answer does not name its peer")?;
                if received < length {
                    bail!("{received} of {length} bytes came back");
                }
                return Ok(Seen { answer: Some(answer), took: began.elapsed() });
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(error) => return Err(error).context("receive"),
        }
    }
}
