//! One call of the plugin: from environment and standard input to a value that is valid, or an error.

use std::ffi::OsString;

use crate::socket::{Attachment, PodRef};

use super::args::Args;
use super::error::{Error, shown};
use super::json::Object;
use super::names;
use super::netconf::{NetConf, document};
use super::result::PrevResult;
use super::version::{Version, is_number};

/// A verb of CNI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// Give a pod its network.
    Add,
    /// Take it away.
    Del,
    /// Compare what is there with what ADD made.
    Check,
    /// Remove what belongs to no attachment of a list.
    Gc,
    /// Say whether ADD could be served.
    Status,
    /// Say which versions are spoken.
    Version,
}

impl Verb {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Add, Self::Del, Self::Check, Self::Gc, Self::Status, Self::Version];

    /// As it is written in `CNI_COMMAND`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }

    /// The oldest version of ours that has it.
    #[must_use]
    pub fn since(self) -> Version {
        match self {
            Self::Add | Self::Del | Self::Version => Version::V0_3_1,
            Self::Check => Version::V0_4_0,
            Self::Gc | Self::Status => Version::V1_1_0,
        }
    }

    /// All verbs as text, for messages.
    #[must_use]
    pub fn list() -> String {
        Self::ALL.map(Self::as_str).join(", ")
    }

    /// Reads `CNI_COMMAND`.
    ///
    /// # Errors
    /// [`Error::NoVerb`] if it is absent or empty, [`Error::UnknownVerb`] for anything else that is none.
    pub fn parse(given: Option<&OsString>) -> Result<Self, Error> {
        let given = given.map(|given| given.to_string_lossy()).unwrap_or_default();
        if given.is_empty() {
            return Err(Error::NoVerb);
        }
        Self::ALL
            .into_iter()
            .find(|verb| verb.as_str() == given)
            .ok_or_else(|| Error::UnknownVerb { given: shown(&given) })
    }
}

/// The environment variables that CNI defines, raw. `CNI_PATH` is of no use here: the plugin delegates to no other.
#[derive(Clone, Debug, Default)]
pub struct Env {
    /// `CNI_COMMAND`.
    pub command: Option<OsString>,
    /// `CNI_CONTAINERID`.
    pub container_id: Option<OsString>,
    /// `CNI_NETNS`.
    pub netns: Option<OsString>,
    /// `CNI_IFNAME`.
    pub ifname: Option<OsString>,
    /// `CNI_ARGS`.
    pub args: Option<OsString>,
}

impl Env {
    /// Asks `lookup` for each variable by its name.
    pub fn collect(lookup: impl Fn(&str) -> Option<OsString>) -> Self {
        Self {
            command: lookup("CNI_COMMAND"),
            container_id: lookup("CNI_CONTAINERID"),
            netns: lookup("CNI_NETNS"),
            ifname: lookup("CNI_IFNAME"),
            args: lookup("CNI_ARGS"),
        }
    }
}

/// A valid call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Invocation {
    /// ADD.
    Add {
        /// The configuration.
        conf: NetConf,
        /// Container and interface.
        attachment: Attachment,
        /// `CNI_NETNS`, an absolute path.
        netns: String,
        /// The pod, if `CNI_ARGS` names one.
        pod: Option<PodRef>,
    },
    /// DEL.
    Del {
        /// The configuration.
        conf: NetConf,
        /// Container and interface.
        attachment: Attachment,
        /// `CNI_NETNS`, if it is set; may lead nowhere.
        netns: Option<OsString>,
    },
    /// CHECK.
    Check {
        /// The configuration.
        conf: NetConf,
        /// Container and interface.
        attachment: Attachment,
        /// `CNI_NETNS`, an absolute path.
        netns: String,
        /// The result of ADD.
        prev: PrevResult,
    },
    /// GC.
    Gc {
        /// The configuration.
        conf: NetConf,
        /// What is to be kept.
        valid: Vec<Attachment>,
    },
    /// STATUS.
    Status {
        /// The configuration.
        conf: NetConf,
    },
    /// VERSION.
    Version {
        /// The `cniVersion` that the answer bears.
        echo: String,
    },
}

/// Reads a call. What is checked, in this order: the verb, the presence of its variables, their values, the
/// configuration, whether its version has the verb, what the verb needs of it.
///
/// # Errors
/// Any [`Error`]; its code is the spec's.
pub fn parse(env: &Env, stdin: &[u8]) -> Result<Invocation, Error> {
    let verb = Verb::parse(env.command.as_ref())?;
    if verb == Verb::Version {
        return Ok(Invocation::Version { echo: echo_of(stdin) });
    }
    require(env, verb)?;
    match verb {
        Verb::Add | Verb::Check | Verb::Del => {
            let attachment = attachment(env)?;
            match verb {
                Verb::Add => add(env, stdin, attachment),
                Verb::Check => check(env, stdin, attachment),
                _ => Ok(Invocation::Del {
                    conf: conf_for(verb, stdin)?,
                    attachment,
                    netns: env.netns.clone().filter(|path| !path.is_empty()),
                }),
            }
        }
        Verb::Gc => gc(stdin),
        Verb::Status | Verb::Version => Ok(Invocation::Status { conf: conf_for(verb, stdin)? }),
    }
}

/// The version that an error object bears: the configuration's if it is one of ours, else the newest.
#[must_use]
pub fn version_in_use(stdin: &[u8]) -> Version {
    let named = document(stdin).ok().and_then(|document| {
        let conf = Object::root(&document).ok()?;
        Version::parse(conf.text("cniVersion").ok()??).ok()
    });
    named.unwrap_or(Version::NEWEST)
}

fn add(env: &Env, stdin: &[u8], attachment: Attachment) -> Result<Invocation, Error> {
    let netns = netns_path(env)?;
    let args = Args::parse(&utf8("CNI_ARGS", env.args.as_ref())?)?;
    let conf = conf_for(Verb::Add, stdin)?;
    conf.refuse_unsupported()?;
    Ok(Invocation::Add { conf, attachment, netns, pod: args.pod })
}

fn check(env: &Env, stdin: &[u8], attachment: Attachment) -> Result<Invocation, Error> {
    let netns = netns_path(env)?;
    let mut conf = conf_for(Verb::Check, stdin)?;
    let prev = conf
        .prev_result
        .take()
        .ok_or(Error::MissingKey { key: "prevResult", rule: "CHECK compares with the result of ADD" })?;
    prev.addresses_of(&attachment.ifname)?;
    Ok(Invocation::Check { conf, attachment, netns, prev })
}

fn gc(stdin: &[u8]) -> Result<Invocation, Error> {
    let mut conf = conf_for(Verb::Gc, stdin)?;
    let valid = valid(conf.valid_attachments.take())?;
    Ok(Invocation::Gc { conf, valid })
}

/// What GC keeps. No list is not an empty list: nothing is freed for want of a word about it.
pub(super) fn valid(given: Option<Vec<Attachment>>) -> Result<Vec<Attachment>, Error> {
    const KEY: &str = "cni.dev/valid-attachments";
    let valid = given.ok_or(Error::MissingKey { key: KEY, rule: "GC keeps what it lists; send [] to keep nothing" })?;
    if valid.iter().any(|attachment| attachment.container_id.is_empty() || attachment.ifname.is_empty()) {
        return Err(Error::BadValue {
            key: KEY.to_owned(),
            value: "a list".to_owned(),
            rule: "containerID and ifname must not be empty",
        });
    }
    Ok(valid)
}

/// The configuration, if its version has the verb.
fn conf_for(verb: Verb, stdin: &[u8]) -> Result<NetConf, Error> {
    let conf = if verb == Verb::Del { NetConf::parse_for_del(stdin) } else { NetConf::parse(stdin) }?;
    if conf.version.knows(verb) { Ok(conf) } else { Err(Error::VerbNotInVersion { version: conf.version, verb }) }
}

/// All that the verb needs and does not find, at once.
pub(super) fn require(env: &Env, verb: Verb) -> Result<(), Error> {
    let (attachment, netns) = match verb {
        Verb::Add | Verb::Check => (true, true),
        Verb::Del => (true, false),
        Verb::Gc | Verb::Status | Verb::Version => (false, false),
    };
    let missing = |value: &Option<OsString>| value.as_ref().is_none_or(|value| value.is_empty());
    let mut names = Vec::new();
    if attachment && missing(&env.container_id) {
        names.push("CNI_CONTAINERID");
    }
    if netns && missing(&env.netns) {
        names.push("CNI_NETNS");
    }
    if attachment && missing(&env.ifname) {
        names.push("CNI_IFNAME");
    }
    if names.is_empty() { Ok(()) } else { Err(Error::MissingEnv { verb, names }) }
}

pub(super) fn attachment(env: &Env) -> Result<Attachment, Error> {
    let container_id = utf8("CNI_CONTAINERID", env.container_id.as_ref())?;
    names::container_id(&container_id)?;
    let ifname = utf8("CNI_IFNAME", env.ifname.as_ref())?;
    names::interface_name(&ifname)?;
    Ok(Attachment { container_id, ifname })
}

pub(super) fn netns_path(env: &Env) -> Result<String, Error> {
    let path = utf8("CNI_NETNS", env.netns.as_ref())?;
    if path.starts_with('/') {
        return Ok(path);
    }
    Err(Error::InvalidEnv { name: "CNI_NETNS", value: shown(&path), rule: "must be an absolute path" })
}

pub(super) fn utf8(name: &'static str, value: Option<&OsString>) -> Result<String, Error> {
    let Some(value) = value else {
        return Ok(String::new());
    };
    value.to_str().map(str::to_owned).ok_or_else(|| Error::InvalidEnv {
        name,
        value: shown(&value.to_string_lossy()),
        rule: "must be UTF-8",
    })
}

/// What VERSION echoes. The call must work whatever comes in, since it is how a runtime finds out what to send.
pub(super) fn echo_of(stdin: &[u8]) -> String {
    let named = document(stdin).ok().and_then(|document| {
        let conf = Object::root(&document).ok()?;
        conf.text("cniVersion").ok()?.filter(|given| is_number(given)).map(str::to_owned)
    });
    named.unwrap_or_else(|| Version::NEWEST.as_str().to_owned())
}
