//! What the daemons of Overlane have in common: settings, log, HTTP pages, and the way to the API server.

pub mod api;
pub mod log;
pub mod pages;
pub mod settings;
