//! How a cluster goes from one routing to another with no packet lost between two nodes.
//!
//! Everybody takes what will be sent before anybody sends it, and nobody stops taking what was sent before the last
//! node has stopped sending it. What nodes do they say themselves; nothing is taken for done because time has passed.

use std::collections::BTreeSet;

use super::Routing;

/// What pod packets cross nodes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Carrier {
    /// Nothing: they are bare.
    Native,
    /// VXLAN.
    Vxlan,
}

impl Routing {
    /// What packets are sent in.
    #[must_use]
    pub fn carriers(self) -> BTreeSet<Carrier> {
        match self {
            Self::Native => [Carrier::Native].into(),
            Self::Vxlan => [Carrier::Vxlan].into(),
            Self::Auto => [Carrier::Native, Carrier::Vxlan].into(),
        }
    }
}

/// How pod packets cross nodes at one moment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RoutingState {
    /// How they are sent.
    pub sends: Routing,
    /// In what they are taken: what is sent, and more while that changes.
    pub accepts: BTreeSet<Carrier>,
    /// Counts the steps of all changes, so that a word of a step of earlier is not taken for one of the same step now.
    pub step: u64,
}

/// What is to be done about a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing: it is through.
    Settled,
    /// This comes in force.
    Go(RoutingState),
    /// These nodes do not do yet what is in force.
    Wait(BTreeSet<String>),
}

impl RoutingState {
    /// The state of a cluster in which nothing ever changed.
    #[must_use]
    pub fn settled(sends: Routing) -> Self {
        Self { sends, accepts: sends.carriers(), step: 0 }
    }

    /// What comes next on the way to `wanted`, where nodes say of themselves that they do this; `None` for a node
    /// that does not say.
    #[must_use]
    pub fn step<'a>(&self, wanted: Routing, nodes: impl IntoIterator<Item = (&'a str, Option<&'a Self>)>) -> Step {
        let needed = wanted.carriers();
        let next = |sends, accepts| Step::Go(Self { sends, accepts, step: self.step + 1 });
        if self.sends == wanted && self.accepts == needed {
            return Step::Settled;
        }
        // To take more hurts nobody.
        if !self.accepts.is_superset(&needed) {
            return next(self.sends, self.accepts.union(&needed).copied().collect());
        }
        let behind = nodes.into_iter().filter(|(_, says)| *says != Some(self)).map(|(name, _)| name.to_owned());
        let behind: BTreeSet<String> = behind.collect();
        if !behind.is_empty() {
            return Step::Wait(behind);
        }
        next(wanted, if self.sends == wanted { needed } else { self.accepts.clone() })
    }
}
