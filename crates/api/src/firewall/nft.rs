//! Rules of nftables: `nft -j list ruleset`.
//!
//! Source: libnftables-json(5), nft(8). A packet passes all base chains of type filter of the hooks that it comes by; a chain
//! that accepts it leaves it to the next. What a rule asks for and nobody here understands makes it one that may match.

mod ask;
mod statement;
mod values;

use std::collections::{BTreeMap, BTreeSet};

use overlane_core::family::Family;
use overlane_core::firewall::{Action, Chain, ChainId, Crossing, Direction, End, Firewall, Label, LabelId, Rule};

use self::ask::Ask;
use super::cursor::At;
use super::{FirewallError, Format, List, Rules, Told};

/// Most ranges that all rules ask for together: a set counts once for each rule that names it.
const MOST_RANGES: usize = 2_000_000;
/// Hooks of the way through a node, with filter chains.
const HOOKS: [&str; 5] = ["prerouting", "input", "forward", "output", "postrouting"];

/// Hooks of a link.
const LINK_HOOKS: [&str; 2] = ["ingress", "egress"];
/// What stands for either.
const LINK: &str = "link";

/// A table: family and name.
type Table<'a> = (&'a str, &'a str);

/// What is read, and what is known already.
struct Reader<'a, 'b> {
    told: &'b Told,
    firewall: Firewall,
    /// Chains by table and name.
    chains: BTreeMap<(Table<'a>, &'a str), ChainId>,
    /// Elements of sets and maps.
    sets: BTreeMap<(Table<'a>, &'a str), Option<At<'a>>>,
    /// Chains that have rules.
    with_rules: BTreeSet<(Table<'a>, &'a str)>,
    ranges: usize,
}

/// A chain that packets begin in.
struct Base<'a> {
    hook: &'a str,
    priority: i64,
    chain: ChainId,
}

/// Reads a ruleset.
pub(super) fn read(top: &At<'_>, told: &Told) -> Result<Rules, FirewallError> {
    if top.get("nftables").is_none() {
        return Err(FirewallError::Other { format: Format::Nft, expected: "an object with `nftables`" });
    }
    let objects = top.need("nftables")?.items()?;
    let firewall = Firewall { on_node: true, ..Firewall::default() };
    let (chains, sets, with_rules) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
    let mut reader = Reader { told, firewall, chains, sets, with_rules, ranges: 0 };
    for rule in objects.iter().filter_map(|object| object.get("rule")) {
        reader.with_rules.insert((table(&rule)?, rule.need("chain")?.text()?));
    }
    let mut bases = Vec::new();
    let mut others = BTreeSet::new();
    for object in &objects {
        if let Some(chain) = object.get("chain") {
            bases.extend(reader.chain(&chain, &mut others)?);
        }
        for key in ["set", "map"] {
            if let Some(set) = object.get(key) {
                reader.sets.insert((table(&set)?, set.need("name")?.text()?), set.get("elem"));
            }
        }
    }
    for object in &objects {
        if let Some(rule) = object.get("rule") {
            reader.rule(&rule)?;
        }
    }
    bases.sort_by_key(|base| base.priority);
    for crossing in Direction::ALL.into_iter().flat_map(Crossing::of) {
        let hooks = hooks(crossing);
        let mine = hooks.iter().flat_map(|hook| bases.iter().filter(move |base| base.hook == *hook));
        let path = mine.map(|base| base.chain).collect();
        reader.firewall.paths.insert(crossing, path);
    }
    Ok(Rules { format: Format::Nft, lists: reader.lists(), firewall: reader.firewall, notes: notes(&others) })
}

fn notes(others: &BTreeSet<String>) -> Vec<String> {
    let mut notes = Vec::new();
    if !others.is_empty() {
        let list = others.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        notes.push(format!("not looked at: {list}"));
    }
    notes
}

/// The hooks that packets come by, in their order.
fn hooks(crossing: Crossing) -> &'static [&'static str] {
    match (crossing.direction, crossing.from, crossing.to) {
        (Direction::Inbound, _, End::Node) => &[LINK, "prerouting", "input"],
        (Direction::Inbound, _, End::Pod) | (Direction::Outbound, End::Pod, _) => {
            &[LINK, "prerouting", "forward", "postrouting"]
        }
        (Direction::Outbound, End::Node, _) => &["output", "postrouting", LINK],
    }
}

fn table<'a>(at: &At<'a>) -> Result<Table<'a>, FirewallError> {
    Ok((at.need("family")?.text()?, at.need("table")?.text()?))
}

/// The families whose packets a table sees; none where it is not one of the network layer.
fn families(table: Table<'_>) -> &'static [Family] {
    match table.0 {
        "ip" => &[Family::V4],
        "ip6" => &[Family::V6],
        "inet" => &[Family::V4, Family::V6],
        _ => &[],
    }
}

impl<'a> Reader<'a, '_> {
    fn is_own(&self, table: Table<'_>) -> bool {
        table == ("inet", self.told.own.table.as_str())
    }

    /// Makes a chain, without its rules yet. `others` gets what is not looked at.
    fn chain(&mut self, at: &At<'a>, others: &mut BTreeSet<String>) -> Result<Option<Base<'a>>, FirewallError> {
        let (table, name) = (table(at)?, at.need("name")?.text()?);
        let (kind, hook) = (at.text_of("type")?, at.text_of("hook")?);
        if self.is_own(table) {
            return Ok(None);
        }
        if kind == Some("filter") && hook.is_some_and(|hook| LINK_HOOKS.contains(&hook)) {
            return self.link_chain(at, table, name);
        }
        if families(table).is_empty() {
            others.insert(format!("tables of family {}", table.0));
            return Ok(None);
        }
        let mut chain = Chain::default();
        let base = kind == Some("filter") && hook.is_some_and(|hook| HOOKS.contains(&hook));
        if let (Some(kind), false) = (kind, base) {
            others.insert(format!("chains of type {kind} at {}", hook.unwrap_or("no hook")));
        }
        if base {
            let action = match at.text_of("policy")? {
                None | Some("accept") => Action::Allow,
                Some("drop") => Action::Deny,
                Some(_) => return Err(at.wrong_text("policy", "neither accept nor drop")),
            };
            let owner = owner(table, name);
            let label = Label { name: "its policy".to_owned(), place: at.place(), owner, ..Label::default() };
            chain.policy = Some((action, self.firewall.label(label)));
            self.let_others(table, name, &mut chain);
        }
        let id = self.firewall.chain(chain);
        self.chains.insert((table, name), id);
        let priority = at.get("prio").map(|priority| priority.integer()).transpose()?.unwrap_or(0);
        Ok(hook.filter(|_| base).map(|hook| Base { hook, priority, chain: id }))
    }

    /// A chain of a link sees packets before there are hooks. Its rules are not read: it may drop anything.
    fn link_chain(&mut self, at: &At<'a>, table: Table<'a>, name: &'a str) -> Result<Option<Base<'a>>, FirewallError> {
        if at.text_of("policy")?.is_none_or(|policy| policy == "accept") && !self.with_rules.contains(&(table, name)) {
            return Ok(None);
        }
        let unknown = Some("what chains of links do".to_owned());
        let label = Label {
            name: "its rules".to_owned(),
            place: at.place(),
            owner: owner(table, name),
            priority: None,
            unknown,
        };
        let label = self.firewall.label(label);
        let rule = |family| Rule { label, family, spans: BTreeMap::new(), opaque: true, action: Action::Deny };
        let chain = Chain { rules: Family::ALL.map(rule).to_vec(), policy: Some((Action::Allow, label)) };
        Ok(Some(Base { hook: LINK, priority: i64::MIN, chain: self.firewall.chain(chain) }))
    }

    /// A table of one family lets packets of the other alone.
    fn let_others(&mut self, table: Table<'_>, name: &str, chain: &mut Chain) {
        let seen = families(table);
        for family in Family::ALL.into_iter().filter(|family| !seen.contains(family)) {
            let label = self.firewall.label(Label { owner: owner(table, name), ..Label::default() });
            chain.rules.push(Rule { label, family, spans: BTreeMap::new(), opaque: false, action: Action::Allow });
        }
    }

    fn rule(&mut self, at: &At<'a>) -> Result<(), FirewallError> {
        let (table, name) = (table(at)?, at.need("chain")?.text()?);
        let Some(chain) = self.chains.get(&(table, name)).copied() else { return Ok(()) };
        let before = self.ranges;
        let mut rule = statement::Statements::new(self, table);
        for part in at.need("expr")?.items()? {
            rule.add(&part)?;
            if before + rule.work > MOST_RANGES {
                return Err(FirewallError::TooMany { most: MOST_RANGES });
            }
        }
        let work = rule.work;
        let statement::Outcomes { outcomes, unknown } = rule.end();
        self.ranges += work;
        let label = self.firewall.label(Label {
            name: rule_name(at)?,
            priority: None,
            place: at.place(),
            owner: owner(table, name),
            unknown: (!unknown.is_empty()).then(|| unknown.join("; ")),
        });
        for (ask, action) in outcomes {
            self.emit(chain, label, &ask, action)?;
        }
        Ok(())
    }

    fn emit(&mut self, chain: ChainId, label: LabelId, ask: &Ask, action: Action) -> Result<(), FirewallError> {
        for family in &ask.families {
            self.ranges += ask.size();
            if self.ranges > MOST_RANGES {
                return Err(FirewallError::TooMany { most: MOST_RANGES });
            }
            if let Some(chain) = self.firewall.chains.get_mut(chain) {
                let spans = ask.spans.clone();
                chain.rules.push(Rule { label, family: *family, spans, opaque: ask.opaque, action });
            }
        }
        Ok(())
    }

    /// The chains that rules can be added to.
    fn lists(&self) -> Vec<List> {
        let list = |((table, name), _): (&(Table<'_>, &str), &ChainId)| {
            let owner = owner(*table, name);
            List { name: Some(owner.clone()), owner, ..List::default() }
        };
        self.chains.iter().map(list).collect()
    }
}

fn owner(table: Table<'_>, chain: &str) -> String {
    format!("{} {} {chain}", table.0, table.1)
}

fn rule_name(at: &At<'_>) -> Result<String, FirewallError> {
    let handle = at.get("handle").map(|handle| handle.integer()).transpose()?;
    let name = handle.map_or_else(|| "a rule".to_owned(), |handle| format!("rule {handle}"));
    Ok(match at.text_of("comment")? {
        Some(comment) => format!("{name} ({comment})"),
        None => name,
    })
}
