//! DELs that came while no agent answered: honoured, then removed.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use overlane_api::tombstone::{DIR, Mode, Tombstone};
use overlane_core::ipam::{Attachment, LeaseKind};

use crate::calls::finish;
use crate::node::Node;

/// Looks for tombstones; remembers which it could not read, to say so once.
#[derive(Debug)]
pub struct Graveyard {
    dir: PathBuf,
    unread: BTreeSet<PathBuf>,
}

impl Graveyard {
    /// The directory below a run dir; made if it is not there.
    pub fn open(run_dir: &Path) -> io::Result<Self> {
        let dir = run_dir.join(DIR);
        std::fs::create_dir_all(&dir)?;
        Ok(Self { dir, unread: BTreeSet::new() })
    }

    /// Honours what is there.
    pub fn honour(&mut self, node: &Node) {
        let entries = match std::fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) => {
                tracing::warn!(%error, dir = %self.dir.display(), "look for tombstones");
                return;
            }
        };
        for entry in entries.flatten() {
            // What begins with a dot is still being written.
            if entry.file_name().to_string_lossy().starts_with('.') {
                continue;
            }
            self.one(node, entry.path());
        }
    }

    fn one(&mut self, node: &Node, path: PathBuf) {
        let tombstone = match std::fs::read(&path) {
            Ok(content) => Tombstone::parse(&content),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => {
                tracing::warn!(%error, file = %path.display(), "read a tombstone");
                return;
            }
        };
        let tombstone = match tombstone {
            Ok(tombstone) => tombstone,
            Err(error) => {
                if self.unread.insert(path.clone()) {
                    tracing::warn!(%error, file = %path.display(), "a tombstone is left where it is");
                }
                return;
            }
        };
        let attachment =
            Attachment { container_id: tombstone.attachment.container_id, ifname: tombstone.attachment.ifname };
        let kind = match tombstone.mode {
            Mode::Interface => LeaseKind::Interface,
            Mode::Ipam => LeaseKind::Ipam,
        };
        let ended = node.ledger.del(kind, &attachment, tombstone.began_ns);
        match finish(node, ended) {
            Ok(()) => {
                tracing::info!(%attachment, "a DEL came while no agent answered");
                if let Err(error) = std::fs::remove_file(&path) {
                    tracing::warn!(%error, file = %path.display(), "remove a tombstone");
                }
            }
            // The file stays and is looked at again.
            Err(error) => tracing::warn!(%error, %attachment, "honour a tombstone"),
        }
    }
}
