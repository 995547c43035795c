//! What the flags mean: parsed and checked once, then never doubted again.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{CommandFactory as _, ValueEnum as _};
use overlane_core::family::Family;
use overlane_daemon::api::ApiSource;
use overlane_daemon::settings::{self, SettingError, refuse};
use overlane_datapath::node::TunnelKind;

use crate::args::Args;

/// Where the objects come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// An API server.
    Api(ApiSource),
    /// Files in a directory.
    Files(PathBuf),
}

/// The agent's settings, valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Name of the Node object.
    pub node: String,
    /// Where the objects come from.
    pub source: Source,
    /// Directory of the socket and the store.
    pub run_dir: PathBuf,
    /// Directory of the conflist.
    pub cni_conf_dir: PathBuf,
    /// File name of the conflist.
    pub cni_conf_name: String,
    /// The plugin to install.
    pub cni_plugin: Option<PathBuf>,
    /// Directory of plugins.
    pub cni_bin_dir: PathBuf,
    /// Directory of the kernel's settings.
    pub sysctl_dir: PathBuf,
    /// The lab's name, if in one.
    pub lab: Option<String>,
    /// The node's addresses where given by hand, one a family.
    pub node_ips: BTreeMap<Family, IpAddr>,
    /// What leads into the tunnel, where the kernel is not to be asked.
    pub tunnel: Option<TunnelKind>,
    /// Where the boot id is read from.
    pub boot_id_file: PathBuf,
    /// Where HTTP is served, if anywhere.
    pub metrics: Option<SocketAddr>,
    /// How long a freed address rests.
    pub cool_down: Duration,
    /// Time between two audits.
    pub audit_interval: Duration,
    /// The log's filter.
    pub log_filter: String,
}

impl Config {
    /// Resolves what was typed; the first fault ends it.
    pub fn resolve(args: &Args) -> Result<Self, SettingError> {
        if args.node_name.is_empty() || args.node_name.len() > 253 {
            return refuse("node-name", &args.node_name, "a node's name has 1 to 253 characters");
        }
        if args.cni_conf_name.is_empty() || args.cni_conf_name.contains('/') {
            return refuse("cni-conf-name", &args.cni_conf_name, "a file name is wanted, without directories");
        }
        if !(1..=3600).contains(&args.audit_interval) {
            return refuse("audit-interval", args.audit_interval.to_string(), "1 to 3600 seconds are possible");
        }
        if args.cool_down > 86_400 {
            return refuse("cool-down", args.cool_down.to_string(), "at most a day (86400 seconds)");
        }
        for (flag, path) in [
            ("run-dir", &args.run_dir),
            ("cni-conf-dir", &args.cni_conf_dir),
            ("cni-bin-dir", &args.cni_bin_dir),
            ("sysctl-dir", &args.sysctl_dir),
        ] {
            if !path.is_absolute() {
                return refuse(flag, path.to_string_lossy(), "an absolute path is wanted");
            }
        }
        let source = match &args.objects {
            Some(dir) => Source::Files(dir.clone()),
            None => Source::Api(ApiSource::resolve(args.api_url.as_deref(), args.kubeconfig.as_ref())?),
        };
        Ok(Self {
            node: args.node_name.clone(),
            source,
            run_dir: args.run_dir.clone(),
            cni_conf_dir: args.cni_conf_dir.clone(),
            cni_conf_name: args.cni_conf_name.clone(),
            cni_plugin: args.cni_plugin.clone(),
            cni_bin_dir: args.cni_bin_dir.clone(),
            sysctl_dir: args.sysctl_dir.clone(),
            lab: args.lab.clone(),
            node_ips: node_ips(&args.node_ip)?,
            tunnel: args.tunnel.kind(),
            boot_id_file: args.boot_id_file.clone(),
            metrics: settings::metrics_address(&args.metrics_addr)?,
            cool_down: Duration::from_secs(u64::from(args.cool_down)),
            audit_interval: Duration::from_secs(u64::from(args.audit_interval)),
            log_filter: args.log_level.clone(),
        })
    }

    /// The agent's socket.
    pub fn socket(&self) -> PathBuf {
        self.run_dir.join("agent.sock")
    }

    /// The conflist.
    pub fn conflist(&self) -> PathBuf {
        self.cni_conf_dir.join(&self.cni_conf_name)
    }
}

fn node_ips(given: &[String]) -> Result<BTreeMap<Family, IpAddr>, SettingError> {
    let mut ips = BTreeMap::new();
    for text in given {
        let Ok(ip) = text.parse::<IpAddr>() else {
            return refuse("node-ip", text, "not an IP address");
        };
        if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() {
            return refuse("node-ip", text, "not an address that other nodes could reach");
        }
        if let Some(other) = ips.insert(Family::of(&ip), ip) {
            return refuse("node-ip", text, format!("{other} is of the same family; one address a family"));
        }
    }
    Ok(ips)
}

/// Every setting with its meaning and the value that counts, as the environment variables that would set it.
pub fn explain(args: &Args) -> String {
    settings::explain(&Args::command(), &values(args))
}

fn values(args: &Args) -> BTreeMap<&'static str, Option<String>> {
    let path = |p: &PathBuf| Some(p.to_string_lossy().into_owned());
    BTreeMap::from([
        ("node-name", Some(args.node_name.clone())),
        ("kubeconfig", args.kubeconfig.as_ref().and_then(path)),
        ("api-url", args.api_url.clone()),
        ("objects", args.objects.as_ref().and_then(path)),
        ("run-dir", path(&args.run_dir)),
        ("cni-conf-dir", path(&args.cni_conf_dir)),
        ("cni-conf-name", Some(args.cni_conf_name.clone())),
        ("cni-plugin", args.cni_plugin.as_ref().and_then(path)),
        ("cni-bin-dir", path(&args.cni_bin_dir)),
        ("sysctl-dir", path(&args.sysctl_dir)),
        ("lab", args.lab.clone()),
        ("node-ip", (!args.node_ip.is_empty()).then(|| args.node_ip.join(","))),
        ("boot-id-file", path(&args.boot_id_file)),
        ("tunnel", args.tunnel.to_possible_value().map(|value| value.get_name().to_owned())),
        ("metrics-addr", Some(args.metrics_addr.clone())),
        ("cool-down", Some(args.cool_down.to_string())),
        ("audit-interval", Some(args.audit_interval.to_string())),
        ("log-level", Some(args.log_level.clone())),
    ])
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    //! Must catch: a flag that is typed but does not reach the settings; a bad value that is taken.

    use super::*;
    use clap::Parser as _;

    fn resolve(extra: &[&str]) -> Result<Config, SettingError> {
        let base = ["overlane-agent", "--node-name", "n1"];
        Config::resolve(&Args::try_parse_from(base.iter().chain(extra)).unwrap())
    }

    #[test]
    fn each_flag_counts() {
        let config = resolve(&[
            "--api-url",
            "http://127.0.0.1:1",
            "--run-dir",
            "/r",
            "--cni-conf-dir",
            "/c",
            "--cni-conf-name",
            "x.conflist",
            "--cni-plugin",
            "/p",
            "--cni-bin-dir",
            "/d",
            "--sysctl-dir",
            "/s",
            "--lab",
            "l",
            "--node-ip",
            "10.0.0.1,fd00::1",
            "--tunnel",
            "entries",
            "--boot-id-file",
            "/b",
            "--metrics-addr",
            "off",
            "--cool-down",
            "7",
            "--audit-interval",
            "8",
            "--log-level",
            "debug",
        ])
        .unwrap();
        let ips = [(Family::V4, "10.0.0.1".parse().unwrap()), (Family::V6, "fd00::1".parse().unwrap())];
        assert_eq!(
            config,
            Config {
                node: "n1".into(),
                source: Source::Api(ApiSource::Url("http://127.0.0.1:1".into())),
                run_dir: "/r".into(),
                cni_conf_dir: "/c".into(),
                cni_conf_name: "x.conflist".into(),
                cni_plugin: Some("/p".into()),
                cni_bin_dir: "/d".into(),
                sysctl_dir: "/s".into(),
                lab: Some("l".into()),
                node_ips: BTreeMap::from(ips),
                tunnel: Some(TunnelKind::Entries),
                boot_id_file: "/b".into(),
                metrics: None,
                cool_down: Duration::from_secs(7),
                audit_interval: Duration::from_secs(8),
                log_filter: "debug".into(),
            }
        );
        assert_eq!(resolve(&["--kubeconfig", "/k"]).unwrap().source, Source::Api(ApiSource::Kubeconfig("/k".into())));
        assert_eq!(resolve(&["--objects", "/o"]).unwrap().source, Source::Files("/o".into()));
        assert_eq!(resolve(&[]).unwrap().source, Source::Api(ApiSource::InCluster));
    }

    #[test]
    fn bad_values_are_named() {
        for (flags, flag) in [
            (["--node-ip", "10.0.0.1,10.0.0.2"], "node-ip"),
            (["--node-ip", "127.0.0.1"], "node-ip"),
            (["--node-ip", "nonsense"], "node-ip"),
            (["--metrics-addr", "9470"], "metrics-addr"),
            (["--audit-interval", "0"], "audit-interval"),
            (["--cool-down", "100000"], "cool-down"),
            (["--run-dir", "relative"], "run-dir"),
            (["--cni-bin-dir", "relative"], "cni-bin-dir"),
            (["--sysctl-dir", "relative"], "sysctl-dir"),
            (["--cni-conf-name", "a/b"], "cni-conf-name"),
            (["--api-url", "nowhere"], "api-url"),
        ] {
            assert_eq!(resolve(&flags).unwrap_err().flag, flag, "{flags:?}");
        }
    }

    #[test]
    fn print_config_names_every_setting() {
        let args = Args::try_parse_from(["overlane-agent", "--node-name", "n1"]).unwrap();
        let text = explain(&args);
        for argument in Args::command().get_arguments().filter_map(|a| a.get_long()) {
            if ["print-config", "check", "uninstall", "force", "help", "version"].contains(&argument) {
                continue;
            }
            let variable = format!("OVERLANE_{}=", argument.replace('-', "_").to_uppercase());
            assert!(text.contains(&variable), "{variable} in\n{text}");
        }
    }
}
