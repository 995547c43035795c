//! Named network namespaces: made, entered, ended. Every entry happens on a thread of its own, which ends with what it
//! was made for, so that no thread of the caller ever changes its namespace.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use overlane_datapath::netns::Netns;

use crate::names::{self, LabName, Part};
use crate::paths::NETNS;

/// Where the namespace is mounted.
pub fn path(owner: &LabName, part: &Part) -> PathBuf {
    Path::new(NETNS).join(names::namespace(owner, part))
}

/// Makes a namespace and mounts it at `path`; runs `inside` in it before it returns.
pub fn create<T: Send>(path: &Path, inside: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let what = || format!("make network namespace {}", path.display());
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(what)?;
    }
    OpenOptions::new().write(true).create_new(true).open(path).with_context(what)?;
    let made = on_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET).with_context(what)?;
        mount(Some("/proc/thread-self/ns/net"), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .with_context(what)?;
        inside()
    });
    if made.is_err() {
        let _ = delete(path);
    }
    made
}

/// Unmounts and removes; whether it was there. What still runs in the namespace keeps it alive without a name.
pub fn delete(path: &Path) -> Result<bool> {
    // EINVAL: not mounted.
    let _ = umount2(path, MntFlags::MNT_DETACH);
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("remove {}", path.display())),
    }
}

/// Runs `work` on a fresh thread inside the namespace at `path`.
pub fn run<T: Send>(path: &Path, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    Netns::open(path)?.run(work).with_context(|| format!("work in {}", path.display()))?
}

/// Runs `work` on a fresh thread in a namespace made for it, which ends with it.
pub fn run_in_new<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    on_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET).context("make a network namespace")?;
        work()
    })
}

/// Moves this thread into the namespace for good. Only for a thread that ends, or a process that becomes another
/// program, afterwards.
pub fn enter(path: &Path) -> Result<()> {
    let namespace = Netns::open(path)?;
    setns(&namespace, CloneFlags::CLONE_NEWNET).with_context(|| format!("enter network namespace {}", path.display()))
}

fn on_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .stack_size(256 << 10)
            .spawn_scoped(scope, work)
            .context("start a thread for a network namespace")?;
        thread.join().map_err(|_| anyhow!("a thread in a network namespace died"))?
    })
}

/// The namespace's inode on nsfs, which is its identity; `None` if nothing is mounted there.
pub fn inode(path: &Path) -> Option<u64> {
    let meta = fs::metadata(path).ok()?;
    // A namespace that is not mounted (any more) is an empty file of the file system around it.
    let around = fs::metadata(path.parent()?).ok()?;
    (meta.dev() != around.dev()).then(|| meta.ino())
}

/// Names of all namespaces that labs made, with what they stand for.
pub fn all() -> Vec<(String, LabName, Part)> {
    crate::files::names(Path::new(NETNS))
        .into_iter()
        .filter_map(|name| names::parse_namespace(&name).map(|(owner, part)| (name, owner, part)))
        .collect()
}

/// Writes a sysctl of the namespace that this thread is in: `net/ipv4/ip_forward`.
pub fn sysctl(key: &str, value: &str) -> Result<()> {
    let path = format!("/proc/sys/{key}");
    fs::write(&path, value).with_context(|| format!("write {value} to {path}"))
}
