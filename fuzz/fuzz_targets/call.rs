//! A whole call of the plugin: five lines of environment, then standard input. Also everything else that plugin and
//! agent read from outside: requests, answers, tombstones, arguments.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| overlane_api::cni::exercise::everything(data));
