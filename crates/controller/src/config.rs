//! What the flags mean: parsed and checked once, then never doubted again.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use clap::CommandFactory as _;
use overlane_core::blocks::Settings;
use overlane_daemon::api::ApiSource;
use overlane_daemon::settings::{self, SettingError, refuse};

use crate::args::Args;

/// The controller's settings, valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// How the API server is reached.
    pub source: ApiSource,
    /// Whether to stand for election.
    pub leader_elect: bool,
    /// Name of this controller among several.
    pub identity: String,
    /// How long things are waited for.
    pub settings: Settings,
    /// Where HTTP is served, if anywhere.
    pub metrics: Option<SocketAddr>,
    /// The log's filter.
    pub log_filter: String,
}

impl Config {
    /// Resolves what was typed. `unique` names this process among all, where no name was given.
    ///
    /// # Errors
    /// The first setting that cannot be.
    pub fn resolve(args: &Args, unique: impl FnOnce() -> String) -> Result<Self, SettingError> {
        let identity = args.identity.clone().unwrap_or_else(unique);
        if identity.is_empty() || identity.len() > 253 {
            return refuse("identity", identity, "a name of 1 to 253 characters is wanted");
        }
        Ok(Self {
            source: ApiSource::resolve(args.api_url.as_deref(), args.kubeconfig.as_ref())?,
            leader_elect: args.leader_elect,
            identity,
            settings: Settings {
                hold_down_ms: millis("hold-down", args.hold_down, 86_400)?,
                agent_grace_ms: millis("agent-grace", args.agent_grace, 3_600)?,
            },
            metrics: settings::metrics_address(&args.metrics_addr)?,
            log_filter: args.log_level.clone(),
        })
    }
}

fn millis(flag: &'static str, seconds: f64, most: u32) -> Result<u64, SettingError> {
    if !(0.0..=f64::from(most)).contains(&seconds) {
        return refuse(flag, seconds.to_string(), format!("0 to {most} seconds are possible"));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range was checked")]
    Ok((seconds * 1000.0).round() as u64)
}

/// Every setting with its meaning and the value that counts, as the environment variables that would set it.
#[must_use]
pub fn explain(args: &Args) -> String {
    settings::explain(&Args::command(), &values(args))
}

fn values(args: &Args) -> BTreeMap<&'static str, Option<String>> {
    BTreeMap::from([
        ("kubeconfig", args.kubeconfig.as_ref().map(|path| path.to_string_lossy().into_owned())),
        ("api-url", args.api_url.clone()),
        ("lab", args.lab.clone()),
        ("leader-elect", Some(args.leader_elect.to_string())),
        ("identity", args.identity.clone()),
        ("hold-down", Some(args.hold_down.to_string())),
        ("agent-grace", Some(args.agent_grace.to_string())),
        ("metrics-addr", Some(args.metrics_addr.clone())),
        ("log-level", Some(args.log_level.clone())),
    ])
}

#[cfg(test)]
mod tests {
    //! Must catch: a flag that is not resolved, or not explained.
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
    use clap::Parser as _;

    use super::*;

    fn resolve(words: &[&str]) -> Result<Config, SettingError> {
        let args = Args::try_parse_from(["overlane-controller"].iter().chain(words)).unwrap();
        Config::resolve(&args, || "unique".to_owned())
    }

    #[test]
    fn defaults_are_the_designs() {
        let config = resolve(&[]).unwrap();
        assert_eq!(config.settings, Settings::default());
        assert!(config.leader_elect);
        assert_eq!((config.source, config.identity.as_str()), (ApiSource::InCluster, "unique"));
    }

    #[test]
    fn each_flag_counts() {
        let config = resolve(&[
            "--api-url=http://127.0.0.1:1",
            "--leader-elect=false",
            "--identity=me",
            "--hold-down=0.5",
            "--agent-grace=2",
            "--metrics-addr=off",
            "--log-level=debug",
            "--lab=x",
        ])
        .unwrap();
        let settings = Settings { hold_down_ms: 500, agent_grace_ms: 2_000 };
        let source = ApiSource::Url("http://127.0.0.1:1".to_owned());
        let (identity, log_filter) = ("me".to_owned(), "debug".to_owned());
        assert_eq!(config, Config { source, leader_elect: false, identity, settings, metrics: None, log_filter });
        assert!(resolve(&["--leader-elect"]).unwrap().leader_elect);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for (words, flag) in [
            (&["--api-url=nowhere"][..], "api-url"),
            (&["--hold-down=-1"], "hold-down"),
            (&["--hold-down=NaN"], "hold-down"),
            (&["--agent-grace=1e9"], "agent-grace"),
            (&["--metrics-addr=9471"], "metrics-addr"),
            (&["--identity="], "identity"),
        ] {
            assert_eq!(resolve(words).unwrap_err().flag, flag);
        }
        let both = ["overlane-controller", "--kubeconfig=x", "--api-url=y"];
        assert!(Args::try_parse_from(both).is_err());
    }

    #[test]
    fn every_setting_is_explained() {
        let args = Args::try_parse_from(["overlane-controller"]).unwrap();
        let text = explain(&args);
        for argument in Args::command().get_arguments() {
            let long = argument.get_long().unwrap().replace('-', "_").to_uppercase();
            let shown = text.contains(&format!("OVERLANE_{long}="));
            assert_eq!(shown, !["HELP", "VERSION", "PRINT_CONFIG"].contains(&long.as_str()), "{long}");
        }
    }
}
