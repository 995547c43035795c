//! A pod's limits. What goes to the pod waits in a token bucket on the host's end of its link; what comes from it is
//! sent through a link of kind `ifb` first, which has a bucket of its own, and goes on as if nothing had been.
//!
//! Nothing of it is in the pod's namespace, where a pod with `NET_ADMIN` could take it away.

use nix::errno::Errno;
use overlane_core::rate::RateLimit;

use super::check::Fault;
use super::{PodSpec, WireError, requests};
use crate::netlink::{NetlinkError, Socket};
use crate::owned;
use crate::rtnl::link::{self, Link};
use crate::rtnl::qdisc::{self, Place, Qdisc};

/// Puts the limits in force. What is right already stays.
pub(super) fn put(socket: &mut Socket, spec: &PodSpec) -> Result<(), WireError> {
    if spec.bandwidth.is_none() {
        return Ok(());
    }
    let step = |error| super::wirer::step(spec, error);
    let Some(host) = find(socket, &spec.link)? else { return Ok(()) };
    if let Some(limit) = &spec.bandwidth.ingress {
        socket.request(qdisc::set_bucket(host.index, &spec.link, limit)).map_err(step)?;
    }
    let Some(limit) = &spec.bandwidth.egress else { return Ok(()) };
    let name = owned::shaper_link_name(&spec.link);
    match socket.request(link::add_ifb(&name)) {
        Ok(_) => {}
        Err(error) if error.errno() == Some(Errno::EEXIST) => {}
        Err(error) => return Err(step(error)),
    }
    let missing = || WireError::NoEcho { link: name.clone() };
    let shaper = find(socket, &name)?.filter(|l| l.kind.as_deref() == Some(owned::SHAPER_KIND)).ok_or_else(missing)?;
    for request in [
        link::set_identity(shaper.index, &name, Some(&spec.alias), requests::has_ipv6()),
        qdisc::set_bucket(shaper.index, &name, limit),
        link::set_up(shaper.index, &name),
    ] {
        socket.request(request).map_err(step)?;
    }
    if redirected(socket, host.index, shaper.index)? {
        return Ok(());
    }
    // One that is there leads elsewhere, or nowhere.
    match socket.request(qdisc::delete_ingress(host.index, &spec.link)) {
        Ok(_) => {}
        Err(error) if matches!(error.errno(), Some(Errno::ENOENT | Errno::EINVAL)) => {}
        Err(error) => return Err(step(error)),
    }
    socket.request(qdisc::add_ingress(host.index, &spec.link)).map_err(step)?;
    socket.request(qdisc::redirect(host.index, &spec.link, shaper.index)).map_err(step)?;
    Ok(())
}

/// Limits that are not in force.
pub(super) fn faults(
    socket: &mut Socket,
    spec: &PodSpec,
    host: u32,
    faults: &mut Vec<Fault>,
) -> Result<(), NetlinkError> {
    if spec.bandwidth.is_none() {
        return Ok(());
    }
    let qdiscs: Vec<Qdisc> = socket.dump(qdisc::list())?.iter().filter_map(Qdisc::read).collect();
    let limited = |index: u32, limit: &RateLimit| qdiscs.iter().any(|q| q.link == index && q.limits(limit));
    if let Some(limit) = spec.bandwidth.ingress.filter(|limit| !limited(host, limit)) {
        faults.push(Fault::Limit { link: spec.link.clone(), limit });
    }
    if let Some(limit) = spec.bandwidth.egress {
        let name = owned::shaper_link_name(&spec.link);
        let shaper = find(socket, &name)?.filter(Link::is_up);
        let redirects = qdiscs.iter().any(|q| q.link == host && q.at == Place::Ingress);
        let holds = match shaper {
            Some(shaper) => redirects && limited(shaper.index, &limit) && redirected(socket, host, shaper.index)?,
            None => false,
        };
        if !holds {
            faults.push(Fault::Limit { link: name, limit });
        }
    }
    Ok(())
}

fn redirected(socket: &mut Socket, from: u32, to: u32) -> Result<bool, NetlinkError> {
    match socket.dump(qdisc::list_ingress_filters(from)) {
        Ok(filters) => Ok(filters.iter().any(|filter| qdisc::redirects_to(filter, to))),
        // There is no such place.
        Err(error) if matches!(error.errno(), Some(Errno::EINVAL | Errno::ENOENT)) => Ok(false),
        Err(error) => Err(error),
    }
}

fn find(socket: &mut Socket, name: &str) -> Result<Option<Link>, NetlinkError> {
    link::found(socket.request(link::get(name)))
}
