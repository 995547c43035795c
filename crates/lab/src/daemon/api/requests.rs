//! How many requests an API server has served, out of its metrics.

use std::collections::BTreeMap;

const METRIC: &str = "apiserver_request_total{";

/// By verb and resource (`pods`, `nodes/status`, `leases.coordination.k8s.io`), as the lab's own API names them.
pub fn parse(metrics: &str) -> Vec<(String, String, u64)> {
    let mut counts: BTreeMap<(String, String), u64> = BTreeMap::new();
    for line in metrics.lines().filter_map(|line| line.strip_prefix(METRIC)) {
        let Some((labels, value)) = line.rsplit_once("} ") else { continue };
        // Counters are floating-point numbers in this format, whole ones.
        let Ok(value) = value.trim().parse::<f64>() else { continue };
        let (verb, resource) = (label(labels, "verb"), label(labels, "resource"));
        // What is no resource: /healthz, /metrics.
        if resource.is_empty() {
            continue;
        }
        let [group, subresource] = ["group", "subresource"].map(|name| label(labels, name));
        let mut name = resource.to_owned();
        if !group.is_empty() {
            name = format!("{name}.{group}");
        }
        if !subresource.is_empty() {
            name = format!("{name}/{subresource}");
        }
        // What cannot be a count is none: the cast takes it to the nearest that can.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "see above")]
        let value = value as u64;
        *counts.entry((our_verb(verb), name)).or_default() += value;
    }
    counts.into_iter().map(|((verb, resource), count)| (verb, resource, count)).collect()
}

fn our_verb(verb: &str) -> String {
    match verb {
        "POST" => "create".to_owned(),
        "PUT" => "update".to_owned(),
        other => other.to_lowercase(),
    }
}

fn label<'a>(labels: &'a str, name: &str) -> &'a str {
    let mut pairs = labels.split("\",").filter_map(|pair| pair.split_once("=\""));
    pairs.find(|(key, _)| *key == name).map_or("", |(_, value)| value.trim_end_matches('"'))
}

#[cfg(test)]
mod tests {
    //! Must catch: requests that are counted twice, or not at all.

    use super::*;

    #[test]
    fn counts_are_summed_by_verb_and_resource() {
        let metrics = r#"
# TYPE apiserver_request_total counter
apiserver_request_total{code="200",component="apiserver",dry_run="",group="",resource="pods",scope="cluster",subresource="",verb="LIST",version="v1"} 3
apiserver_request_total{code="410",component="apiserver",dry_run="",group="",resource="pods",scope="cluster",subresource="",verb="LIST",version="v1"} 1
apiserver_request_total{code="200",group="",resource="nodes",subresource="status",verb="PUT",version="v1"} 2
apiserver_request_total{code="201",group="coordination.k8s.io",resource="leases",subresource="",verb="POST"} 1.5e+01
apiserver_request_total{code="200",group="",resource="",subresource="/readyz",verb="GET",version=""} 9
apiserver_request_totally_else{resource="pods"} 9
"#;
        let row = |verb: &str, resource: &str, count| (verb.to_owned(), resource.to_owned(), count);
        let expected =
            [row("create", "leases.coordination.k8s.io", 15), row("list", "pods", 4), row("update", "nodes/status", 2)];
        assert_eq!(parse(metrics), expected);
    }
}
