//! Flows are recorded by the names of their pods, and judged by other policies.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Instant;

use overlane_suites::exec;
use overlane_suites::lab::{cli, overlane};
use overlane_suites::volley::Carries;
use overlane_suites::wait::secs;
use serde_json::{Value, json};

use crate::scene::{self, CLIENT, OPEN, SHOP, SHUT};
use crate::stage::Range;

/// Records on a node until it is interrupted.
struct Recorder {
    child: Child,
    began: Instant,
    file: PathBuf,
}

impl Recorder {
    fn start(range: &Range, node: usize) -> Recorder {
        let lab = scene::lab(range);
        let file = std::env::temp_dir().join(format!("{}-flows-{node}.jsonl", lab.name));
        let node = &range.stage.nodes[node].name;
        let mut command = cli(&["policy", "record", "--lab", &lab.name, "--node", node, "--for", "300s", "--file"]);
        command.arg(&file).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // Byte for byte: what it says at its end is read then.
        let (mut line, mut byte) = (Vec::new(), [0]);
        while !line.ends_with(b"\n") && child.stderr.as_mut().unwrap().read(&mut byte).unwrap() == 1 {
            line.push(byte[0]);
        }
        assert!(line.starts_with(b"recording"), "{}", String::from_utf8_lossy(&line));
        Recorder { child, began: Instant::now(), file }
    }

    /// Ends it; gives the header and the flows.
    fn end(self) -> (Value, Vec<Value>) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
        let out = exec::finish(self.child, "policy record".to_owned(), b"", self.began, secs(20), |_| ());
        println!("{}", out.must().stderr);
        let text = std::fs::read_to_string(&self.file).unwrap();
        let mut lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        (lines.next().unwrap(), lines.collect())
    }
}

/// Ends of a flow as people name them, its protocol, and its port.
fn words(flow: &Value) -> (String, String, String) {
    let end = |end: &Value| match &end["pod"] {
        Value::Null => end["address"].as_str().unwrap().to_owned(),
        pod => format!("{}/{}", pod["namespace"].as_str().unwrap(), pod["name"].as_str().unwrap()),
    };
    let port = flow["port"].as_u64().map_or(String::new(), |port| format!("{port}/"));
    (end(&flow["from"]), end(&flow["to"]), port + flow["protocol"].as_str().unwrap())
}

#[test]
fn flows_are_recorded_and_judged_by_other_policies() {
    let range = scene::shop(|_| ());
    // A Service as kube-proxy makes it, on the client's node.
    let (near4, near6) = (range.pairs(CLIENT, "shop/near")[0].1, range.pairs(CLIENT, "shop/near")[1].1);
    let table = format!(
        "table inet svc {{ chain in {{ type nat hook prerouting priority -100;
            ip daddr 10.0.99.10 udp dport 53 dnat ip to {near4}:{OPEN}
            ip6 daddr fd98::99:10 udp dport 53 dnat ip6 to [{near6}]:{OPEN}; }}; }}"
    );
    range.stage.nodes[0].ns.sh(&["nft", &table]).must();
    let recorders = [Recorder::start(&range, 0), Recorder::start(&range, 1)];
    let kinds = [Carries::Tcp(OPEN), Carries::Tcp(SHUT), Carries::Udp(OPEN), Carries::Sctp(SHUT), Carries::Echo];
    let mut shots = Vec::new();
    for kind in kinds {
        for to in ["shop/near", "shop/far", "internet"] {
            shots.extend(range.shots(CLIENT, to, kind));
        }
    }
    assert_eq!(range.unanswered(&shots), []);
    range.host(CLIENT).ns.run(|| {
        for service in ["10.0.99.10:53", "[fd98::99:10]:53"] {
            let to: std::net::SocketAddr = service.parse().unwrap();
            let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            std::net::UdpSocket::bind(any).unwrap().send_to(b"x", to).unwrap();
        }
    });
    let internet: Vec<String> = range.host("internet").ips.iter().map(ToString::to_string).collect();
    let [(header, near), (_, far)] = recorders.map(|recorder| {
        let (file, (header, flows)) = (recorder.file.clone(), recorder.end());
        assert_eq!((&header["format"], &header["lost"]), (&json!("overlane.io/flows"), &json!(0)));
        judged(&file, &flows);
        std::fs::remove_file(file).unwrap();
        (header, flows)
    });
    assert_eq!(header["node"], json!(range.stage.nodes[0].name));
    assert_eq!(header["families"], json!(["IPv4", "IPv6"]));
    let ports = |icmp: &str| {
        [format!("{OPEN}/tcp"), format!("{SHUT}/tcp"), format!("{OPEN}/udp"), format!("{SHUT}/sctp"), icmp.to_owned()]
    };
    for (flows, server) in [(&near, "shop/near"), (&near, "shop/far"), (&far, "shop/far")] {
        has(flows, CLIENT, server, &[ports("icmp"), ports("icmpv6")].concat(), 2);
    }
    for outside in &internet {
        has(&near, CLIENT, outside, &ports(if outside.contains(':') { "icmpv6" } else { "icmp" }), 1);
    }
    let asked = near.iter().filter(|flow| words(flow) == (CLIENT.into(), "shop/near".into(), format!("{OPEN}/udp")));
    let asked: BTreeSet<&str> = asked.filter_map(|flow| flow["asked"]["address"].as_str()).collect();
    assert_eq!(asked, BTreeSet::from(["10.0.99.10", "fd98::99:10"]));
}

/// Ends the test unless there is a flow of each kind: of those with ports `each`, one a family.
fn has(flows: &[Value], from: &str, to: &str, kinds: &[String], each: usize) {
    for kind in kinds {
        let want = (from.to_owned(), to.to_owned(), kind.clone());
        let count = flows.iter().filter(|flow| words(flow) == want && flow["asked"].is_null()).count();
        let icmp = kind.starts_with("icmp");
        assert_eq!(count, if icmp { 1 } else { each }, "{want:?}");
    }
}

/// What the closing policies of the other tests would do to what was recorded.
fn judged(file: &Path, flows: &[Value]) {
    let dir = file.with_extension("policies");
    std::fs::create_dir_all(&dir).unwrap();
    let (empty, new) = (dir.join("empty.yaml"), dir.join("new.json"));
    std::fs::write(&empty, "").unwrap();
    for (what, policy) in scene::closings() {
        std::fs::write(&new, policy.to_string()).unwrap();
        let [empty, new, file] = [&empty, &new, file].map(|path| path.to_str().unwrap());
        let out = overlane(&["policy", "diff", "-f", empty, "-f", new, "--flows", file, "-o", "json"]);
        assert_eq!(out.code, Some(1), "{what}: {out}");
        let told: Value = serde_json::from_str(&out.stdout).unwrap();
        assert_eq!(told["flows"].as_array().unwrap().len(), flows.len());
        let flips = told["flows"].as_array().unwrap().iter().filter(|flow| flow["flips"] == true);
        let flips: BTreeSet<(&str, &str)> =
            flips.map(|flow| (flow["to"].as_str().unwrap(), flow["port"].as_str().unwrap())).collect();
        // What is in the namespace; canaries do not count.
        let ours = |to: &str| to.starts_with(SHOP);
        let shut = [format!("{SHUT}/tcp"), format!("{SHUT}/sctp"), "icmp".to_owned(), "icmpv6".to_owned()];
        let want = flows.iter().map(words).filter(|(from, to, port)| from == CLIENT && ours(to) && shut.contains(port));
        let want: BTreeSet<(String, String)> = want.map(|(_, to, port)| (to, port)).collect();
        let got: BTreeSet<(String, String)> =
            flips.iter().filter(|(to, _)| ours(to)).map(|(to, port)| ((*to).to_owned(), (*port).to_owned())).collect();
        assert_eq!(got, want, "{what}");
    }
    std::fs::remove_dir_all(&dir).unwrap();
}
