//! Rules to add, as commands of who keeps the rules.

use std::collections::BTreeSet;

use overlane_api::firewall::{Format, List, Rules};
use overlane_core::family::Family;
use overlane_core::firewall::{Decider, Direction, Flow, Judged, Label, Traffic, denying};

/// The last priority that Azure gives to rules that people write, and the first.
const AZURE: (i64, i64) = (100, 4096);

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
        let blamed = |list: &&List| {
            judged.causes.iter().any(|cause| self.label(cause.decider).is_none_or(|label| label.owner == list.owner))
        };
        let lists: Vec<&List> = rules.lists.iter().filter(blamed).collect();
        let lists = lists.into_iter().filter(|list| list.direction.is_none_or(|one| one == judged.flow.direction));
        lists.map(|list| self.command(list, judged)).collect()
    }

    fn label(&self, decider: Decider) -> Option<&'a Label> {
        match decider {
            Decider::Rule(label) => self.rules.firewall.labels.get(label),
            Decider::Endless | Decider::TooMany => None,
        }
    }

    fn command(&mut self, list: &List, judged: &Judged) -> String {
        match self.rules.format {
            Format::Azure => self.azure(list, judged),
            Format::Aws | Format::Gcp | Format::Nft => String::new(),
        }
    }

    /// The first priority of rules that may drop some of a flow: what comes before them decides.
    fn before(&self, list: &List, flow: &Flow) -> i64 {
        let labels = denying(&self.rules.firewall, flow).into_iter();
        let labels = labels.filter_map(|label| self.rules.firewall.labels.get(label));
        let mine = labels.filter(|label| label.owner == list.owner);
        mine.filter_map(|label| label.priority).min().unwrap_or(i64::MAX)
    }

    fn azure(&mut self, list: &List, judged: &Judged) -> String {
        let flow = &judged.flow;
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
