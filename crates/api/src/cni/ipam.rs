//! One call of the program as `overlane-ipam`, the IPAM plugin of another main plugin.
//!
//! Standard input is that plugin's whole configuration, of which only the section `ipam` is ours: what is asked of us
//! stands there and nowhere else, and is checked to the letter. The other plugin's keys are never looked at, but for
//! those that the spec itself gives a meaning.

use std::net::IpAddr;
use std::path::PathBuf;

use serde_json::Value;

use crate::socket::{Attachment, GatewayMode, PodRef};

use super::args::Args;
use super::error::{Error, shown};
use super::invocation::{Env, Verb, attachment, echo_of, netns_path, require, utf8, valid};
use super::json::Object;
use super::netconf::{IPAM_TYPE, Timeouts, bad, document, network, valid_attachments, way_to_agent};
use super::result::{Dns, PrevResult, Route};
use super::runtime_config::asks_nothing;
use super::version::Version;

/// The keys of the section `ipam`.
const KEYS: [&str; 7] = ["type", "gateway", "routes", "dns", "socket", "runDir", "timeouts"];

/// A network configuration as the IPAM plugin understands it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpamConf {
    /// `cniVersion`: the version that the answer is in.
    pub version: Version,
    /// `name`: the network.
    pub name: String,
    /// `ipam.gateway`: which gateways the addresses have.
    pub gateway: GatewayMode,
    /// `ipam.routes`: in place of a default route a family.
    pub routes: Option<Vec<Route>>,
    /// `ipam.dns`, or else `dns`.
    pub dns: Dns,
    /// `ipam.socket`: the agent's socket; by default `agent.sock` in the run directory.
    pub socket: PathBuf,
    /// `ipam.runDir`: the agent's run directory.
    pub run_dir: PathBuf,
    /// `ipam.timeouts`: how long each verb waits.
    pub timeouts: Timeouts,
}

/// A valid call of the IPAM plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IpamInvocation {
    /// Give the attachment its addresses.
    Add {
        /// The configuration.
        conf: IpamConf,
        /// Which attachment.
        attachment: Attachment,
        /// `CNI_NETNS`.
        netns: String,
        /// The pod, if the runtime named one.
        pod: Option<PodRef>,
    },
    /// Take them back.
    Del {
        /// The configuration.
        conf: IpamConf,
        /// Which attachment.
        attachment: Attachment,
    },
    /// Compare.
    Check {
        /// The configuration.
        conf: IpamConf,
        /// Which attachment.
        attachment: Attachment,
        /// The addresses in `prevResult`.
        expected: Vec<IpAddr>,
    },
    /// Take back what is not listed.
    Gc {
        /// The configuration.
        conf: IpamConf,
        /// What stays.
        valid: Vec<Attachment>,
    },
    /// Say whether an ADD could be served.
    Status {
        /// The configuration.
        conf: IpamConf,
    },
    /// Name the versions.
    Version {
        /// The version to echo.
        echo: String,
    },
}

/// Reads a call of the IPAM plugin.
///
/// # Errors
/// [`Error`], with the spec's code.
pub fn parse_ipam(env: &Env, stdin: &[u8]) -> Result<IpamInvocation, Error> {
    let verb = Verb::parse(env.command.as_ref())?;
    if verb == Verb::Version {
        return Ok(IpamInvocation::Version { echo: echo_of(stdin) });
    }
    require(env, verb)?;
    match verb {
        Verb::Add => {
            let (attachment, netns) = (attachment(env)?, netns_path(env)?);
            let pod = Args::parse(&utf8("CNI_ARGS", env.args.as_ref())?)?.pod;
            let document = document(stdin)?;
            let conf = conf_for(verb, &document)?;
            refuse_unsupported(&document)?;
            Ok(IpamInvocation::Add { conf, attachment, netns, pod })
        }
        Verb::Del => {
            let attachment = attachment(env)?;
            Ok(IpamInvocation::Del { conf: conf_for(verb, &document(stdin)?)?, attachment })
        }
        Verb::Check => {
            let attachment = attachment(env)?;
            let document = document(stdin)?;
            let conf = conf_for(verb, &document)?;
            let prev: Option<PrevResult> = Object::root(&document)?.structure("prevResult", "prevResult")?;
            let prev =
                prev.ok_or(Error::MissingKey { key: "prevResult", rule: "CHECK compares with the result of ADD" })?;
            let expected = prev.addresses_for_ipam(&attachment.ifname)?;
            Ok(IpamInvocation::Check { conf, attachment, expected })
        }
        Verb::Gc => {
            let document = document(stdin)?;
            let conf = conf_for(verb, &document)?;
            Ok(IpamInvocation::Gc { conf, valid: valid(valid_attachments(&Object::root(&document)?)?)? })
        }
        Verb::Status | Verb::Version => Ok(IpamInvocation::Status { conf: conf_for(verb, &document(stdin)?)? }),
    }
}

/// The configuration, if its version has the verb. DEL takes one of which only what leads to the agent is right.
fn conf_for(verb: Verb, document: &Value) -> Result<IpamConf, Error> {
    let conf = match IpamConf::read(document, true) {
        Err(_) if verb == Verb::Del => IpamConf::read(document, false),
        other => other,
    }?;
    if conf.version.knows(verb) { Ok(conf) } else { Err(Error::VerbNotInVersion { version: conf.version, verb }) }
}

/// Addresses of somebody's choice are not given: the conventions ask for an error rather than for others.
fn refuse_unsupported(document: &Value) -> Result<(), Error> {
    let Some(given) = Object::root(document)?.object("runtimeConfig")? else { return Ok(()) };
    for key in ["ips", "ipRanges"] {
        if let Some(value) = given.get(key).filter(|value| !asks_nothing(value)) {
            return Err(Error::UnsupportedField { key: given.path_of(key), value: shown(&value.to_string()) });
        }
    }
    Ok(())
}

impl IpamConf {
    /// Reads it; without `whole`, what an answer would need is passed over.
    fn read(document: &Value, whole: bool) -> Result<Self, Error> {
        let conf = Object::root(document)?;
        let (version, name) = network(&conf)?;
        let ipam = conf.object("ipam")?.ok_or(Error::MissingKey {
            key: "ipam",
            rule: "this program, called as overlane-ipam, serves networks with an ipam section of that type",
        })?;
        if ipam.text("type")?.unwrap_or_default() != IPAM_TYPE {
            return Err(bad(&ipam, "type", "must be \"overlane-ipam\", the name that this program was called by"));
        }
        let (run_dir, socket) = way_to_agent(&ipam)?;
        let mut read = Self {
            version,
            name,
            gateway: GatewayMode::default(),
            routes: None,
            dns: Dns::default(),
            socket,
            run_dir,
            timeouts: Timeouts::default(),
        };
        if whole {
            if let Some(key) = ipam.keys().find(|key| !KEYS.contains(key)) {
                let rule = "no such key; there are type, gateway, routes, dns, socket, runDir and timeouts";
                return Err(bad(&ipam, key, rule));
            }
            read.timeouts = Timeouts::parse(&ipam)?;
            read.gateway = gateway(&ipam)?;
            read.routes = routes(&ipam)?;
            let of_network = || conf.structure("dns", "dns");
            read.dns =
                ipam.structure("dns", "ipam.dns")?.map_or_else(of_network, |dns| Ok(Some(dns)))?.unwrap_or_default();
        }
        Ok(read)
    }
}

fn gateway(ipam: &Object<'_>) -> Result<GatewayMode, Error> {
    match ipam.text("gateway")? {
        None => Ok(GatewayMode::default()),
        Some("block") => Ok(GatewayMode::Block),
        Some("link-local") => Ok(GatewayMode::LinkLocal),
        Some(_) => Err(bad(ipam, "gateway", "must be \"block\" or \"link-local\"")),
    }
}

fn routes(ipam: &Object<'_>) -> Result<Option<Vec<Route>>, Error> {
    let routes: Option<Vec<Route>> = ipam.structure("routes", "ipam.routes")?;
    for route in routes.iter().flatten() {
        if !is_cidr(&route.dst) {
            return Err(bad(ipam, "routes", "each dst must be a CIDR"));
        }
        if route.gw.as_ref().is_some_and(|gw| gw.parse::<IpAddr>().is_err()) {
            return Err(bad(ipam, "routes", "each gw must be an address"));
        }
    }
    Ok(routes)
}

fn is_cidr(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else { return false };
    let most = match address.parse() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    length.parse::<u8>().is_ok_and(|length| length <= most)
}
