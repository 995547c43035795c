//! What the container runtime finds: our plugin, and no network that comes before ours.

use super::status::{Problem, Reason};
use crate::config::Config;
use crate::{conflist, plugin};

/// How it was when it was last looked at.
#[derive(Debug, Default)]
pub(super) struct RuntimeSide {
    /// A plugin of ours is there, of this version or another.
    pub(super) plugin: bool,
    /// What is wrong.
    pub(super) problems: Vec<Problem>,
}

impl RuntimeSide {
    /// Installs the plugin where it is not as it should be, and looks for other networks.
    pub(super) fn keep(config: &Config) -> Self {
        let mut problems = Vec::new();
        if let Err(error) = plugin::keep(config) {
            problems.push((Reason::PluginNotInstalled, error.to_string()));
        }
        plugin::keep_other_names(config);
        for other in conflist::before_ours(config) {
            let ours = &config.cni_conf_name;
            let text = format!("{other} comes before {ours}: the container runtime uses it; remove one of the two");
            problems.push((Reason::OtherNetworkFirst, text));
        }
        Self { plugin: plugin::is_there(config), problems }
    }
}
