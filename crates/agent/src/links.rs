//! The pod links that the kernel has.

use std::collections::BTreeMap;

use overlane_datapath::netlink::{NetlinkError, Socket};
use overlane_datapath::owned;
use overlane_datapath::rtnl::link::{self, Link};

/// Every link that is named like a pod link of ours and is a veth, by name.
pub fn pod_links() -> Result<BTreeMap<String, Link>, NetlinkError> {
    let links = Socket::route()?.dump(link::list(Some("veth")))?;
    let ours = |link: &Link| link.kind.as_deref() == Some("veth") && owned::is_pod_link(&link.name);
    Ok(links.iter().filter_map(Link::read).filter(ours).map(|link| (link.name.clone(), link)).collect())
}
