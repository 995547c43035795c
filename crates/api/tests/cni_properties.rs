//! Must catch: an index, a slice or a number conversion that panics on some input; a name check that lets through what
//! the kernel or a path would not bear.
#![allow(clippy::unwrap_used, reason = "tests")]

use overlane_api::cni::{Args, Version, container_id, exercise, interface_name, version_in_use};
use overlane_api::socket::{Attachment, frame, frame_length};
use overlane_api::tombstone::{Mode, Tombstone};
use proptest::prelude::*;

/// JSON-like text with the keys that are looked at, so that the inner readers are reached.
fn configuration() -> impl Strategy<Value = String> {
    let key = prop::sample::select(vec![
        "cniVersion",
        "name",
        "type",
        "socket",
        "runDir",
        "timeouts",
        "runtimeConfig",
        "prevResult",
        "dns",
        "ipam",
        "cni.dev/valid-attachments",
        "add",
        "portMappings",
        "bandwidth",
        "interfaces",
        "ips",
        "interface",
        "address",
        "sandbox",
    ]);
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("\"1.1.0\"".to_owned()),
        Just("\"eth0\"".to_owned()),
        Just("\"/x\"".to_owned()),
        any::<bool>().prop_map(|b| b.to_string()),
        any::<i64>().prop_map(|n| n.to_string()),
        any::<f64>().prop_map(|n| format!("{n:e}")),
        "\\PC{0,20}".prop_map(|s| serde_json::to_string(&s).unwrap()),
    ];
    let value = leaf.prop_recursive(4, 40, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|list| format!("[{}]", list.join(","))),
            prop::collection::vec((key.clone(), inner), 0..8).prop_map(|fields| {
                let fields: Vec<_> = fields.into_iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
                format!("{{{}}}", fields.join(","))
            }),
        ]
    });
    value.prop_map(|value| match value.strip_prefix('{') {
        Some(rest) if rest.len() > 1 => {
            format!(r#"{{"cniVersion":"1.1.0","name":"n","type":"t",{rest}"#)
        }
        _ => value,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn no_bytes_panic(data in prop::collection::vec(any::<u8>(), 0..2000)) {
        exercise::everything(&data);
    }

    #[test]
    fn no_configuration_panics(stdin in configuration()) {
        exercise::everything(stdin.as_bytes());
        let _ = version_in_use(stdin.as_bytes());
    }

    #[test]
    fn names_that_pass_are_harmless(name in "\\PC{0,20}|[a-z.:/%\\- ]{0,20}") {
        if interface_name(&name).is_ok() {
            prop_assert!((1..=15).contains(&name.len()));
            prop_assert!(!name.contains(['/', ':', '%']) && !name.contains(char::is_whitespace));
            prop_assert!(name != "." && name != "..");
        }
        if container_id(&name).is_ok() {
            prop_assert!(name.starts_with(|c: char| c.is_ascii_alphanumeric()));
            prop_assert!(!name.contains(['/', '\n', '\0']));
        }
    }

    #[test]
    fn args_that_pass_hold_kubernetes_names(args in "(K8S_POD_(NAME|NAMESPACE|UID)=\\PC{0,9};){0,4}") {
        if let Ok(Args { pod: Some(pod), .. }) = Args::parse(&args) {
            for part in [&pod.namespace, &pod.name, &pod.uid] {
                prop_assert!(part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)), "{part:?}");
            }
        }
    }

    #[test]
    fn only_four_versions_pass(given in "[0-2]\\.[0-4]\\.[0-2]") {
        let ours = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"].contains(&given.as_str());
        prop_assert_eq!(Version::parse(&given).is_ok(), ours);
    }

    #[test]
    fn tombstones_survive_the_way_and_have_safe_names(id in "\\PC{0,80}", ifname in "\\PC{0,20}", began_ns: u64) {
        let attachment = Attachment { container_id: id, ifname };
        let tombstone = Tombstone::new(attachment, "net".to_owned(), began_ns, Mode::Interface);
        let name = tombstone.file_name();
        prop_assert!(name.len() == 54 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b)));
        prop_assert!(!name.starts_with('.'));
        let back = Tombstone::parse(&serde_json::to_vec(&tombstone).unwrap()).unwrap();
        prop_assert_eq!(back, tombstone);
    }

    #[test]
    fn frames_say_their_length(text in "\\PC{0,200}") {
        let bytes = frame(&text).unwrap();
        let (head, body) = bytes.split_first_chunk::<4>().unwrap();
        prop_assert_eq!(frame_length(*head).unwrap(), body.len());
        prop_assert_eq!(serde_json::from_slice::<String>(body).unwrap(), text);
    }
}
