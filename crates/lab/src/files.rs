//! Small files that are whole or absent, and locks.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Creates a directory and those above it, for root alone.
pub fn make_dir(path: &Path) -> Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).with_context(|| format!("create {}", path.display()))
}

/// Writes a file so that a reader sees the old or the new content, whatever happens in between.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    if let Some(parent) = path.parent() {
        make_dir(parent)?;
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let scratch = path.with_file_name(name);
    let attempt = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&scratch)?;
        file.write_all(bytes)?;
        fs::rename(&scratch, path)
    };
    attempt().with_context(|| format!("write {}", path.display()))
}

/// Writes a value as JSON.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let mut bytes = serde_json::to_vec_pretty(value).with_context(|| format!("encode {}", path.display()))?;
    bytes.push(b'\n');
    write(path, &bytes)
}

/// Reads a value; `None` if there is no such file.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    };
    serde_json::from_slice(&bytes).map(Some).with_context(|| format!("decode {}", path.display()))
}

/// Removes a file, if it is there.
pub fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Removes a directory with all that is in it, if it is there.
pub fn remove_dir(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Names in a directory, ordered; none if the directory is not there.
pub fn names(path: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    let mut names: Vec<String> = entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// A lock that ends with this value, or with the process.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
    path: PathBuf,
}

impl Lock {
    /// Removes the lock's file and gives the lock back. Whoever waits for it makes a new one.
    pub fn remove(self) -> Result<()> {
        remove(&self.path)
    }
}

/// Takes the lock at `path`, waiting at most `patience`.
pub fn lock(path: &Path, patience: Duration) -> Result<Lock> {
    if let Some(parent) = path.parent() {
        make_dir(parent)?;
    }
    let deadline = Instant::now() + patience;
    loop {
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
        let file = file.with_context(|| format!("open {}", path.display()))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            // A file that was removed while it was waited for locks nothing.
            Ok(held) if same_file(&held, path) => return Ok(Lock { _file: held, path: path.to_owned() }),
            Ok(_) => {}
            Err((_, nix::errno::Errno::EWOULDBLOCK)) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
                bail!("lock {}: another process has held it for {} s", path.display(), patience.as_secs())
            }
            Err((_, error)) => return Err(error).with_context(|| format!("lock {}", path.display())),
        }
    }
}

fn same_file(held: &File, path: &Path) -> bool {
    let (Ok(held), Ok(named)) = (held.metadata(), fs::metadata(path)) else { return false };
    (held.dev(), held.ino()) == (named.dev(), named.ino())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    //! Must catch: two holders of one lock; half a file.

    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("overlane-lab-test-{}-{name}", std::process::id()));
        make_dir(&dir).unwrap();
        dir
    }

    #[test]
    fn a_lock_has_one_holder_also_when_its_file_goes() {
        let dir = scratch("lock");
        let path = dir.join("l");
        let first = lock(&path, Duration::ZERO).unwrap();
        assert!(lock(&path, Duration::from_millis(30)).is_err());
        let waiter = std::thread::spawn({
            let path = path.clone();
            move || lock(&path, Duration::from_secs(5)).unwrap()
        });
        std::thread::sleep(Duration::from_millis(50));
        first.remove().unwrap();
        let second = waiter.join().unwrap();
        assert!(lock(&path, Duration::from_millis(30)).is_err());
        second.remove().unwrap();
        remove_dir(&dir).unwrap();
    }

    #[test]
    fn values_come_back() {
        let dir = scratch("json");
        let path = dir.join("a/b.json");
        assert_eq!(read_json::<u32>(&path).unwrap(), None);
        write_json(&path, &7).unwrap();
        assert_eq!(read_json::<u32>(&path).unwrap(), Some(7));
        fs::write(&path, "7 8").unwrap();
        assert!(read_json::<u32>(&path).is_err());
        assert_eq!(names(&dir.join("a")), ["b.json"]);
        remove(&path).unwrap();
        remove(&path).unwrap();
        remove_dir(&dir).unwrap();
        remove_dir(&dir).unwrap();
    }
}
