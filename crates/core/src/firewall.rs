//! Packet filters of clouds and nodes, and whether what the overlay needs passes them.
//!
//! A [`Firewall`] is what a reader made of somebody's rules: chains of rules, and which chains a packet passes. [`needs`]
//! says what has to pass, [`judge`] whether it does. Every packet of a need is judged, none is sampled: the space of
//! packets is divided where rules divide it. What a reader did not understand makes a rule that *may* match, and a packet
//! whose fate hangs on one is neither passed nor blocked: [`Verdict::CannotTell`].
//!
//! Nothing here knows a format, nor how a rule is added in one.

mod judge;
mod need;
mod set;
mod show;
mod space;

use std::collections::BTreeMap;
use std::fmt;

pub use judge::{Cause, Cell, Decider, Judged, Verdict, cells, denying, judge};
pub use need::{Flow, Needs, Purpose, Traffic, needs};
pub use set::RangeSet;
pub use show::{Example, protocol_name};
pub use space::{Dimension, Space, addresses, all_addresses, all_ports, icmp, link, number, protocol, state};

use crate::family::Family;

/// Which way a packet goes, seen from the node whose rules are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// To it.
    Inbound,
    /// From it.
    Outbound,
}

impl Direction {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Inbound, Self::Outbound];
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        })
    }
}

/// Whose address one end of a packet's way is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum End {
    /// A node's.
    Node,
    /// A pod's.
    Pod,
}

/// How a packet crosses the edge of a node: what decides which chains it passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Crossing {
    /// Which way.
    pub direction: Direction,
    /// From whom.
    pub from: End,
    /// To whom.
    pub to: End,
}

impl Crossing {
    /// All of one direction.
    pub fn of(direction: Direction) -> impl Iterator<Item = Self> {
        let ends = [End::Node, End::Pod];
        ends.into_iter().flat_map(move |from| ends.into_iter().map(move |to| Self { direction, from, to }))
    }
}

/// Values of a dimension that a rule asks for: those that it surely means, and those that it may mean.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Span {
    sure: RangeSet,
    possible: RangeSet,
}

impl Span {
    /// Exactly these.
    #[must_use]
    pub fn sure(set: RangeSet) -> Self {
        Self { possible: set.clone(), sure: set }
    }

    /// These may be meant or not.
    #[must_use]
    pub fn perhaps(set: RangeSet) -> Self {
        Self { sure: RangeSet::default(), possible: set }
    }

    /// What either means.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        Self { sure: self.sure.or(&other.sure), possible: self.possible.or(&other.possible) }
    }

    /// What both mean.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self { sure: self.sure.and(&other.sure), possible: self.possible.and(&other.possible) }
    }

    /// Everything of `all` that it does not mean.
    #[must_use]
    pub fn not(&self, all: &RangeSet) -> Self {
        Self { sure: all.without(&self.possible), possible: all.without(&self.sure) }
    }

    /// What is surely meant.
    #[must_use]
    pub const fn certain(&self) -> &RangeSet {
        &self.sure
    }

    /// What may be meant, the certain among it.
    #[must_use]
    pub const fn thinkable(&self) -> &RangeSet {
        &self.possible
    }

    /// Whether nothing can be meant.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.possible.is_empty()
    }
}

/// A rule's place among [`Firewall::labels`].
pub type LabelId = usize;
/// A chain's place among [`Firewall::chains`].
pub type ChainId = usize;

/// What a rule does with what it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// The packet passes this list of rules.
    Allow,
    /// It ends here.
    Deny,
    /// The rules of another chain come next, and then the rule after this one.
    Jump(ChainId),
    /// The rules of another chain come next, and not those after this one.
    Goto(ChainId),
    /// The rest of the chain is left out.
    Return,
}

/// How people know a rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Label {
    /// Its name.
    pub name: String,
    /// Its priority, where such rules have one.
    pub priority: Option<i64>,
    /// Where in the input it is; empty of a rule that nobody wrote.
    pub place: String,
    /// The list of rules that it is of: a security group, a chain.
    pub owner: String,
    /// What of it was not understood.
    pub unknown: Option<String>,
}

/// A rule for packets of one family that have a value of each span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// How it is known.
    pub label: LabelId,
    /// The family.
    pub family: Family,
    /// What it asks for; what is not here it does not ask for.
    pub spans: BTreeMap<Dimension, Span>,
    /// Whether there is more that it asks for, which nobody understood.
    pub opaque: bool,
    /// What it does.
    pub action: Action,
}

/// Rules, in the order in which they are asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// The rules.
    pub rules: Vec<Rule>,
    /// What becomes of a packet that none of them decides, and by which rule, where the chain is one that packets begin in.
    pub policy: Option<(Action, LabelId)>,
}

/// Somebody's rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Firewall {
    /// How the rules are known.
    pub labels: Vec<Label>,
    /// The chains.
    pub chains: Vec<Chain>,
    /// The chains that a packet has to pass, all of them, by how it crosses the node's edge.
    pub paths: BTreeMap<Crossing, Vec<ChainId>>,
    /// Whether it looks at whole packets on the node itself: at those inside of a tunnel too, and at answers.
    pub on_node: bool,
}

impl Firewall {
    /// Adds a label.
    pub fn label(&mut self, label: Label) -> LabelId {
        self.labels.push(label);
        self.labels.len() - 1
    }

    /// Adds a chain.
    pub fn chain(&mut self, chain: Chain) -> ChainId {
        self.chains.push(chain);
        self.chains.len() - 1
    }

    /// Makes a chain one that every packet of a direction has to pass.
    pub fn enter(&mut self, direction: Direction, chain: ChainId) {
        for crossing in Crossing::of(direction) {
            self.paths.entry(crossing).or_default().push(chain);
        }
    }
}
