//! systemd-networkd takes routes that it did not make from the machine, unless it is told not to
//! (networkd.conf(5), `ManageForeignRoutes=`).

use std::collections::BTreeMap;
use std::path::Path;

use super::Finding;

/// Where its settings are, the weightiest place first: a drop-in of a name hides others of that name behind it.
const PLACES: [&str; 4] = ["etc/systemd", "run/systemd", "usr/local/lib/systemd", "usr/lib/systemd"];

/// Whether networkd runs below `root` and would remove our routes.
pub fn examine(subject: &str, root: &Path) -> Option<Finding> {
    if !root.join("run/systemd/netif/state").exists() {
        return None;
    }
    if !manages_foreign_routes(root) {
        return Some(Finding::good(subject, "networkd", "leaves routes of others alone"));
    }
    let what = "systemd-networkd runs with ManageForeignRoutes=yes: it removes pods' routes when it starts or reloads, \
                and the agent makes them again";
    let remedy = "write `[Network]` and `ManageForeignRoutes=no` to /etc/systemd/networkd.conf.d/overlane.conf, then \
                  `systemctl restart systemd-networkd`";
    Some(Finding::bad(subject, "networkd", what, remedy).note())
}

/// The last setting counts: the main file's, then the drop-ins' in order of their names. Yes without any.
fn manages_foreign_routes(root: &Path) -> bool {
    let main = PLACES.iter().map(|place| root.join(place).join("networkd.conf")).find(|path| path.exists());
    let mut drop_ins = BTreeMap::new();
    for place in PLACES {
        let dir = root.join(place).join("networkd.conf.d");
        for name in overlane_lab::files::names(&dir).into_iter().filter(|name| name.ends_with(".conf")) {
            drop_ins.entry(name.clone()).or_insert_with(|| dir.join(name));
        }
    }
    let files = main.into_iter().chain(drop_ins.into_values());
    let texts = files.filter_map(|path| std::fs::read_to_string(path).ok());
    texts.filter_map(|text| setting(&text)).fold(true, |_, set| set)
}

/// What one file says.
fn setting(text: &str) -> Option<bool> {
    let mut in_network = false;
    let mut found = None;
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            in_network = line == "[Network]";
        } else if let Some((key, value)) = line.split_once('=')
            && in_network
            && key.trim() == "ManageForeignRoutes"
        {
            let value = value.trim().to_ascii_lowercase();
            found = Some(!matches!(value.as_str(), "no" | "n" | "false" | "f" | "off" | "0"));
        }
    }
    found
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    //! Must catch: a networkd that removes our routes and is not named.

    use super::super::Verdict;
    use super::*;

    #[test]
    fn the_last_setting_counts() {
        let root = std::env::temp_dir().join(format!("overlane-networkd-{}", std::process::id()));
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let verdict = || examine("here", &root).map(|finding| finding.verdict);
        assert_eq!(verdict(), None, "it does not run");
        write("run/systemd/netif/state", "");
        assert_eq!(verdict(), Some(Verdict::Note), "yes is the default");
        write("etc/systemd/networkd.conf", "[Network]\n#ManageForeignRoutes=no\n[DHCPv4]\nManageForeignRoutes=no\n");
        assert_eq!(verdict(), Some(Verdict::Note), "a comment, and another section");
        write("etc/systemd/networkd.conf", "[Network]\nManageForeignRoutes = no\n");
        assert_eq!(verdict(), Some(Verdict::Good));
        write("usr/lib/systemd/networkd.conf.d/50-vendor.conf", "[Network]\nManageForeignRoutes=yes\n");
        assert_eq!(verdict(), Some(Verdict::Note), "drop-ins count more");
        write("etc/systemd/networkd.conf.d/50-vendor.conf", "");
        assert_eq!(verdict(), Some(Verdict::Good), "hidden by one of its name");
        write("run/systemd/networkd.conf.d/90-x.conf", "[Network]\nManageForeignRoutes=off\n");
        assert_eq!(verdict(), Some(Verdict::Good));
        std::fs::remove_dir_all(&root).unwrap();
    }
}
