//! The network configuration for the container runtime: written last, once an address can be given.

use std::io::Write as _;
use std::path::Path;

use overlane_api::cni::Conflist;

use crate::config::Config;
use crate::node::Node;

/// Writes the file if an address can be given and it is not as it should be. Never removes it.
pub fn keep(node: &Node) {
    if node.ready().is_err() {
        return;
    }
    let path = node.config.conflist();
    let wanted = Conflist::new(node.config.run_dir.clone()).render();
    if std::fs::read_to_string(&path).is_ok_and(|text| text == wanted) {
        return;
    }
    match write(&path, &wanted) {
        Ok(()) => tracing::info!(file = %path.display(), "network configuration written: this node takes pods"),
        Err(error) => {
            node.metrics.failed("conflist");
            tracing::error!(%error, file = %path.display(), "write the network configuration");
        }
    }
}

/// The configurations that a container runtime would take before ours: it reads files of three kinds in the order of
/// their names, and uses the first network that it can (containerd/go-cni, `loadFromConfDir`; ocicni).
pub fn before_ours(config: &Config) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(&config.cni_conf_dir) else { return Vec::new() };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let is_network = |name: &String| {
        Path::new(name).extension().is_some_and(|kind| kind == "conf" || kind == "conflist" || kind == "json")
    };
    let mut before: Vec<String> = names.filter(|name| *name < config.cni_conf_name && is_network(name)).collect();
    before.sort_unstable();
    before
}

/// Runtimes read every `*.conflist` of the directory at any time: the file is whole when it gets its name.
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let fresh = path.with_extension("conflist.tmp");
    let mut file = std::fs::File::create(&fresh)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)
}
