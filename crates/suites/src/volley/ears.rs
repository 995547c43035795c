//! The thread that hears what reaches the places.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::Domain;

use super::shape::{self, Heard, ICMP, ICMP6, SCTP, TCP};
use super::{Book, Mouth, open, raw};
use crate::ns::Ns;
use crate::packet::UDP;

/// How often the thread looks whether it is to end, in milliseconds.
const LOOK: u8 = 50;

/// A protocol of a place.
struct Ear {
    place: usize,
    protocol: u8,
    v4: bool,
    socket: UdpSocket,
}

/// All that is listened to.
pub struct Ears(Vec<Ear>);

impl Ears {
    pub fn at(places: &[Ns]) -> Ears {
        let kinds = [(true, [TCP, UDP, SCTP, ICMP]), (false, [TCP, UDP, SCTP, ICMP6])];
        let mut ears = Vec::new();
        for (place, ns) in places.iter().enumerate() {
            for (v4, protocols) in kinds {
                let domain = if v4 { Domain::IPV4 } else { Domain::IPV6 };
                let of = |protocol| Ear { place, protocol, v4, socket: raw(ns, domain, i32::from(protocol)) };
                ears.extend(protocols.map(of));
            }
        }
        Ears(ears)
    }

    /// Notes in the book what is heard, until it is to stop.
    pub fn listen(&self, book: &Book, mouths: &[Mouth], stop: &AtomicBool) {
        let mut buffer = vec![0; 65_536];
        while !stop.load(Ordering::Relaxed) {
            let mut waiting: Vec<PollFd<'_>> =
                self.0.iter().map(|ear| PollFd::new(ear.socket.as_fd(), PollFlags::POLLIN)).collect();
            // An interrupted wait is one that ended early.
            let _ = poll(&mut waiting, PollTimeout::from(LOOK));
            let ready = self.0.iter().zip(&waiting).filter(|(_, wait)| wait.any().unwrap_or_default());
            for (ear, _) in ready {
                while let Ok((length, peer)) = ear.socket.recv_from(&mut buffer) {
                    ear.hear(&buffer[..length], peer, book, mouths);
                }
            }
        }
    }
}

impl Ear {
    fn hear(&self, packet: &[u8], peer: SocketAddr, book: &Book, mouths: &[Mouth]) {
        // IPv4 comes with its header, IPv6 without.
        let header = if self.v4 { usize::from(packet.first().map_or(0, |first| first & 15)) * 4 } else { 0 };
        let message = packet.get(header..).unwrap_or_default();
        match shape::read(self.protocol, message) {
            Some(Heard::Question(id)) => {
                let Some(at) = self.question(book, id) else { return };
                if let Some(answer) = shape::answer(at, peer.ip(), self.protocol, message, id) {
                    // One that cannot be sent is an answer that does not come.
                    let _ = mouths[self.place].say(peer.ip(), &answer);
                }
            }
            Some(Heard::Answer(id)) => {
                if let Some(record) = open(book).get_mut(&id).filter(|record| record.shot.from == self.place) {
                    record.fate.answered = true;
                }
            }
            None => (),
        }
    }

    /// The address to answer from, if it is for this place.
    fn question(&self, book: &Book, id: u32) -> Option<IpAddr> {
        let mut book = open(book);
        let record = book.get_mut(&id)?;
        if record.shot.into != self.place {
            record.fate.astray = Some(self.place);
            return None;
        }
        record.fate.arrived = true;
        Some(record.shot.at)
    }
}
