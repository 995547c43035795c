//! Must catch: a key that is read and not kept, a default that changes, a message that does not name the offender.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::time::Duration;

use expect_test::expect;
use overlane_api::cni::{
    Args, Bandwidth, Dns, Env, Invocation, NetConf, PortMapping, Protocol, Timeouts, parse, version_in_use,
};
use overlane_api::socket::{Attachment, PodRef};
use serde_json::{Value, json};

fn netconf(more: Value) -> NetConf {
    let mut conf = json!({"cniVersion": "1.1.0", "name": "overlane", "type": "overlane-cni"});
    for (key, value) in more.as_object().unwrap() {
        conf[key] = value.clone();
    }
    NetConf::parse(conf.to_string().as_bytes()).unwrap()
}

#[test]
fn defaults() {
    let conf = netconf(json!({}));
    assert_eq!(conf.run_dir, Path::new("/run/overlane"));
    assert_eq!(conf.socket, Path::new("/run/overlane/agent.sock"));
    let seconds = Duration::from_secs;
    let want = Timeouts { add: seconds(20), del: seconds(10), check: seconds(5), gc: seconds(20), status: seconds(10) };
    assert_eq!(conf.timeouts, want);
    assert_eq!((conf.prev_result, conf.valid_attachments), (None, None));
    assert_eq!((conf.dns, conf.ipam_type.as_str()), (Dns::default(), ""));
}

#[test]
fn our_keys() {
    let conf = netconf(json!({"runDir": "/x", "timeouts": {"add": 0.25, "gc": 7}}));
    assert_eq!((conf.run_dir.as_path(), conf.socket.as_path()), (Path::new("/x"), Path::new("/x/agent.sock")));
    assert_eq!((conf.timeouts.add, conf.timeouts.gc), (Duration::from_millis(250), Duration::from_secs(7)));
    assert_eq!(conf.timeouts.del, Timeouts::default().del);
    let conf = netconf(json!({"runDir": "/x", "socket": "/y/s"}));
    assert_eq!((conf.run_dir.as_path(), conf.socket.as_path()), (Path::new("/x"), Path::new("/y/s")));
}

/// As containerd writes them for a pod with ports, limits and a DNS policy.
#[test]
fn capabilities() {
    let conf = netconf(json!({"runtimeConfig": {
        "portMappings": [
            {"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": ""},
            {"hostPort": 53, "containerPort": 5353, "protocol": "udp", "hostIP": "fd00::1"},
        ],
        "bandwidth": {"ingressRate": 1_000_000, "ingressBurst": u32::MAX, "egressRate": 0, "egressBurst": 0},
        "dns": {"servers": ["10.0.0.10"], "searches": ["a.b"], "options": ["ndots:5"]},
    }}));
    let port = |host_port, container_port, protocol, host_ip: Option<&str>| PortMapping {
        host_port,
        container_port,
        protocol,
        host_ip: host_ip.map(|ip| ip.parse().unwrap()),
    };
    let want = [port(8080, 80, Protocol::Tcp, None), port(53, 5353, Protocol::Udp, Some("fd00::1"))];
    assert_eq!(conf.runtime_config.port_mappings, want);
    let want = Bandwidth { ingress_rate: 1_000_000, ingress_burst: u32::MAX.into(), ..Bandwidth::default() };
    assert_eq!(conf.runtime_config.bandwidth, Some(want));
    assert_eq!(conf.result_dns().search, ["a.b"]);
    conf.refuse_unsupported().unwrap();
    let asked = conf.runtime_config.bandwidth.unwrap().to_agent().unwrap();
    assert_eq!((asked.ingress_rate, asked.egress_rate), (1_000_000, 0));
    let refused = netconf(json!({"runtimeConfig": {"mac": "02:00:00:00:00:01"}})).refuse_unsupported().unwrap_err();
    assert_eq!(refused.code(), 2);
    assert!(refused.to_string().contains("runtimeConfig.mac") && refused.to_string().contains("02:00"));
}

fn env(verb: &str) -> Env {
    Env::collect(|name| {
        let value = match name {
            "CNI_COMMAND" => verb,
            "CNI_CONTAINERID" => "c0",
            "CNI_IFNAME" => "eth0",
            "CNI_NETNS" => "/run/netns/x",
            "CNI_ARGS" => "K8S_POD_NAMESPACE=a;K8S_POD_NAME=b;K8S_POD_UID=u;K8S_POD_INFRA_CONTAINER_ID=c0",
            _ => return None,
        };
        Some(value.into())
    })
}

#[test]
fn a_call_is_read_whole() {
    let stdin = br#"{"cniVersion":"1.1.0","name":"n","type":"t","cni.dev/valid-attachments":[{"containerID":"a","ifname":"e"}]}"#;
    let of = |container_id: &str, ifname: &str| Attachment {
        container_id: container_id.to_owned(),
        ifname: ifname.to_owned(),
    };
    let Ok(Invocation::Add { attachment, netns, pod, .. }) = parse(&env("ADD"), stdin) else { unreachable!() };
    let want = PodRef { namespace: "a".to_owned(), name: "b".to_owned(), uid: "u".to_owned() };
    assert_eq!((attachment, netns.as_str(), pod), (of("c0", "eth0"), "/run/netns/x", Some(want)));
    let Ok(Invocation::Gc { valid, .. }) = parse(&env("GC"), stdin) else { unreachable!() };
    assert_eq!(valid, [of("a", "e")]);
    let Ok(Invocation::Del { netns, .. }) = parse(&env("DEL"), stdin) else { unreachable!() };
    assert_eq!(netns.unwrap(), "/run/netns/x");
}

#[test]
fn args() {
    assert_eq!(Args::parse("").unwrap(), Args::default());
    let args =
        Args::parse("IgnoreUnknown=true;IP=10.0.0.1;;K8S_POD_NAME=b;K8S_POD_NAMESPACE=a;K8S_POD_INFRA_CONTAINER_ID=i;");
    let pod = PodRef { namespace: "a".to_owned(), name: "b".to_owned(), uid: String::new() };
    assert_eq!(args.unwrap(), Args { pod: Some(pod), infra_container_id: "i".to_owned() });
}

#[test]
fn an_error_bears_the_version_in_use() {
    for (stdin, version) in [
        (r#"{"cniVersion":"0.3.1"}"#, "0.3.1"),
        (r#"{"cniVersion":"0.4.0","name":7}"#, "0.4.0"),
        (r#"{"cniVersion":"0.2.0"}"#, "1.1.0"),
        ("{", "1.1.0"),
    ] {
        assert_eq!(version_in_use(stdin.as_bytes()).as_str(), version);
    }
}

#[test]
fn messages() {
    let conf = |more: &str| format!(r#"{{"cniVersion":"1.1.0","name":"n","type":"t"{more}}}"#);
    let mut all = String::new();
    for (verb, stdin) in [
        ("ADD", "{".to_owned()),
        ("ADD", r#"{"cniVersion":"0.2.0"}"#.to_owned()),
        ("ADD", r#"{"cniVersion":"one"}"#.to_owned()),
        ("STATUS", r#"{"cniVersion":"0.4.0","name":"n","type":"t"}"#.to_owned()),
        ("ADD", conf(r#","timeouts":{"ad":5}"#)),
        ("ADD", conf(r#","timeouts":{"add":"5s"}"#)),
        ("ADD", conf(r#","socket":"s""#)),
        ("ADD", conf(r#","ipam":{"type":"host-local"}"#)),
        ("ADD", conf(r#","runtimeConfig":{"mac":"02:00:00:00:00:01"}"#)),
        ("ADD", conf(r#","runtimeConfig":{"dns":7}"#)),
        ("CHECK", conf("")),
        ("GC", conf("")),
        ("NOD", conf("")),
    ] {
        let error = parse(&env(verb), stdin.as_bytes()).unwrap_err();
        all.push_str(&format!("{} {error}\n", error.code()));
    }
    expect![[r#"
        6 decode the network configuration: EOF while parsing an object at line 1 column 1
        1 cniVersion "0.2.0" is not supported; supported are 0.3.1, 0.4.0, 1.0.0, 1.1.0
        6 decode the network configuration: cniVersion "one" is no version number
        1 cniVersion 0.4.0 does not know STATUS; it came with 1.1.0
        7 network configuration: timeouts.ad is 5: no such timeout; there are add, del, check, gc and status
        6 decode the network configuration: timeouts.add must be a number, it is a string
        7 network configuration: socket is "s": must be an absolute path
        2 network configuration: ipam.type = "host-local" is not supported
        2 network configuration: runtimeConfig.mac = "02:00:00:00:00:01" is not supported
        6 decode the network configuration: runtimeConfig.dns: invalid type: integer `7`, expected an object with servers, searches and options
        7 network configuration: prevResult is missing: CHECK compares with the result of ADD
        7 network configuration: cni.dev/valid-attachments is missing: GC keeps what it lists; send [] to keep nothing
        4 CNI_COMMAND="NOD" is no verb of CNI
    "#]].assert_eq(&all);
}

/// Must catch: a runtime's words that are passed over, or refused, for the case of their first letter.
#[test]
fn capabilities_as_containerd_writes_them() {
    let conf = netconf(json!({"runtimeConfig": {
        "portMappings": [{"HostPort": 54323, "ContainerPort": 8080, "Protocol": "tcp", "HostIP": "127.0.0.1"}],
        "bandwidth": {"IngressRate": 0, "IngressBurst": u32::MAX, "EgressRate": 0, "EgressBurst": u32::MAX},
        "dns": {"Servers": ["10.0.0.10"], "Searches": ["a.b"], "Options": null},
    }}));
    let want = PortMapping {
        host_port: 54323,
        container_port: 8080,
        protocol: Protocol::Tcp,
        host_ip: "127.0.0.1".parse().ok(),
    };
    assert_eq!(conf.runtime_config.port_mappings, [want]);
    assert_eq!(
        (conf.result_dns().nameservers, conf.result_dns().search),
        (vec!["10.0.0.10".to_owned()], vec!["a.b".to_owned()])
    );
    conf.refuse_unsupported().unwrap();
    // Bursts alone limit nothing.
    assert_eq!(conf.runtime_config.bandwidth.unwrap().to_agent(), None);
    let limited = netconf(json!({"runtimeConfig": {"bandwidth": {"IngressRate": 1000}}}));
    assert_eq!(limited.runtime_config.bandwidth.unwrap().to_agent().unwrap().ingress_rate, 1000);
}
