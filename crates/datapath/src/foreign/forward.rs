//! Foreign forward chains that drop what they do not know.

use std::process::{Command, Stdio};

use serde_json::Value;

use super::{Finding, not_looked_at};
use crate::nft;
use crate::owned::{NFT_TABLE, POD_LINK_PREFIX};

/// Those of nft, and of the old iptables, which has hooks of its own that nft does not list.
pub(super) fn inspect() -> Vec<Finding> {
    let mut findings = nft_chains();
    findings.extend(legacy_iptables());
    findings
}

/// A packet must pass every forward chain of a hook: an accept of ours does not help against a drop of another.
fn nft_chains() -> Vec<Finding> {
    let listed = |args: &[&str]| -> Result<Value, String> {
        let text = nft::query(args, "list chains").map_err(|error| error.to_string())?;
        serde_json::from_str(&text).map_err(|error| format!("read what nft lists: {error}"))
    };
    let rules = |family: &str, table: &str| listed(&["--json", "--terse", "list", "table", family, table]);
    match listed(&["--json", "list", "chains"]) {
        Ok(chains) => forward_drops(&chains, rules),
        Err(error) => vec![not_looked_at(error, "install nft, or run as root")],
    }
}

fn objects<'a>(listing: &'a Value, kind: &'static str) -> impl Iterator<Item = &'a Value> {
    listing["nftables"].as_array().into_iter().flatten().filter_map(move |object| object.get(kind))
}

fn field<'a>(object: &'a Value, name: &str) -> &'a str {
    object[name].as_str().unwrap_or("")
}

fn forward_drops(listing: &Value, rules: impl Fn(&str, &str) -> Result<Value, String>) -> Vec<Finding> {
    let chains: Vec<&Value> = objects(listing, "chain").collect();
    // Docker and ufw leave marks by which they are known: chains of theirs in the same table.
    let has = |family: &str, table: &str, start: &str| {
        chains
            .iter()
            .any(|c| field(c, "family") == family && field(c, "table") == table && field(c, "name").starts_with(start))
    };
    let foreign = |chain: &&&Value| {
        field(chain, "hook") == "forward"
            && !(field(chain, "family") == "inet" && field(chain, "table") == NFT_TABLE)
            && matches!(field(chain, "family"), "ip" | "ip6" | "inet")
    };
    let mut findings = Vec::new();
    for chain in chains.iter().filter(foreign) {
        let (family, table, name) = (field(chain, "family"), field(chain, "table"), field(chain, "name"));
        let listed = match rules(family, table) {
            Ok(listed) => listed,
            Err(error) => {
                findings.push(not_looked_at(error, "run as root"));
                continue;
            }
        };
        let firewalld = table == "firewalld";
        let hooked = |chain: &str| {
            let of_table = |c: &&&Value| field(c, "family") == family && field(c, "table") == table;
            chains.iter().filter(of_table).any(|c| field(c, "name") == chain && !field(c, "hook").is_empty())
        };
        let rules: Vec<&Value> = objects(&listed, "rule").filter(|rule| field(rule, "chain") == name).collect();
        // What is called by others may be called from this chain; what has another hook is not.
        let called = objects(&listed, "rule").filter(|rule| !hooked(field(rule, "chain")));
        let closing = rules.iter().position(|rule| drops_all(rule));
        let before = rules.get(..closing.unwrap_or(rules.len())).unwrap_or_default();
        let looked_at: Vec<&Value> = before.iter().copied().chain(called).collect();
        let drops = field(chain, "policy") == "drop" || closing.is_some() || firewalld;
        if !drops || lets_pods_through(&looked_at, firewalld) {
            continue;
        }
        let tool = if family == "ip6" { "ip6tables" } else { "iptables" };
        let (by, remedy) = if firewalld {
            let command = format!("firewall-cmd --permanent --zone=trusted --add-interface={POD_LINK_PREFIX}+");
            ("firewalld", format!("{command}; firewall-cmd --reload"))
        } else if has(family, table, "ufw") {
            ("ufw", format!("ufw route allow in on {POD_LINK_PREFIX}+; ufw route allow out on {POD_LINK_PREFIX}+"))
        } else if has(family, table, "DOCKER-USER") {
            ("docker", accept_commands(tool, "DOCKER-USER"))
        } else if table == "filter" && name == "FORWARD" {
            ("iptables", accept_commands(tool, "FORWARD"))
        } else {
            ("nftables", nft_commands(family, table, name))
        };
        findings.push(drop_finding(&format!("nft chain {family} {table} {name}"), by, remedy));
    }
    findings
}

/// Whether a rule drops or rejects whatever comes to it.
fn drops_all(rule: &Value) -> bool {
    let words = rule["expr"].as_array().map(Vec::as_slice).unwrap_or_default();
    let is_target = |word: &Value| {
        matches!(field(&word["xt"], "name"), "REJECT" | "DROP")
            || word.get("drop").is_some()
            || word.get("reject").is_some()
    };
    words.iter().any(is_target) && words.iter().all(|word| is_target(word) || is_idle(word))
}

/// Whether part of a rule decides nothing.
fn is_idle(word: &Value) -> bool {
    word.get("counter").is_some() || word.get("log").is_some()
}

/// Whether somebody has seen to it that pods pass, in both directions: rules about all packets of our links, and nothing
/// else. firewalld's lead to the chains of a zone.
fn lets_pods_through(rules: &[&Value], by_zone: bool) -> bool {
    let ours = format!("{POD_LINK_PREFIX}*");
    let verdicts: &[&str] = if by_zone { &["accept", "goto", "jump"] } else { &["accept"] };
    let about = |word: &Value, key: &str| {
        let link = &word["match"];
        link["op"] == "==" && link["left"]["meta"]["key"] == key && link["right"] == ours.as_str()
    };
    let passes = |rule: &&&Value, key: &str| {
        let words = rule["expr"].as_array().map(Vec::as_slice).unwrap_or_default();
        let verdict = |word: &&Value| verdicts.iter().any(|verdict| word.get(verdict).is_some());
        words.iter().any(|word| about(word, key))
            && words.iter().any(|word| verdict(&word))
            && words.iter().all(|word| about(word, key) || verdict(&word) || is_idle(word))
    };
    ["iifname", "oifname"].iter().all(|key| rules.iter().any(|rule| passes(&rule, key)))
}

fn drop_finding(what: &str, by: &str, remedy: String) -> Finding {
    Finding {
        kind: "forward-drop",
        what: format!(
            "{what} ({by}) drops forwarded packets that no rule of its own accepts: pods reach nothing beyond their node"
        ),
        remedy,
    }
}

fn accept_commands(tool: &str, chain: &str) -> String {
    format!("{tool} -I {chain} -i {POD_LINK_PREFIX}+ -j ACCEPT; {tool} -I {chain} -o {POD_LINK_PREFIX}+ -j ACCEPT")
}

fn nft_commands(family: &str, table: &str, chain: &str) -> String {
    let rule = format!("nft insert rule {family} {table} {chain}");
    format!("{rule} iifname '\"{POD_LINK_PREFIX}*\"' accept; {rule} oifname '\"{POD_LINK_PREFIX}*\"' accept")
}

fn legacy_iptables() -> Vec<Finding> {
    let mut findings = Vec::new();
    for (tool, names) in [
        ("iptables-legacy", "/proc/thread-self/net/ip_tables_names"),
        ("ip6tables-legacy", "/proc/thread-self/net/ip6_tables_names"),
    ] {
        // The file names the tables in use; the program would bring one into being by looking.
        if !std::fs::read_to_string(names).is_ok_and(|text| text.lines().any(|table| table == "filter")) {
            continue;
        }
        let output = Command::new(tool).args(["-w", "5", "-S"]).stdin(Stdio::null()).output();
        match output {
            Ok(output) if output.status.success() => {
                if legacy_drops(&String::from_utf8_lossy(&output.stdout)) {
                    let what = format!("the chain FORWARD of {tool}");
                    findings.push(drop_finding(&what, tool, accept_commands(tool, "FORWARD")));
                }
            }
            _ => findings.push(not_looked_at(
                format!("old iptables tables are in use, and {tool} cannot be run to look at them"),
                &format!("install iptables, and look at {tool} -S FORWARD"),
            )),
        }
    }
    findings
}

/// What `iptables-legacy -S` prints.
fn legacy_drops(rules: &str) -> bool {
    let closes = |line: &&str| ["-A FORWARD -j DROP", "-A FORWARD -j REJECT"].iter().any(|rule| line.starts_with(rule));
    let drops = rules.lines().any(|line| line == "-P FORWARD DROP") || rules.lines().any(|line| closes(&line));
    let others = ["-A INPUT ", "-A OUTPUT "];
    let passes = |flag: &str| {
        let words = format!(" {flag} {POD_LINK_PREFIX}+ -j ACCEPT");
        let before_the_end = rules.lines().take_while(|line| !closes(line));
        let of_user_chains = rules.lines().filter(|line| !line.starts_with("-A FORWARD "));
        let mut looked_at = before_the_end.chain(of_user_chains).filter(|l| !others.iter().any(|o| l.starts_with(o)));
        // `-A CHAIN` and nothing between it and the link.
        looked_at.any(|line| line.strip_suffix(&words).is_some_and(|start| start.split(' ').count() == 2))
    };
    drops && !(passes("-i") && passes("-o"))
}

#[cfg(test)]
mod tests {
    //! Must catch: a foreign forward chain that drops and is not named, one of ours that is, and one that is named though
    //! its remedy was applied.
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    fn chain(family: &str, table: &str, name: &str, policy: &str) -> Value {
        json!({"chain": {"family": family, "table": table, "name": name, "hook": "forward", "policy": policy, "prio": 0}})
    }

    fn rule(chain: &str, expr: Value) -> Value {
        json!({"rule": {"chain": chain, "expr": expr}})
    }

    #[test]
    fn each_tool_is_known_and_has_its_remedy() {
        let user = json!({"chain": {"family": "ip", "table": "filter", "name": "DOCKER-USER"}});
        let ufw = json!({"chain": {"family": "ip6", "table": "filter", "name": "ufw6-user-forward"}});
        let listing = json!({"nftables": [
            {"metainfo": {}}, user, ufw,
            chain("ip", "filter", "FORWARD", "drop"),
            chain("ip6", "filter", "FORWARD", "drop"),
            chain("inet", "mine", "fwd", "drop"),
            chain("inet", "fine", "fwd", "accept"),
            chain("bridge", "filter", "FORWARD", "drop"),
            chain("inet", "overlane", "forward", "drop"),
            chain("inet", "firewalld", "filter_FORWARD", "accept"),
        ]});
        let found = forward_drops(&listing, |_, _| Ok(json!({"nftables": []})));
        let said: Vec<_> = found.iter().map(|f| format!("{} | {}", f.what, f.remedy)).collect();
        assert_eq!(found.len(), 4, "{said:#?}");
        assert!(said[0].contains("(docker)") && said[0].contains("DOCKER-USER -i ovlp+"), "{}", said[0]);
        assert!(said[1].contains("(ufw)") && said[1].contains("ufw route allow"), "{}", said[1]);
        assert!(said[2].contains("nft insert rule inet mine fwd iifname '\"ovlp*\"' accept"), "{}", said[2]);
        assert!(said[3].contains("firewall-cmd"), "{}", said[3]);
    }

    #[test]
    fn a_closing_rule_drops_and_a_remedy_counts() {
        let listing = |policy: &str| json!({"nftables": [chain("ip", "filter", "FORWARD", policy)]});
        let found = |policy: &str, rules: &[Value]| {
            let rules = json!({ "nftables": rules });
            forward_drops(&listing(policy), |_, _| Ok(rules.clone())).len()
        };
        let named = |key: &str| json!({"match": {"op": "==", "left": {"meta": {"key": key}}, "right": "ovlp*"}});
        let remedy = [
            rule("DOCKER-USER", json!([named("iifname"), {"counter": {}}, {"accept": null}])),
            rule("DOCKER-USER", json!([named("oifname"), {"accept": null}])),
        ];
        let closing = [
            json!([{"drop": null}]),
            json!([{"counter": {"packets": 1}}, {"log": null}, {"reject": {"type": "icmp"}}]),
            json!([{"counter": {}}, {"xt": {"type": "target", "name": "REJECT"}}]),
        ];
        assert_eq!((found("accept", &[]), found("drop", &[])), (0, 1));
        assert_eq!((found("drop", &remedy), found("drop", &remedy[..1])), (0, 1), "both directions");
        let both = |chain: &str, more: Value| -> Vec<Value> {
            let with = |key: &str| rule(chain, json!([named(key), more, {"accept": null}]));
            vec![with("iifname"), with("oifname")]
        };
        let port = json!({"match": {"op": "==", "left": {"payload": {"field": "dport"}}, "right": 53}});
        assert_eq!(found("drop", &both("FORWARD", json!({"counter": {}}))), 0);
        assert_eq!(found("drop", &both("FORWARD", port)), 1, "one port only");
        let jump = |key: &str| rule("FORWARD", json!([named(key), {"jump": {"target": "blocked"}}]));
        assert_eq!(found("drop", &[jump("iifname"), jump("oifname")]), 1, "who knows what is there");
        let mut late = both("FORWARD", json!({"log": null}));
        late.insert(0, rule("FORWARD", json!([{"reject": null}])));
        assert_eq!(found("accept", &late), 1, "behind the end");
        let input = json!({"chain": {"family": "ip", "table": "filter", "name": "INPUT", "hook": "input"}});
        let listed = json!({"nftables": [chain("ip", "filter", "FORWARD", "drop"), input]});
        let rules = json!({ "nftables": both("INPUT", json!({"counter": {}})) });
        assert_eq!(forward_drops(&listed, |_, _| Ok(rules.clone())).len(), 1, "of another hook");
        for expr in closing {
            let rules = [remedy[0].clone(), remedy[1].clone(), rule("FORWARD", expr.clone())];
            assert_eq!((found("accept", &rules[2..]), found("accept", &rules)), (1, 0), "{expr}");
        }
        let some =
            json!([{"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": "sctp"}}, {"drop": null}]);
        assert_eq!(found("accept", &[rule("FORWARD", some)]), 0, "what drops some packets is its owner's affair");
        assert_eq!(found("accept", &[rule("OTHER", json!([{"drop": null}]))]), 0);
        let unknown = forward_drops(&listing("drop"), |_, _| Err("cannot".to_owned()));
        assert_eq!(unknown.first().unwrap().kind, "not-looked-at");
    }

    #[test]
    fn the_old_iptables() {
        for (rules, drops) in [
            ("-P FORWARD ACCEPT\n", false),
            ("-P FORWARD DROP\n", true),
            ("-P FORWARD ACCEPT\n-A FORWARD -i eth7 -j DROP\n", false),
            ("-P FORWARD ACCEPT\n-A FORWARD -j REJECT --reject-with icmp-port-unreachable\n", true),
            ("-P FORWARD DROP\n-A FORWARD -i ovlp+ -j ACCEPT\n", true),
            ("-P FORWARD DROP\n-A FORWARD -i ovlp+ -j ACCEPT\n-A FORWARD -o ovlp+ -j ACCEPT\n", false),
            ("-P FORWARD DROP\n-A USER -i ovlp+ -j ACCEPT\n-A USER -o ovlp+ -j ACCEPT\n", false),
            ("-P FORWARD DROP\n-A INPUT -i ovlp+ -j ACCEPT\n-A OUTPUT -o ovlp+ -j ACCEPT\n", true),
            ("-A FORWARD -j DROP\n-A FORWARD -i ovlp+ -j ACCEPT\n-A FORWARD -o ovlp+ -j ACCEPT\n", true),
        ] {
            assert_eq!(legacy_drops(rules), drops, "{rules}");
        }
    }

    #[test]
    fn an_unexpected_listing_is_no_panic() {
        for value in [json!(null), json!([]), json!({"nftables": [1, {"chain": []}, {"rule": 7}]})] {
            assert!(forward_drops(&value, |_, _| Ok(Value::Null)).is_empty());
            let chain = json!({"nftables": [chain("ip", "filter", "FORWARD", "drop")]});
            assert_eq!(forward_drops(&chain, |_, _| Ok(value.clone())).len(), 1);
        }
    }
}
