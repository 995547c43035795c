//! The lease store: every event of the node's addresses, durable against the end of this process at any instruction.
//!
//! Lives on a tmpfs. A reboot ends all sandboxes, so a file of another boot id holds nothing that counts; neither the
//! file nor its directory is synced to a disk.

pub mod lock;
pub mod log;
pub mod record;

use std::path::{Path, PathBuf};

use overlane_core::ipam::{ApplyError, Event, Ipam};

use crate::clock;
use log::{Damage, FORMAT, Header, Log, LogError, Parsed};
use record::Record;

/// File name in the run dir.
pub const FILE: &str = "leases.log";
/// A file with fewer records than this is not worth rewriting.
const SMALL: usize = 2_048;

/// What was found when the store was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// No file: a first start, or somebody removed it.
    Nothing,
    /// A file of this boot.
    Ours,
    /// A file of another boot; its leases ended with it.
    OtherBoot,
}

/// What was not as it should be.
#[derive(Clone, Debug)]
pub struct Report {
    /// What was there.
    pub found: Found,
    /// Lines that could not be read.
    pub damage: Vec<Damage>,
    /// Records that contradict others, with their lines; the later one counts.
    pub conflicts: Vec<(usize, ApplyError)>,
    /// Bytes of an unfinished last record.
    pub torn: usize,
    /// Where the damaged file was kept.
    pub aside: Option<PathBuf>,
}

impl Report {
    /// Whether the leases that were read are all that there are. If not, links in the kernel are witnesses too.
    pub fn intact(&self) -> bool {
        self.found != Found::Nothing && self.damage.is_empty() && self.conflicts.is_empty() && self.torn == 0
    }
}

/// An open store.
#[derive(Debug)]
pub struct Store {
    log: Log,
    header: Header,
    path: PathBuf,
    kept: usize,
}

impl Store {
    /// Reads what is there into `ipam`, which must be new, and goes on with a fresh, compact file. Damage costs the
    /// damaged lines only, and the file is kept aside.
    pub fn open(dir: &Path, boot_id: &str, ipam: &mut Ipam) -> Result<(Self, Report), LogError> {
        let path = dir.join(FILE);
        let header = Header { format: FORMAT, boot_id: boot_id.to_owned() };
        let mut report =
            Report { found: Found::Nothing, damage: Vec::new(), conflicts: Vec::new(), torn: 0, aside: None };
        if let Some(parsed) = log::read::<Record>(&path)? {
            let other = parsed.header.as_ref().is_some_and(|h| h.boot_id != boot_id);
            report.found = if other { Found::OtherBoot } else { Found::Ours };
            if !other {
                replay(parsed, ipam, &mut report);
            }
            if !report.damage.is_empty() || !report.conflicts.is_empty() {
                report.aside = Some(keep_aside(&path)?);
            }
        }
        let records = records(ipam);
        let log = Log::replace(&path, &header, &records)?;
        Ok((Self { log, header, path, kept: records.len() }, report))
    }

    /// Makes an event durable. It must not be acted upon before this returned.
    pub fn append(&mut self, event: &Event) -> Result<(), LogError> {
        self.log.append(&Record::from(event))
    }

    /// Rewrites the file if most of it is history.
    pub fn tidy(&mut self, ipam: &Ipam) -> Result<bool, LogError> {
        if self.log.records() < SMALL || self.log.records() < 4 * self.kept {
            return Ok(false);
        }
        let records = records(ipam);
        self.kept = records.len();
        self.log = Log::replace(&self.path, &self.header, &records)?;
        Ok(true)
    }
}

fn records(ipam: &Ipam) -> Vec<Record> {
    ipam.snapshot().iter().map(Record::from).collect()
}

fn replay(parsed: Parsed<Record>, ipam: &mut Ipam, report: &mut Report) {
    report.damage = parsed.damage;
    report.torn = parsed.torn;
    for (line, record) in parsed.records {
        let event: Event = record.into();
        // Each refusal names one earlier lease whose end was lost with a damaged line.
        while let Err(error) = ipam.apply(&event) {
            let owner = match &error {
                ApplyError::AddressTaken { owner, .. }
                | ApplyError::AttachmentTaken { owner, .. }
                | ApplyError::LinkTaken { owner, .. } => Some(*owner),
                ApplyError::IdTaken { .. } => None,
            };
            report.conflicts.push((line, error));
            let at_ms = clock::boot_ms();
            let Some(id) = owner else { break };
            let end = [Event::Draining { id, at_ms, del_ns: None }, Event::Freed { id, at_ms }];
            if end.iter().any(|event| ipam.apply(event).is_err()) || ipam.lease(id).is_some() {
                break;
            }
        }
    }
}

/// A second name for the file, so that replacing the first leaves it whole.
fn keep_aside(path: &Path) -> Result<PathBuf, LogError> {
    let aside = path.with_extension(format!("log.damaged-{}", clock::boot_ms()));
    std::fs::hard_link(path, &aside)
        .or_else(|_| std::fs::copy(path, &aside).map(drop))
        .map_err(|source| LogError::Io { what: "keep aside", path: path.to_owned(), source })?;
    Ok(aside)
}
