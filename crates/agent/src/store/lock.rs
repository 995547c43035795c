//! One agent a run dir.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

/// How long what an agent that just ended still holds is waited for: its lock, its port. Killed while it started a
/// program, it leaves both with the child until that is its own program, which takes its turn on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(5);
const STEP: Duration = Duration::from_millis(10);

/// Holds the run dir until it goes out of scope or the process ends, however it ends.
#[derive(Debug)]
pub struct RunDirLock {
    _file: File,
}

/// Why the run dir cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another agent has it.
    #[error("run dir {} is in use by {holder}; one agent a run dir: end that one, or choose another --run-dir", dir.display())]
    Taken {
        /// The directory.
        dir: PathBuf,
        /// Who has it.
        holder: String,
    },
    /// The kernel refused.
    #[error("lock run dir {}: {source}", dir.display())]
    Io {
        /// The directory.
        dir: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl RunDirLock {
    /// Takes the lock, after [`PATIENCE`] at most, or says who has it.
    pub fn take(dir: &Path) -> Result<Self, LockError> {
        let io = |source| LockError::Io { dir: dir.to_owned(), source };
        let path = dir.join("agent.lock");
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(path)
            .map_err(io)?;
        let deadline = Instant::now() + PATIENCE;
        let mut taken = flock(&file, FlockOperation::NonBlockingLockExclusive);
        while taken == Err(rustix::io::Errno::WOULDBLOCK) && Instant::now() < deadline {
            std::thread::sleep(STEP);
            taken = flock(&file, FlockOperation::NonBlockingLockExclusive);
        }
        match taken {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                let _ = file.read_to_string(&mut holder);
                let holder = match holder.trim() {
                    "" => "another process".to_owned(),
                    pid => format!("process {pid}"),
                };
                return Err(LockError::Taken { dir: dir.to_owned(), holder });
            }
            Err(error) => return Err(io(error.into())),
        }
        file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(io)?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    //! Must catch: two agents on one run dir.

    use super::*;

    #[test]
    fn the_second_is_told_who_is_first() {
        let dir = tempfile::tempdir().unwrap();
        let first = RunDirLock::take(dir.path()).unwrap();
        let error = RunDirLock::take(dir.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        drop(first);
        RunDirLock::take(dir.path()).unwrap();
    }
}
