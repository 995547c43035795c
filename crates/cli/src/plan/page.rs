//! A plan as a page for people.

use overlane_api::crd::{ClusterNetworkSpec, NetworkPolicy, NodeCidrs, OutboundType};
use overlane_core::cidr::Cidr;
use overlane_core::cluster::{MAX_NODES, Routing, usable_for_nodes};
use overlane_core::family::Family;
use overlane_core::sizing::{Advice, Expansion, MONTHS_MAX, Model, NodeSpace, PodSpace, Taken};

use super::{Plan, drawing};
use crate::out::{self, Style, count};
use crate::validate;

/// Where text begins.
const INDENT: &str = "          ";
/// Widest line of prose.
const WIDTH: usize = 120;
/// Ranges that are drawn where anything in them is taken (RFC 1918, RFC 6598).
const DRAWN: [&str; 4] = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"];

/// The page.
pub fn of(plan: &Plan, colours: bool) -> String {
    let Plan { wish, sizing, .. } = plan;
    let (now, then) = sizing.nodes;
    let bold = |text: &str| out::paint(Style::Bold, text, colours);
    let mut page = format!(
        "{}: {} nodes now, {} in {} months, {} more while nodes are replaced, {} pods a node\n\n",
        bold("Plan"),
        count(now),
        count(then),
        wish.months,
        count(wish.surge),
        sizing.spec.max_pods
    );
    let model = if sizing.model.choice == Model::Overlay {
        "overlay"
    } else {
        "flat: pods with addresses of the nodes' network"
    };
    advice(&mut page, &bold("MODEL"), "MODEL", model, &sizing.model);
    advice(&mut page, &bold("ROUTING"), "ROUTING", routing(sizing.routing.choice), &sizing.routing);
    for space in &sizing.pods {
        pods(&mut page, space, plan, &bold("PODS"));
    }
    for (cidr, proposed) in &sizing.services {
        let dns = sizing.around.dns_service_ips.iter().find(|ip| ip.parse().is_ok_and(|ip| cidr.contains(ip)));
        let dns = dns.map(|ip| format!(", DNS at {ip}")).unwrap_or_default();
        line(&mut page, &bold("SERVICES"), "SERVICES", &format!("{cidr}{}{dns}", word(*proposed)));
    }
    for space in &sizing.subnets {
        subnets(&mut page, space, plan, &bold("NODES"));
    }
    if let Some(snat) = sizing.snat {
        let text = format!(
            "a full node has {} flows to its busiest destination at once, and {} ports for them",
            count(snat.flows),
            count(snat.ports)
        );
        line(&mut page, &bold("WAY OUT"), "WAY OUT", &text);
    }
    map(&mut page, &sizing.taken);
    page.push('\n');
    let command = command(plan);
    if sizing.findings.is_empty() && sizing.model.choice == Model::Flat {
        page.push_str(&format!(
            "No rule is broken, but another model fits what was asked for. As an overlay:\n  {command}\n"
        ));
    } else if sizing.findings.is_empty() {
        page.push_str(&format!(
            "{}. To install it:\n  {}\n",
            out::paint(Style::Good, "No rule is broken", colours),
            command
        ));
    } else {
        page.push_str(&validate::bad(&sizing.findings, colours));
        if sizing.plan.is_some() {
            page.push_str(&format!("As it is planned, it would be installed by\n  {command}\n"));
        }
    }
    page
}

/// A routing as it is typed.
pub const fn routing(routing: Routing) -> &'static str {
    match routing {
        Routing::Native => "native",
        Routing::Vxlan => "vxlan",
        Routing::Auto => "auto",
    }
}

/// The command that installs what is planned.
pub fn command(plan: &Plan) -> String {
    let (spec, sizing) = (&plan.sizing.spec, &plan.sizing);
    let families: Vec<String> = sizing.pods.iter().map(|space| space.cidr.family().to_string()).collect();
    let mut words = vec![
        "overlane install".to_owned(),
        format!("--ip-families {}", families.join(",")),
        format!("--pod-cidrs {}", spec.pod_cidrs.join(",")),
        format!("--service-cidrs {}", spec.service_cidrs.join(",")),
        format!("--max-pods {}", spec.max_pods),
        format!("--routing {}", routing(sizing.routing.choice)),
    ];
    let standard = overlane_core::cluster::ClusterSpec::default();
    if spec.node_mask_v4 != standard.node_mask_v4 {
        words.push(format!("--node-cidr-mask-size-ipv4 {}", spec.node_mask_v4));
    }
    if spec.node_mask_v6 != standard.node_mask_v6 {
        words.push(format!("--node-cidr-mask-size-ipv6 {}", spec.node_mask_v6));
    }
    words.extend(further(&plan.network));
    words.join(" ")
}

/// Flags for what else was asked for.
fn further(network: &ClusterNetworkSpec) -> Vec<String> {
    let mut words = Vec::new();
    let mut add = |flag: &str, value: &str| words.push(format!("--{flag} {value}"));
    network.native_cidrs.iter().for_each(|cidr| add("native-cidr", cidr));
    match network.outbound_type {
        OutboundType::LoadBalancer => {}
        OutboundType::NatGateway => add("outbound-type", "natGateway"),
        OutboundType::UserDefinedRouting => add("outbound-type", "userDefinedRouting"),
        OutboundType::None => add("outbound-type", "none"),
    }
    if !network.egress.next_hops.is_empty() {
        add("egress-next-hop", &network.egress.next_hops.join(","));
    }
    network.egress.internal_cidrs.iter().for_each(|cidr| add("egress-internal-cidr", cidr));
    if network.network_policy == NetworkPolicy::None {
        add("network-policy", "none");
    }
    if network.node_cidrs == NodeCidrs::Adopt {
        add("node-cidrs", "adopt");
    }
    if network.egress.keep_pod_address {
        words.push("--egress-keep-pod-address".to_owned());
    }
    let standard = ClusterNetworkSpec::default();
    let same = (network.masquerade, network.vxlan, network.network_policy_log)
        == (standard.masquerade, standard.vxlan, standard.network_policy_log);
    if !same {
        words.push("# and --values with masquerade, vxlan, networkPolicyLog as planned".to_owned());
    }
    words
}

fn line(page: &mut String, painted: &str, plain: &str, text: &str) {
    let gap = " ".repeat(INDENT.len().saturating_sub(plain.len()));
    page.push_str(&format!("{painted}{gap}{text}\n"));
}

fn advice<T>(page: &mut String, painted: &str, plain: &str, choice: &str, advice: &Advice<T>) {
    line(page, painted, plain, choice);
    for because in &advice.because {
        prose(page, because);
    }
}

/// A paragraph under what it is about.
fn prose(page: &mut String, text: &str) {
    let mut width = WIDTH;
    for word in text.split_whitespace() {
        if width + 1 + word.len() > WIDTH {
            if width < WIDTH {
                page.push('\n');
            }
            page.push_str(INDENT);
            width = INDENT.len();
        } else {
            page.push(' ');
            width += 1;
        }
        page.push_str(word);
        width += word.len();
    }
    page.push('\n');
}

const fn word(proposed: bool) -> &'static str {
    if proposed { " (proposed)" } else { "" }
}

/// Until when something lasts.
fn until(month: Option<u32>) -> String {
    match month {
        Some(0) => "too few now".to_owned(),
        Some(month) => format!("until month {month}"),
        None => format!("for more than {} years", MONTHS_MAX / 12),
    }
}

fn pods(page: &mut String, space: &PodSpace, plan: &Plan, painted: &str) {
    let Plan { wish, sizing, .. } = plan;
    let text = format!(
        "{}{}: a /{} a node, {} nodes of {} pods, {}",
        space.cidr,
        word(space.proposed),
        space.node_mask,
        count(space.blocks),
        sizing.spec.max_pods,
        if space.blocks >= MAX_NODES { "more than a cluster can have".to_owned() } else { until(space.runs_out) }
    );
    line(page, painted, "PODS", &text);
    let (now, then) = (sizing.nodes.0, sizing.nodes.1.saturating_add(wish.surge));
    let drawn = drawing::used(now, then, space.blocks);
    page.push_str(&format!("{INDENT}{drawn} # now, + in {} months\n", wish.months));
    for larger in &space.expansions {
        page.push_str(&format!("{INDENT}{}\n", grown(larger)));
    }
    if space.expansions.is_empty() && space.blocks < MAX_NODES {
        page.push_str(&format!("{INDENT}cannot grow: it is no larger range's first part\n"));
    }
}

fn grown(larger: &Expansion) -> String {
    let Expansion { cidr, blocks, runs_out, in_the_way } = larger;
    let free = match in_the_way.as_slice() {
        [] => "free".to_owned(),
        taken => {
            let words: Vec<String> = taken.iter().map(|Taken { cidr, what }| format!("{cidr} ({what})")).collect();
            format!("not free: {}", words.join(", "))
        }
    };
    format!("can grow to {cidr}: {} nodes, {}; {free}", count(*blocks), until(*runs_out))
}

fn subnets(page: &mut String, space: &NodeSpace, plan: &Plan, painted: &str) {
    let all = plan.sizing.nodes.1.saturating_add(plan.wish.surge).min(MAX_NODES);
    let mut text = match space.room {
        Some(room) => {
            format!("{}: the subnets have addresses for {} nodes, {}", space.family, count(room), until(space.runs_out))
        }
        None => format!("{}: no subnet was told", space.family),
    };
    let holds =
        Cidr::around(std::net::IpAddr::from([0, 0, 0, 0]), space.prefix_len).map(|cidr| usable_for_nodes(&cidr));
    match (space.family, holds) {
        (Family::V4, Ok(holds)) => {
            text.push_str(&format!("; a /{} holds {}, for {}", space.prefix_len, count(holds), count(all)));
        }
        _ => text.push_str(&format!("; clouds give a /{}, which is enough", space.prefix_len)),
    }
    if let Some(place) = space.place {
        text.push_str(&format!(": {place} is free"));
    }
    line(page, painted, "NODES", &text);
}

/// Who has what of the private ranges.
fn map(page: &mut String, taken: &[Taken]) {
    let ranges = DRAWN.iter().filter_map(|range| range.parse::<Cidr>().ok());
    let mut ranges = ranges.filter(|range| taken.iter().any(|taken| taken.cidr.overlaps(range))).peekable();
    if ranges.peek().is_none() {
        return;
    }
    page.push('\n');
    for range in ranges {
        page.push_str(&format!("{:<15} {}\n", range.to_string(), drawing::map(&range, taken)));
    }
    let mut whats: Vec<&str> =
        taken.iter().filter(|taken| taken.cidr.family() == Family::V4).map(|taken| taken.what.as_str()).collect();
    whats.sort_unstable();
    whats.dedup();
    let legend: Vec<String> = whats.iter().map(|what| format!("{} {what}", drawing::letter(what))).collect();
    page.push_str(&format!("{:<15}  {}, * several, . nobody that is known\n", "", legend.join(", ")));
}
