//! Echo servers on hosts: threads of this process in their namespaces.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;

use crate::echo::Echo;
use crate::netns;

/// Servers that end with this value.
#[derive(Default)]
pub struct Servers {
    stop: Arc<AtomicBool>,
}

impl Servers {
    /// Starts a server that calls itself `name`; its port.
    pub fn start(&mut self, name: &str, namespace: &Path) -> Result<u16> {
        // A socket belongs to the namespace that it was made in, whoever serves it.
        let echo = netns::run(namespace, || Echo::bind(name, 0))?;
        let port = echo.port()?;
        let stop = self.stop.clone();
        std::thread::Builder::new().spawn(move || echo.serve(stop))?;
        Ok(port)
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
