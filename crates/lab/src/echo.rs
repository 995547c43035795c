//! The echo server: TCP, UDP and HTTP on one port, both families on one socket. Every answer begins with its own name
//! and the peer's address as it saw it: `NAME ADDRESS PORT`.
//!
//! - TCP: the line, then every byte that comes in. A client that says nothing for a moment gets the line all the same.
//! - UDP: the line, then the rest of the datagram, so that the answer is as long as the question if that is longer.
//! - HTTP, recognised by its method: the same as JSON.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use socket2::{Domain, Protocol, Socket, Type};

/// The port of pods' echo servers.
pub const PORT: u16 = 8080;

/// How long a TCP client may say nothing before it gets the line.
const SHY: Duration = Duration::from_millis(200);
/// How long a client may be silent.
const IDLE: Duration = Duration::from_secs(300);
/// How often a server that may be stopped looks whether it is.
const LOOK: Duration = Duration::from_millis(100);
const METHODS: [&[u8]; 5] = [b"GET ", b"HEAD ", b"POST ", b"PUT ", b"OPTIONS "];

/// What an answer says: the server's name and the peer as it saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The server's name.
    pub name: String,
    /// The peer's address.
    pub peer: IpAddr,
}

impl Answer {
    /// Reads the first line of an answer.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let line = bytes.split(|byte| *byte == b'\n').next()?;
        let mut words = std::str::from_utf8(line).ok()?.split(' ');
        let name = words.next()?.to_owned();
        let peer = words.next()?.parse().ok()?;
        Some(Self { name, peer })
    }
}

/// The line that begins every answer to `peer`.
pub fn line(name: &str, peer: SocketAddr) -> String {
    format!("{name} {} {}\n", plain(peer.ip()), peer.port())
}

/// IPv4 peers of a socket for both families, as IPv4.
fn plain(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}

/// A bound echo server.
pub struct Echo {
    name: Arc<str>,
    tcp: TcpListener,
    udp: UdpSocket,
}

impl Echo {
    /// Binds TCP and UDP on `port` (0: a free one) of all addresses of the namespace that this thread is in.
    pub fn bind(name: &str, port: u16) -> Result<Self> {
        let bind = |domain, ip: IpAddr| -> io::Result<Self> {
            let tcp = socket(domain, Type::STREAM, Protocol::TCP)?;
            tcp.bind(&SocketAddr::new(ip, port).into())?;
            tcp.listen(4096)?;
            let tcp = TcpListener::from(tcp);
            let udp = socket(domain, Type::DGRAM, Protocol::UDP)?;
            udp.bind(&SocketAddr::new(ip, tcp.local_addr()?.port()).into())?;
            // Datagrams of a full-size burst.
            udp.set_recv_buffer_size(1 << 20)?;
            Ok(Self { name: name.into(), tcp, udp: udp.into() })
        };
        // Without IPv6 in the kernel there is no socket for both.
        bind(Domain::IPV6, Ipv6Addr::UNSPECIFIED.into())
            .or_else(|_| bind(Domain::IPV4, Ipv4Addr::UNSPECIFIED.into()))
            .with_context(|| format!("bind port {port}"))
    }

    /// The port.
    pub fn port(&self) -> Result<u16> {
        Ok(self.tcp.local_addr()?.port())
    }

    /// Serves until `stop` is set, looking at it now and then.
    pub fn serve(self, stop: Arc<AtomicBool>) -> Result<()> {
        self.tcp.set_nonblocking(false)?;
        self.udp.set_read_timeout(Some(LOOK))?;
        let (udp, name) = (self.udp, self.name.clone());
        let stopped = stop.clone();
        let datagrams = std::thread::Builder::new().spawn(move || answer_datagrams(&udp, &name, &stopped))?;
        let connections = self.tcp.try_clone()?;
        let (name, stopped) = (self.name, stop.clone());
        // A blocking accept ends with the process, or when somebody connects after `stop`.
        std::thread::Builder::new().spawn(move || accept(&connections, &name, &stopped))?;
        let _ = datagrams.join();
        Ok(())
    }
}

fn socket(domain: Domain, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(domain, kind, Some(protocol))?;
    if domain == Domain::IPV6 {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(kind == Type::STREAM)?;
    Ok(socket)
}

fn answer_datagrams(socket: &UdpSocket, name: &str, stop: &AtomicBool) {
    let mut buffer = vec![0; 65_536];
    while !stop.load(Ordering::Relaxed) {
        // A timeout, or an ICMP error about an earlier answer.
        let Ok((length, peer)) = socket.recv_from(&mut buffer) else { continue };
        let line = line(name, peer);
        let end = length.max(line.len());
        if let Some(start) = buffer.get_mut(..line.len()) {
            start.copy_from_slice(line.as_bytes());
        }
        let _ = socket.send_to(buffer.get(..end).unwrap_or_default(), peer);
    }
}

fn accept(listener: &TcpListener, name: &Arc<str>, stop: &AtomicBool) {
    loop {
        let Ok((stream, peer)) = listener.accept() else {
            std::thread::sleep(LOOK);
            continue;
        };
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let name = name.clone();
        let talk = move || {
            // A client that goes away is its own affair.
            let _ = talk(stream, peer, &name);
        };
        let _ = std::thread::Builder::new().stack_size(256 << 10).spawn(talk);
    }
}

fn talk(mut stream: TcpStream, peer: SocketAddr, name: &str) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SHY))?;
    let mut buffer = [0; 16 << 10];
    let first = match stream.read(&mut buffer) {
        Ok(length) => length,
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => 0,
        Err(error) => return Err(error),
    };
    let head = buffer.get(..first).unwrap_or_default();
    stream.set_read_timeout(Some(IDLE))?;
    if METHODS.iter().any(|method| head.starts_with(method)) {
        return answer_http(stream, peer, name, head);
    }
    stream.write_all(line(name, peer).as_bytes())?;
    stream.write_all(head)?;
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        stream.write_all(buffer.get(..length).unwrap_or_default())?;
    }
}

fn answer_http(mut stream: TcpStream, peer: SocketAddr, name: &str, head: &[u8]) -> io::Result<()> {
    let request = String::from_utf8_lossy(head);
    let mut words = request.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let answer = serde_json::json!({
        "name": name, "peer": plain(peer.ip()), "port": peer.port(), "path": path,
    });
    let body = format!("{answer}\n");
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    if method != "HEAD" {
        stream.write_all(body.as_bytes())?;
    }
    stream.shutdown(std::net::Shutdown::Write)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    //! Must catch: an answer that names another peer than the one that asked, or bytes that do not come back.

    use super::*;

    fn server() -> u16 {
        let echo = Echo::bind("web", 0).unwrap();
        let port = echo.port().unwrap();
        std::thread::spawn(move || echo.serve(Arc::default()));
        port
    }

    #[test]
    fn tcp_gives_the_line_and_the_bytes_in_both_families() {
        let port = server();
        for ip in ["127.0.0.1", "::1"] {
            let mut stream = TcpStream::connect((ip, port)).unwrap();
            let sent = vec![b'x'; 100_000];
            let mut writer = stream.try_clone().unwrap();
            let bytes = sent.clone();
            let write = std::thread::spawn(move || {
                writer.write_all(&bytes).unwrap();
                writer.shutdown(std::net::Shutdown::Write).unwrap();
            });
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            write.join().unwrap();
            assert_eq!(Answer::parse(&all).unwrap(), Answer { name: "web".into(), peer: ip.parse().unwrap() });
            let line = all.iter().position(|b| *b == b'\n').unwrap() + 1;
            assert_eq!(&all[line..], &sent[..]);
        }
    }

    #[test]
    fn udp_answers_are_as_long_as_the_question() {
        let port = server();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(("127.0.0.1", port)).unwrap();
        let mut buffer = [0; 2000];
        for (sent, wanted) in [(1472, 1472), (1, line("web", socket.local_addr().unwrap()).len())] {
            socket.send(&vec![b'y'; sent]).unwrap();
            let length = socket.recv(&mut buffer).unwrap();
            assert_eq!(length, wanted);
            assert_eq!(Answer::parse(&buffer[..length]).unwrap().peer.to_string(), "127.0.0.1");
        }
    }

    #[test]
    fn http_is_answered_with_json() {
        let port = server();
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.write_all(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let body: serde_json::Value = serde_json::from_str(text.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        assert_eq!((&body["name"], &body["peer"], &body["path"]), (&"web".into(), &"127.0.0.1".into(), &"/x".into()));
    }

    #[test]
    fn a_silent_client_gets_the_line() {
        let port = server();
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let mut buffer = [0; 100];
        let length = stream.read(&mut buffer).unwrap();
        assert!(buffer[..length].starts_with(b"web 127.0.0.1 "));
    }
}
