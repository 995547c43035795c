//! Pod CIDRs of a cluster that runs: how they may change.

use std::net::IpAddr;

use super::Finding;
use super::ranges::reserved;
use crate::cidr::Cidr;
use crate::family::Family;

/// How many blocks a finding names.
const NAMED: usize = 3;

/// How pod CIDRs are to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// To larger ranges with the same base (seed 003, "Pod CIDR expansion").
    Expand,
    /// Back to smaller ones, while nobody has a block of what goes.
    Rollback,
    /// To a range of a further family, behind the one that is there.
    AddFamily,
}

/// Judges a change of pod CIDRs over the blocks and the addresses that nodes have. Families that stay as they are break no rule.
#[must_use]
pub fn expansion(old: &[Cidr], new: &[Cidr], blocks: &[Cidr], nodes: &[IpAddr], way: Way) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut add = |rule, field: &str, reason: String, fix: String| {
        findings.push(Finding { field: field.to_owned(), rule, reason, fix });
    };
    let families = |cidrs: &[Cidr]| cidrs.iter().map(Cidr::family).collect::<Vec<Family>>();
    let (before, after) = (families(old), families(new));
    let kept = if way == Way::AddFamily { after.starts_with(&before) } else { before == after };
    if !kept {
        let words = |cidrs: &[Cidr]| cidrs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let reason = format!("{} has other families than {}, which is in force", words(new), words(old));
        let fix = match way {
            Way::AddFamily => "name the family that is there first: it stays the primary one",
            Way::Expand | Way::Rollback => {
                "give one range of each family, in the same order; another family is added by name"
            }
        };
        add("pod-cidr-families", "podCIDRs", reason, fix.to_owned());
        return findings;
    }
    for (place, new) in new.iter().enumerate() {
        let (field, old) = (format!("podCIDRs[{place}]"), old.get(place));
        let swallowed = |address: &&IpAddr| new.contains(**address) && !old.is_some_and(|old| old.contains(**address));
        if let Some(address) = nodes.iter().find(swallowed) {
            let reason = format!("{new} contains {address}, which is a node's own address");
            add("overlap-node", &field, reason, "take a range that is none of the nodes' network".to_owned());
        }
        let Some(old) = old.filter(|old| *old != new) else { continue };
        let same_base = old.network() == new.network();
        let (grows, shrinks) = (new.contains_cidr(old), old.contains_cidr(new));
        if grows && !same_base {
            let reason =
                format!("{new} contains {old}, but begins elsewhere: blocks are counted from the first address");
            add("pod-cidr-base", &field, reason, largest(old));
        } else if !grows && !shrinks {
            let reason = format!("{new} does not contain {old}, whose addresses pods have");
            add("pod-cidr-discontiguous", &field, reason, largest(old));
        } else if shrinks && way != Way::Rollback {
            let reason = format!("{new} is smaller than {old}, which is in force");
            add("pod-cidr-shrinks", &field, reason, "give a larger range, or take an expansion back".to_owned());
        } else if grows && way == Way::Rollback {
            let reason = format!("{new} is larger than {old}, which is in force");
            add("pod-cidr-grows", &field, reason, "to take back leads to a smaller range".to_owned());
        } else if shrinks {
            let lost: Vec<String> = blocks
                .iter()
                .filter(|block| old.contains_cidr(block) && !new.contains_cidr(block))
                .map(ToString::to_string)
                .collect();
            if let Some((first, more)) =
                lost.split_at_checked(NAMED).or(Some((&lost, &[]))).filter(|_| !lost.is_empty())
            {
                let more = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
                let reason = format!("nodes have blocks that would lie outside of {new}: {}{more}", first.join(", "));
                add("pod-cidr-in-use", &field, reason, format!("keep {old}, or take these nodes away first"));
            }
        }
    }
    findings
}

/// Larger ranges with the same base that pods can have, the smallest first.
pub fn supersets(cidr: &Cidr) -> impl Iterator<Item = Cidr> + use<> {
    let cidr = *cidr;
    let larger = (0..cidr.prefix_len()).rev().map_while(move |length| Cidr::new(cidr.network(), length).ok());
    larger.take_while(|larger| reserved(larger).next().is_none())
}

/// How far it can grow.
fn largest(cidr: &Cidr) -> String {
    match supersets(cidr).last() {
        Some(largest) => format!("give {cidr} a shorter prefix, down to {largest}"),
        None => format!("{cidr} is no larger range's first part and cannot grow: more space needs another cluster"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    //! Must catch: a change that moves blocks or takes them away.

    use super::*;

    fn cidrs(words: &str) -> Vec<Cidr> {
        words.split_whitespace().map(|word| word.parse().unwrap()).collect()
    }

    fn rules(old: &str, new: &str, blocks: &str, way: Way) -> Vec<&'static str> {
        expansion(&cidrs(old), &cidrs(new), &cidrs(blocks), &["10.246.77.7".parse().unwrap()], way)
            .iter()
            .map(|finding| finding.rule)
            .collect()
    }

    #[test]
    fn every_change_is_judged() {
        // A node has 10.246.77.7.
        let (old, v6) = ("10.244.0.0/18", "fd12::/64");
        for (new, expand, back) in [
            ("10.244.0.0/18", &[][..], &[][..]),
            ("10.244.0.0/15", &[], &["pod-cidr-grows"]),
            ("10.244.0.0/14", &["overlap-node"], &["overlap-node", "pod-cidr-grows"]),
            ("10.240.0.0/12", &["overlap-node", "pod-cidr-base"], &["overlap-node", "pod-cidr-base"]),
            ("10.245.0.0/16", &["pod-cidr-discontiguous"], &["pod-cidr-discontiguous"]),
            ("10.244.0.0/20", &["pod-cidr-shrinks"], &[]),
            ("10.244.0.0/22", &["pod-cidr-shrinks"], &["pod-cidr-in-use"]),
        ] {
            let blocks = "10.244.0.0/24 10.244.9.0/24 fd12::/80";
            let given = |way| rules(&format!("{old} {v6}"), &format!("{new} {v6}"), blocks, way);
            assert_eq!(given(Way::Expand), expand, "{new}");
            assert_eq!(given(Way::Rollback), back, "{new}");
        }
        assert_eq!(rules(old, v6, "", Way::Expand), ["pod-cidr-families"]);
        assert_eq!(rules(old, &format!("{old} {v6}"), "", Way::Expand), ["pod-cidr-families"]);
        assert_eq!(
            rules("fd12::/64", "fd12::/60", "", Way::Expand),
            Vec::<&str>::new(),
            "beyond the documents: IPv6 too"
        );
    }

    #[test]
    fn a_finding_says_how_far_it_can_grow() {
        let fix = |old, new| expansion(&cidrs(old), &cidrs(new), &[], &[], Way::Expand).remove(0).fix;
        assert!(fix("10.244.0.0/16", "10.0.0.0/8").contains("10.244.0.0/14"));
        assert!(fix("172.28.0.0/16", "172.16.0.0/12").contains("down to 172.28.0.0/15"), "none of the reserved ranges");
        assert!(fix("10.245.0.0/16", "10.244.0.0/15").contains("cannot grow"));
    }
}
