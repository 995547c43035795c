//! Packets: the same loads between two pods and between their nodes, turn by turn.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, setns};
use nix::unistd::Pid;
use serde::Serialize;
use socket2::{Domain, SockRef, Socket, Type};

/// Two network namespaces and the address at which the server's side is reached.
#[derive(Clone, Debug)]
pub struct Ends {
    /// Path of the client's namespace.
    pub client_ns: String,
    /// Path of the server's namespace.
    pub server_ns: String,
    /// The server's address as the client sees it.
    pub server: IpAddr,
}

/// What one run of one load measured; a load fills what it measures.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Sample {
    /// The load's main figure: bit/s, microseconds, packets/s or connections/s.
    pub figure: f64,
    /// CPU seconds of the whole machine that went by in it, a second.
    pub cpu: f64,
}

/// The loads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// One TCP stream; bit/s.
    TcpStream,
    /// One byte there and back over TCP, both ends on one CPU; microseconds.
    TcpRoundTrip,
    /// UDP datagrams of 64 bytes, received; packets/s.
    UdpPackets,
    /// TCP connections opened, accepted and closed one after the other; connections/s.
    TcpConnects,
}

impl Load {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 4] = [Self::TcpStream, Self::TcpRoundTrip, Self::UdpPackets, Self::TcpConnects];

    /// The name in tables and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::TcpStream => "TCP stream, Gbit/s",
            Self::TcpRoundTrip => "round trip on one CPU, us",
            Self::UdpPackets => "UDP, packets/s",
            Self::TcpConnects => "TCP connects/s",
        }
    }

    /// Runs the load once for about `time`.
    pub fn run(self, ends: &Ends, time: Duration) -> Result<Sample> {
        match self {
            Self::TcpStream => tcp_stream(ends, time),
            Self::TcpRoundTrip => tcp_round_trip(ends, time),
            Self::UdpPackets => udp_packets(ends, time),
            Self::TcpConnects => tcp_connects(ends, time),
        }
    }
}

/// Runs `f` on a new thread inside the namespace at `path`, pinned to `cpu`.
fn inside<T: Send + 'static>(
    path: &str,
    cpu: usize,
    f: impl FnOnce() -> Result<T> + Send + 'static,
) -> thread::JoinHandle<Result<T>> {
    let path = path.to_owned();
    thread::spawn(move || {
        let ns = File::open(&path).with_context(|| format!("open network namespace {path}"))?;
        setns(&ns, CloneFlags::CLONE_NEWNET).with_context(|| format!("enter network namespace {path}"))?;
        pin(cpu)?;
        f()
    })
}

fn pin(cpu: usize) -> Result<()> {
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    let mut set = CpuSet::new();
    set.set(cpu % cpus)?;
    sched_setaffinity(Pid::from_raw(0), &set).context("pin a thread to its CPU")
}

fn join<T>(handle: thread::JoinHandle<Result<T>>) -> Result<T> {
    handle.join().map_err(|_| anyhow!("a load's thread ended by a panic"))?
}

/// CPU seconds that the whole machine has spent so far, interrupts included.
fn machine_cpu() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/stat").context("read /proc/stat")?;
    let fields: Vec<f64> =
        stat.lines().next().unwrap_or_default().split_whitespace().skip(1).filter_map(|f| f.parse().ok()).collect();
    // user, nice, system, idle, iowait, irq, softirq, steal (proc_stat(5)), in hundredths of a second.
    let busy: f64 = [0, 1, 2, 5, 6].iter().filter_map(|i| fields.get(*i)).sum();
    Ok(busy / 100.0)
}

/// The same on every machine: paces nothing by a clock of its own, as BBR does.
pub const CONGESTION: &str = "cubic";

fn listen(ends: &Ends, cpu: usize) -> Result<TcpListener> {
    let address = SocketAddr::new(ends.server, 0);
    join(inside(&ends.server_ns, cpu, move || {
        let listener = TcpListener::bind(address).with_context(|| format!("listen on {address}"))?;
        // What it accepts inherits it.
        SockRef::from(&listener).set_tcp_congestion(CONGESTION.as_bytes()).context("set congestion control")?;
        Ok(listener)
    }))
}

fn connect(to: SocketAddr) -> Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.set_tcp_congestion(CONGESTION.as_bytes()).context("set congestion control")?;
    socket.connect_timeout(&to.into(), Duration::from_secs(5)).with_context(|| format!("connect to {to}"))?;
    Ok(socket.into())
}

fn tcp_stream(ends: &Ends, time: Duration) -> Result<Sample> {
    let listener = listen(ends, 1)?;
    let to = listener.local_addr()?;
    let server = inside(&ends.server_ns, 1, move || {
        let (mut stream, _) = listener.accept()?;
        let mut buffer = vec![0; 256 << 10];
        let mut total = 0u64;
        let start = Instant::now();
        loop {
            match stream.read(&mut buffer)? {
                0 => return Ok(total as f64 * 8.0 / start.elapsed().as_secs_f64()),
                n => total += n as u64,
            }
        }
    });
    let before = machine_cpu()?;
    let client = inside(&ends.client_ns, 0, move || {
        let mut stream = connect(to)?;
        let buffer = vec![0x5a; 256 << 10];
        let end = Instant::now() + time;
        let mut total = 0u64;
        while Instant::now() < end {
            stream.write_all(&buffer)?;
            total += buffer.len() as u64;
        }
        Ok(total)
    });
    let sent = join(client)?;
    let rate = join(server)?;
    let cpu = machine_cpu()? - before;
    Ok(Sample { figure: rate / 1e9, cpu: cpu / (sent as f64 / (1u64 << 30) as f64) })
}

fn tcp_round_trip(ends: &Ends, time: Duration) -> Result<Sample> {
    let listener = listen(ends, 0)?;
    let to = listener.local_addr()?;
    let server = inside(&ends.server_ns, 0, move || {
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let mut byte = [0; 1];
        while stream.read(&mut byte)? == 1 {
            stream.write_all(&byte)?;
        }
        Ok(())
    });
    let client = inside(&ends.client_ns, 0, move || {
        let mut stream = connect(to)?;
        stream.set_nodelay(true)?;
        let mut byte = [0; 1];
        let start = Instant::now();
        let mut trips = 0u64;
        while start.elapsed() < time {
            for _ in 0..64 {
                stream.write_all(&byte)?;
                stream.read_exact(&mut byte)?;
            }
            trips += 64;
        }
        Ok(start.elapsed().as_secs_f64() * 1e6 / trips as f64)
    });
    let figure = join(client)?;
    join(server)?;
    Ok(Sample { figure, cpu: 0.0 })
}

fn udp_packets(ends: &Ends, time: Duration) -> Result<Sample> {
    let bind = SocketAddr::new(ends.server, 0);
    let socket = join(inside(&ends.server_ns, 1, move || Ok(UdpSocket::bind(bind)?)))?;
    let to = socket.local_addr()?;
    let done = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&done);
    let server = inside(&ends.server_ns, 1, move || {
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let mut buffer = [0; 2048];
        let mut packets = 0u64;
        let start = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            if socket.recv(&mut buffer).is_ok() {
                packets += 1;
            }
        }
        Ok(packets as f64 / start.elapsed().as_secs_f64())
    });
    let any: SocketAddr = if to.is_ipv4() { "0.0.0.0:0".parse()? } else { "[::]:0".parse()? };
    let before = machine_cpu()?;
    let client = inside(&ends.client_ns, 0, move || {
        let socket = UdpSocket::bind(any)?;
        socket.connect(to)?;
        let end = Instant::now() + time;
        while Instant::now() < end {
            for _ in 0..32 {
                let _ = socket.send(&[0x5a; 64]);
            }
        }
        Ok(())
    });
    join(client)?;
    let cpu = (machine_cpu()? - before) / time.as_secs_f64();
    done.store(true, Ordering::Relaxed);
    Ok(Sample { figure: join(server)?, cpu })
}

fn tcp_connects(ends: &Ends, time: Duration) -> Result<Sample> {
    let listener = listen(ends, 1)?;
    let to = listener.local_addr()?;
    let done = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&done);
    let server = inside(&ends.server_ns, 1, move || {
        while !stop.load(Ordering::Relaxed) {
            drop(listener.accept()?);
        }
        Ok(())
    });
    let before = machine_cpu()?;
    let finish = Arc::clone(&done);
    let client = inside(&ends.client_ns, 0, move || {
        let start = Instant::now();
        let mut connects = 0u64;
        while start.elapsed() < time {
            let mut stream = connect(to)?;
            // The server has accepted it and hung up: else its queue overflows, and a lost SYN stands still for a second.
            let _ = stream.read(&mut [0; 1])?;
            // A reset instead of TIME_WAIT: else the client's ports run out within a run.
            SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
            connects += 1;
        }
        let rate = connects as f64 / start.elapsed().as_secs_f64();
        finish.store(true, Ordering::Relaxed);
        // Wakes the server from its last accept; it may have seen the flag and gone already.
        drop(connect(to));
        Ok(rate)
    });
    let figure = join(client)?;
    let cpu = (machine_cpu()? - before) / time.as_secs_f64();
    join(server)?;
    Ok(Sample { figure, cpu })
}
