//! Rules to add, as commands of who keeps the rules.

use std::collections::BTreeSet;

use overlane_api::firewall::{Format, List, Rules};
use overlane_core::family::Family;
use overlane_core::firewall::{Decider, Direction, Flow, Judged, Label, Traffic, denying};

/// The last priority that Azure gives to rules that people write, and the first.
const AZURE: (i64, i64) = (100, 4096);

/// The priority of a rule of Google Cloud where nothing stands in the way: its own default.
const GCP: i64 = 1_000;

/// Makes commands; knows which priorities are taken, by rules and by what it said before.
pub(super) struct Remedies<'a> {
    rules: &'a Rules,
    taken: BTreeSet<(String, Direction, i64)>,
}

impl<'a> Remedies<'a> {
    pub(super) fn new(rules: &'a Rules) -> Self {
        let taken = rules
            .lists
            .iter()
            .flat_map(|list| list.used.iter().map(|(direction, priority)| (list.owner.clone(), *direction, *priority)));
        Self { taken: taken.collect(), rules }
    }

    /// What lets a flow through the lists that it does not surely pass.
    pub(super) fn of(&mut self, judged: &Judged) -> Vec<String> {
        if judged.causes.is_empty() {
            return Vec::new();
        }
        let rules = self.rules;
        let path = self.path(&judged.flow);
        let blamed = |list: &&List| {
            judged.causes.iter().any(|cause| match self.label(cause.decider) {
                Some(label) => label.owner == list.owner,
                None => path.contains(list.owner.as_str()),
            })
        };
        let lists: Vec<&List> = rules.lists.iter().filter(blamed).collect();
        let lists = lists.into_iter().filter(|list| list.direction.is_none_or(|one| one == judged.flow.direction));
        lists.map(|list| self.command(list, &judged.flow)).collect()
    }

    /// The lists that a flow has to pass.
    fn path(&self, flow: &Flow) -> BTreeSet<&'a str> {
        let firewall = &self.rules.firewall;
        let chains = firewall.paths.get(&flow.crossing()).into_iter().flatten();
        let policies = chains.filter_map(|chain| firewall.chains.get(*chain)?.policy);
        policies.filter_map(|(_, label)| firewall.labels.get(label)).map(|label| label.owner.as_str()).collect()
    }

    fn label(&self, decider: Decider) -> Option<&'a Label> {
        match decider {
            Decider::Rule(label) => self.rules.firewall.labels.get(label),
            Decider::Endless | Decider::TooMany => None,
        }
    }

    fn command(&mut self, list: &List, flow: &Flow) -> String {
        match self.rules.format {
            Format::Azure => self.azure(list, flow),
            Format::Aws => aws(list, flow),
            Format::Gcp => self.gcp(list, flow),
            Format::Nft => nft(list, flow),
        }
    }

    /// The first priority of rules that may drop some of a flow: what comes before them decides.
    fn before(&self, list: &List, flow: &Flow) -> i64 {
        let labels = denying(&self.rules.firewall, flow).into_iter();
        let labels = labels.filter_map(|label| self.rules.firewall.labels.get(label));
        let mine = labels.filter(|label| label.owner == list.owner);
        mine.filter_map(|label| label.priority).min().unwrap_or(i64::MAX)
    }

    /// A priority may be another rule's too; a rule that denies goes first then.
    fn gcp(&mut self, list: &List, flow: &Flow) -> String {
        let before = self.before(list, flow);
        if before == 0 {
            return format!("# no priority is before 0 in {}: give that rule a higher number first", list.owner);
        }
        let priority = before.saturating_sub(1).min(GCP);
        let number = (1..).find(|number| self.taken.insert((name(flow), flow.direction, *number))).unwrap_or(1);
        let suffix = if number == 1 { String::new() } else { format!("-{number}") };
        let rules = match flow.traffic {
            Traffic::All => "all".to_owned(),
            Traffic::Udp(port) => format!("udp:{port}"),
        };
        let direction = if flow.direction == Direction::Inbound { "INGRESS" } else { "EGRESS" };
        format!(
            "gcloud compute firewall-rules create {}{suffix} --network={} --direction={direction} --priority={priority} \
             --action=ALLOW --rules={rules} --source-ranges={} --destination-ranges={}",
            name(flow),
            quoted(list.name.as_deref().unwrap_or("NETWORK")),
            flow.source,
            flow.destination,
        )
    }

    fn azure(&mut self, list: &List, flow: &Flow) -> String {
        let before = self.before(list, flow);
        let mut free = (AZURE.0..=AZURE.1.min(before.saturating_sub(1))).rev();
        let is_free = |priority: &i64| !self.taken.contains(&(list.owner.clone(), flow.direction, *priority));
        let Some(priority) = free.find(is_free) else {
            return format!(
                "# no priority is free before {before} in {}: give that rule a higher number first",
                list.owner
            );
        };
        self.taken.insert((list.owner.clone(), flow.direction, priority));
        let (protocol, ports) = match flow.traffic {
            Traffic::All => ("'*'".to_owned(), "'*'".to_owned()),
            Traffic::Udp(port) => ("Udp".to_owned(), port.to_string()),
        };
        let direction = if flow.direction == Direction::Inbound { "Inbound" } else { "Outbound" };
        format!(
            "az network nsg rule create --resource-group {} --nsg-name {} --name {}-{priority} --priority {priority} \
             --direction {direction} --access Allow --protocol {protocol} --source-address-prefixes {} \
             --source-port-ranges '*' --destination-address-prefixes {} --destination-port-ranges {ports}",
            quoted(list.resource_group.as_deref().unwrap_or("RESOURCE_GROUP")),
            quoted(list.name.as_deref().unwrap_or("NSG")),
            name(flow),
            flow.source,
            flow.destination,
        )
    }
}

/// Adds to the first group of those that nodes are in: the rules of all count together.
fn aws(list: &List, flow: &Flow) -> String {
    let (way, far) = match flow.direction {
        Direction::Inbound => ("ingress", flow.source),
        Direction::Outbound => ("egress", flow.destination),
    };
    let protocol = match flow.traffic {
        Traffic::All => "IpProtocol=-1".to_owned(),
        Traffic::Udp(port) => format!("IpProtocol=udp,FromPort={port},ToPort={port}"),
    };
    let range = match flow.family() {
        Family::V4 => format!("IpRanges=[{{CidrIp={far},Description={}}}]", name(flow)),
        Family::V6 => format!("Ipv6Ranges=[{{CidrIpv6={far},Description={}}}]", name(flow)),
    };
    let group = quoted(list.name.as_deref().unwrap_or("GROUP"));
    format!("aws ec2 authorize-security-group-{way} --group-id {group} --ip-permissions '{protocol},{range}'")
}

/// At the beginning of the chain: what comes first decides there.
fn nft(list: &List, flow: &Flow) -> String {
    let header = if flow.family() == Family::V4 { "ip" } else { "ip6" };
    let traffic = match flow.traffic {
        Traffic::All => String::new(),
        Traffic::Udp(port) => format!(" udp dport {port}"),
    };
    let chain: Vec<String> = list.name.iter().flat_map(|name| name.split(' ')).map(quoted).collect();
    let (source, destination) = (flow.source, flow.destination);
    let ends = format!("{header} saddr {source} {header} daddr {destination}");
    format!("nft insert rule {} {ends}{traffic} accept", chain.join(" "))
}

/// What a rule is called.
fn name(flow: &Flow) -> String {
    let direction = if flow.direction == Direction::Inbound { "in" } else { "out" };
    let family = if flow.family() == Family::V4 { "ipv4" } else { "ipv6" };
    format!("overlane-{}-{direction}-{family}", flow.purpose)
}

/// A word for a shell: names come out of somebody's file.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}
