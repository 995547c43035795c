//! A VNet: a router with the node subnet on a bridge, a VM on that subnet that is no node, and a host behind the router.
//! The router knows no pod CIDR. Labs join it, take addresses from it, and the last one to leave removes it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use overlane_core::family::Family;
use overlane_datapath::mac::Mac;
use serde::{Deserialize, Serialize};

use crate::fabric::{Fabric, ROUTER_LINK_LOCAL, Underlay};
use crate::files;
use crate::names::{LabName, Part};
use crate::netns;
use crate::paths::VnetPaths;
use crate::wire::{Peer, Wire};

/// The bridge that carries the node subnet.
pub const BRIDGE: &str = "br-nodes";
/// MTU of every link of a VNet, in bytes, unless told otherwise.
pub const DEFAULT_MTU: u32 = 1500;
/// First host number that is given: the first three of a subnet are the fabric's, as in Azure.
pub const FIRST_HOST: u32 = 4;
/// Host number of the first lab's control plane (`10.224.254.4`).
pub const FIRST_CONTROL_PLANE: u32 = 0xfe04;
/// Host number of the VM (`10.224.255.4`).
pub const VM_HOST: u32 = 0xff04;

const NODES_V4: Ipv4Addr = Ipv4Addr::new(10, 224, 0, 0);
const NODES_V6: Ipv6Addr = Ipv6Addr::new(0xfd10, 0x224, 0, 0, 0, 0, 0, 0);
const OUTSIDE_V4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 0);
const OUTSIDE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 0);
const LOCK_PATIENCE: Duration = Duration::from_secs(60);

fn nth(v4: Ipv4Addr, v6: Ipv6Addr, family: Family, host: u32) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from(u32::from(v4) | host).into(),
        Family::V6 => Ipv6Addr::from(u128::from(v6) | u128::from(host)).into(),
    }
}

/// Address of a host on the node subnet (10.224.0.0/16, fd10:224::/64); the same number in both families.
pub fn node_address(family: Family, host: u32) -> IpAddr {
    nth(NODES_V4, NODES_V6, family, host)
}

/// Prefix length of the node subnet.
pub fn node_prefix_len(family: Family) -> u8 {
    match family {
        Family::V4 => 16,
        Family::V6 => 64,
    }
}

/// Address of the VM.
pub fn vm_address(family: Family) -> IpAddr {
    node_address(family, VM_HOST)
}

/// Address of the host behind the router (203.0.113.10, 2001:db8:113::10).
pub fn internet_address(family: Family) -> IpAddr {
    nth(OUTSIDE_V4, OUTSIDE_V6, family, if family == Family::V4 { 10 } else { 0x10 })
}

/// What a lab asks of its VNet; one that is there must be so already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VnetWish {
    /// MTU of its links, in bytes.
    pub mtu: Option<u32>,
    /// The kind of network.
    pub underlay: Option<Underlay>,
    /// Packets of a hundred that it loses.
    pub loss: Option<u32>,
}

/// Who is in a VNet, and which host numbers they hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VnetRecord {
    /// The VNet's name.
    pub name: LabName,
    /// MTU of its links, in bytes.
    pub mtu: u32,
    /// What lies between the nodes.
    #[serde(default)]
    pub fabric: Fabric,
    /// By lab: host numbers by what holds them (`node-0`, `cp`).
    pub labs: BTreeMap<LabName, BTreeMap<String, u32>>,
}

impl VnetRecord {
    /// A VNet with nobody in it.
    pub fn new(name: LabName, wish: &VnetWish) -> Self {
        let fabric = Fabric { underlay: wish.underlay.unwrap_or_default(), loss: wish.loss.unwrap_or_default() };
        Self { name, mtu: wish.mtu.unwrap_or(DEFAULT_MTU), fabric, labs: BTreeMap::new() }
    }

    /// In what it is not as asked for.
    fn against(&self, wish: &VnetWish) -> Option<String> {
        let other = |what: &str, asked: String, is: String| Some(format!("with {what} {asked}: its {what} is {is}"));
        match wish {
            VnetWish { mtu: Some(mtu), .. } if *mtu != self.mtu => other("MTU", mtu.to_string(), self.mtu.to_string()),
            VnetWish { underlay: Some(asked), .. } if *asked != self.fabric.underlay => {
                other("underlay", asked.to_string(), self.fabric.underlay.to_string())
            }
            VnetWish { loss: Some(loss), .. } if *loss != self.fabric.loss => {
                other("loss", format!("{loss} %"), format!("{} %", self.fabric.loss))
            }
            _ => None,
        }
    }

    /// The lowest free host number for `part` of `lab`, or the one that it holds.
    pub fn take(&mut self, lab: &LabName, part: &Part) -> Result<u32> {
        let taken: BTreeSet<u32> = self.labs.values().flat_map(BTreeMap::values).copied().collect();
        let held = self.labs.entry(lab.clone()).or_default();
        if let Some(host) = held.get(&part.to_string()) {
            return Ok(*host);
        }
        let range = match part {
            Part::ControlPlane => FIRST_CONTROL_PLANE..VM_HOST,
            _ => FIRST_HOST..FIRST_CONTROL_PLANE,
        };
        let Some(host) = range.into_iter().find(|host| !taken.contains(host)) else {
            bail!("take an address for {part} of lab {lab}: VNet {} has none left", self.name);
        };
        held.insert(part.to_string(), host);
        Ok(host)
    }
}

/// A VNet whose record is locked.
pub struct Vnet {
    record: VnetRecord,
    paths: VnetPaths,
    _lock: files::Lock,
}

impl Vnet {
    /// Locks the VNet, which must be there.
    pub fn open(name: &LabName) -> Result<Self> {
        let (paths, lock) = lock(name)?;
        let record = files::read_json(paths.record())?.with_context(|| format!("open VNet {name}: it is not there"))?;
        Ok(Self { record, paths, _lock: lock })
    }

    /// Locks the VNet for a lab that joins it, and makes it if it is not there.
    pub fn join(name: &LabName, lab: &LabName, wish: &VnetWish) -> Result<Self> {
        let (paths, lock) = lock(name)?;
        let record = match files::read_json::<VnetRecord>(paths.record())? {
            Some(record) => {
                if let Some(against) = record.against(wish) {
                    bail!("join VNet {name} {against}");
                }
                record
            }
            None => VnetRecord::new(name.clone(), wish),
        };
        let mut vnet = Self { record, paths, _lock: lock };
        vnet.record.labs.entry(lab.clone()).or_default();
        vnet.save()?;
        if netns::inode(&vnet.namespace(&Part::Internet)).is_none() {
            vnet.build().with_context(|| format!("make VNet {name}"))?;
        }
        Ok(vnet)
    }

    /// Takes a lab out, and ends the VNet if that was the last one. Whether there was anything to do.
    pub fn leave(name: &LabName, lab: &LabName) -> Result<bool> {
        let (paths, lock) = lock(name)?;
        let record = files::read_json::<VnetRecord>(paths.record()).ok().flatten();
        let mut found = record.is_some();
        if let Some(mut record) = record {
            record.labs.remove(lab);
            if !record.labs.is_empty() {
                files::write_json(paths.record(), &record)?;
                return Ok(true);
            }
        }
        for part in [Part::Router, Part::Vm, Part::Internet] {
            let path = netns::path(name, &part);
            found |= path.exists();
            crate::down::end_namespace(&path)?;
        }
        files::remove(paths.record())?;
        files::remove(paths.check_lock())?;
        lock.remove()?;
        Ok(found)
    }

    /// The record as it stands.
    pub fn record(&self) -> &VnetRecord {
        &self.record
    }

    /// The host number of a part of a lab; a new one is written down before it is used.
    pub fn take(&mut self, lab: &LabName, part: &Part) -> Result<u32> {
        let host = self.record.take(lab, part)?;
        self.save()?;
        Ok(host)
    }

    /// Gives a part's host number back.
    pub fn give_back(&mut self, lab: &LabName, part: &Part) -> Result<()> {
        if let Some(held) = self.record.labs.get_mut(lab) {
            held.remove(&part.to_string());
        }
        self.save()
    }

    /// Path of one of the VNet's namespaces.
    pub fn namespace(&self, part: &Part) -> PathBuf {
        netns::path(&self.record.name, part)
    }

    fn save(&self) -> Result<()> {
        files::write_json(self.paths.record(), &self.record)
    }

    fn build(&self) -> Result<()> {
        let mtu = self.record.mtu;
        for part in [Part::Router, Part::Vm, Part::Internet] {
            crate::down::end_namespace(&self.namespace(&part))?;
        }
        netns::create(&self.namespace(&Part::Router), || {
            quick_addresses()?;
            netns::sysctl("net/ipv4/ip_forward", "1")?;
            netns::sysctl("net/ipv6/conf/all/forwarding", "1")?;
            let mut wire = Wire::open()?;
            wire.up("lo")?;
            wire.bridge(BRIDGE, mtu)?;
            for family in [Family::V4, Family::V6] {
                wire.address(BRIDGE, node_address(family, 1), node_prefix_len(family))?;
            }
            self.record.fabric.build()
        })?;
        let both = [Family::V4, Family::V6];
        self.attach(&Part::Vm, &self.namespace(&Part::Vm), VM_HOST, &both, None)?;
        self.build_internet()
    }

    fn build_internet(&self) -> Result<()> {
        let path = self.namespace(&Part::Internet);
        let mtu = self.record.mtu;
        netns::create(&path, quick_addresses)?;
        let namespace = File::open(&path).with_context(|| format!("open {}", path.display()))?;
        netns::run(&self.namespace(&Part::Router), || {
            let mut wire = Wire::open()?;
            wire.veth("inet0", None, mtu, &Peer { name: "eth0", namespace: &namespace, mac: None })?;
            wire.address("inet0", nth(OUTSIDE_V4, OUTSIDE_V6, Family::V4, 1), 24)?;
            wire.address("inet0", nth(OUTSIDE_V4, OUTSIDE_V6, Family::V6, 1), 64)
        })?;
        netns::run(&path, || {
            let mut wire = Wire::open()?;
            wire.up("lo")?;
            wire.address("eth0", internet_address(Family::V4), 24)?;
            wire.address("eth0", internet_address(Family::V6), 64)?;
            wire.up("eth0")?;
            wire.default_route(nth(OUTSIDE_V4, OUTSIDE_V6, Family::V4, 1))?;
            wire.default_route(nth(OUTSIDE_V4, OUTSIDE_V6, Family::V6, 1))
        })
    }

    /// Makes a namespace at `path` with an `eth0` on the node subnet, addresses of `families`, and the router as its
    /// way out.
    pub fn attach(
        &self,
        part: &Part,
        path: &std::path::Path,
        host: u32,
        families: &[Family],
        mac: Option<Mac>,
    ) -> Result<()> {
        netns::create(path, quick_addresses)?;
        let wired = self.attach_link(path, host, families, mac);
        if wired.is_err() {
            let _ = netns::delete(path);
        }
        wired.with_context(|| format!("attach {part} to VNet {}", self.record.name))
    }

    fn attach_link(&self, path: &std::path::Path, host: u32, families: &[Family], mac: Option<Mac>) -> Result<()> {
        let Fabric { underlay, .. } = self.record.fabric;
        let mtu = self.record.mtu;
        let namespace = File::open(path).with_context(|| format!("open {}", path.display()))?;
        let port = port(host);
        let routed = underlay == Underlay::Routed;
        let addresses: Vec<IpAddr> = families.iter().map(|family| node_address(*family, host)).collect();
        netns::run(&self.namespace(&Part::Router), || {
            let mut wire = Wire::open()?;
            // What a namespace that is about to end still holds would be in the way.
            let _ = wire.remove(&port);
            let bridge = (!routed).then_some(BRIDGE);
            wire.veth(&port, bridge, mtu, &Peer { name: "eth0", namespace: &namespace, mac })?;
            if routed {
                wire.address(&port, ROUTER_LINK_LOCAL, 64)?;
                addresses.iter().try_for_each(|address| wire.link_route(*address, &port))?;
            }
            self.record.fabric.admit(&port, &addresses)
        })?;
        netns::run(path, || {
            let mut wire = Wire::open()?;
            wire.up("lo")?;
            for (family, address) in families.iter().zip(&addresses) {
                let prefix_len = if routed { family.bits() } else { node_prefix_len(*family) };
                wire.address("eth0", *address, prefix_len)?;
            }
            wire.up("eth0")?;
            families.iter().try_for_each(|family| wire.default_route(way_out(underlay, *family)))
        })
    }
}

/// The router's end of the link to a host.
pub fn port(host: u32) -> String {
    format!("h{host}")
}

/// The router as hosts of the node subnet see it.
fn way_out(underlay: Underlay, family: Family) -> IpAddr {
    match (underlay, family) {
        (Underlay::Routed, Family::V6) => ROUTER_LINK_LOCAL,
        _ => node_address(family, 1),
    }
}

fn lock(name: &LabName) -> Result<(VnetPaths, files::Lock)> {
    let paths = VnetPaths::of(name);
    let lock = files::lock(paths.lock(), LOCK_PATIENCE)?;
    Ok((paths, lock))
}

/// Addresses of this namespace count at once, and neighbours hear of a new owner of an old one at once.
fn quick_addresses() -> Result<()> {
    netns::sysctl("net/ipv4/conf/default/arp_notify", "1")?;
    if std::path::Path::new("/proc/sys/net/ipv6").exists() {
        netns::sysctl("net/ipv6/conf/default/accept_dad", "0")?;
        netns::sysctl("net/ipv6/conf/default/ndisc_notify", "1")?;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    //! Must catch: one address for two hosts of a VNet.

    use super::*;

    #[test]
    fn host_numbers_are_given_once_across_labs() {
        let (a, b): (LabName, LabName) = ("a".parse().unwrap(), "b".parse().unwrap());
        let mut vnet = VnetRecord::new("v".parse().unwrap(), &VnetWish::default());
        assert_eq!(vnet.take(&a, &Part::Node(0)).unwrap(), FIRST_HOST);
        assert_eq!(vnet.take(&b, &Part::Node(0)).unwrap(), FIRST_HOST + 1);
        assert_eq!(vnet.take(&a, &Part::Node(0)).unwrap(), FIRST_HOST, "what is held stays");
        assert_eq!(vnet.take(&a, &Part::ControlPlane).unwrap(), FIRST_CONTROL_PLANE);
        assert_eq!(vnet.take(&b, &Part::ControlPlane).unwrap(), FIRST_CONTROL_PLANE + 1);
        vnet.labs.get_mut(&a).unwrap().remove("node-0");
        assert_eq!(vnet.take(&b, &Part::Node(1)).unwrap(), FIRST_HOST, "the lowest free one is next");
    }

    #[test]
    fn addresses_are_those_of_the_design() {
        let text = |family, host| node_address(family, host).to_string();
        assert_eq!(text(Family::V4, 1), "10.224.0.1");
        assert_eq!(text(Family::V4, FIRST_HOST), "10.224.0.4");
        assert_eq!(text(Family::V4, FIRST_CONTROL_PLANE), "10.224.254.4");
        assert_eq!(vm_address(Family::V4).to_string(), "10.224.255.4");
        assert_eq!(vm_address(Family::V6).to_string(), "fd10:224::ff04");
        assert_eq!(internet_address(Family::V4).to_string(), "203.0.113.10");
        assert_eq!(internet_address(Family::V6).to_string(), "2001:db8:113::10");
    }
}
