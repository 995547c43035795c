//! The few rtnetlink requests that a lab's network is made of, on top of the product's netlink socket.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsFd as _;

use anyhow::{Context as _, Result};
use nix::libc;
use nix::net::if_::if_nametoindex;
use overlane_core::cidr::Cidr;
use overlane_core::family::Family;
use overlane_datapath::mac::Mac;
use overlane_datapath::netlink::{Request, Socket};
use overlane_datapath::owned;
use overlane_datapath::rtnl::link::{self, Link, VethEnd};
use overlane_datapath::rtnl::neighbour;
use overlane_datapath::rtnl::route::{self, Hop, Route};

/// Protocol number of the routes that a check puts into the VM, by which they are found again.
pub const CHECK_ROUTES: u8 = 112;
/// Protocol number of the routes to nodes' blocks in a routed fabric.
const FABRIC_ROUTES: u8 = 113;

const NEW: i32 = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
const MAIN_TABLE: u32 = 254;
/// `RTPROT_STATIC` of linux/rtnetlink.h.
const STATIC: u8 = 4;
const LINK_HEADER: usize = 16;
const UP: u32 = 1;

// linux/if_link.h
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_BR_FORWARD_DELAY: u16 = 1;
const IFLA_BR_MCAST_SNOOPING: u16 = 23;
const IFLA_BR_NF_CALL: [u16; 3] = [36, 37, 38];
// linux/if_addr.h
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
const IFA_F_NODAD: u32 = 0x02;

/// The other end of a veth pair.
#[derive(Debug)]
pub struct Peer<'a> {
    /// Its name.
    pub name: &'a str,
    /// The namespace that it is made in.
    pub namespace: &'a File,
    /// Its MAC; the kernel's choice without.
    pub mac: Option<Mac>,
}

/// A netlink socket of one namespace.
pub struct Wire {
    socket: Socket,
}

impl Wire {
    /// Opens a socket in the namespace that this thread is in.
    pub fn open() -> Result<Self> {
        Ok(Self { socket: Socket::route()? })
    }

    /// Makes a bridge that floods everything at once: no spanning tree, no multicast snooping, no netfilter calls.
    pub fn bridge(&mut self, name: &str, mtu: u32) -> Result<()> {
        let request = Request::new(libc::RTM_NEWLINK, NEW, format!("make bridge {name}"))
            .body(&link_header(0, UP))
            .text(libc::IFLA_IFNAME, name)
            .u32(IFLA_MTU, mtu)
            .nest(IFLA_LINKINFO, |r| {
                r.text(IFLA_INFO_KIND, "bridge").nest(IFLA_INFO_DATA, |r| {
                    let r = r.u32(IFLA_BR_FORWARD_DELAY, 0).u8(IFLA_BR_MCAST_SNOOPING, 0);
                    IFLA_BR_NF_CALL.into_iter().fold(r, |r, call| r.u8(call, 0))
                })
            });
        self.ask(request)
    }

    /// Makes a veth pair: this end here, up, on the bridge `master` if one is named; the other where `peer` says.
    pub fn veth(&mut self, name: &str, master: Option<&str>, mtu: u32, peer: &Peer<'_>) -> Result<()> {
        let near = VethEnd { name, mac: None, mtu };
        let far = VethEnd { name: peer.name, mac: peer.mac, mtu };
        self.ask(link::add_veth(near, far, peer.namespace.as_fd()))?;
        let up = Request::new(libc::RTM_NEWLINK, 0, format!("bring {name} up")).body(&link_header(index(name)?, UP));
        self.ask(match master {
            Some(master) => up.u32(IFLA_MASTER, index(master)?),
            None => up,
        })
    }

    /// Brings an interface up.
    pub fn up(&mut self, name: &str) -> Result<()> {
        let index = index(name)?;
        self.ask(link::set_up(index, name))
    }

    /// Removes an interface.
    pub fn remove(&mut self, name: &str) -> Result<()> {
        self.ask(link::delete_by_name(name))
    }

    /// Gives an interface an address, usable at once.
    pub fn address(&mut self, name: &str, address: IpAddr, prefix_len: u8) -> Result<()> {
        let mut header = [family(address), prefix_len, 0, 0, 0, 0, 0, 0];
        header[4..].copy_from_slice(&index(name)?.to_ne_bytes());
        let request = Request::new(libc::RTM_NEWADDR, NEW, format!("give {name} address {address}/{prefix_len}"))
            .body(&header)
            .ip(IFA_LOCAL, address)
            .ip(IFA_ADDRESS, address)
            .u32(IFA_FLAGS, IFA_F_NODAD);
        self.ask(match address {
            IpAddr::V4(v4) => {
                let hosts = u32::MAX.checked_shr(u32::from(prefix_len)).unwrap_or(0);
                request.ip(IFA_BROADCAST, IpAddr::V4((u32::from(v4) | hosts).into()))
            }
            IpAddr::V6(_) => request,
        })
    }

    /// A default route out of `eth0`, by a router on that link whatever the routes say.
    pub fn default_route(&mut self, via: IpAddr) -> Result<()> {
        let any = Cidr::around(via, 0)?;
        let hop = Hop::Gateway { gateway: via, index: index("eth0")?, onlink: true };
        self.ask(route(&any, hop, STATIC).set())
    }

    /// A route to one address that is on a link.
    pub fn link_route(&mut self, to: IpAddr, name: &str) -> Result<()> {
        let hop = Hop::Link { index: index(name)? };
        self.ask(route(&Cidr::host_range(to), hop, STATIC).set())
    }

    /// A route of a check out of `eth0`, in place of one to the same destination.
    pub fn check_route(&mut self, to: &Cidr, via: IpAddr) -> Result<()> {
        self.ask(check_route(to, via)?.set())
    }

    /// Takes a route of a check away again.
    pub fn remove_check_route(&mut self, to: &Cidr, via: IpAddr) -> Result<()> {
        self.ask(check_route(to, via)?.delete())
    }

    /// Makes the routes of the fabric out of these links (by index) to be these: destination, link, next hop.
    pub fn fabric_routes(&mut self, links: &BTreeSet<u32>, wanted: &BTreeSet<(Cidr, u32, IpAddr)>) -> Result<()> {
        let mut present = BTreeSet::new();
        for family in Family::ALL {
            let list = self.socket.dump(route::list(family, MAIN_TABLE, FABRIC_ROUTES, 0))?;
            present.extend(list.iter().filter_map(Route::read).filter_map(|found| match found.hop {
                Hop::Gateway { gateway, index, .. } => Some((found.destination, index, gateway)),
                _ => None,
            }));
        }
        present.retain(|(_, index, _)| links.contains(index));
        let of = |(to, index, gateway): &(Cidr, u32, IpAddr)| {
            route(to, Hop::Gateway { gateway: *gateway, index: *index, onlink: true }, FABRIC_ROUTES)
        };
        for gone in present.difference(wanted) {
            self.ask(of(gone).delete())?;
        }
        wanted.difference(&present).try_for_each(|new| self.ask(of(new).set()))
    }

    /// Tells `eth0` for good which MAC each of these addresses has.
    pub fn neighbours(&mut self, entries: &[(IpAddr, Mac)]) -> Result<()> {
        let index = index("eth0")?;
        let requests = entries.iter().map(|(ip, mac)| neighbour::set_permanent(index, "eth0", *ip, *mac)).collect();
        for answer in self.socket.batch(requests)? {
            answer?;
        }
        Ok(())
    }

    /// MAC of an interface.
    pub fn mac(&mut self, name: &str) -> Result<Mac> {
        let found = self.socket.request(link::get(name))?;
        found
            .iter()
            .find_map(Link::read)
            .and_then(|link| link.mac)
            .with_context(|| format!("look at {name}: it is not there"))
    }

    /// MTU of an interface, in bytes.
    pub fn mtu(&mut self, name: &str) -> Result<usize> {
        let found = self.socket.request(link::get(name))?;
        let link = found.iter().find_map(Link::read).with_context(|| format!("look at {name}: it is not there"))?;
        Ok(usize::try_from(link.mtu)?)
    }

    /// Whether there is a bridge.
    pub fn has_bridge(&mut self) -> Result<bool> {
        let links = self.socket.dump(link::list(Some("bridge")))?;
        Ok(links.iter().filter_map(Link::read).any(|link| link.kind.as_deref() == Some("bridge")))
    }

    /// What agents have routed to other nodes, whether bare or in a tunnel.
    pub fn routed_away(&mut self) -> Result<BTreeSet<Cidr>> {
        let mut found = BTreeSet::new();
        for family in Family::ALL {
            let list = self.socket.dump(route::list(family, owned::ROUTE_TABLE, owned::PROTOCOL, 0))?;
            let away = |route: &Route| matches!(route.hop, Hop::Gateway { .. } | Hop::Tunnel { .. });
            found.extend(list.iter().filter_map(Route::read).filter(away).map(|route| route.destination));
        }
        Ok(found)
    }

    fn ask(&mut self, request: Request) -> Result<()> {
        self.socket.request(request)?;
        Ok(())
    }
}

/// A route out of `eth0`, which every host of a lab has.
fn check_route(to: &Cidr, via: IpAddr) -> Result<Route> {
    Ok(route(to, Hop::Gateway { gateway: via, index: index("eth0")?, onlink: false }, CHECK_ROUTES))
}

fn route(to: &Cidr, hop: Hop, protocol: u8) -> Route {
    Route { table: MAIN_TABLE, protocol, destination: *to, hop, prefsrc: None, metric: 0 }
}

fn link_header(index: u32, flags: u32) -> [u8; LINK_HEADER] {
    let mut header = [0; LINK_HEADER];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..].copy_from_slice(&flags.to_ne_bytes());
    header
}

fn index(name: &str) -> Result<u32> {
    if_nametoindex(name).with_context(|| format!("find interface {name}"))
}

fn family(address: IpAddr) -> u8 {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    u8::try_from(family).unwrap_or(0)
}
