//! The pod links that the kernel has.

use std::collections::BTreeMap;

use overlane_datapath::netlink::{NetlinkError, Socket};
use overlane_datapath::owned;
use overlane_datapath::rtnl::link::{self, Link};

/// The pods' links that links which hold pods to a limit are named after, and that are not there.
pub fn limits_without_link() -> Result<Vec<String>, NetlinkError> {
    let shapers = Socket::route()?.dump(link::list(Some(owned::SHAPER_KIND)))?;
    let of_kind = |link: &Link| link.kind.as_deref() == Some(owned::SHAPER_KIND);
    let shaped: Vec<String> =
        shapers.iter().filter_map(Link::read).filter(of_kind).filter_map(|l| owned::shaped_link(&l.name)).collect();
    if shaped.is_empty() {
        return Ok(shaped);
    }
    let there = pod_links()?;
    Ok(shaped.into_iter().filter(|link| !there.contains_key(link)).collect())
}

/// Every link that is named like a pod link of ours and is a veth, by name.
pub fn pod_links() -> Result<BTreeMap<String, Link>, NetlinkError> {
    let links = Socket::route()?.dump(link::list(Some("veth")))?;
    let ours = |link: &Link| link.kind.as_deref() == Some("veth") && owned::is_pod_link(&link.name);
    Ok(links.iter().filter_map(Link::read).filter(ours).map(|link| (link.name.clone(), link)).collect())
}
