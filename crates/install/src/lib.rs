//! What is installed into a cluster, written down once: the CLI renders it with values, the Helm chart is the same with
//! the values left open.
//!
//! Pure: nothing here talks to a cluster or reads a file.

mod admission;
mod agent;
pub mod chart;
mod common;
mod controller;
mod rbac;
mod source;
pub mod values;

use overlane_api::crd;
use serde_json::Value;

pub use agent::CAPABILITIES;
pub use common::{AGENT, CONTROLLER, PART_OF, VERSION};
use source::Source;
use values::Values;

/// One object, and in which file of the chart it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// The chart's file, without directory and ending.
    pub file: &'static str,
    /// The value that must be true for it to be there at all.
    pub only_if: Option<&'static str>,
    /// The object.
    pub object: Value,
}

/// Every object but the custom resource definitions, in the order in which they are to be made.
fn documents(from: &Source<'_>) -> Vec<Document> {
    let mut all = rbac::documents(from);
    all.extend(admission::documents(from));
    all.push(common::cluster_network(from));
    all.extend(controller::documents(from));
    all.push(agent::document(from));
    all
}

/// Every object but the custom resource definitions, with values, in the order in which they are to be made.
///
/// # Errors
/// The values cannot be expressed as JSON.
pub fn objects(values: &Values, namespace: &str) -> Result<Vec<Value>, serde_json::Error> {
    let tree = serde_json::to_value(values)?;
    let from = Source::Values { tree: &tree, namespace };
    let wanted = |document: &Document| document.only_if.is_none_or(|path| from.is_true(path));
    Ok(documents(&from).into_iter().filter(wanted).map(|document| document.object).collect())
}

/// Definitions that are another project's, to be made where the cluster has none. The label says that it was us.
///
/// # Errors
/// A definition that cannot be read.
pub fn others_definitions() -> Result<Vec<Value>, serde_norway::Error> {
    let mut definition = crd::cluster_network_policy_crd()?;
    let labels = definition.metadata.labels.get_or_insert_default();
    labels.insert(PART_OF.0.to_owned(), PART_OF.1.to_owned());
    serde_json::to_value(definition).map(|value| vec![value]).map_err(serde::de::Error::custom)
}

/// The custom resource definitions, but for those of others.
///
/// # Errors
/// A definition that JSON cannot express.
pub fn definitions() -> Result<Vec<Value>, serde_json::Error> {
    crd::all_crds().iter().map(serde_json::to_value).collect()
}
