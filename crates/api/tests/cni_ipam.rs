//! Calls of the IPAM plugin: what is read, what is refused, what is answered.
//!
//! Must catch: a key of the main plugin's taken for ours, a misspelt key of ours passed over, an answer with interfaces.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use overlane_api::cni::{Env, Error, IpamConf, IpamInvocation, IpamResult, Route, Version, parse_ipam};
use overlane_api::socket::{Call, GatewayMode, IpamCall, LeasedAddress};
use serde_json::{Value, json};

fn env(verb: &str) -> Env {
    Env {
        command: Some(verb.into()),
        container_id: Some("c0".into()),
        netns: Some("/run/netns/x".into()),
        ifname: Some("eth0".into()),
        args: None,
    }
}

fn conf(ipam: Value) -> Value {
    let mut whole =
        json!({"cniVersion": "1.0.0", "name": "net", "type": "ptp", "mtu": 1400, "socket": 7, "timeouts": "long"});
    whole["ipam"] = ipam;
    whole
}

fn ours(more: Value) -> Value {
    let mut ipam = json!({"type": "overlane-ipam"});
    for (key, value) in more.as_object().unwrap() {
        ipam[key] = value.clone();
    }
    conf(ipam)
}

fn ask(verb: &str, conf: &Value) -> Result<IpamInvocation, Error> {
    parse_ipam(&env(verb), conf.to_string().as_bytes())
}

fn add(conf: &Value) -> IpamConf {
    match ask("ADD", conf).unwrap() {
        IpamInvocation::Add { conf, .. } => conf,
        other => panic!("{other:?}"),
    }
}

#[test]
fn only_the_section_is_ours() {
    let read = add(&ours(json!({})));
    assert_eq!((read.name.as_str(), read.gateway, read.routes), ("net", GatewayMode::Block, None));
    assert_eq!(read.socket.to_str(), Some("/run/overlane/agent.sock"));
    let read = add(&ours(json!({
        "gateway": "link-local", "runDir": "/run/x", "timeouts": {"add": 3}, "dns": {"domain": "a"},
        "routes": [{"dst": "10.0.0.0/8"}, {"dst": "fd00::/8", "gw": "fd00::1"}],
    })));
    assert_eq!((read.gateway, read.timeouts.add.as_secs()), (GatewayMode::LinkLocal, 3));
    assert_eq!((read.socket.to_str(), read.dns.domain.as_str()), (Some("/run/x/agent.sock"), "a"));
    assert_eq!(read.routes.unwrap().len(), 2);
    let mut with_dns = ours(json!({}));
    with_dns["dns"] = json!({"nameservers": ["10.0.0.10"]});
    assert_eq!(add(&with_dns).dns.nameservers, ["10.0.0.10"]);
}

#[test]
fn what_is_wrong_is_named() {
    let mut nameless = ours(json!({}));
    nameless["name"] = json!("");
    let mut without = ours(json!({}));
    without.as_object_mut().unwrap().remove("ipam");
    let mut chosen = ours(json!({}));
    chosen["runtimeConfig"] = json!({"ips": ["10.244.0.9/24"], "mac": "02:00:00:00:00:01"});
    let table = [
        (nameless, 7, "name is missing"),
        (without, 7, "ipam is missing"),
        (conf(json!("overlane-ipam")), 6, "ipam must be an object"),
        (conf(json!({"type": "host-local"})), 7, "ipam.type is \"host-local\""),
        (conf(json!({})), 7, "ipam.type"),
        (ours(json!({"gateway": "first"})), 7, "ipam.gateway is \"first\": must be \"block\" or \"link-local\""),
        (ours(json!({"gateway": 1})), 6, "ipam.gateway must be a string"),
        (ours(json!({"gatway": "block"})), 7, "ipam.gatway"),
        (ours(json!({"subnet": "10.0.0.0/24"})), 7, "ipam.subnet"),
        (ours(json!({"routes": [{"dst": "10.0.0.0"}]})), 7, "each dst must be a CIDR"),
        (ours(json!({"routes": [{"dst": "10.0.0.0/33"}]})), 7, "each dst must be a CIDR"),
        (ours(json!({"routes": [{"dst": "10.0.0.0/8", "gw": "x"}]})), 7, "each gw must be an address"),
        (ours(json!({"socket": "agent.sock"})), 7, "must be an absolute path"),
        (ours(json!({"timeouts": {"add": 0}})), 7, "0.1 to 240 seconds"),
        (chosen, 2, "runtimeConfig.ips"),
    ];
    for (conf, code, words) in table {
        let error = ask("ADD", &conf).unwrap_err();
        assert_eq!(error.code(), code, "{conf}: {error}");
        assert!(error.to_string().contains(words), "{conf}: {error}");
    }
}

#[test]
fn del_needs_only_the_way_to_the_agent() {
    for ipam in [json!({"gateway": "first"}), json!({"subnet": 1}), json!({"timeouts": 3, "dns": 4})] {
        assert!(ask("ADD", &ours(ipam.clone())).is_err());
        let IpamInvocation::Del { conf, .. } = ask("DEL", &ours(ipam)).unwrap() else { panic!() };
        assert_eq!(conf.name, "net");
    }
}

#[test]
fn check_compares_with_the_pods_own_addresses() {
    let mut conf = ours(json!({}));
    assert_eq!(ask("CHECK", &conf).unwrap_err().code(), 7);
    conf["prevResult"] = json!({
        "interfaces": [{"name": "veth1"}, {"name": "eth0", "sandbox": "/run/netns/x"}, {"name": "net1", "sandbox": "/run/netns/x"}],
        "ips": [{"interface": 1, "address": "10.244.0.5/24"}, {"interface": 2, "address": "10.9.0.5/24"}, {"address": "fd12::5/80"}],
    });
    let IpamInvocation::Check { expected, .. } = ask("CHECK", &conf).unwrap() else { panic!() };
    assert_eq!(expected, ["10.244.0.5".parse::<std::net::IpAddr>().unwrap(), "fd12::5".parse().unwrap()]);
    conf["prevResult"] = json!({"ips": []});
    assert_eq!(ask("CHECK", &conf).unwrap_err().code(), 7);
}

#[test]
fn later_verbs_need_later_versions_and_gc_a_list() {
    let mut conf = ours(json!({}));
    for verb in ["GC", "STATUS"] {
        assert_eq!(ask(verb, &conf).unwrap_err().code(), 1);
    }
    conf["cniVersion"] = json!("1.1.0");
    assert!(ask("STATUS", &conf).is_ok());
    assert_eq!(ask("GC", &conf).unwrap_err().code(), 7);
    conf["cni.dev/valid-attachments"] = json!([{"containerID": "c0", "ifname": "eth0"}]);
    let IpamInvocation::Gc { valid, .. } = ask("GC", &conf).unwrap() else { panic!() };
    assert_eq!(valid.len(), 1);
}

#[test]
fn answers_have_no_interfaces() {
    let address = |address: &str, prefix_len, gateway: &str| LeasedAddress {
        address: address.parse().unwrap(),
        prefix_len,
        gateway: gateway.parse().unwrap(),
    };
    let both = [address("10.244.0.5", 24, "10.244.0.1"), address("fd12::5", 80, "fd12::1")];
    let result = IpamResult::new(&both, None, Default::default(), Version::V1_0_0);
    assert_eq!(
        serde_json::to_value(&result).unwrap(),
        json!({
            "cniVersion": "1.0.0",
            "ips": [
                {"address": "10.244.0.5/24", "gateway": "10.244.0.1"},
                {"address": "fd12::5/80", "gateway": "fd12::1"},
            ],
            "routes": [{"dst": "0.0.0.0/0", "gw": "10.244.0.1"}, {"dst": "::/0", "gw": "fd12::1"}],
        })
    );
    let route = Route { dst: "10.0.0.0/8".into(), mtu: Some(1400), ..Route::default() };
    for (version, mtu) in [(Version::V0_3_1, json!(null)), (Version::V1_1_0, json!(1400))] {
        let result = IpamResult::new(&both[..1], Some(vec![route.clone()]), Default::default(), version);
        let text = serde_json::to_value(&result).unwrap();
        assert_eq!(text["ips"][0]["version"].as_str(), (version == Version::V0_3_1).then_some("4"));
        assert_eq!(text["routes"], {
            let mut routes = json!([{"dst": "10.0.0.0/8"}]);
            if !mtu.is_null() {
                routes[0]["mtu"] = mtu;
            }
            routes
        });
    }
}

#[test]
fn calls_say_that_they_need_protocol_3() {
    let call = Call::Ipam(IpamCall::Status);
    assert_eq!(call.protocol(), 3);
    assert_eq!(Call::Status.protocol(), 1, "what an older agent understands is sent in its words");
    let text = serde_json::to_value(&call).unwrap();
    assert_eq!(text, json!({"verb": "IPAM", "ask": "STATUS"}));
    assert_eq!(serde_json::from_value::<Call>(text).unwrap(), call);
}
