//! Whatever comes in, the answer is the error object of the specification.

use overlane_suites::runtime::Sandbox;
use serde_json::json;

use crate::{node, proper_error, settled};

#[test]
fn garbage_gets_the_error_object() {
    let (_lock, node) = node(0);
    let runtime = node.runtime();
    let sandbox = Sandbox::new();
    let good = runtime.config(&json!({})).to_string();
    for verb in ["ADD", "DEL", "CHECK", "GC", "STATUS"] {
        for input in ["", "{", "null", "[]", "7", "\"x\"", "\u{0}", "{\"cniVersion\":3}", "{\"cniVersion\":\"1.1.0\"}"]
        {
            let answer = runtime.call(runtime.command(verb, Some(&sandbox)), input);
            proper_error(&answer.out, &answer.json, &format!("{verb} on {input:?}"));
            // The reference leaves this out where it could not read the input; the specification does not.
            assert!(answer.json.unwrap()["cniVersion"].is_string(), "{}", answer.out);
        }
        let deep = format!("{{\"cniVersion\":\"1.1.0\",\"name\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
        let answer = runtime.call(runtime.command(verb, Some(&sandbox)), &deep);
        proper_error(&answer.out, &answer.json, &format!("{verb} on a deep nest"));
    }
    for name in ["CNI_COMMAND", "CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS"] {
        let mut command = runtime.command("ADD", Some(&sandbox));
        command.env_remove(name);
        let answer = runtime.call(command, &good).refused(4);
        assert!(answer.message().contains(name), "{}", answer.out);
    }
    for (name, value) in [
        ("CNI_COMMAND", "FETCH"),
        ("CNI_IFNAME", ".."),
        ("CNI_IFNAME", "a/b"),
        ("CNI_IFNAME", "a b"),
        ("CNI_IFNAME", "sixteen-letters-"),
        ("CNI_CONTAINERID", "../../x"),
        ("CNI_CONTAINERID", "-x y"),
        ("CNI_ARGS", "no-equals-sign"),
    ] {
        let mut command = runtime.command("ADD", Some(&sandbox));
        command.env(name, value);
        let answer = runtime.call(command, &good);
        proper_error(&answer.out, &answer.json, &format!("ADD with {name}={value}"));
    }
    for path in ["/run/netns/there-is-none", "/etc/hostname", "/proc/self/ns/uts", "/", ""] {
        let mut command = runtime.command("ADD", Some(&sandbox));
        command.env("CNI_NETNS", path);
        let answer = runtime.call(command, &good);
        proper_error(&answer.out, &answer.json, &format!("ADD into {path:?}"));
    }
    settled(&node, &[]);
}
