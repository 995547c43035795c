//! A command's way to a running lab.

use anyhow::{Context as _, Result, anyhow, bail};
use kube::{Client, Config};

use crate::daemon::control::{self, Answer, Command, DaemonStatus};
use crate::names::LabName;
use crate::paths::LabPaths;
use crate::state::LabRecord;

/// A lab, as a command sees it.
#[derive(Clone, Debug)]
pub struct LabClient {
    /// The lab's name.
    pub name: LabName,
    /// Where its files are.
    pub paths: LabPaths,
    /// What it remembers of itself.
    pub record: LabRecord,
}

impl LabClient {
    /// Finds a lab; an error that lists the labs there are if it is not among them.
    pub fn open(name: &LabName) -> Result<Self> {
        Ok(Self { name: name.clone(), paths: LabPaths::of(name), record: LabRecord::load(name)? })
    }

    /// Asks the daemon.
    pub async fn ask(&self, command: &Command) -> Result<Answer> {
        self.alive()?;
        control::ask(&self.paths.control(), command).await.with_context(|| format!("lab `{}`", self.name))
    }

    /// An error that says what to do if the daemon is dead.
    fn alive(&self) -> Result<()> {
        if self.record.daemon.is_none_or(|daemon| daemon.alive()) {
            return Ok(());
        }
        bail!("the daemon of lab `{0}` is dead; `overlane lab up --name {0}` starts it again", self.name)
    }

    /// What the daemon knows.
    pub async fn status(&self) -> Result<DaemonStatus> {
        match self.ask(&Command::Status).await? {
            Answer::Status(status) => Ok(*status),
            other => bail!("the lab's daemon answered {other:?}"),
        }
    }

    /// A client of the lab's API.
    pub fn kube(&self) -> Result<Client> {
        self.alive()?;
        let api = self.record.api.as_ref().ok_or_else(|| anyhow!("lab `{}` serves no API yet", self.name))?;
        let url = api.local_url.parse().context("read the API's address")?;
        Client::try_from(Config::new(url)).context("make an API client")
    }
}
