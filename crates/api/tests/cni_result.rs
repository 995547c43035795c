//! Must catch: a result in another shape than the version asked for has (`ips[].version` kept after 0.4.0, `mtu` shown
//! before 1.1.0, an interface index that is off by what an earlier plugin made).
#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::IpAddr;

use expect_test::{Expect, expect};
use overlane_api::cni::{AddResult, Dns, PodSide, PrevResult, Version};
use overlane_api::socket::Endpoint;

fn endpoint(addresses: &[&str]) -> Endpoint {
    Endpoint {
        host_ifname: "ovlpabcdefghijk".to_owned(),
        host_mac: "02:6f:76:6c:00:01".to_owned(),
        mac: "02:11:22:33:44:55".to_owned(),
        mtu: 1450,
        addresses: addresses.iter().map(|a| a.parse::<IpAddr>().unwrap()).collect(),
    }
}

const POD: PodSide<'static> = PodSide {
    ifname: "eth0",
    netns: "/run/netns/blue",
    gateway_v4: std::net::Ipv4Addr::new(169, 254, 1, 1),
    gateway_v6: std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1),
};

fn dual() -> AddResult {
    let dns = Dns { nameservers: vec!["10.0.0.10".to_owned()], ..Dns::default() };
    AddResult::new(&endpoint(&["10.244.2.2", "fd12:3456:789a:0:2::2"]), POD, dns, None)
}

fn check(result: &AddResult, expect: Expect) {
    expect.assert_eq(&serde_json::to_string_pretty(result).unwrap());
}

#[test]
fn newest_shape() {
    check(
        &dual().shaped(Version::V1_1_0),
        expect![[r#"
        {
          "cniVersion": "1.1.0",
          "interfaces": [
            {
              "name": "ovlpabcdefghijk",
              "mac": "02:6f:76:6c:00:01",
              "mtu": 1450
            },
            {
              "name": "eth0",
              "mac": "02:11:22:33:44:55",
              "mtu": 1450,
              "sandbox": "/run/netns/blue"
            }
          ],
          "ips": [
            {
              "interface": 1,
              "address": "10.244.2.2/32",
              "gateway": "169.254.1.1"
            },
            {
              "interface": 1,
              "address": "fd12:3456:789a:0:2::2/128",
              "gateway": "fe80::1"
            }
          ],
          "routes": [
            {
              "dst": "0.0.0.0/0",
              "gw": "169.254.1.1"
            },
            {
              "dst": "::/0",
              "gw": "fe80::1"
            }
          ],
          "dns": {
            "nameservers": [
              "10.0.0.10"
            ]
          }
        }"#]],
    );
}

#[test]
fn shape_1_0_0() {
    check(
        &dual().shaped(Version::V1_0_0),
        expect![[r#"
        {
          "cniVersion": "1.0.0",
          "interfaces": [
            {
              "name": "ovlpabcdefghijk",
              "mac": "02:6f:76:6c:00:01"
            },
            {
              "name": "eth0",
              "mac": "02:11:22:33:44:55",
              "sandbox": "/run/netns/blue"
            }
          ],
          "ips": [
            {
              "interface": 1,
              "address": "10.244.2.2/32",
              "gateway": "169.254.1.1"
            },
            {
              "interface": 1,
              "address": "fd12:3456:789a:0:2::2/128",
              "gateway": "fe80::1"
            }
          ],
          "routes": [
            {
              "dst": "0.0.0.0/0",
              "gw": "169.254.1.1"
            },
            {
              "dst": "::/0",
              "gw": "fe80::1"
            }
          ],
          "dns": {
            "nameservers": [
              "10.0.0.10"
            ]
          }
        }"#]],
    );
}

#[test]
fn shape_0_4_0() {
    check(
        &dual().shaped(Version::V0_4_0),
        expect![[r#"
        {
          "cniVersion": "0.4.0",
          "interfaces": [
            {
              "name": "ovlpabcdefghijk",
              "mac": "02:6f:76:6c:00:01"
            },
            {
              "name": "eth0",
              "mac": "02:11:22:33:44:55",
              "sandbox": "/run/netns/blue"
            }
          ],
          "ips": [
            {
              "version": "4",
              "interface": 1,
              "address": "10.244.2.2/32",
              "gateway": "169.254.1.1"
            },
            {
              "version": "6",
              "interface": 1,
              "address": "fd12:3456:789a:0:2::2/128",
              "gateway": "fe80::1"
            }
          ],
          "routes": [
            {
              "dst": "0.0.0.0/0",
              "gw": "169.254.1.1"
            },
            {
              "dst": "::/0",
              "gw": "fe80::1"
            }
          ],
          "dns": {
            "nameservers": [
              "10.0.0.10"
            ]
          }
        }"#]],
    );
}

#[test]
fn shape_0_3_1_differs_from_0_4_0_in_its_number_alone() {
    let old = serde_json::to_string(&dual().shaped(Version::V0_3_1)).unwrap();
    let new = serde_json::to_string(&dual().shaped(Version::V0_4_0)).unwrap();
    assert_eq!(old.replace("0.3.1", "0.4.0"), new);
}

#[test]
fn one_family_and_either_order() {
    let of = |addresses: &[&str]| {
        let result = AddResult::new(&endpoint(addresses), POD, Dns::default(), None).shaped(Version::V0_4_0);
        let value = serde_json::to_value(result).unwrap();
        let ips: Vec<_> = value["ips"].as_array().unwrap().iter().map(|ip| ip["version"].clone()).collect();
        let routes: Vec<_> = value["routes"].as_array().unwrap().iter().map(|route| route["dst"].clone()).collect();
        (ips, routes)
    };
    assert_eq!(of(&["10.0.0.1"]), (vec!["4".into()], vec!["0.0.0.0/0".into()]));
    assert_eq!(of(&["fd00::1"]), (vec!["6".into()], vec!["::/0".into()]));
    assert_eq!(of(&["fd00::1", "10.0.0.1"]), (vec!["6".into(), "4".into()], vec!["::/0".into(), "0.0.0.0/0".into()]));
}

#[test]
fn what_an_earlier_plugin_made_stays_in_front() {
    let prev: PrevResult = serde_json::from_str(
        r#"{"cniVersion":"1.1.0","interfaces":[{"name":"tap0","mtu":9000,"socketPath":"/s","pciID":"0000:04:00.5"}],
            "ips":[{"version":"4","address":"192.0.2.1/24","interface":0}],
            "routes":[{"dst":"192.0.2.0/24","mtu":9000,"advmss":1,"priority":2,"table":3,"scope":253}],
            "dns":{"domain":"example.org"}}"#,
    )
    .unwrap();
    let result = AddResult::new(&endpoint(&["10.244.2.2"]), POD, Dns::default(), Some(prev));
    check(
        &result.clone().shaped(Version::V1_1_0),
        expect![[r#"
        {
          "cniVersion": "1.1.0",
          "interfaces": [
            {
              "name": "tap0",
              "mtu": 9000,
              "socketPath": "/s",
              "pciID": "0000:04:00.5"
            },
            {
              "name": "ovlpabcdefghijk",
              "mac": "02:6f:76:6c:00:01",
              "mtu": 1450
            },
            {
              "name": "eth0",
              "mac": "02:11:22:33:44:55",
              "mtu": 1450,
              "sandbox": "/run/netns/blue"
            }
          ],
          "ips": [
            {
              "interface": 0,
              "address": "192.0.2.1/24"
            },
            {
              "interface": 2,
              "address": "10.244.2.2/32",
              "gateway": "169.254.1.1"
            }
          ],
          "routes": [
            {
              "dst": "192.0.2.0/24",
              "mtu": 9000,
              "advmss": 1,
              "priority": 2,
              "table": 3,
              "scope": 253
            },
            {
              "dst": "0.0.0.0/0",
              "gw": "169.254.1.1"
            }
          ],
          "dns": {
            "domain": "example.org"
          }
        }"#]],
    );
    check(
        &result.shaped(Version::V1_0_0),
        expect![[r#"
        {
          "cniVersion": "1.0.0",
          "interfaces": [
            {
              "name": "tap0"
            },
            {
              "name": "ovlpabcdefghijk",
              "mac": "02:6f:76:6c:00:01"
            },
            {
              "name": "eth0",
              "mac": "02:11:22:33:44:55",
              "sandbox": "/run/netns/blue"
            }
          ],
          "ips": [
            {
              "interface": 0,
              "address": "192.0.2.1/24"
            },
            {
              "interface": 2,
              "address": "10.244.2.2/32",
              "gateway": "169.254.1.1"
            }
          ],
          "routes": [
            {
              "dst": "192.0.2.0/24"
            },
            {
              "dst": "0.0.0.0/0",
              "gw": "169.254.1.1"
            }
          ],
          "dns": {
            "domain": "example.org"
          }
        }"#]],
    );
}

#[test]
fn addresses_for_check() {
    let value = serde_json::to_value(dual()).unwrap();
    let prev: PrevResult = serde_json::from_value(value).unwrap();
    let expected: Vec<IpAddr> = vec!["10.244.2.2".parse().unwrap(), "fd12:3456:789a:0:2::2".parse().unwrap()];
    assert_eq!(prev.addresses_of("eth0").unwrap(), expected);
    assert!(prev.addresses_of("net1").is_err());
    assert!(prev.addresses_of("ovlpabcdefghijk").is_err(), "an interface of the host");
}
