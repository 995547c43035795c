//! The `nft` program: structure goes through it, and what it lists is how a foreign hand in our table is noticed.

use std::io::Write as _;
use std::process::{Command, Stdio};

use super::NftError;
use crate::owned::NFT_TABLE;
use crate::render::nft::{MARKER_CHAIN, Objects, POLICY_HOOK, hash};

/// What nft lists of our table, without elements and counters' values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listing {
    pub(super) objects: Objects,
    /// The marker's words, if there is one.
    pub(super) marker: Option<String>,
    /// Packets meet network policy.
    pub(super) polices: bool,
    /// Hash of everything but the marker.
    pub(super) hash: String,
}

/// Runs a script as one transaction in the calling thread's namespace; `what` is attempted by it.
///
/// # Errors
/// nft cannot be run, or refused.
pub fn run(what: &'static str, script: &str) -> Result<(), NftError> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| NftError::Start { source })?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that stops reading says why on its standard error.
        let _ = stdin.write_all(script.as_bytes());
    }
    let output = child.wait_with_output().map_err(|source| NftError::Start { source })?;
    if output.status.success() { Ok(()) } else { Err(refused(what, &output.stderr)) }
}

/// Lists our table; `None` if there is none.
pub(super) fn list() -> Result<Option<Listing>, NftError> {
    let what = "list the table";
    let text = query(&["--stateless", "--terse", "list", "table", "inet", NFT_TABLE], what);
    match text {
        Ok(text) => Ok(Some(read_listing(&text))),
        Err(NftError::Refused { words, .. }) if words.contains("No such file") => Ok(None),
        Err(error) => Err(error),
    }
}

/// Runs nft and gives what it prints.
pub(crate) fn query(args: &[&str], what: &'static str) -> Result<String, NftError> {
    let output = Command::new("nft")
        .args(args)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .map_err(|source| NftError::Start { source })?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(refused(what, &output.stderr))
    }
}

fn refused(what: &'static str, stderr: &[u8]) -> NftError {
    let words = String::from_utf8_lossy(stderr);
    // The first lines name the fault; the rest repeats the script.
    let words = words.lines().take(4).collect::<Vec<_>>().join(" ");
    NftError::Refused { what, words }
}

/// Objects begin with one tab, what they hold with more, and end with a brace behind one tab.
fn read_listing(text: &str) -> Listing {
    let mut objects = Objects::default();
    let (mut marker, mut in_marker, mut polices, mut rest) = (None, false, false, String::new());
    for line in text.lines() {
        let mut words = line.strip_prefix('\t').filter(|l| !l.starts_with('\t')).unwrap_or("").split(' ');
        if let (Some(kind), Some(name), Some("{")) = (words.next(), words.next(), words.next()) {
            match kind {
                "chain" => objects.chains.insert(name.to_owned()),
                "set" => objects.sets.insert(name.to_owned()),
                "map" => objects.sets.insert(name.to_owned()) && objects.maps.insert(name.to_owned()),
                "counter" => objects.counters.insert(name.to_owned()),
                _ => false,
            };
            in_marker = kind == "chain" && name == MARKER_CHAIN;
        }
        polices |= line.trim_start().starts_with(POLICY_HOOK);
        if in_marker {
            marker = marker.or_else(|| line.split('"').nth(1).map(str::to_owned));
        } else if line.starts_with('\t') {
            rest.push_str(line);
            rest.push('\n');
        }
    }
    Listing { objects, marker, polices, hash: hash(&rest) }
}

#[cfg(test)]
mod tests {
    //! Must catch: a rule added by a foreign hand that leaves the listing's hash as it was.
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const TEXT: &str = "table inet overlane {\n\tcounter spoofed {\n\t}\n\n\tset pod4 {\n\t\ttype ipv4_addr\n\t}\n\n\tchain pre {\n\
        \t\tdrop\n\t}\n\n\tchain about {\n\t\treturn comment \"overlane structure 1 listed 2\"\n\t}\n}\n";

    #[test]
    fn a_listing_is_read() {
        let listing = read_listing(TEXT);
        assert_eq!(listing.objects.chains.iter().collect::<Vec<_>>(), ["about", "pre"]);
        assert_eq!(listing.objects.sets.iter().collect::<Vec<_>>(), ["pod4"]);
        assert_eq!(listing.objects.counters.iter().collect::<Vec<_>>(), ["spoofed"]);
        assert_eq!(listing.marker.unwrap(), "overlane structure 1 listed 2");
    }

    #[test]
    fn the_marker_is_not_part_of_what_it_tells_about() {
        let hash = |text: &str| read_listing(text).hash;
        assert_eq!(hash(TEXT), hash(&TEXT.replace("listed 2", "listed 3")));
        let (before, _) = TEXT.split_once("\n\tchain about").unwrap();
        assert_eq!(hash(TEXT), hash(&format!("{before}}}\n")), "nor is its absence");
        assert_ne!(hash(TEXT), hash(&TEXT.replace("drop", "accept")));
        assert_ne!(hash(TEXT), hash(&TEXT.replace("\t\tdrop\n", "\t\tdrop\n\t\taccept\n")));
    }
}
