//! One function over all that reads foreign bytes, for the fuzz target and the test over its corpus.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use super::{
    AddResult, Args, Env, ErrorObject, Invocation, IpamInvocation, IpamResult, NetConf, PodSide, Version, parse,
    parse_ipam, version_in_use,
};
use crate::socket::{Endpoint, LeasedAddress, MAX_FRAME, Request, Response, frame_length};
use crate::tombstone::Tombstone;

/// A call as one piece of bytes: the first five lines are `CNI_COMMAND`, `CNI_CONTAINERID`, `CNI_NETNS`, `CNI_IFNAME`
/// and `CNI_ARGS`, the rest is standard input.
#[must_use]
pub fn split(data: &[u8]) -> (Env, &[u8]) {
    let mut lines = data.splitn(6, |byte| *byte == b'\n');
    let mut next = || lines.next().map(|line| OsString::from_vec(line.to_vec()));
    let env = Env { command: next(), container_id: next(), netns: next(), ifname: next(), args: next() };
    (env, lines.next().unwrap_or_default())
}

/// Reads `data` in every way in which the plugin and the agent read foreign bytes. Never panics; results are dropped.
pub fn everything(data: &[u8]) {
    let (env, stdin) = split(data);
    call(&env, stdin);
    for verb in ["ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION"] {
        call(&plausible(verb), stdin);
        call(&plausible(verb), data);
    }
    let _ = NetConf::parse(data);
    let _ = Tombstone::parse(data);
    let _ = serde_json::from_slice::<Request>(data);
    let _ = serde_json::from_slice::<Response>(data);
    if let Some(head) = data.first_chunk::<4>() {
        let length = frame_length(*head);
        assert!(length.is_err() || length.is_ok_and(|length| length <= MAX_FRAME as usize));
    }
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = Args::parse(text);
    }
}

fn plausible(verb: &str) -> Env {
    Env {
        command: Some(verb.into()),
        container_id: Some("c0".into()),
        netns: Some("/run/netns/x".into()),
        ifname: Some("eth0".into()),
        args: None,
    }
}

fn call(env: &Env, stdin: &[u8]) {
    match parse_ipam(env, stdin) {
        Err(error) => {
            let _ = serde_json::to_vec(&ErrorObject::of(&error, version_in_use(stdin)));
        }
        Ok(IpamInvocation::Add { conf, .. }) => {
            let address = LeasedAddress { address: [0; 16].into(), prefix_len: 128, gateway: [0; 4].into() };
            let _ = serde_json::to_vec(&IpamResult::new(&[address], conf.routes, conf.dns, conf.version));
        }
        Ok(_) => {}
    }
    match parse(env, stdin) {
        Err(error) => {
            let _ = serde_json::to_vec(&ErrorObject::of(&error, version_in_use(stdin)));
        }
        Ok(Invocation::Add { conf, attachment, netns, .. }) => {
            let endpoint = Endpoint {
                host_ifname: "h".to_owned(),
                host_mac: String::new(),
                mac: String::new(),
                mtu: u32::MAX,
                addresses: vec![[10, 0, 0, 1].into(), [0; 16].into()],
            };
            let pod = PodSide {
                ifname: &attachment.ifname,
                netns: &netns,
                gateway_v4: [169, 254, 1, 1].into(),
                gateway_v6: [0; 16].into(),
            };
            let result = AddResult::new(&endpoint, pod, conf.result_dns(), conf.prev_result);
            for version in Version::ALL {
                let _ = serde_json::to_vec(&result.clone().shaped(version));
            }
        }
        Ok(Invocation::Check { prev, attachment, .. }) => {
            let _ = prev.addresses_of(&attachment.ifname);
        }
        Ok(_) => {}
    }
}
