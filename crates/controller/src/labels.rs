//! The Nodes' labels. Each pair of key and value is kept once, however many Nodes bear it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use overlane_core::labels::Labels;

/// Labels by Node.
#[derive(Debug, Default)]
pub struct NodeLabels {
    /// `key=value`; no key has a `=`.
    pairs: BTreeSet<Arc<str>>,
    of: BTreeMap<String, Box<[Arc<str>]>>,
}

impl NodeLabels {
    /// Learns a Node's labels. Gives whether they are others than before.
    pub fn set(&mut self, node: &str, labels: &Labels) -> bool {
        let same = |(pair, (key, value)): (&Arc<str>, (&String, &String))| pair.split_once('=') == Some((key, value));
        let known = self.of.get(node);
        if known.is_some_and(|known| known.len() == labels.len() && known.iter().zip(labels).all(same)) {
            return false;
        }
        let pairs = labels.iter().map(|(key, value)| self.pair(format!("{key}={value}"))).collect();
        let old = self.of.insert(node.to_owned(), pairs);
        self.let_go(old);
        true
    }

    /// Forgets a Node.
    pub fn remove(&mut self, node: &str) {
        let old = self.of.remove(node);
        self.let_go(old);
    }

    /// Forgets the Nodes that are not among these.
    pub fn retain(&mut self, nodes: &BTreeSet<String>) {
        let gone: Vec<String> = self.of.keys().filter(|name| !nodes.contains(*name)).cloned().collect();
        gone.iter().for_each(|name| self.remove(name));
    }

    /// A Node's labels; none of one that is not known.
    pub fn of(&self, node: &str) -> Labels {
        let pairs = self.of.get(node).into_iter().flatten();
        pairs.filter_map(|pair| pair.split_once('=')).map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    fn pair(&mut self, text: String) -> Arc<str> {
        if let Some(known) = self.pairs.get(text.as_str()) {
            return Arc::clone(known);
        }
        let pair: Arc<str> = text.into();
        self.pairs.insert(Arc::clone(&pair));
        pair
    }

    fn let_go(&mut self, old: Option<Box<[Arc<str>]>>) {
        for pair in old.into_iter().flatten() {
            // This one, and the set's own.
            if Arc::strong_count(&pair) == 2 {
                self.pairs.remove(&pair);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    //! Must catch: labels that are kept when nobody bears them, which grow with every Node that ever was.

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn kept_once_and_let_go_with_the_last() {
        let mut all = NodeLabels::default();
        let (a, b) = (labels(&[("os", "linux"), ("host", "a")]), labels(&[("os", "linux"), ("host", "b"), ("x", "")]));
        assert!(all.set("a", &a) && all.set("b", &b) && !all.set("a", &a));
        assert_eq!((all.of("a"), all.of("b"), all.pairs.len()), (a, b, 4));
        assert!(all.set("b", &labels(&[("os", "linux"), ("host", "b")])), "one less is another");
        assert!(all.set("b", &labels(&[("os", "linux"), ("host", "c")])), "another value, too");
        all.remove("a");
        assert_eq!((all.of("a"), all.pairs.len()), (Labels::new(), 2));
        all.retain(&BTreeSet::new());
        assert!(all.pairs.is_empty() && all.of.is_empty());
        assert!(all.set("bare", &Labels::new()) && !all.set("bare", &Labels::new()));
    }
}
