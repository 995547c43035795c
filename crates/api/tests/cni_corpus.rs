//! Must catch: any bad input that is accepted, answered with another code than the spec's, or ends in a panic.
//!
//! One file a call in `corpus/`: five lines of environment (verb, container, namespace, interface, arguments), the rest
//! is standard input. The name says what must come of it: `ok-`, or `e` and the CNI code. The fuzz target starts from the
//! same files.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::fs;
use std::path::Path;

use overlane_api::cni::{exercise, parse};

#[test]
fn every_file_gets_the_answer_in_its_name() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut seen = 0;
    let mut wrong = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let data = fs::read(&path).unwrap();
        exercise::everything(&data);
        let (env, stdin) = exercise::split(&data);
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let got = match parse(&env, stdin) {
            Ok(_) => "ok".to_owned(),
            Err(error) => {
                assert!(error.to_string().len() < 800 && !error.to_string().contains('\n'), "{name}: {error}");
                format!("e{}", error.code())
            }
        };
        if name.split('-').next() != Some(&got) {
            wrong.push(format!("{name}: got {got}: {:?}", parse(&env, stdin).err().map(|e| e.to_string())));
        }
        seen += 1;
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(seen > 80, "only {seen} files");
}

/// What cannot be kept in a text file.
#[test]
fn bytes_that_are_no_text() {
    let bad: &[&[u8]] = &[
        b"",
        b"\n",
        b"\n\n\n\n\n",
        b"ADD",
        b"\xff\xfe\xfd",
        b"A\0D\nc\0\n/\0\neth\0\n\0=\0\n{\0}",
        b"ADD\n\xff\n/run/netns/x\neth0\n\n{}",
        b"ADD\nc0\n/run/netns/\xff\neth0\n\n{}",
        b"ADD\nc0\n/run/netns/x\n\xc3\x28\n\n{}",
        b"ADD\nc0\n/run/netns/x\neth0\n\x80=\x80\n{}",
        b"ADD\nc0\n/run/netns/x\neth0\n\n{\"cniVersion\":\"\xff\"}",
        b"ADD\nc0\n/run/netns/x\neth0\n\n\xef\xbb\xbf{\"cniVersion\":\"1.0.0\"}",
        b"ADD\nc0\n/run/netns/x\neth0\n\n{\"cniVersion\":\"\\ud800\"}",
        b"\xff\xff\xff\xff",
        b"\x00\x10\x00\x01x",
    ];
    for data in bad {
        exercise::everything(data);
        let (env, stdin) = exercise::split(data);
        assert!(parse(&env, stdin).is_err(), "{data:?}");
    }
    exercise::everything(&vec![b'{'; 1 << 20]);
    exercise::everything(&vec![b'"'; 1 << 20]);
}
