//! Which destinations keep the pod's own source address: fragments of ip-masq-agent's configuration, merged.
//!
//! A fragment that is wrong anywhere is left out whole and named; the others apply. Who wrote half of what they
//! meant is better served by a message than by half of it.

use std::collections::BTreeSet;

use crate::cidr::{Cidr, CidrError};

/// One ConfigMap key's worth of ip-masq-agent configuration, parsed and not yet judged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MasqFragment {
    /// Where it came from, such as `kube-system/azure-ip-masq-agent-config/ip-masq-agent`; goes into findings.
    pub source: String,
    /// `nonMasqueradeCIDRs`.
    pub non_masquerade_cidrs: Vec<String>,
    /// `masqLinkLocal`: whether what goes to `169.254.0.0/16` is masqueraded.
    pub masq_link_local: bool,
    /// `masqLinkLocalIPv6`: whether what goes to `fe80::/10` is masqueraded.
    pub masq_link_local_ipv6: bool,
}

/// What the good fragments say together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MasqConfig {
    /// Destinations that are not masqueraded, besides the pod CIDRs.
    pub non_masquerade: BTreeSet<Cidr>,
    /// Whether what goes to `169.254.0.0/16` is masqueraded.
    pub masq_link_local: bool,
    /// Whether what goes to `fe80::/10` is masqueraded.
    pub masq_link_local_ipv6: bool,
}

impl Default for MasqConfig {
    /// With no fragment only the pod CIDRs are left alone, and link-local destinations are masqueraded.
    fn default() -> Self {
        Self { non_masquerade: BTreeSet::new(), masq_link_local: true, masq_link_local_ipv6: true }
    }
}

/// A fragment that was left out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("masquerade configuration {source_name} is left out: {field}: {cause}")]
pub struct MasqFinding {
    /// The fragment's source.
    pub source_name: String,
    /// Where in it: `nonMasqueradeCIDRs[2]`.
    pub field: String,
    /// What is wrong there.
    #[source]
    pub cause: CidrError,
}

/// Merges fragments: the union of their CIDRs, and a flag is on if any of them says so. The order of the fragments
/// does not matter. Without a single good fragment this is [`MasqConfig::default`].
#[must_use]
pub fn merge(fragments: &[MasqFragment]) -> (MasqConfig, Vec<MasqFinding>) {
    let mut merged =
        MasqConfig { non_masquerade: BTreeSet::new(), masq_link_local: false, masq_link_local_ipv6: false };
    let mut findings = Vec::new();
    let mut good = 0_usize;
    for fragment in fragments {
        match cidrs(fragment) {
            Ok(cidrs) => {
                good += 1;
                merged.non_masquerade.extend(cidrs);
                merged.masq_link_local |= fragment.masq_link_local;
                merged.masq_link_local_ipv6 |= fragment.masq_link_local_ipv6;
            }
            Err(mut bad) => findings.append(&mut bad),
        }
    }
    if good == 0 { (MasqConfig::default(), findings) } else { (merged, findings) }
}

/// The fragment's CIDRs, or everything that is wrong with them.
fn cidrs(fragment: &MasqFragment) -> Result<Vec<Cidr>, Vec<MasqFinding>> {
    let mut good = Vec::with_capacity(fragment.non_masquerade_cidrs.len());
    let mut bad = Vec::new();
    for (index, text) in fragment.non_masquerade_cidrs.iter().enumerate() {
        match text.parse() {
            Ok(cidr) => good.push(cidr),
            Err(cause) => bad.push(MasqFinding {
                source_name: fragment.source.clone(),
                field: format!("nonMasqueradeCIDRs[{index}]"),
                cause,
            }),
        }
    }
    if bad.is_empty() { Ok(good) } else { Err(bad) }
}
