//! The tutorial, command by command, with clusters of other names.

use std::process::Command;
use std::time::Duration;

use overlane_suites::ns::unique;
use overlane_suites::{clean, exec};

/// The page.
const PAGE: &str = include_str!("../../../../docs/tutorial.md");
/// Names of its clusters.
const NAMES: [&str; 3] = ["overlay", "dual", "grow"];

/// A command, and what it prints.
struct Step {
    command: String,
    prints: String,
}

fn steps(page: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for block in page.split("```console\n").skip(1) {
        for line in block.split("```").next().unwrap_or_default().lines() {
            match line.strip_prefix("$ ") {
                Some(command) => steps.push(Step { command: command.to_owned(), prints: String::new() }),
                None => steps.last_mut().unwrap().prints.push_str(line),
            }
        }
    }
    steps
}

/// Whether words follow each other as they are told; `...` stands for any.
fn is_as_told(printed: &str, told: &str) -> bool {
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (printed, told) = (words(printed), words(told));
    let mut parts = told.split("...").map(str::trim);
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = printed.strip_prefix(first) else { return false };
    let parts: Vec<&str> = parts.collect();
    for part in &parts {
        let Some((_, behind)) = rest.split_once(part) else { return false };
        rest = behind;
    }
    // What does not end in dots ends there.
    rest.is_empty() || parts.last().is_some_and(|last| last.is_empty())
}

#[test]
fn dots_stand_for_any_words() {
    for (printed, told, is) in [
        ("a b\n c", "a b c", true),
        ("a b c", "a b", false),
        ("a b c", "... b ...", true),
        ("a b c", "... c", true),
        ("a b c", "... b", false),
        ("a b c", "b ...", false),
        ("x", "", false),
        ("", "", true),
    ] {
        assert_eq!(is_as_told(printed, told), is, "{printed:?} {told:?}");
    }
}

/// Ends the clusters, also after a failure.
struct Clusters(Vec<(&'static str, String)>);

impl Drop for Clusters {
    fn drop(&mut self) {
        for (_, name) in &self.0 {
            let mut command = Command::new(exec::bin("overlane"));
            command.args(["cluster", "delete", "--name", name]);
            let _ = exec::run(command, b"", Duration::from_secs(60));
        }
    }
}

#[test]
fn every_command_prints_what_stands_under_it() {
    clean::begin();
    let clusters = Clusters(NAMES.map(|name| (name, unique(clean::PREFIX))).into());
    let renamed = |text: &str| {
        clusters.0.iter().fold(text.to_owned(), |text, (name, own)| {
            text.replace(&format!("clusterName={name}"), &format!("clusterName={own}"))
                .replace(&format!("`{name}`"), &format!("`{own}`"))
        })
    };
    let steps = steps(PAGE);
    assert!(steps.len() > 15, "{}", steps.len());
    let mut script = String::new();
    for (number, step) in steps.iter().enumerate() {
        script.push_str(&format!("echo @@{number}\n{} 2>&1\necho \"@@code $?\"\n", renamed(&step.command)));
    }
    let work = std::env::temp_dir().join(unique(clean::PREFIX));
    std::fs::create_dir(&work).unwrap();
    let path = format!("{}:{}", exec::bin("overlane").parent().unwrap().display(), std::env::var("PATH").unwrap());
    let mut bash = Command::new("bash");
    bash.arg("-s").current_dir(&work).env("PATH", path).env("HOME", &work).env_remove("KUBECONFIG");
    let out = exec::run(bash, script.as_bytes(), Duration::from_secs(300));
    std::fs::remove_dir_all(&work).unwrap();
    for (number, step) in steps.iter().enumerate() {
        let part = out.stdout.split(&format!("@@{number}\n")).nth(1).unwrap_or_else(|| panic!("no {number}: {out}"));
        let (printed, code) = part.split_once("@@code ").unwrap_or_else(|| panic!("{}: {part}", step.command));
        assert!(code.starts_with("0\n"), "`{}` ended with {code}: {printed}", step.command);
        // What nothing stands under prints nothing that matters.
        let told = renamed(&step.prints);
        assert!(told.is_empty() || is_as_told(printed, &told), "`{}` printed\n{printed}\nnot\n{told}", step.command);
    }
}
