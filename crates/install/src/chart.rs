//! The Helm chart, made from the same source as what the CLI installs.

use std::collections::BTreeMap;

use overlane_api::crd;
use serde_json::Value;

use crate::source::{CLOSE, OPEN, SPLICE, Source};
use crate::values::Values;
use crate::{Document, VERSION, documents};

/// Why the chart cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ChartError {
    /// Something cannot be expressed as YAML.
    #[error("write the chart: {0}")]
    Yaml(#[from] serde_norway::Error),
    /// Something cannot be expressed as JSON.
    #[error("write the chart: {0}")]
    Json(#[from] serde_json::Error),
    /// An expression came out of YAML otherwise than it went in.
    #[error("write the chart: {line:?} is no expression")]
    Expression {
        /// The line.
        line: String,
    },
}

const HEAD: &str = "# Written by `make chart`; not by hand.\n";

/// Every file of the chart, by its path below the chart's directory.
///
/// # Errors
/// See [`ChartError`].
pub fn files() -> Result<BTreeMap<String, String>, ChartError> {
    let mut files = BTreeMap::from([
        ("Chart.yaml".to_owned(), about()),
        ("values.yaml".to_owned(), values()?),
        ("values.schema.json".to_owned(), schema()? + "\n"),
        ("README.md".to_owned(), readme()?),
        ("crds/overlane.io.yaml".to_owned(), crd::all_crds_yaml()?),
        // Helm makes no definition that is there.
        (
            "crds/policy.networking.k8s.io_clusternetworkpolicies.yaml".to_owned(),
            crd::CLUSTER_NETWORK_POLICY_YAML.to_owned(),
        ),
        ("templates/NOTES.txt".to_owned(), NOTES.to_owned()),
    ]);
    for document in documents(&Source::Template) {
        let text = files.entry(format!("templates/{}.yaml", document.file)).or_insert_with(|| HEAD.to_owned());
        text.push_str(&template(&document)?);
    }
    Ok(files)
}

const NOTES: &str = "Overlane {{ .Chart.AppVersion }} is being installed.\n\n\
    Nodes are ready once their agent is:\n\n  overlane status\n  kubectl get nodenetworkconfigs -A\n\n\
    The end: `overlane uninstall` first, which cleans the nodes and removes everything, then `helm uninstall`.\n\
    Helm alone leaves nodes, ClusterNetwork and custom resource definitions as they are.\n";

fn about() -> String {
    format!(
        "{HEAD}apiVersion: v2\nname: overlane\ndescription: Pod networking from a private pod CIDR\ntype: application\n\
         version: {VERSION}\nappVersion: \"{VERSION}\"\nkubeVersion: \">=1.30.0-0\"\n"
    )
}

fn template(document: &Document) -> Result<String, ChartError> {
    let mut text = String::new();
    if let Some(path) = document.only_if {
        text.push_str(&format!("{{{{- if .Values.{path} }}}}\n"));
    }
    text.push_str("---\n");
    for line in serde_norway::to_string(&document.object)?.lines() {
        text.push_str(&open_up(line)?);
        text.push('\n');
    }
    if document.only_if.is_some() {
        text.push_str("{{- end }}\n");
    }
    Ok(text)
}

/// A line with its words turned into expressions.
fn open_up(line: &str) -> Result<String, ChartError> {
    let fault = || ChartError::Expression { line: line.to_owned() };
    for (mark, splice) in [(OPEN, false), (SPLICE, true)] {
        let Some((before, rest)) = line.split_once(mark) else { continue };
        let hex = rest.strip_suffix(CLOSE).ok_or_else(fault)?;
        let bytes: Result<Vec<u8>, _> = hex
            .as_bytes()
            .chunks(2)
            .map(|pair| std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok()).ok_or(()))
            .collect();
        let text = bytes.ok().and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(fault)?;
        if !splice {
            return Ok(format!("{before}{{{{ {text} }}}}"));
        }
        let indent = before.strip_suffix("- ").ok_or_else(fault)?;
        return Ok(format!("{indent}{{{{- range {text} }}}}\n{indent}- {{{{ . | toJson }}}}\n{indent}{{{{- end }}}}"));
    }
    Ok(line.to_owned())
}

fn schema() -> Result<String, ChartError> {
    Ok(serde_json::to_string_pretty(&schemars::schema_for!(Values))?)
}

/// One value: its path, its default, what it means.
struct Described {
    path: Vec<String>,
    default: Option<Value>,
    about: String,
}

/// Every value in the order of the paths; groups have no default of their own.
fn described() -> Result<Vec<Described>, ChartError> {
    let schema = serde_json::to_value(schemars::schema_for!(Values))?;
    let defaults = serde_json::to_value(Values::default())?;
    let mut all = Vec::new();
    walk(&schema, &schema, &defaults, &mut Vec::new(), &mut all);
    Ok(all)
}

fn walk(root: &Value, at: &Value, default: &Value, path: &mut Vec<String>, all: &mut Vec<Described>) {
    let Some(properties) = at.get("properties").and_then(Value::as_object) else { return };
    for (name, property) in properties {
        let target = property.get("$ref").and_then(Value::as_str).and_then(|r| root.pointer(r.trim_start_matches('#')));
        let about = property.get("description").or_else(|| target.and_then(|t| t.get("description")));
        let about = about.and_then(Value::as_str).unwrap_or_default().replace('\n', " ");
        path.push(name.clone());
        let value = default.get(name).cloned().unwrap_or_default();
        // A ClusterNetwork's spec is documented with the resource.
        let group = target.is_some_and(|t| t.get("properties").is_some()) && value.is_object();
        all.push(Described { path: path.clone(), default: (!group).then(|| value.clone()), about });
        if let Some(target) = target.filter(|_| group) {
            walk(root, target, &value, path, all);
        }
        path.pop();
    }
}

fn values() -> Result<String, ChartError> {
    let mut text = HEAD.to_owned();
    for Described { path, default, about } in described()? {
        let indent = "  ".repeat(path.len() - 1);
        for line in wrapped(&about, 116 - indent.len()) {
            text.push_str(&format!("{indent}# {line}\n"));
        }
        let name = path.last().cloned().unwrap_or_default();
        match default {
            Some(value) => text.push_str(&format!("{indent}{name}: {value}\n")),
            None => text.push_str(&format!("{indent}{name}:\n")),
        }
    }
    Ok(text)
}

fn readme() -> Result<String, ChartError> {
    let mut text =
        "# Overlane's chart\n\nWritten by `make chart`. `docs/operations.md` says how to install, upgrade and \
                    uninstall.\n\n| value | default | meaning |\n| --- | --- | --- |\n"
            .to_owned();
    for Described { path, default, about } in described()? {
        if let Some(default) = default {
            text.push_str(&format!("| `{}` | `{default}` | {about} |\n", path.join(".")));
        }
    }
    Ok(text)
}

fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.len() + word.len() < width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
