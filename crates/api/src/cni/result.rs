//! Results: what ADD answers, and what comes back as `prevResult`.
//!
//! One set of types for all versions, in the newest shape; [`AddResult::shaped`] takes away or adds what differs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Deserializer, Serialize};

use crate::socket::{Endpoint, LeasedAddress};

use super::error::{Error, shown};
use super::version::Version;

/// What the plugin itself knows of the pod's end.
#[derive(Clone, Copy, Debug)]
pub struct PodSide<'a> {
    /// `CNI_IFNAME`.
    pub ifname: &'a str,
    /// `CNI_NETNS`.
    pub netns: &'a str,
    /// The next hop of the IPv4 default route.
    pub gateway_v4: Ipv4Addr,
    /// The next hop of the IPv6 default route.
    pub gateway_v6: Ipv6Addr,
}

/// What ADD answers (spec section "ADD Success").
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AddResult {
    /// The version that the shape is of.
    cni_version: String,
    #[serde(flatten)]
    result: PrevResult,
}

/// A result as the runtime hands it back. Fields that no version of the spec has are dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, expecting = "a result of ADD")]
pub struct PrevResult {
    /// All interfaces of the attachment, also those on the host.
    #[serde(deserialize_with = "null_is_default")]
    pub interfaces: Vec<Interface>,
    /// The addresses.
    #[serde(deserialize_with = "null_is_default")]
    pub ips: Vec<IpConfig>,
    /// The routes.
    #[serde(deserialize_with = "null_is_default")]
    pub routes: Vec<Route>,
    /// DNS settings.
    #[serde(deserialize_with = "null_is_default")]
    pub dns: Dns,
}

/// An interface of a result.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, expecting = "an interface of a result")]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Hardware address.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// MTU, bytes; from 1.1.0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<i64>,
    /// Path of the network namespace; empty on the host.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sandbox: String,
    /// Path of a socket file; from 1.1.0, never ours.
    #[serde(rename = "socketPath", skip_serializing_if = "String::is_empty")]
    pub socket_path: String,
    /// PCI address; from 1.1.0, never ours.
    #[serde(rename = "pciID", skip_serializing_if = "String::is_empty")]
    pub pci_id: String,
}

/// An address of a result.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, expecting = "an address of a result")]
pub struct IpConfig {
    /// `4` or `6`; before 1.0.0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Index into the interfaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<i64>,
    /// The address with its prefix length.
    pub address: String,
    /// The default gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
}

/// A route of a result.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, expecting = "a route of a result")]
pub struct Route {
    /// The destination, a CIDR.
    pub dst: String,
    /// The next hop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gw: Option<String>,
    /// MTU along the path; from 1.1.0, as are the following.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<i64>,
    /// MSS to advertise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advmss: Option<i64>,
    /// Priority; lower goes first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<i64>,
    /// Routing table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table: Option<i64>,
    /// Scope: 0 global, 253 link, 254 host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<i64>,
}

/// DNS settings of a result or a configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, expecting = "an object with DNS settings")]
pub struct Dns {
    /// Addresses of name servers, in order of preference.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub nameservers: Vec<String>,
    /// The local domain.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub domain: String,
    /// Search domains, in order.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub search: Vec<String>,
    /// Options for the resolver.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub options: Vec<String>,
}

impl AddResult {
    /// The result for an endpoint that the agent made. What an earlier plugin of the chain did (`prev`) stays in front.
    #[must_use]
    pub fn new(endpoint: &Endpoint, pod: PodSide<'_>, dns: Dns, prev: Option<PrevResult>) -> Self {
        let mut result = prev.unwrap_or_default();
        result.interfaces.push(Interface {
            name: endpoint.host_ifname.clone(),
            mac: endpoint.host_mac.clone(),
            mtu: Some(i64::from(endpoint.mtu)),
            ..Interface::default()
        });
        result.interfaces.push(Interface {
            name: pod.ifname.to_owned(),
            mac: endpoint.mac.clone(),
            mtu: Some(i64::from(endpoint.mtu)),
            sandbox: pod.netns.to_owned(),
            ..Interface::default()
        });
        let pod_side = i64::try_from(result.interfaces.len()).ok().map(|count| count - 1);
        for address in &endpoint.addresses {
            let (length, everything, gateway) = match address {
                IpAddr::V4(_) => (32, "0.0.0.0/0", pod.gateway_v4.to_string()),
                IpAddr::V6(_) => (128, "::/0", pod.gateway_v6.to_string()),
            };
            result.ips.push(IpConfig {
                version: None,
                interface: pod_side,
                address: format!("{address}/{length}"),
                gateway: Some(gateway.clone()),
            });
            result.routes.push(Route { dst: everything.to_owned(), gw: Some(gateway), ..Route::default() });
        }
        if dns != Dns::default() {
            result.dns = dns;
        }
        Self { cni_version: Version::NEWEST.as_str().to_owned(), result }.shaped(Version::NEWEST)
    }

    /// The result of the `loopback` plugin; what an earlier plugin of the chain did (`prev`) stays alone.
    #[must_use]
    pub fn of_loopback(ifname: &str, netns: &str, prev: Option<PrevResult>) -> Self {
        let result = prev.unwrap_or_else(|| PrevResult {
            interfaces: vec![Interface {
                name: ifname.to_owned(),
                mac: "00:00:00:00:00:00".to_owned(),
                sandbox: netns.to_owned(),
                ..Interface::default()
            }],
            ips: ["127.0.0.1/8", "::1/128"]
                .map(|address| IpConfig { interface: Some(0), address: address.to_owned(), ..IpConfig::default() })
                .to_vec(),
            ..PrevResult::default()
        });
        Self { cni_version: Version::NEWEST.as_str().to_owned(), result }
    }

    /// The same result in the shape of a version.
    #[must_use]
    pub fn shaped(mut self, version: Version) -> Self {
        self.cni_version = version.as_str().to_owned();
        for ip in &mut self.result.ips {
            let family = if ip.address.contains(':') { "6" } else { "4" };
            ip.version = (version < Version::V1_0_0).then(|| family.to_owned());
        }
        if version < Version::V1_1_0 {
            for interface in &mut self.result.interfaces {
                interface.mtu = None;
                interface.socket_path.clear();
                interface.pci_id.clear();
            }
            shape_routes(&mut self.result.routes);
        }
        self
    }
}

/// What ADD of an IPAM plugin answers (spec section "Delegated Plugins (IPAM)"): no interfaces.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct IpamResult {
    cni_version: String,
    ips: Vec<IpConfig>,
    routes: Vec<Route>,
    #[serde(skip_serializing_if = "is_default")]
    dns: Dns,
}

impl IpamResult {
    /// The result for these addresses in the shape of a version; a default route a family, unless `routes` says
    /// otherwise.
    #[must_use]
    pub fn new(addresses: &[LeasedAddress], routes: Option<Vec<Route>>, dns: Dns, version: Version) -> Self {
        let before_1_0 = version < Version::V1_0_0;
        let ip = |of: &LeasedAddress| IpConfig {
            version: before_1_0.then(|| if of.address.is_ipv4() { "4" } else { "6" }.to_owned()),
            interface: None,
            address: format!("{}/{}", of.address, of.prefix_len),
            gateway: Some(of.gateway.to_string()),
        };
        let default = |of: &LeasedAddress| Route {
            dst: if of.address.is_ipv4() { "0.0.0.0/0" } else { "::/0" }.to_owned(),
            gw: Some(of.gateway.to_string()),
            ..Route::default()
        };
        let mut routes = routes.unwrap_or_else(|| addresses.iter().map(default).collect());
        if version < Version::V1_1_0 {
            shape_routes(&mut routes);
        }
        let cni_version = version.as_str().to_owned();
        Self { cni_version, ips: addresses.iter().map(ip).collect(), routes, dns }
    }
}

/// Routes as they were before 1.1.0.
fn shape_routes(routes: &mut [Route]) {
    for route in routes {
        *route = Route { dst: std::mem::take(&mut route.dst), gw: route.gw.take(), ..Route::default() };
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl PrevResult {
    /// The addresses that ADD gave to the interface `ifname` of the pod, as CHECK must find them.
    ///
    /// # Errors
    /// [`Error::BadValue`] if the result names no such interface in a sandbox, or gives it no address that can be read.
    pub fn addresses_of(&self, ifname: &str) -> Result<Vec<IpAddr>, Error> {
        let index = self
            .interfaces
            .iter()
            .position(|interface| interface.name == ifname && !interface.sandbox.is_empty())
            .ok_or_else(|| bad("prevResult.interfaces", ifname, "must name the pod's interface"))?;
        let mine = |ip: &&IpConfig| ip.interface.is_some_and(|at| usize::try_from(at) == Ok(index));
        addresses(self.ips.iter().filter(mine), ifname)
    }

    /// The addresses that an IPAM plugin is asked about: those of the interface `ifname` of the pod, and those that
    /// nobody said an interface of.
    ///
    /// # Errors
    /// [`Error::BadValue`] if there is none, or one that cannot be read.
    pub fn addresses_for_ipam(&self, ifname: &str) -> Result<Vec<IpAddr>, Error> {
        let is_mine = |at: i64| {
            let interface = usize::try_from(at).ok().and_then(|at| self.interfaces.get(at));
            interface.is_some_and(|interface| interface.name == ifname && !interface.sandbox.is_empty())
        };
        addresses(self.ips.iter().filter(|ip| ip.interface.is_none_or(is_mine)), ifname)
    }
}

fn addresses<'a>(ips: impl Iterator<Item = &'a IpConfig>, ifname: &str) -> Result<Vec<IpAddr>, Error> {
    let addresses = ips.map(|ip| {
        let text = ip.address.split('/').next().unwrap_or_default();
        text.parse().map_err(|_| bad("prevResult.ips", &ip.address, "must be an address with its prefix length"))
    });
    let addresses = addresses.collect::<Result<Vec<IpAddr>, Error>>()?;
    if addresses.is_empty() {
        return Err(bad("prevResult.ips", ifname, "must hold an address of the pod's interface"));
    }
    Ok(addresses)
}

fn bad(key: &str, value: &str, rule: &'static str) -> Error {
    Error::BadValue { key: key.to_owned(), value: format!("{:?}", shown(value)), rule }
}

fn null_is_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}
