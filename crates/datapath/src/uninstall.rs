//! Everything of ours removed from a node. What is not ours stays, whatever it looks like.

use std::fmt::Display;

use nix::errno::Errno;

use crate::netlink::{NetlinkError, Refused, Request, Socket};
use crate::rtnl::address::{self, LinkAddress};
use crate::rtnl::link::{self, Link};
use crate::sysctl::{self, Changed};
use crate::{nft, node, owned};

/// What to remove besides table and routes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Removal<'a> {
    /// Pod links too: running pods lose their network.
    pub links: bool,
    /// Sysctls to put back.
    pub sysctls: &'a [Changed],
}

/// What was removed and what was not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// What is gone or put back, in words.
    pub done: Vec<String>,
    /// What could not be removed, and why.
    pub failed: Vec<String>,
}

/// Removes what is ours in the calling thread's namespace; gathers errors and carries on. What is gone already is
/// success. Whether pods still run is the caller's to ask.
///
/// The packet filter goes after the routes, and after it the ways out that it marks packets for.
#[must_use]
pub fn remove_all(removal: &Removal<'_>) -> Removed {
    let mut removed = Removed::default();
    match Socket::route() {
        Ok(mut socket) => {
            if removal.links {
                let links = links(&mut socket);
                removed.batch(&mut socket, "pod links", links);
            }
            let routes = routes(&mut socket);
            removed.batch(&mut socket, "routes", routes);
        }
        Err(error) => removed.failed(error),
    }
    match node::end_tunnel() {
        Ok(true) => removed.done.push(format!("link {}", owned::TUNNEL_LINK)),
        Ok(false) => {}
        Err(error) => removed.failed(error),
    }
    match nft::remove() {
        Ok(true) => removed.done.push(format!("nft table inet {}", owned::NFT_TABLE)),
        Ok(false) => {}
        Err(error) => removed.failed(error),
    }
    // Only now is nothing marked for them any more.
    match Socket::route() {
        Ok(mut socket) => {
            let exits = exits(&mut socket);
            removed.batch(&mut socket, "rules and routes out of the cluster", exits);
            let addresses = egress_ips(&mut socket);
            removed.batch(&mut socket, "egress addresses", addresses);
        }
        Err(error) => removed.failed(error),
    }
    match sysctl::restore(removal.sysctls) {
        Ok(keys) => removed.done.extend(keys.into_iter().map(|key| format!("sysctl {key} put back"))),
        Err(error) => removed.failed(error),
    }
    removed
}

/// What of ours is in the calling thread's namespace, in words: `3 pod links`, `12 routes`, `nft table inet overlane`.
///
/// # Errors
/// The kernel could not be read.
pub fn leftovers() -> Result<Vec<String>, NetlinkError> {
    let mut socket = Socket::route()?;
    let (links, limits): (Vec<_>, Vec<_>) =
        pod_links(&mut socket)?.into_iter().partition(|link| owned::is_pod_link(&link.name));
    let (rules, ways_out) = node::observed_exits(&mut socket)?;
    let routes = node::observed_routes(&mut socket)?.len() + ways_out.len();
    let tunnel = link::found(socket.request(link::get(owned::TUNNEL_LINK)))?
        .is_some_and(|link| owned::is_tunnel(&link.name, link.kind.as_deref()));
    let mut found = Vec::new();
    for (links, what) in [(links, "pod links"), (limits, "links that limit pods")] {
        found.extend((!links.is_empty()).then(|| format!("{} {what}", links.len())));
    }
    let egress_ips = node::observed_egress_ips(&mut socket)?.len();
    found.extend((egress_ips > 0).then(|| format!("{egress_ips} egress addresses")));
    found.extend(tunnel.then(|| format!("link {}", owned::TUNNEL_LINK)));
    found.extend((routes > 0).then(|| format!("{routes} routes")));
    found.extend((!rules.is_empty()).then(|| format!("{} rules", rules.len())));
    found.extend(nft::is_there()?.then(|| format!("nft table inet {}", owned::NFT_TABLE)));
    Ok(found)
}

type Requests = Result<Vec<Request>, NetlinkError>;

fn routes(socket: &mut Socket) -> Requests {
    Ok(node::observed_routes(socket)?.iter().map(crate::rtnl::route::Route::delete).collect())
}

/// What marked packets are routed by: rules before the routes that they lead to.
fn exits(socket: &mut Socket) -> Requests {
    let (rules, routes) = node::observed_exits(socket)?;
    let rules = rules.iter().map(crate::rtnl::rule::Rule::delete);
    Ok(rules.chain(routes.iter().map(crate::rtnl::route::Route::delete)).collect())
}

fn egress_ips(socket: &mut Socket) -> Requests {
    let link = |found: &LinkAddress| format!("#{}", found.index);
    Ok(node::observed_egress_ips(socket)?.iter().map(|a| address::delete(a.index, &link(a), a)).collect())
}

/// Moves them to the dying group and deletes that: one wait for all.
fn links(socket: &mut Socket) -> Requests {
    let mut requests: Vec<_> =
        pod_links(socket)?.iter().map(|l| link::set_group(l.index, &l.name, owned::DYING_GROUP)).collect();
    if !requests.is_empty() {
        requests.push(link::delete_group(owned::DYING_GROUP));
    }
    Ok(requests)
}

/// Pods' links and what limits them.
fn pod_links(socket: &mut Socket) -> Result<Vec<Link>, NetlinkError> {
    let mut ours = Vec::new();
    for kind in ["veth", owned::SHAPER_KIND] {
        let listed = socket.dump(link::list(Some(kind)))?;
        // A kernel that has no such kind lists all links.
        let is_ours = |l: &Link| l.kind.as_deref() == Some(kind) && owned::is_for_pod(&l.name, Some(kind));
        ours.extend(listed.iter().filter_map(Link::read).filter(is_ours));
    }
    Ok(ours)
}

impl Removed {
    fn failed(&mut self, error: impl Display) {
        self.failed.push(error.to_string());
    }

    fn batch(&mut self, socket: &mut Socket, what: &str, requests: Requests) {
        let answers = requests.and_then(|requests| socket.batch(requests));
        match answers {
            Ok(answers) if answers.is_empty() => {}
            Ok(answers) => {
                let absent = |r: &Refused| matches!(r.errno, Errno::ENOENT | Errno::ESRCH | Errno::ENODEV);
                let before = self.failed.len();
                for refused in answers.into_iter().filter_map(Result::err).filter(|r| !absent(r)) {
                    self.failed(refused);
                }
                if self.failed.len() == before {
                    self.done.push(what.to_owned());
                }
            }
            Err(error) => self.failed(error),
        }
    }
}
