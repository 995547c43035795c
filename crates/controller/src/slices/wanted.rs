//! What a slice is to say. Same input, same bytes.

use std::collections::BTreeSet;
use std::net::IpAddr;

use overlane_api::crd::{PodSlicePod, PodSlicePort, PodSliceProfile, PodSliceSpec};
use overlane_core::labels::Labels;
use overlane_core::policy::Profile;

/// Largest profile of a pod, bytes of its labels' and ports' names and values, and all profiles of a slice: an object has 1.5 MiB.
/// Pods beyond are left out: to policies they are nobody, and the others of the node are who they are.
const PROFILE_MOST: usize = 16 << 10;
const SLICE_MOST: usize = 1 << 20;

/// A node's slice: pods by address, and each profile once, in order.
pub fn spec<'a>(
    node_labels: Labels,
    node_addresses: &[IpAddr],
    pods: impl Iterator<Item = (&'a Profile, &'a [IpAddr])>,
) -> PodSliceSpec {
    let mut pods: Vec<(&[IpAddr], &Profile)> = pods.map(|(profile, addresses)| (addresses, profile)).collect();
    pods.sort_unstable();
    let profiles: BTreeSet<&Profile> = pods.iter().map(|(_, profile)| *profile).collect();
    let mut left = SLICE_MOST;
    let fits = |profile: &&Profile| {
        let size = size(profile);
        let fits = size <= PROFILE_MOST.min(left);
        left -= if fits { size } else { 0 };
        fits
    };
    let profiles: Vec<&Profile> = profiles.into_iter().filter(fits).collect();
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

/// About what it takes in the object.
fn size(profile: &Profile) -> usize {
    const MARKS: usize = 40;
    let labels = profile.labels.iter().map(|(key, value)| key.len() + value.len() + MARKS);
    let ports = profile.ports.iter().map(|port| port.name.len() + MARKS);
    profile.namespace.len() + MARKS + labels.sum::<usize>() + ports.sum::<usize>()
}

fn words(profile: &Profile) -> PodSliceProfile {
    let ports = profile.ports.iter().map(|port| PodSlicePort {
        name: port.name.clone(),
        protocol: port.protocol.to_string().to_uppercase(),
        port: port.port,
    });
    PodSliceProfile { namespace: profile.namespace.clone(), labels: profile.labels.clone(), ports: ports.collect() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    //! Must catch: one pod's labels that keep a node's slice from being written.

    use super::*;

    fn profile(app: &str, bytes: usize) -> Profile {
        let labels = [("app".to_owned(), app.to_owned()), ("x".to_owned(), "y".repeat(bytes))].into();
        Profile { namespace: "ns".to_owned(), labels, ..Profile::default() }
    }

    #[test]
    fn what_is_too_large_is_nobody() {
        let address = |n: u8| [IpAddr::from([10, 0, 0, n])];
        let (small, large) = (profile("a", 1), profile("b", PROFILE_MOST));
        let of = [(&large, address(1)), (&small, address(2))];
        let slice = spec(Labels::new(), &[], of.iter().map(|(profile, ips)| (*profile, ips.as_slice())));
        assert_eq!(slice.pods, [PodSlicePod { profile: 0, ips: vec!["10.0.0.2".to_owned()] }]);
        assert_eq!(slice.profiles.len(), 1);

        let many: Vec<Profile> = (0..200).map(|n| profile(&format!("app-{n:03}"), PROFILE_MOST / 2)).collect();
        let addresses: Vec<[IpAddr; 1]> = (0..200).map(address).collect();
        let of = many.iter().zip(addresses.iter().map(<[IpAddr; 1]>::as_slice));
        let slice = spec(Labels::new(), &[], of);
        assert!((100..130).contains(&slice.profiles.len()), "{}", slice.profiles.len());
        assert!(serde_json::to_vec(&slice).unwrap().len() < 1_400_000);
    }
}
