//! A file of checksummed lines: `crc32-in-hex json`, one record a line, the first one a header.
//!
//! A record that was being written when the process ended is cut off; it had not been acted upon. Every other fault is
//! damage: named by line, and never a reason to forget what the other lines say.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The format that this build writes.
pub const FORMAT: u32 = 1;
/// The oldest format that this build reads.
pub const OLDEST_FORMAT: u32 = 1;

/// The first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Header {
    /// Version of the record format.
    pub format: u32,
    /// The machine's boot id when the file was begun.
    pub boot_id: String,
}

/// One thing that is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct Damage {
    /// Line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub reason: String,
}

/// What a file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed<T> {
    /// The header, if it could be read.
    pub header: Option<Header>,
    /// Every record that could be read, with its line.
    pub records: Vec<(usize, T)>,
    /// What could not.
    pub damage: Vec<Damage>,
    /// Bytes of a last record that was cut off.
    pub torn: usize,
}

/// Why a file can neither be read nor written.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The kernel refused.
    #[error("{what} {}: {source}", path.display())]
    Io {
        /// What was attempted.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Another version wrote it.
    #[error(
        "{} is of format {found}, this build reads {OLDEST_FORMAT} to {FORMAT}; left as it is: run the version that wrote it, or drain the node, reboot and start this one",
        path.display()
    )]
    Version {
        /// Which file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// An earlier append failed half-way and could not be taken back.
    #[error("{} is not written to any more after an append that could not be taken back", path.display())]
    Stuck {
        /// Which file.
        path: PathBuf,
    },
    /// A record that JSON cannot hold.
    #[error("encode a record for {}: {source}", path.display())]
    Encode {
        /// Which file.
        path: PathBuf,
        /// What the encoder said.
        source: serde_json::Error,
    },
}

fn checked(line: &[u8]) -> Option<&[u8]> {
    let (hex, json) = (line.get(..8)?, line.get(9..)?);
    let crc = u32::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()?;
    (line[8] == b' ' && crc == crc32fast::hash(json)).then_some(json)
}

/// Reads a file's bytes.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Parsed<T> {
    let mut parsed = Parsed { header: None, records: Vec::new(), damage: Vec::new(), torn: 0 };
    let mut lines: Vec<&[u8]> = bytes.split(|b| *b == b'\n').collect();
    // What follows the last newline: nothing, or a record that was not finished, or one whose newline is spoilt.
    let tail = lines.pop().unwrap_or_default();
    if !tail.is_empty() {
        match [tail, &tail[..tail.len() - 1]].into_iter().find(|t| checked(t).is_some()) {
            Some(whole) => lines.push(whole),
            None => parsed.torn = tail.len(),
        }
    }
    for (index, line) in lines.into_iter().enumerate() {
        let number = index + 1;
        let mut spoilt = |reason: String| parsed.damage.push(Damage { line: number, reason });
        let Some(json) = checked(line) else {
            spoilt(format!("checksum does not fit ({} bytes)", line.len()));
            continue;
        };
        if number == 1 {
            match serde_json::from_slice(json) {
                Ok(header) => parsed.header = Some(header),
                Err(error) => spoilt(format!("no header: {error}")),
            }
            continue;
        }
        match serde_json::from_slice(json) {
            Ok(record) => parsed.records.push((number, record)),
            Err(error) => spoilt(format!("unknown record: {error}")),
        }
    }
    if parsed.header.is_none() && parsed.damage.is_empty() {
        parsed.damage.push(Damage { line: 1, reason: "no header".to_owned() });
    }
    parsed
}

fn encode<T: Serialize>(into: &mut Vec<u8>, record: &T) -> Result<(), serde_json::Error> {
    let start = into.len();
    into.extend_from_slice(b"00000000 ");
    serde_json::to_writer(&mut *into, record)?;
    let crc = crc32fast::hash(&into[start + 9..]);
    into[start..start + 8].copy_from_slice(format!("{crc:08x}").as_bytes());
    into.push(b'\n');
    Ok(())
}

/// A file that records are appended to.
#[derive(Debug)]
pub struct Log {
    file: File,
    path: PathBuf,
    length: u64,
    records: usize,
    stuck: bool,
}

impl Log {
    /// Writes a whole new file and puts it in the place of the old one, which nobody ever sees half of.
    pub fn replace<T: Serialize>(path: &Path, header: &Header, records: &[T]) -> Result<Self, LogError> {
        let io = |what| move |source| LogError::Io { what, path: path.to_owned(), source };
        let mut bytes = Vec::with_capacity(256 + records.len() * 384);
        let fail = |source| LogError::Encode { path: path.to_owned(), source };
        encode(&mut bytes, header).map_err(fail)?;
        for record in records {
            encode(&mut bytes, record).map_err(fail)?;
        }
        let fresh = path.with_extension("log.new");
        let mut file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(&fresh)
            .map_err(io("create a file beside"))?;
        file.write_all(&bytes).map_err(io("write a file beside"))?;
        std::fs::rename(&fresh, path).map_err(io("replace"))?;
        Ok(Self { file, path: path.to_owned(), length: bytes.len() as u64, records: records.len(), stuck: false })
    }

    /// Appends one record: it is there whole when this returns, and not at all if it fails.
    pub fn append<T: Serialize>(&mut self, record: &T) -> Result<(), LogError> {
        if self.stuck {
            return Err(LogError::Stuck { path: self.path.clone() });
        }
        let mut line = Vec::with_capacity(512);
        encode(&mut line, record).map_err(|source| LogError::Encode { path: self.path.clone(), source })?;
        if let Err(source) = self.file.write_all(&line) {
            self.stuck = self.take_back().is_err();
            return Err(LogError::Io { what: "append to", path: self.path.clone(), source });
        }
        self.length += line.len() as u64;
        self.records += 1;
        Ok(())
    }

    fn take_back(&mut self) -> io::Result<()> {
        use std::io::Seek as _;
        self.file.set_len(self.length)?;
        self.file.seek(io::SeekFrom::Start(self.length)).map(drop)
    }

    /// Records in the file.
    pub fn records(&self) -> usize {
        self.records
    }
}

/// Reads a file; `None` if there is none.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<Parsed<T>>, LogError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(LogError::Io { what: "read", path: path.to_owned(), source }),
    };
    let parsed = parse::<T>(&bytes);
    if let Some(header) = &parsed.header
        && !(OLDEST_FORMAT..=FORMAT).contains(&header.format)
    {
        return Err(LogError::Version { path: path.to_owned(), found: header.format });
    }
    Ok(Some(parsed))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    //! Must catch: a record that is lost or made up by a cut or a flipped byte without anybody being told; a file of a
    //! newer format that is touched.

    use super::*;

    fn sample(count: usize) -> (tempfile::TempDir, PathBuf, Vec<String>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("leases.log");
        let header = Header { format: FORMAT, boot_id: "b".into() };
        let records: Vec<String> = (0..count).map(|n| format!("record {n} \n é")).collect();
        let mut log = Log::replace(&path, &header, &records[..count / 2]).unwrap();
        for record in &records[count / 2..] {
            log.append(record).unwrap();
        }
        assert_eq!(log.records(), count);
        (dir, path, records)
    }

    fn texts(parsed: &Parsed<String>) -> Vec<String> {
        parsed.records.iter().map(|(_, text)| text.clone()).collect()
    }

    #[test]
    fn a_cut_anywhere_keeps_every_whole_record() {
        let (_dir, path, records) = sample(6);
        let bytes = std::fs::read(&path).unwrap();
        for cut in 1..=bytes.len() {
            let parsed = parse::<String>(&bytes[..cut]);
            let lines = bytes[..cut].iter().filter(|b| **b == b'\n').count();
            let whole = texts(&parsed);
            // A line of which only the newline is missing counts as well.
            assert!(whole.len() + 1 == lines || whole.len() == lines, "cut at {cut}");
            assert_eq!(whole, records[..whole.len()]);
            assert_eq!(parsed.damage.is_empty(), parsed.header.is_some(), "cut at {cut}");
        }
    }

    #[test]
    fn a_flipped_byte_is_told_and_costs_no_more_than_two_records() {
        let (_dir, path, records) = sample(6);
        let bytes = std::fs::read(&path).unwrap();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut spoilt = bytes.clone();
                spoilt[at] ^= 1 << bit;
                let parsed = parse::<String>(&spoilt);
                let read = texts(&parsed);
                assert!(read.iter().all(|text| records.contains(text)), "byte {at} bit {bit} made a record up");
                assert!(read.len() + 2 >= records.len(), "byte {at} bit {bit}");
                let told = !parsed.damage.is_empty() || parsed.torn > 0;
                assert!(told || (read.len() == records.len() && parsed.header.is_some()), "byte {at} bit {bit}");
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
            let _ = parse::<String>(&bytes);
        }
    }

    #[test]
    fn other_versions_are_refused_unharmed() {
        for format in [0, FORMAT + 1, u32::MAX] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("leases.log");
            let mut bytes = Vec::new();
            encode(&mut bytes, &serde_json::json!({"format": format, "bootId": "b", "new": true})).unwrap();
            bytes.extend(b"a line of another time\n");
            std::fs::write(&path, &bytes).unwrap();
            assert!(matches!(read::<String>(&path), Err(LogError::Version { found, .. }) if found == format));
            assert_eq!(std::fs::read(&path).unwrap(), bytes);
        }
    }

    #[test]
    fn a_full_disk_takes_the_append_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("leases.log");
        let header = Header { format: FORMAT, boot_id: "b".into() };
        let mut log = Log::replace::<String>(&path, &header, &[]).unwrap();
        log.append(&"kept".to_owned()).unwrap();
        // A file that may not be written to fails as a full disk does.
        log.file = File::open(&path).unwrap();
        assert!(matches!(log.append(&"lost".to_owned()), Err(LogError::Io { .. })));
        let parsed = read::<String>(&path).unwrap().unwrap();
        assert_eq!(texts(&parsed), ["kept"]);
        assert!(matches!(log.append(&"late".to_owned()), Err(LogError::Stuck { .. })));
    }

    #[test]
    fn nothing_is_no_file_and_empty_is_damage() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("leases.log");
        assert!(read::<String>(&path).unwrap().is_none());
        std::fs::write(&path, b"").unwrap();
        assert_eq!(read::<String>(&path).unwrap().unwrap().damage.len(), 1);
    }
}
