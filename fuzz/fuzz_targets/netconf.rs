//! The network configuration alone, as each verb reads it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use overlane_api::cni::exercise;

fuzz_target!(|data: &[u8]| {
    let mut call = b"ADD\nc0\n/run/netns/x\neth0\n\n".to_vec();
    call.extend_from_slice(data);
    exercise::everything(&call);
});
