//! What a slice is to say. Same input, same bytes.

use std::collections::BTreeSet;
use std::net::IpAddr;

use overlane_api::crd::{PodSlicePod, PodSlicePort, PodSliceProfile, PodSliceSpec};
use overlane_core::labels::Labels;
use overlane_core::policy::Profile;

/// A node's slice: pods by address, and each profile once, in order.
pub fn spec<'a>(
    node_labels: Labels,
    node_addresses: &[IpAddr],
    pods: impl Iterator<Item = (&'a Profile, &'a [IpAddr])>,
) -> PodSliceSpec {
    let mut pods: Vec<(&[IpAddr], &Profile)> = pods.map(|(profile, addresses)| (addresses, profile)).collect();
    pods.sort_unstable();
    let profiles: BTreeSet<&Profile> = pods.iter().map(|(_, profile)| *profile).collect();
    let profiles: Vec<&Profile> = profiles.into_iter().collect();
    let index = |profile: &Profile| profiles.binary_search(&profile).ok().and_then(|at| u32::try_from(at).ok());
    let pods = pods.iter().filter_map(|(addresses, profile)| {
        Some(PodSlicePod { profile: index(profile)?, ips: addresses.iter().map(ToString::to_string).collect() })
    });
    PodSliceSpec {
        node_labels,
        node_addresses: node_addresses.iter().map(ToString::to_string).collect(),
        pods: pods.collect(),
        profiles: profiles.into_iter().map(words).collect(),
    }
}

fn words(profile: &Profile) -> PodSliceProfile {
    let ports = profile.ports.iter().map(|port| PodSlicePort {
        name: port.name.clone(),
        protocol: port.protocol.to_string().to_uppercase(),
        port: port.port,
    });
    PodSliceProfile { namespace: profile.namespace.clone(), labels: profile.labels.clone(), ports: ports.collect() }
}
