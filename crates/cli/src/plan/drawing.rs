//! Address space to scale, in one line of characters.

use overlane_core::cidr::Cidr;
use overlane_core::sizing::Taken;

/// How many characters a whole range is.
const WIDTH: u64 = 64;

/// How much of `all` is used now and later: `#` now, `+` later too, `.` free. What is used at all is seen.
pub fn used(now: u64, later: u64, all: u64) -> String {
    let column = |count: u64| {
        let scaled = u128::from(count.min(all)) * u128::from(WIDTH);
        u64::try_from(scaled.div_ceil(u128::from(all.max(1)))).unwrap_or(WIDTH)
    };
    let (now, later) = (column(now), column(later.max(now)));
    let of = |place: u64| {
        if place < now {
            '#'
        } else if place < later {
            '+'
        } else {
            '.'
        }
    };
    format!("[{}]", (0..WIDTH).map(of).collect::<String>())
}

/// Who has what of a range: a letter for each part that somebody has an address of, `*` where several have.
pub fn map(range: &Cidr, taken: &[Taken]) -> String {
    let bits = WIDTH.trailing_zeros();
    let length = u8::try_from(bits).map_or(0, |bits| range.prefix_len().saturating_add(bits));
    let letter_of = |part: Cidr| {
        let here = taken.iter().filter(|taken| taken.cidr.overlaps(&part));
        // Subnets are a part of their network, and more exact.
        let mut letters: Vec<char> = here.map(|taken| letter(&taken.what)).collect();
        if letters.contains(&'n') {
            letters.retain(|letter| *letter != 'v');
        }
        letters.sort_unstable();
        letters.dedup();
        match letters.as_slice() {
            [] => '.',
            [one] => *one,
            _ => '*',
        }
    };
    let parts = (0..WIDTH).map(|index| range.subnet(length, index).map_or('.', letter_of));
    format!("[{}]", parts.collect::<String>())
}

/// The letter for what has a range: its first, a capital for the cluster's own.
pub fn letter(what: &str) -> char {
    let first = what.chars().next().unwrap_or('?');
    if matches!(what, "pods" | "Services") { first.to_ascii_uppercase() } else { first.to_ascii_lowercase() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    //! Must catch: a drawing that is not to scale, something small that is not seen.

    use super::*;

    #[test]
    fn use_is_to_scale() {
        assert_eq!(used(0, 0, 256), format!("[{}]", ".".repeat(64)));
        assert_eq!(used(64, 128, 256), format!("[{}{}{}]", "#".repeat(16), "+".repeat(16), ".".repeat(32)));
        assert_eq!(used(1, 1, 65_536), format!("[#{}]", ".".repeat(63)));
        assert_eq!(used(900, 9_000, 256), format!("[{}]", "#".repeat(64)));
        assert_eq!(used(1, 2, 0).len(), 66);
        assert_eq!(used(u64::MAX, u64::MAX, u64::MAX), format!("[{}]", "#".repeat(64)));
    }

    #[test]
    fn parts_bear_their_owners_letter() {
        let taken = [
            ("10.0.0.0/16", "Services"),
            ("10.224.0.0/12", "VNet"),
            ("10.224.0.0/16", "nodes"),
            ("10.244.0.0/16", "pods"),
            ("10.245.0.0/16", "peered"),
        ];
        let taken = taken.map(|(cidr, what)| Taken { cidr: cidr.parse().unwrap(), what: what.to_owned() });
        let drawn = map(&"10.0.0.0/8".parse().unwrap(), &taken);
        assert_eq!(drawn, format!("[S{}nvvv.*..]", ".".repeat(55)));
        assert_eq!(
            map(&"192.168.0.0/30".parse().unwrap(), &taken),
            format!("[{}]", ".".repeat(64)),
            "smaller than its columns"
        );
    }
}
