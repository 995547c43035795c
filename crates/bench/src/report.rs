//! Tables for people, JSON for programs.

use std::path::Path;

use anyhow::{Context, Result};
use comfy_table::Table;
use serde::Serialize;

/// Prints a table with a title and its header.
pub fn table(title: &str, header: &[&str], rows: &[Vec<String>]) {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::ASCII_MARKDOWN);
    table.set_header(header);
    for row in rows {
        table.add_row(row);
    }
    println!("\n{title}\n{table}");
}

/// Writes `value` to `NAME.json` in `out`.
pub fn json(out: &Path, name: &str, value: &impl Serialize) -> Result<()> {
    let path = out.join(format!("{name}.json"));
    std::fs::write(&path, serde_json::to_vec_pretty(value)?).with_context(|| format!("write {}", path.display()))
}

/// The machine, as a line: a figure without it says little.
pub fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let model = info.lines().find_map(|l| l.strip_prefix("model name\t: ")).unwrap_or("unknown CPU").to_owned();
    let cpus = info.matches("processor\t").count();
    format!("{cpus} x {model}, Linux {}", read("/proc/sys/kernel/osrelease").trim())
}
