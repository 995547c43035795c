//! The same judges before Debian's ptp, so that they ask for what the specification says and not for what we do.

use overlane_suites::clean;
use overlane_suites::faults::{self, Target};
use overlane_suites::runtime::{Runtime, Sandbox};
use overlane_suites::wait::secs;
use serde_json::json;

use crate::check::check_sees;
use crate::proper_error;
use crate::verbs::judge_result;

/// Debian's ptp, in a namespace that stands for a node.
struct Reference {
    runtime: Runtime,
    _node: overlane_suites::ns::OwnNs,
    data: std::path::PathBuf,
}

impl Reference {
    fn new() -> Reference {
        clean::begin();
        let plugin = std::path::PathBuf::from("/usr/lib/cni/ptp");
        assert!(plugin.is_file(), "Debian's containernetworking-plugins are missing: run scripts/setup.sh");
        let node = overlane_suites::ns::OwnNs::new();
        let data = std::env::temp_dir().join(&node.name);
        let entry = json!({"type": "ptp", "ipam": {
            "type": "host-local", "dataDir": data,
            "ranges": [[{"subnet": "10.88.0.0/24"}], [{"subnet": "fd88::/80"}]],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
        }});
        let (ns, network) = (node.ns.clone(), "reference".to_owned());
        let runtime = Runtime { ns, plugin, network, entry, version: "1.0.0".into(), limit: secs(100) };
        Reference { runtime, _node: node, data }
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.data);
    }
}

#[test]
fn the_reference_plugin_satisfies_the_same_judges() {
    let mut reference = Reference::new();
    let runtime = &mut reference.runtime;
    for version in ["0.3.1", "0.4.0", "1.0.0"] {
        runtime.version = version.to_owned();
        let mut sandbox = Sandbox::new();
        let result = runtime.add(&mut sandbox).must().json.expect("a result");
        judge_result(&result, version, &sandbox);
        if version != "0.3.1" {
            runtime.check(&sandbox).must();
            // Of the faults one that any plugin must see.
            let target = Target::of(&runtime.ns, &sandbox);
            let route = faults::pod_side(&target).into_iter().find(|f| f.name.contains("default route -4"));
            check_sees(runtime, &sandbox, &route.unwrap());
        }
        runtime.del(&sandbox).must();
        runtime.del(&sandbox).must();
    }
    let sandbox = Sandbox::new();
    for input in ["", "{", "[]", "{\"cniVersion\":3}"] {
        let answer = runtime.call(runtime.command("ADD", Some(&sandbox)), input);
        proper_error(&answer.out, &answer.json, &format!("ADD on {input:?}"));
    }
    for name in ["CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS"] {
        let mut command = runtime.command("ADD", Some(&sandbox));
        command.env_remove(name);
        runtime.call(command, &runtime.config(&json!({})).to_string()).refused(4);
    }
    runtime.version = "2.0.0".to_owned();
    let answer = runtime.add(&mut Sandbox::new());
    assert_eq!(answer.code(), Some(1), "{}", answer.out);
}
