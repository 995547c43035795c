//! Progress on standard error: one moving line on a terminal, a line a step elsewhere.

use std::io::{self, IsTerminal as _};
use std::sync::Mutex;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// A line that moves while something is done.
pub struct Progress {
    bar: ProgressBar,
    terminal: bool,
    last: Mutex<String>,
}

impl Progress {
    /// Begins.
    pub fn new() -> Self {
        let terminal = io::stderr().is_terminal();
        let bar = if terminal { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        bar.set_style(style("{spinner} {msg}"));
        if terminal {
            bar.enable_steady_tick(Duration::from_millis(80));
        }
        Self { bar, terminal, last: Mutex::default() }
    }

    /// Says what is being done.
    pub fn doing(&self, what: &str) {
        self.bar.set_message(what.to_owned());
        if !self.terminal && self.is_new(what) {
            eprintln!("{what}");
        }
    }

    /// Says what is being done and how much of it is; only the former is said where nothing moves.
    pub fn count(&self, what: &str, done: usize, total: usize) {
        if total == 0 {
            return self.doing(what);
        }
        if self.bar.length() != u64::try_from(total).ok() {
            self.bar.set_length(u64::try_from(total).unwrap_or(0));
            self.bar.set_style(style("{spinner} {msg} [{bar:30}] {pos}/{len}").progress_chars("=> "));
        }
        self.bar.set_position(u64::try_from(done).unwrap_or(0));
        self.doing(what);
    }

    /// Takes the line away.
    pub fn clear(&self) {
        self.bar.finish_and_clear();
    }

    fn is_new(&self, what: &str) -> bool {
        let Ok(mut last) = self.last.lock() else { return false };
        let new = *last != what;
        what.clone_into(&mut last);
        new
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}
