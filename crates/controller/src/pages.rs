//! What the HTTP pages show of the controller.

use overlane_daemon::pages::Pages;

use crate::metrics::Metrics;
use crate::objects::now_ms;

/// A main loop that has not come round for so long is stuck. It never waits for the API.
const STUCK_MS: u64 = 60_000;

/// The pages of one controller.
pub struct ControllerPages(pub Metrics);

impl Pages for ControllerPages {
    fn metrics(&self) -> anyhow::Result<String> {
        Ok(self.0.text()?)
    }

    fn ready(&self) -> Result<(), String> {
        if self.0.is_synced() { Ok(()) } else { Err("not every source was seen whole yet".to_owned()) }
    }

    fn healthy(&self) -> Result<(), String> {
        let beat_ms = self.0.last_beat_ms();
        let stuck = beat_ms != 0 && now_ms().saturating_sub(beat_ms) > STUCK_MS;
        if stuck { Err("the main loop is stuck".to_owned()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    //! Must catch: a liveness page that depends on the API server.
    use super::*;

    #[test]
    fn alive_without_the_api_ready_only_with_it() {
        let pages = ControllerPages(Metrics::new());
        pages.0.beat(now_ms());
        assert!(pages.healthy().is_ok() && pages.ready().is_err());
        pages.0.set_synced(true);
        assert!(pages.ready().is_ok());
        pages.0.beat(now_ms() - 2 * STUCK_MS);
        assert!(pages.healthy().is_err());
    }
}
