//! Which address goes next.

use overlane_core::family::Family;

use super::{COOL_DOWN, Node, blocks};

#[test]
fn never_used_first_then_longest_free() {
    let mut node = Node::v4("10.0.0.0/29");
    for (name, address) in [("a", "10.0.0.1"), ("b", "10.0.0.2"), ("c", "10.0.0.3")] {
        assert_eq!(node.addresses(name), address);
        node.now += 1;
    }
    // Given back in another order than they were given.
    for name in ["b", "c", "a"] {
        node.stop(name);
        node.now += 1;
    }
    node.now += COOL_DOWN;
    let next: Vec<String> = ["d", "e", "f", "g", "h", "i"].map(|name| node.addresses(name)).to_vec();
    assert_eq!(next, ["10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.2", "10.0.0.3", "10.0.0.1"]);
}

#[test]
fn an_address_rests_as_long_as_there_is_another() {
    let mut node = Node::v4("10.0.0.0/29");
    for name in ["a", "b", "c", "d", "e", "f"] {
        node.start(name);
    }
    node.stop("a");
    node.now += COOL_DOWN - 1;
    node.stop("b");
    node.now += 1;
    assert_eq!(node.addresses("g"), "10.0.0.1", "its time has passed");
    assert_eq!(node.addresses("h"), "10.0.0.2", "given up rather than refuse");
}

#[test]
fn the_pair_has_one_offset_in_either_order_of_families() {
    for families in [[Family::V4, Family::V6], [Family::V6, Family::V4]] {
        let mut node = Node::new(&families, &[("10.244.2.0/24", 7), ("fd12:3456:789a:0:2::/80", 7)]);
        node.start("a");
        let mut expected = ["10.244.2.2", "fd12:3456:789a:0:2::2"];
        if families[0] == Family::V6 {
            expected.reverse();
        }
        assert_eq!(node.addresses("b"), expected.join(","));
    }
}

#[test]
fn offsets_part_only_where_they_must() {
    // Four usable addresses of IPv4 in two blocks, six of IPv6, of which two go with the first block.
    let mut node = Node::new(&Family::ALL, &[("10.0.0.0/30", 0), ("fd00::/125", 0), ("10.0.1.0/30", 1)]);
    assert_eq!(node.addresses("a"), "10.0.0.1,fd00::1");
    assert_eq!(node.addresses("b"), "10.0.0.2,fd00::2");
    assert_eq!(node.addresses("c"), "10.0.1.1,fd00::3", "no pair is left");
    node.stop("a");
    node.now += 1;
    // The pair is at rest; two others are not.
    assert_eq!(node.addresses("d"), "10.0.1.2,fd00::4");
    assert_eq!(node.addresses("e"), "10.0.0.1,fd00::1", "the pair, as soon as all else is at rest or gone");
    node.stop("c");
    node.stop("b");
    node.now += COOL_DOWN;
    assert_eq!(node.addresses("f"), "10.0.0.2,fd00::2", "the pair, though others were freed first");
}

#[test]
fn a_pair_is_never_torn_by_what_holds_half_of_it() {
    let mut node = Node::new(&[Family::V4], &[("10.0.0.0/29", 0), ("fd00::/125", 0)]);
    assert_eq!(node.addresses("a"), "10.0.0.1", "one family, although there is a block of the other");
    node.ipam.set_families(vec![Family::V4, Family::V6]);
    assert_eq!(node.addresses("b"), "10.0.0.2,fd00::2", "offset 1 is free in one family only");
    node.stop("a");
    node.now += COOL_DOWN;
    for name in ["c", "d", "e", "f"] {
        node.start(name);
    }
    assert_eq!(node.addresses("g"), "10.0.0.1,fd00::1", "used in one family, never in the other");
}

#[test]
fn blocks_are_used_in_their_order() {
    let given = [("10.0.9.0/30", 4), ("fd00:9::/126", 4), ("10.0.1.0/30", 2), ("fd00:1::/126", 2)];
    let mut node = Node::new(&Family::ALL, &given);
    let next: Vec<String> = ["a", "b", "c", "d"].map(|name| node.addresses(name)).to_vec();
    assert_eq!(next, ["10.0.9.1,fd00:9::1", "10.0.9.2,fd00:9::2", "10.0.1.1,fd00:1::1", "10.0.1.2,fd00:1::2"]);
}

#[test]
fn a_second_block_of_a_family_is_found_by_itself() {
    let mut node = Node::v4("10.0.0.0/30");
    node.start("a");
    node.start("b");
    node.ipam.set_blocks(blocks(&[("10.0.0.0/30", 0), ("10.0.8.0/29", 1)]));
    assert_eq!(node.addresses("c"), "10.0.8.1");
}

#[test]
fn a_family_that_is_added_serves_the_next_pod() {
    let mut node = Node::new(&Family::ALL, &[("10.0.0.0/24", 0)]);
    assert_eq!(node.addresses("a"), "10.0.0.1");
    node.ipam.set_blocks(blocks(&[("10.0.0.0/24", 0), ("fd00::/80", 0)]));
    assert_eq!(node.addresses("b"), "10.0.0.2,fd00::2");
    assert_eq!(node.ipam.families().collect::<Vec<_>>(), Family::ALL);
}

#[test]
fn a_pair_is_at_rest_for_the_whole_cool_down_and_no_longer() {
    let given = [("10.0.0.0/30", 0), ("fd00::/126", 0), ("10.0.1.0/30", 1), ("fd01::/126", 2)];
    for (waited, expected) in [(COOL_DOWN - 1, "10.0.1.1,fd01::1"), (COOL_DOWN, "10.0.0.1,fd00::1")] {
        let mut node = Node::new(&Family::ALL, &given);
        node.start("a");
        node.start("b");
        node.stop("a");
        node.now += waited;
        assert_eq!(node.addresses("c"), expected, "after {waited} ms");
    }
}
