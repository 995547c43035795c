//! Ethernet addresses as text and bytes.

/// An Ethernet address.
pub type Mac = [u8; 6];

/// `02:00:5e:00:53:01`.
#[must_use]
pub fn text(mac: Mac) -> String {
    let [a, b, c, d, e, f] = mac;
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

/// Reads what [`text`] writes; `None` for anything else.
#[must_use]
pub fn parse(text: &str) -> Option<Mac> {
    let mut bytes = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut bytes {
        let part = parts.next().filter(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()))?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(bytes)
}

/// From the bytes of a netlink attribute; `None` if there are not six.
#[must_use]
pub fn from_slice(bytes: &[u8]) -> Option<Mac> {
    bytes.try_into().ok()
}

#[cfg(test)]
mod tests {
    //! Must catch: a text taken for an address that is none.
    use super::*;

    #[test]
    fn text_and_back() {
        assert_eq!(parse(&text([2, 0, 0x5e, 0, 0x53, 0xff])), Some([2, 0, 0x5e, 0, 0x53, 0xff]));
        for bad in
            ["", "02:00:5e:00:53", "02:00:5e:00:53:01:02", "2:0:5e:0:53:1", "02:00:5e:00:53:+1", "zz:00:5e:00:53:01"]
        {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
