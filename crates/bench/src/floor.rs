//! The floor of a CNI ADD: enters the pod's namespace and creates a veth pair, nothing else.

use std::os::fd::AsRawFd;

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkInfo, LinkMessage};
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use nix::sched::{CloneFlags, setns};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    if std::env::var("CNI_COMMAND").as_deref() != Ok("ADD") {
        return Ok(());
    }
    let mut config = String::new();
    std::io::Read::read_to_string(&mut std::io::stdin(), &mut config)?;
    let pod = std::fs::File::open(std::env::var("CNI_NETNS")?)?;
    let node = std::fs::File::open("/proc/self/ns/net")?;
    setns(&pod, CloneFlags::CLONE_NEWNET)?;
    let mut peer = LinkMessage::default();
    peer.attributes.push(LinkAttribute::IfName(format!("flr{}", std::process::id())));
    peer.attributes.push(LinkAttribute::NetNsFd(node.as_raw_fd()));
    let mut link = LinkMessage::default();
    link.attributes.push(LinkAttribute::IfName("eth0".into()));
    link.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
    ]));
    let mut message = NetlinkMessage::from(RouteNetlinkMessage::NewLink(link));
    message.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.send(&bytes, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    if let NetlinkPayload::Error(error) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer)?.payload
        && error.code.is_some()
    {
        return Err(error.to_io().into());
    }
    // A runtime wants an address; which one is no matter where nobody talks.
    println!(
        "{{\"cniVersion\":\"1.0.0\",\"interfaces\":[{{\"name\":\"eth0\",\"sandbox\":{:?}}}],\
         \"ips\":[{{\"address\":\"192.0.2.1/32\",\"interface\":0}}]}}",
        std::env::var("CNI_NETNS")?
    );
    Ok(())
}
