//! The programs of a real Kubernetes API, for labs that have one: found before anything is made.

use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};
use serde::{Deserialize, Serialize};

use crate::error::LabError;

/// The API server's program, and the name under which the lab runs it.
pub const API_SERVER: &str = "kube-apiserver";
/// The API server's store.
pub const ETCD: &str = "etcd";
/// What ends namespaces and collects what deleted owners leave.
pub const CONTROLLER_MANAGER: &str = "kube-controller-manager";

/// Which API a lab has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ApiKind {
    /// The one in the lab's own process.
    #[default]
    InProcess,
    /// kube-apiserver, etcd and kube-controller-manager.
    Kubernetes,
}

/// Paths of the programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KubernetesPrograms {
    /// kube-apiserver.
    pub api_server: PathBuf,
    /// kube-controller-manager, of the same version.
    pub controller_manager: PathBuf,
    /// etcd.
    pub etcd: PathBuf,
}

impl KubernetesPrograms {
    /// Looks in `dir`, where one is given, and along `path`, which is written as `PATH` is. Programs of Kubernetes are
    /// looked for in `dir` alone if there is one: others would be of another version.
    ///
    /// # Errors
    /// What is missing, where it was looked for, and how to get it.
    pub fn find(dir: Option<&Path>, path: &std::ffi::OsStr) -> Result<Self, LabError> {
        // A daemon has another working directory.
        let dir = dir.map(|dir| std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned()));
        let along: Vec<PathBuf> = std::env::split_paths(path).filter(|dir| dir.is_absolute()).collect();
        let in_dir = |name: &str| dir.iter().map(|dir| dir.join(name)).find(|file| is_program(file));
        let on_path = |name: &str| along.iter().map(|dir| dir.join(name)).find(|file| is_program(file));
        let part = |name: &str| if dir.is_some() { in_dir(name) } else { on_path(name) };
        let (api_server, controller_manager) = (part(API_SERVER), part(CONTROLLER_MANAGER));
        let etcd = in_dir(ETCD).or_else(|| on_path(ETCD));
        let parts = [(API_SERVER, &api_server), (CONTROLLER_MANAGER, &controller_manager)];
        let absent: Vec<&str> = parts.iter().filter(|(_, found)| found.is_none()).map(|(name, _)| *name).collect();
        match (api_server, controller_manager, etcd) {
            (Some(api_server), Some(controller_manager), Some(etcd)) => {
                Ok(Self { api_server, controller_manager, etcd })
            }
            (.., etcd) => Err(LabError::Argument {
                argument: "--api kubernetes".to_owned(),
                reason: missing(&absent, etcd.is_none(), dir.as_deref()),
            }),
        }
    }
}

fn missing(parts: &[&str], etcd: bool, dir: Option<&Path>) -> String {
    let mut lines = Vec::new();
    if !parts.is_empty() {
        let place = dir.map_or_else(
            || "on PATH".to_owned(),
            |dir| format!("in {} (--kubernetes-bin, OVERLANE_KUBERNETES_BIN)", dir.display()),
        );
        lines.push(format!(
            "no program {} is {place}: `make kubernetes-parts` builds it into target/kubernetes/bin, and \
             `--kubernetes-bin target/kubernetes/bin` names that",
            parts.join(" and no program ")
        ));
    }
    if etcd {
        let place = dir.map_or_else(|| "on PATH".to_owned(), |dir| format!("in {} or on PATH", dir.display()));
        lines.push(format!("no program {ETCD} is {place}: Debian's package etcd-server has it"));
    }
    lines.join("\n  ")
}

fn is_program(file: &Path) -> bool {
    file.is_file() && access(file, AccessFlags::X_OK).is_ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    //! Must catch: a lab that is begun although a program is missing, and an API server of a version nobody named.

    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str, programs: &[&str]) -> Self {
            let dir = std::env::temp_dir().join(format!("overlane-programs-{}-{name}", std::process::id()));
            fs::create_dir_all(&dir).unwrap();
            for program in programs {
                fs::write(dir.join(program), "").unwrap();
                fs::set_permissions(dir.join(program), fs::Permissions::from_mode(0o755)).unwrap();
            }
            Self(dir)
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn refusal(dir: Option<&Path>, path: &Path) -> String {
        KubernetesPrograms::find(dir, path.as_os_str()).unwrap_err().to_string()
    }

    #[test]
    fn programs_are_found_in_the_directory_and_on_path() {
        let parts = Dir::new("parts", &[API_SERVER, CONTROLLER_MANAGER]);
        let path = Dir::new("path", &[API_SERVER, CONTROLLER_MANAGER, ETCD]);
        let found = KubernetesPrograms::find(Some(&parts.0), path.0.as_os_str()).unwrap();
        assert_eq!((found.api_server, found.etcd), (parts.0.join(API_SERVER), path.0.join(ETCD)));
        let found = KubernetesPrograms::find(None, path.0.as_os_str()).unwrap();
        assert_eq!(found.controller_manager, path.0.join(CONTROLLER_MANAGER));
    }

    #[test]
    fn what_is_missing_is_told_with_the_way_to_get_it() {
        let (none, all) = (Dir::new("none", &[]), Dir::new("all", &[API_SERVER, CONTROLLER_MANAGER, ETCD]));
        let text = refusal(Some(&none.0), &none.0);
        for word in ["--api kubernetes", API_SERVER, ETCD, "make kubernetes-parts", "etcd-server", "--kubernetes-bin"] {
            assert!(text.contains(word), "no `{word}` in {text}");
        }
        assert!(refusal(None, &none.0).contains("on PATH"));
        let text = refusal(Some(&none.0), &all.0);
        assert!(text.contains(API_SERVER) && !text.contains("etcd-server"), "{text}");
        let some = Dir::new("some", &[API_SERVER]);
        let text = refusal(Some(&some.0), &all.0);
        assert!(text.contains(CONTROLLER_MANAGER) && !text.contains(API_SERVER), "of one version: {text}");
        fs::set_permissions(all.0.join(ETCD), fs::Permissions::from_mode(0o644)).unwrap();
        assert!(refusal(None, &all.0).contains("etcd-server"), "a file that cannot be run is no program");
    }
}
