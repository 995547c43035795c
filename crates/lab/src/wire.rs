//! The few netlink requests that a lab's network is made of. One socket, one namespace, one acknowledged request at a
//! time: some ten microseconds each.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, Result, bail};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    InfoBridge, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::net::if_::if_nametoindex;
use overlane_core::cidr::Cidr;

/// Protocol number of the routes that a check puts into the VM, by which they are found again.
pub const CHECK_ROUTES: u8 = 112;

const NEW: u16 = NLM_F_CREATE | NLM_F_EXCL;

/// The other end of a veth pair.
#[derive(Debug)]
pub struct Peer<'a> {
    /// Its name.
    pub name: &'a str,
    /// The namespace that it is made in.
    pub namespace: &'a File,
    /// Its MAC; the kernel's choice without.
    pub mac: Option<[u8; 6]>,
}

/// A netlink socket of one namespace.
pub struct Wire {
    socket: Socket,
    sequence: u32,
}

impl Wire {
    /// Opens a socket in the namespace that this thread is in.
    pub fn open() -> Result<Self> {
        let attempt = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            socket.set_ext_ack(true)?;
            Ok::<_, std::io::Error>(socket)
        };
        Ok(Self { socket: attempt().context("open a netlink socket")?, sequence: 0 })
    }

    /// Makes a bridge that floods everything at once: no spanning tree, no multicast snooping, no netfilter calls.
    pub fn bridge(&mut self, name: &str, mtu: u32) -> Result<()> {
        let options = vec![
            InfoBridge::ForwardDelay(0),
            InfoBridge::MulticastSnooping(false),
            InfoBridge::NfCallIpTables(false),
            InfoBridge::NfCallIp6Tables(false),
            InfoBridge::NfCallArpTables(false),
        ];
        let mut link = LinkMessage::default();
        link.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Mtu(mtu),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge), LinkInfo::Data(InfoData::Bridge(options))]),
        ];
        up(&mut link);
        self.ask(RouteNetlinkMessage::NewLink(link), NEW).with_context(|| format!("make bridge {name}"))
    }

    /// Makes a veth pair: this end here, up, on the bridge `master` if one is named; the other where `peer` says.
    pub fn veth(&mut self, name: &str, master: Option<&str>, mtu: u32, peer: &Peer<'_>) -> Result<()> {
        let mut other = LinkMessage::default();
        other.attributes = vec![
            LinkAttribute::IfName(peer.name.to_owned()),
            LinkAttribute::Mtu(mtu),
            LinkAttribute::NetNsFd(peer.namespace.as_raw_fd()),
        ];
        other.attributes.extend(peer.mac.map(|mac| LinkAttribute::Address(mac.to_vec())));
        let mut link = LinkMessage::default();
        link.attributes = vec![LinkAttribute::IfName(name.to_owned()), LinkAttribute::Mtu(mtu)];
        if let Some(master) = master {
            link.attributes.push(LinkAttribute::Controller(index(master)?));
        }
        let info = InfoData::Veth(InfoVeth::Peer(other));
        link.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth), LinkInfo::Data(info)]));
        up(&mut link);
        self.ask(RouteNetlinkMessage::NewLink(link), NEW).with_context(|| format!("make veth {name}"))
    }

    /// Brings an interface up.
    pub fn up(&mut self, name: &str) -> Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index(name)?;
        up(&mut link);
        self.ask(RouteNetlinkMessage::SetLink(link), 0).with_context(|| format!("bring {name} up"))
    }

    /// Removes an interface.
    pub fn remove(&mut self, name: &str) -> Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index(name)?;
        self.ask(RouteNetlinkMessage::DelLink(link), 0).with_context(|| format!("remove {name}"))
    }

    /// Gives an interface an address, usable at once.
    pub fn address(&mut self, name: &str, address: IpAddr, prefix_len: u8) -> Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = family(address);
        message.header.prefix_len = prefix_len;
        message.header.scope = AddressScope::Universe;
        message.header.index = index(name)?;
        message.attributes = vec![
            AddressAttribute::Local(address),
            AddressAttribute::Address(address),
            AddressAttribute::Flags(AddressFlags::Nodad),
        ];
        if let IpAddr::V4(v4) = address {
            let hosts = u32::MAX.checked_shr(u32::from(prefix_len)).unwrap_or(0);
            message.attributes.push(AddressAttribute::Broadcast((u32::from(v4) | hosts).into()));
        }
        self.ask(RouteNetlinkMessage::NewAddress(message), NEW)
            .with_context(|| format!("give {name} address {address}/{prefix_len}"))
    }

    /// A default route.
    pub fn default_route(&mut self, via: IpAddr) -> Result<()> {
        let message = route(family(via), None, via, RouteProtocol::Static);
        self.ask(RouteNetlinkMessage::NewRoute(message), NEW).with_context(|| format!("add default route via {via}"))
    }

    /// A route of a check, in place of one to the same destination.
    pub fn check_route(&mut self, to: &Cidr, via: IpAddr) -> Result<()> {
        let message = route(family(via), Some(to), via, RouteProtocol::Other(CHECK_ROUTES));
        self.ask(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE)
            .with_context(|| format!("add route {to} via {via}"))
    }

    /// Takes a route of a check away again; whether it was there.
    pub fn remove_check_route(&mut self, to: &Cidr, via: IpAddr) -> Result<()> {
        let message = route(family(via), Some(to), via, RouteProtocol::Other(CHECK_ROUTES));
        self.ask(RouteNetlinkMessage::DelRoute(message), 0).with_context(|| format!("remove route {to} via {via}"))
    }

    /// MTU of an interface, in bytes.
    pub fn mtu(&mut self, name: &str) -> Result<usize> {
        let mut link = LinkMessage::default();
        link.header.index = index(name)?;
        self.send(RouteNetlinkMessage::GetLink(link), NLM_F_REQUEST)?;
        let answer = self.receive().with_context(|| format!("look at {name}"))?;
        let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) = answer else {
            bail!("look at {name}: netlink does not know it");
        };
        let mtu = link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::Mtu(mtu) => usize::try_from(*mtu).ok(),
            _ => None,
        });
        mtu.with_context(|| format!("look at {name}: it has no MTU"))
    }

    /// The next hop of packets to `address`; none if it is on a link, or cannot be reached.
    pub fn next_hop(&mut self, address: IpAddr) -> Result<Option<IpAddr>> {
        let mut message = RouteMessage::default();
        message.header.address_family = family(address);
        message.header.destination_prefix_length = if address.is_ipv4() { 32 } else { 128 };
        message.attributes.push(RouteAttribute::Destination(RouteAddress::from(address)));
        self.send(RouteNetlinkMessage::GetRoute(message), NLM_F_REQUEST)?;
        match self.receive()? {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) => {
                Ok(route.attributes.iter().find_map(gateway))
            }
            // Unreachable.
            _ => Ok(None),
        }
    }

    /// Sends one request and waits for its acknowledgement.
    fn ask(&mut self, request: RouteNetlinkMessage, flags: u16) -> Result<()> {
        self.send(request, NLM_F_REQUEST | NLM_F_ACK | flags)?;
        match self.receive()? {
            NetlinkPayload::Error(error) if error.code.is_none() => Ok(()),
            NetlinkPayload::Error(error) => Err(error.to_io().into()),
            _ => bail!("netlink answered with something else than an acknowledgement"),
        }
    }

    fn send(&mut self, request: RouteNetlinkMessage, flags: u16) -> Result<()> {
        self.sequence += 1;
        let mut message = NetlinkMessage::from(request);
        message.header.flags = flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0).context("send to netlink")?;
        Ok(())
    }

    /// The answer to the last request.
    fn receive(&mut self) -> Result<NetlinkPayload<RouteNetlinkMessage>> {
        loop {
            let (bytes, _) = self.socket.recv_from_full().context("receive from netlink")?;
            let answer =
                NetlinkMessage::<RouteNetlinkMessage>::deserialize(&bytes).context("read netlink's answer")?;
            if answer.header.sequence_number == self.sequence {
                return Ok(answer.payload);
            }
        }
    }
}

fn gateway(attribute: &RouteAttribute) -> Option<IpAddr> {
    match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet(v4)) => Some((*v4).into()),
        RouteAttribute::Gateway(RouteAddress::Inet6(v6)) => Some((*v6).into()),
        _ => None,
    }
}

fn up(link: &mut LinkMessage) {
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
}

fn index(name: &str) -> Result<u32> {
    if_nametoindex(name).with_context(|| format!("find interface {name}"))
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn route(family: AddressFamily, to: Option<&Cidr>, via: IpAddr, protocol: RouteProtocol) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = protocol;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    if let Some(to) = to {
        message.header.destination_prefix_length = to.prefix_len();
        message.attributes.push(RouteAttribute::Destination(RouteAddress::from(to.network())));
    }
    message.attributes.push(RouteAttribute::Gateway(RouteAddress::from(via)));
    message
}
