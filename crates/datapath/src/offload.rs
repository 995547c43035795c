//! Whether checksums of what goes into the tunnel are made: the device below may be told to make them, and not do it.
//!
//! A datagram to a port that nobody has is answered with "unreachable" (RFC 1122, section 4.1.3.1); one with a wrong checksum
//! is dropped without a word.

use std::io;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use nix::libc;

use crate::owned::TUNNEL_LINK;

/// A port that nobody listens on.
const PORT: u16 = 1;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_millis(300);
/// linux/ethtool.h.
const ETHTOOL_GTXCSUM: u32 = 0x16;
const ETHTOOL_STXCSUM: u32 = 0x17;

/// Whether a datagram from one address of the tunnel to another is answered. A firewall of the other node may keep it from
/// that.
///
/// # Errors
/// It could not be sent.
pub fn is_answered(from: IpAddr, to: IpAddr) -> io::Result<bool> {
    let socket = UdpSocket::bind((from, 0))?;
    socket.connect((to, PORT))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(b"is the checksum right?")?;
    match socket.recv(&mut [0; 64]) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(true),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => Ok(false),
        Err(error) => Err(error),
    }
}

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// Whether the tunnel's link leaves checksums to the device below.
///
/// # Errors
/// The kernel could not be asked.
pub fn is_on() -> io::Result<bool> {
    ethtool(ETHTOOL_GTXCSUM, 0).map(|data| data != 0)
}

/// Has it leave them to the device below, or make them.
///
/// # Errors
/// The kernel refused.
pub fn set(on: bool) -> io::Result<()> {
    ethtool(ETHTOOL_STXCSUM, on.into()).map(drop)
}

fn ethtool(command: u32, data: u32) -> io::Result<u32> {
    let socket = UdpSocket::bind(("::", 0)).or_else(|_| UdpSocket::bind(("0.0.0.0", 0)))?;
    let mut value = Value { command, data };
    let mut name = [0; libc::IFNAMSIZ];
    for (to, from) in name.iter_mut().zip(TUNNEL_LINK.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    let mut request =
        libc::ifreq { ifr_name: name, ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_data: (&raw mut value).cast() } };
    #[expect(unsafe_code, reason = "no safe wrapper exists")]
    // SAFETY: the kernel reads and writes the request and the value that it points to, which live as long as the call.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    if done == 0 { Ok(value.data) } else { Err(io::Error::last_os_error()) }
}
