//! The executor: few system calls, no program started, nothing left behind by a failure.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::errno::Errno;

use super::check::{self, Fault};
use super::{PodSpec, Retiring, WireError, Wired, requests, shape};
use crate::netlink::{Message, NetlinkError, Refused, Request, Socket};
use crate::netns::{Netns, NetnsError};
use crate::node::main_table;
use crate::owned;
use crate::rtnl::link::{self, Link, VethEnd};
use crate::rtnl::neighbour;
use crate::rtnl::route::{self, Route};
use crate::sysctl;

/// How long a pod's IPv6 address may take to work: on a machine that is that busy nothing else works either.
const ADDRESS_PATIENCE: Duration = Duration::from_secs(2);
const ADDRESS_FIRST_PAUSE: Duration = Duration::from_micros(20);
const ADDRESS_LONGEST_PAUSE: Duration = Duration::from_millis(2);
/// `IFNAMSIZ` less the final NUL.
const NAME_MAX: usize = 15;

/// Makes and ends pod links. Several threads may use it at once; all of them in the namespace in which it was made,
/// since its sockets belong to that.
#[derive(Debug, Default)]
pub struct Wirer {
    idle: Mutex<Vec<Socket>>,
}

impl Wirer {
    /// A wirer for the calling thread's namespace.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the pod's network: link, addresses, routes and neighbours on both sides, all of it or nothing.
    ///
    /// The packet filter's elements must be there before. The pod's end is not in `ns` before this begins; a failure
    /// leaves `ns` without it.
    ///
    /// # Errors
    /// See [`WireError`].
    pub fn wire(&self, ns: &Netns, spec: &PodSpec) -> Result<Wired, WireError> {
        self.with_socket(|socket| wire(socket, ns, spec))
    }

    /// Takes links out of service at once: the host's routes and neighbours of their addresses go. What is gone
    /// already, link included, is success. The packet filter's elements are the caller's.
    ///
    /// # Errors
    /// Netlink does not work, or the kernel refused for another reason than absence.
    pub fn retire(&self, links: &[Retiring]) -> Result<(), NetlinkError> {
        self.with_socket(|socket| retire(socket, links))
    }

    /// Deletes pods' links of ours and what limited them, all of them with one wait of the kernel (a grace period of some ten milliseconds).
    /// What is gone already is success; a link that is not by name and kind what is made for a pod is left alone.
    ///
    /// # Errors
    /// Netlink does not work, or the kernel refused for another reason than absence.
    pub fn reap(&self, links: &[String]) -> Result<(), NetlinkError> {
        self.with_socket(|socket| reap(socket, links))
    }

    /// Makes the host's side of a pod's link as [`Self::wire`] made it: alias, address, up, neighbours, routes. What is
    /// right already stays so; the MTU is left as it is. A link that is not there is not made.
    ///
    /// # Errors
    /// See [`WireError`].
    pub fn repair_host(&self, spec: &PodSpec) -> Result<(), WireError> {
        self.with_socket(|socket| repair_host(socket, spec))
    }

    /// What is wrong with the host's side of a pod's network.
    ///
    /// # Errors
    /// The kernel could not be read.
    pub fn check_host(&self, spec: &PodSpec) -> Result<Vec<Fault>, NetlinkError> {
        self.with_socket(|socket| check::host(socket, spec))
    }

    /// What is wrong with the pod's side.
    ///
    /// # Errors
    /// The namespace could not be entered, or the kernel not read.
    pub fn check_pod(&self, ns: &Netns, spec: &PodSpec) -> Result<Vec<Fault>, WireError> {
        ns.run(|| Ok(check::pod(&mut Socket::route()?, spec)?))?
    }

    /// A socket whose conversation failed is not used again: late answers may sit in it.
    fn with_socket<T, E: From<NetlinkError>>(&self, f: impl FnOnce(&mut Socket) -> Result<T, E>) -> Result<T, E> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut socket = match idle {
            Some(socket) => socket,
            None => Socket::route()?,
        };
        let result = f(&mut socket);
        if result.is_ok() {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(socket);
        }
        result
    }
}

fn wire(socket: &mut Socket, ns: &Netns, spec: &PodSpec) -> Result<Wired, WireError> {
    std::thread::scope(|scope| {
        // The pod's side gets ready (thread, namespace, socket) while the kernel makes the link.
        let (tell, told) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("wire".to_owned())
            .spawn_scoped(scope, move || pod_side(ns, spec, &told))
            .map_err(|source| NetnsError::Thread { source })?;
        let made = make_link(socket, ns, spec)?;
        let host = host_side(socket, spec, made, &tell);
        drop(tell);
        let pod = thread.join().unwrap_or(Err(NetnsError::Panicked.into()));
        match host.and(pod).and_then(|()| shape::put(socket, spec)).and_then(|()| activate(socket, spec, made)) {
            Ok(()) => Ok(made),
            Err(cause) => Err(undo(spec, cause)),
        }
    })
}

/// The end that was set up first (the host's) sends nothing until the kernel has looked at its carrier again, which it
/// does some time later; being asked about the link it does so at once (Linux 6.8). So that no first packet is lost.
fn activate(socket: &mut Socket, spec: &PodSpec, made: Wired) -> Result<(), WireError> {
    socket.request(link::get_by_index(made.host_index)).map(drop).map_err(|error| step(spec, error))
}

pub(super) fn step(spec: &PodSpec, error: NetlinkError) -> WireError {
    match error {
        NetlinkError::Refused(source) => WireError::Step { link: spec.link.clone(), source },
        other => other.into(),
    }
}

fn make_link(socket: &mut Socket, ns: &Netns, spec: &PodSpec) -> Result<Wired, WireError> {
    let near = VethEnd { name: &spec.link, mac: Some(owned::HOST_MAC), mtu: spec.mtu };
    let far = VethEnd { name: &spec.ifname, mac: Some(spec.mac), mtu: spec.mtu };
    let echo = match socket.request(link::add_veth(near, far, ns.as_fd())) {
        Ok(echo) => echo,
        Err(NetlinkError::Refused(source)) if source.errno == Errno::EEXIST => {
            return Err(WireError::Taken { link: spec.link.clone(), ifname: spec.ifname.clone(), source });
        }
        Err(error @ NetlinkError::Refused(_)) => return Err(step(spec, error)),
        // Whether it was made is not known.
        Err(error) => return Err(undo(spec, error.into())),
    };
    let link = echo.iter().find_map(Link::read).filter(|l| l.name == spec.link);
    let wired = link.and_then(|l| Some(Wired { host_index: l.index, pod_index: l.peer_index? }));
    wired.ok_or_else(|| undo(spec, WireError::NoEcho { link: spec.link.clone() }))
}

fn host_side(socket: &mut Socket, spec: &PodSpec, made: Wired, tell: &SyncSender<u32>) -> Result<(), WireError> {
    // Before the other end is up: with a carrier the kernel would give the link a link-local address.
    let identity = link::set_identity(made.host_index, &spec.link, Some(&spec.alias), requests::has_ipv6());
    socket.request(identity).map_err(|error| step(spec, error))?;
    // If the other thread is gone it has failed, and its join says why.
    let _ = tell.send(made.pod_index);
    put_host(socket, spec, made.host_index, &Vec::new)?;
    let_loopback_through(spec)
}

/// A packet for 127.0.0.1 that was translated leaves by a link that lets such pass, and so does its answer.
fn let_loopback_through(spec: &PodSpec) -> Result<(), WireError> {
    if !spec.from_loopback {
        return Ok(());
    }
    let key = format!("net/ipv4/conf/{}/route_localnet", spec.link);
    sysctl::write(&key, "1").map_err(|source| WireError::Sysctl { link: spec.link.clone(), source })
}

/// Neighbours and routes of the host's side, after `before`. A route of somebody else's is not written over.
fn put_host(
    socket: &mut Socket,
    spec: &PodSpec,
    index: u32,
    before: &dyn Fn() -> Vec<Request>,
) -> Result<(), WireError> {
    let v6_switch = format!("net/ipv6/conf/{}/disable_ipv6", spec.link);
    let mut in_the_way = false;
    with_ipv6(&spec.link, &v6_switch, || {
        let mut requests = before();
        requests.extend(requests::host(spec, index));
        let mut answers = socket.batch(requests)?;
        // Only what must be new is refused so: the routes.
        let taken = |answer: &Result<(), Refused>| answer.as_ref().is_err_and(|r| r.errno == Errno::EEXIST);
        in_the_way = answers.iter().any(taken);
        answers.retain(|answer| !taken(answer));
        Ok(answers)
    })?;
    if in_the_way { put_over_own_routes(socket, spec, index) } else { Ok(()) }
}

/// Writes those routes that are not there as they should be, over what is ours.
fn put_over_own_routes(socket: &mut Socket, spec: &PodSpec, index: u32) -> Result<(), WireError> {
    let own = main_table(socket, owned::PROTOCOL, index)?;
    let wanted = spec.addresses.iter().map(|address| requests::host_route(spec, *address, index));
    let absent: Vec<Route> = wanted.filter(|route| !own.contains(route)).collect();
    if absent.is_empty() {
        return Ok(());
    }
    let all = main_table(socket, 0, 0)?;
    for route in absent {
        let there = all.iter().filter(|other| other.destination == route.destination && other.metric == route.metric);
        let (ours, foreign): (Vec<&Route>, Vec<&Route>) = there.partition(|other| other.is_ours());
        let request = match (foreign.first(), ours.first()) {
            (Some(foreign), _) => {
                let (destination, protocol) = (foreign.destination, foreign.protocol);
                return Err(WireError::ForeignRoute { link: spec.link.clone(), destination, protocol });
            }
            (None, Some(_)) => route.set(),
            (None, None) => route.add(),
        };
        socket.request(request).map_err(|error| step(spec, error))?;
    }
    Ok(())
}

fn pod_side(ns: &Netns, spec: &PodSpec, told: &Receiver<u32>) -> Result<(), WireError> {
    ns.enter_for_good()?;
    let mut socket = Socket::route()?;
    // No link was made: that error is told by the other side.
    let Ok(index) = told.recv() else { return Ok(()) };
    let v6_switch = format!("net/ipv6/conf/{}/disable_ipv6", spec.ifname);
    with_ipv6(&spec.link, &v6_switch, || socket.batch(requests::pod(spec, index)))?;
    spec.addresses.iter().filter(|a| a.is_ipv6()).try_for_each(|address| await_address(&mut socket, spec, *address))
}

/// The kernel takes packets for an IPv6 address some time after it was added, by a worker of its own, even without
/// duplicate address detection. Nearly always it has done so by now.
fn await_address(socket: &mut Socket, spec: &PodSpec, address: IpAddr) -> Result<(), WireError> {
    let (mut waited, mut pause) = (Duration::ZERO, ADDRESS_FIRST_PAUSE);
    loop {
        let answers = socket.request(route::look_up(address)).map_err(|error| step(spec, error))?;
        if answers.iter().any(route::is_local) {
            return Ok(());
        }
        if waited >= ADDRESS_PATIENCE {
            return Err(WireError::AddressNotReady { link: spec.link.clone(), address });
        }
        std::thread::sleep(pause);
        waited += pause;
        pause = (pause * 2).min(ADDRESS_LONGEST_PAUSE);
    }
}

/// Runs a batch; where the namespace has IPv6 switched off for new links, switches it on for this one and runs the
/// batch again. (All of its requests may be repeated.)
fn with_ipv6(
    link: &str,
    switch: &str,
    mut batch: impl FnMut() -> Result<Vec<Result<(), Refused>>, NetlinkError>,
) -> Result<(), WireError> {
    let mut answers = batch()?;
    let disabled = |answer: &Result<(), Refused>| answer.as_ref().is_err_and(|r| r.errno == Errno::EACCES);
    if answers.iter().any(disabled) && sysctl::write(switch, "0").is_ok() {
        answers = batch()?;
    }
    match answers.into_iter().find_map(Result::err) {
        Some(source) => Err(WireError::Step { link: link.to_owned(), source }),
        None => Ok(()),
    }
}

fn repair_host(socket: &mut Socket, spec: &PodSpec) -> Result<(), WireError> {
    let Some(found) = find_links(socket, std::iter::once(spec.link.as_str()))?.remove(&spec.link) else {
        return Ok(());
    };
    put_host(socket, spec, found.index, &|| {
        vec![
            link::set_mac_and_mtu(found.index, &spec.link, owned::HOST_MAC, found.mtu),
            link::set_identity(found.index, &spec.link, Some(&spec.alias), requests::has_ipv6()),
            link::set_up(found.index, &spec.link),
        ]
    })?;
    shape::put(socket, spec)?;
    let_loopback_through(spec)
}

/// Removes the link that was made, by a socket of its own: the other one may be what failed.
fn undo(spec: &PodSpec, cause: WireError) -> WireError {
    let removed = Socket::route().and_then(|mut socket| {
        if spec.bandwidth.egress.is_some() {
            absent_is_fine(socket.request(link::delete_by_name(&owned::shaper_link_name(&spec.link))).map(drop))?;
        }
        socket.request(link::delete_by_name(&spec.link)).map(drop)
    });
    match absent_is_fine(removed) {
        Ok(()) => cause,
        Err(undo) => WireError::NotUndone { link: spec.link.clone(), cause: Box::new(cause), undo },
    }
}

fn retire(socket: &mut Socket, links: &[Retiring]) -> Result<(), NetlinkError> {
    let found = find_links(socket, links.iter().map(|l| l.link.as_str()))?;
    let mut requests = Vec::new();
    for retiring in links {
        // Routes and neighbours of a link that is gone went with it.
        let Some(link) = found.get(&retiring.link) else { continue };
        for address in &retiring.addresses {
            requests.push(requests::bare_host_route(*address, link.index).delete());
            requests.push(neighbour::delete(link.index, &link.name, *address));
        }
    }
    all_done_or_absent(socket.batch(requests)?)
}

fn reap(socket: &mut Socket, links: &[String]) -> Result<(), NetlinkError> {
    let names: Vec<String> = links.iter().flat_map(|l| [l.clone(), owned::shaper_link_name(l)]).collect();
    let found = find_links(socket, names.iter().map(String::as_str))?;
    let is_ours = |l: &&Link| owned::is_for_pod(&l.name, l.kind.as_deref());
    let ours: Vec<_> = found.values().filter(is_ours).collect();
    match ours.as_slice() {
        [] => Ok(()),
        [one] => absent_is_fine(socket.request(link::delete(one.index, &one.name)).map(drop)),
        many => {
            let moves = many.iter().map(|l| link::set_group(l.index, &l.name, owned::DYING_GROUP)).collect();
            all_done_or_absent(socket.batch(moves)?)?;
            absent_is_fine(socket.request(link::delete_group(owned::DYING_GROUP)).map(drop))
        }
    }
}

fn find_links<'a>(
    socket: &mut Socket,
    names: impl Iterator<Item = &'a str>,
) -> Result<BTreeMap<String, Link>, NetlinkError> {
    let mut replies: Vec<Message> = Vec::new();
    // The kernel answers to a name that no link can have with an error of its own.
    let possible = names.filter(|name| (1..=NAME_MAX).contains(&name.len()));
    let answers = socket.batch_with_replies(possible.map(link::get).collect(), &mut replies)?;
    all_done_or_absent(answers)?;
    Ok(replies.iter().filter_map(Link::read).map(|l| (l.name.clone(), l)).collect())
}

fn all_done_or_absent(answers: Vec<Result<(), Refused>>) -> Result<(), NetlinkError> {
    match answers.into_iter().filter_map(Result::err).find(|r| !is_absence(r.errno)) {
        Some(refused) => Err(refused.into()),
        None => Ok(()),
    }
}

fn absent_is_fine(result: Result<(), NetlinkError>) -> Result<(), NetlinkError> {
    result.or_else(|error| if error.errno().is_some_and(is_absence) { Ok(()) } else { Err(error) })
}

/// No such link; no such route; no such neighbour.
fn is_absence(errno: Errno) -> bool {
    matches!(errno, Errno::ENODEV | Errno::ESRCH | Errno::ENOENT)
}
