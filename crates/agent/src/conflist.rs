//! The network configuration for the container runtime: written last, once an address can be given.

use std::io::Write as _;
use std::path::Path;

use overlane_api::cni::Conflist;

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
