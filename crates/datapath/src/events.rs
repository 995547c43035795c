//! What changes in the kernel, as it happens: reasons to look sooner than the next audit. Of what this process does
//! itself through netlink only links are told (and what the kernel does not say whose doing it was).

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::netlink::{Message, NetlinkError, Socket, find, text};
use crate::owned;
use crate::rtnl::link::{self, Link};
use crate::rtnl::neighbour::Neighbour;
use crate::rtnl::nsid;
use crate::rtnl::route::Route;
use crate::rtnl::rule::Rule;

/// `RTNLGRP_...`: links, neighbours, addresses, routes and rules of both families, namespaces' numbers.
const GROUPS: [u32; 9] = [1, 3, 5, 7, 8, 9, 11, 19, 28];
const NFNLGRP_NFTABLES: u32 = 7;
/// Room for a burst: a few thousand messages.
const BUFFER: usize = 4 << 20;
const NF_TABLES: u16 = 10;
const NFT_MSG_NEWGEN: u16 = 15;
const NFTA_TABLE: u16 = 1;
const NFGENMSG_LEN: usize = 4;

/// Something changed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    /// A link is gone (`ours`: it is named like a pod link).
    LinkGone {
        /// Its name.
        name: String,
        /// It was named like a pod link.
        ours: bool,
    },
    /// A link came or changed.
    LinkChanged {
        /// Its name.
        name: String,
        /// It is named like a pod link.
        ours: bool,
    },
    /// An address of a link came or went.
    Addresses,
    /// A route or a rule of ours came or went.
    Routes,
    /// A neighbour on a pod link went.
    Neighbours,
    /// A namespace's number was taken back: the namespace is gone.
    NetnsGone {
        /// The number.
        nsid: i32,
    },
    /// Our nft table was changed by another process (the nft program that we run is one).
    Nft,
    /// Some were lost: look at everything.
    Lost,
}

/// A subscription, in the namespace of the thread that opened it.
#[derive(Debug)]
pub struct Watcher {
    route: Socket,
    netfilter: Socket,
    /// Indexes of pod links: neighbours are told by index.
    pod_links: BTreeSet<u32>,
}

impl Watcher {
    /// Subscribes in the calling thread's namespace. Do this before the first look, so that nothing falls between.
    ///
    /// # Errors
    /// Netlink does not work.
    pub fn open() -> Result<Self, NetlinkError> {
        let (mut route, mut netfilter) = (Socket::route()?, Socket::netfilter()?);
        for socket in [&route, &netfilter] {
            socket.set_receive_buffer(BUFFER);
        }
        GROUPS.into_iter().try_for_each(|group| route.subscribe(group))?;
        netfilter.subscribe(NFNLGRP_NFTABLES)?;
        // Another socket: a list and notifications must not mix.
        let links = Socket::route()?.dump(link::list(Some("veth")))?;
        let ours = |l: &Link| owned::is_pod_link(&l.name);
        let pod_links = links.iter().filter_map(Link::read).filter(ours).map(|l| l.index).collect();
        Ok(Self { route, netfilter, pod_links })
    }

    /// Waits for events, at most `timeout`; an empty set if there were none. Equal events that came together are one.
    ///
    /// # Errors
    /// A socket failed: open another watcher and look at everything.
    pub fn wait(&mut self, timeout: Duration) -> Result<BTreeSet<Event>, NetlinkError> {
        let started = Instant::now();
        loop {
            let left = timeout.saturating_sub(started.elapsed());
            let events = self.next(left)?;
            // Much of what is told means nothing here.
            if !events.is_empty() || left.is_zero() {
                return Ok(events);
            }
        }
    }

    fn next(&mut self, timeout: Duration) -> Result<BTreeSet<Event>, NetlinkError> {
        let mut events = BTreeSet::new();
        let (route, netfilter) = self.ready(timeout)?;
        if route {
            match self.route.notifications()? {
                Some(messages) => events.extend(messages.iter().filter_map(|m| self.route_event(m))),
                None => drop(events.insert(Event::Lost)),
            }
        }
        if netfilter {
            match self.netfilter.notifications()? {
                Some(messages) => events.extend(messages.iter().filter_map(|m| self.nft_event(m))),
                None => drop(events.insert(Event::Lost)),
            }
        }
        Ok(events)
    }

    fn ready(&self, timeout: Duration) -> Result<(bool, bool), NetlinkError> {
        let mut fds = [&self.route, &self.netfilter].map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN));
        // Never 0 for a timeout that is not: the caller would spin.
        let millis = i32::try_from(timeout.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
        match poll(&mut fds, PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok((false, false)),
            Err(errno) => {
                return Err(NetlinkError::Receive { what: "wait for notifications".into(), source: errno.into() });
            }
        }
        let [route, netfilter] = fds.map(|fd| fd.any().unwrap_or(false));
        Ok((route, netfilter))
    }

    fn nft_event(&self, message: &Message) -> Option<Event> {
        // Whatever the object, its first attribute is its table.
        let named = message.kind >> 8 == NF_TABLES
            && message.kind & 0xff != NFT_MSG_NEWGEN
            && find(message.after(NFGENMSG_LEN), NFTA_TABLE).is_some_and(|name| text(name) == owned::NFT_TABLE);
        (named && !self.netfilter.is_own(message)).then_some(Event::Nft)
    }

    fn route_event(&mut self, message: &Message) -> Option<Event> {
        match message.kind {
            libc::RTM_NEWLINK | libc::RTM_DELLINK => {
                let Link { name, index, .. } = Link::read(message)?;
                let ours = owned::is_pod_link(&name);
                let gone = message.kind == libc::RTM_DELLINK;
                if ours && !gone {
                    self.pod_links.insert(index);
                } else {
                    self.pod_links.remove(&index);
                }
                Some(if gone { Event::LinkGone { name, ours } } else { Event::LinkChanged { name, ours } })
            }
            _ if self.route.is_own(message) => None,
            libc::RTM_NEWADDR | libc::RTM_DELADDR => Some(Event::Addresses),
            libc::RTM_NEWROUTE | libc::RTM_DELROUTE => {
                Route::read(message).filter(Route::is_ours).map(|_| Event::Routes)
            }
            libc::RTM_NEWRULE | libc::RTM_DELRULE => Rule::read(message).map(|_| Event::Routes),
            // Neighbours of other links come and go by themselves, and many.
            libc::RTM_DELNEIGH => {
                Neighbour::read(message).filter(|n| self.pod_links.contains(&n.index)).map(|_| Event::Neighbours)
            }
            libc::RTM_DELNSID => nsid::read(message).map(|nsid| Event::NetnsGone { nsid }),
            _ => None,
        }
    }
}
