//! Elements of sets over nf_tables netlink: one transaction for many changes, no program started.
//!
//! An element that is there already is no error when it is added (no `NLM_F_EXCL`), nor one that is absent when it is
//! removed (`NFT_MSG_DESTROYSETELEM`, Linux 6.3; before that the absent ones are looked up and left out). So the
//! kernel never has to take a transaction back, which would cost a grace period.

use std::collections::{BTreeMap, BTreeSet};

use nix::errno::Errno;
use nix::libc;

use crate::netlink::{Message, NetlinkError, Request, Socket, attrs, find, text, u32_of};
use crate::owned::NFT_TABLE;
use crate::render::element::{Data, Key, RawElement, Set};
use crate::render::policy::Way;

const SUBSYSTEM: u16 = 10 << 8;
const GETTABLE: u16 = SUBSYSTEM | 1;
const NEWSETELEM: u16 = SUBSYSTEM | 12;
const GETSETELEM: u16 = SUBSYSTEM | 13;
const DELSETELEM: u16 = SUBSYSTEM | 14;
const GETGEN: u16 = SUBSYSTEM | 16;
const GETOBJ: u16 = SUBSYSTEM | 19;
const DESTROYSETELEM: u16 = SUBSYSTEM | 30;
const LIST_TABLE: u16 = 1;
const LIST_SET: u16 = 2;
const LIST_ELEMENTS: u16 = 3;
const LIST_ELEM: u16 = 1;
const ELEM_KEY: u16 = 1;
const ELEM_DATA: u16 = 2;
const ELEM_FLAGS: u16 = 3;
const ELEM_EXPR: u16 = 7;
const EXPR_DATA: u16 = 2;
const ELEM_KEY_END: u16 = 10;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;
const FLAG_INTERVAL_END: u32 = 1;
const OBJ_TABLE: u16 = 1;
const OBJ_NAME: u16 = 2;
const OBJ_TYPE: u16 = 3;
const OBJ_DATA: u16 = 4;
const OBJECT_COUNTER: u32 = 1;
const GEN_ID: u16 = 1;
const TABLE_NAME: u16 = 1;
const COUNTER_BYTES: u16 = 1;
const COUNTER_PACKETS: u16 = 2;
const HEADER: [u8; 4] = [libc::NFPROTO_INET as u8, 0, 0, 0];
/// An element is at most 64 bytes with its attributes' headers, and a list at most 64 KiB.
const PER_MESSAGE: usize = 500;
/// Elements in one transaction; more are changed in several.
const PER_TRANSACTION: usize = 20_000;

/// The socket to nf_tables, in the namespace of the thread that made it.
#[derive(Debug)]
pub(super) struct Members {
    socket: Socket,
    has_destroy: bool,
}

impl Members {
    pub(super) fn open() -> Result<Self, NetlinkError> {
        Ok(Self { socket: Socket::netfilter()?, has_destroy: true })
    }

    /// Removes and adds; each transaction is done whole or not at all.
    pub(super) fn change(&mut self, remove: &[RawElement], add: &[RawElement]) -> Result<(), NetlinkError> {
        // In one transaction if they fit: a range may take the place of others.
        if remove.len() + add.len() <= PER_TRANSACTION {
            return self.transaction(remove, add);
        }
        for part in remove.chunks(PER_TRANSACTION) {
            self.transaction(part, &[])?;
        }
        add.chunks(PER_TRANSACTION).try_for_each(|part| self.transaction(&[], part))
    }

    /// The same in one transaction, however much it is.
    pub(super) fn change_at_once(&mut self, remove: &[RawElement], add: &[RawElement]) -> Result<(), NetlinkError> {
        self.transaction(remove, add)
    }

    fn transaction(&mut self, remove: &[RawElement], add: &[RawElement]) -> Result<(), NetlinkError> {
        if remove.is_empty() && add.is_empty() {
            return Ok(());
        }
        if self.has_destroy {
            match self.send(DESTROYSETELEM, remove, add) {
                Err(error) if !remove.is_empty() && error.errno() == Some(Errno::EINVAL) => self.has_destroy = false,
                other => return other,
            }
        }
        let mut present = BTreeSet::new();
        for set in remove.iter().map(|e| e.set).collect::<BTreeSet<_>>() {
            present.extend(self.list(set)?);
        }
        let remove: Vec<_> = remove.iter().filter(|e| present.contains(*e)).copied().collect();
        self.send(DELSETELEM, &remove, add)
    }

    fn send(&mut self, removal: u16, remove: &[RawElement], add: &[RawElement]) -> Result<(), NetlinkError> {
        let mut requests = Vec::new();
        put(&mut requests, removal, 0, "remove elements", remove);
        put(&mut requests, NEWSETELEM, libc::NLM_F_CREATE, "add elements", add);
        self.socket.transaction(10, requests)
    }

    /// All elements of a set.
    pub(super) fn list(&mut self, set: Set) -> Result<BTreeSet<RawElement>, NetlinkError> {
        self.list_as(set, |element| read(set, element))
    }

    /// All elements of a set whose elements count, with how many packets each met.
    pub(super) fn counted(&mut self, set: Set) -> Result<BTreeMap<RawElement, u64>, NetlinkError> {
        self.list_as(set, |element| Some((read(set, element)?, packets(element)?)))
    }

    fn list_as<T, C: Default + Extend<T>>(
        &mut self,
        set: Set,
        read: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<C, NetlinkError> {
        let request = Request::new(GETSETELEM, 0, format!("list elements of set {set}"))
            .body(&HEADER)
            .text(LIST_TABLE, NFT_TABLE)
            .text(LIST_SET, &set.to_string());
        let mut elements = C::default();
        for message in self.socket.dump(request)? {
            let list = find(message.after(HEADER.len()), LIST_ELEMENTS).unwrap_or(&[]);
            elements.extend(attrs(list).filter_map(|(_, element)| read(element)));
        }
        Ok(elements)
    }

    pub(super) fn table_is_there(&mut self) -> Result<bool, NetlinkError> {
        let request = Request::new(GETTABLE, 0, "look up the table").body(&HEADER).text(TABLE_NAME, NFT_TABLE);
        match self.socket.request(request) {
            Ok(_) => Ok(true),
            Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The ruleset's generation: how many transactions, anybody's, this namespace has seen.
    pub(super) fn generation(&mut self) -> Result<u32, NetlinkError> {
        let answers = self.socket.request(Request::new(GETGEN, 0, "ask for the ruleset's generation").body(&HEADER))?;
        let id = |message: &Message| find(message.after(HEADER.len()), GEN_ID).and_then(u32_of).map(u32::from_be);
        answers.iter().find_map(id).ok_or(NetlinkError::Malformed { what: "ask for the ruleset's generation".into() })
    }

    /// Packets and bytes of the table's counters.
    pub(super) fn counters(&mut self) -> Result<BTreeMap<String, (u64, u64)>, NetlinkError> {
        let request = Request::new(GETOBJ, 0, "list counters")
            .body(&HEADER)
            .text(OBJ_TABLE, NFT_TABLE)
            .be32(OBJ_TYPE, OBJECT_COUNTER);
        Ok(self.socket.dump(request)?.iter().filter_map(counter).collect())
    }
}

/// Elements of one set, next to each other, go into one message.
fn put(requests: &mut Vec<Request>, kind: u16, flags: i32, what: &str, elements: &[RawElement]) {
    for of_one_set in elements.chunk_by(|a, b| a.set == b.set) {
        for part in of_one_set.chunks(PER_MESSAGE) {
            let set = part[0].set.to_string();
            let request = Request::new(kind, flags, format!("{what} of set {set}"))
                .body(&HEADER)
                .text(LIST_TABLE, NFT_TABLE)
                .text(LIST_SET, &set);
            requests.push(request.nest(LIST_ELEMENTS, |r| part.iter().fold(r, put_one)));
        }
    }
}

fn put_one(request: Request, element: &RawElement) -> Request {
    request.nest(LIST_ELEM, |r| {
        let mut r = r.nest(ELEM_KEY, |r| r.attr(DATA_VALUE, element.key.bytes()));
        if !element.end.bytes().is_empty() {
            r = r.nest(ELEM_KEY_END, |r| r.attr(DATA_VALUE, element.end.bytes()));
        }
        r = match &element.data {
            Data::Value(value) if value.bytes().is_empty() => r,
            Data::Value(value) => r.nest(ELEM_DATA, |r| r.attr(DATA_VALUE, value.bytes())),
            Data::Verdict(way) => r.nest(ELEM_DATA, |r| r.nest(DATA_VERDICT, |r| put_verdict(r, *way))),
        };
        if element.start { r } else { r.be32(ELEM_FLAGS, FLAG_INTERVAL_END) }
    })
}

fn packets(element: &[u8]) -> Option<u64> {
    let data = find(find(element, ELEM_EXPR)?, EXPR_DATA)?;
    find(data, COUNTER_PACKETS)?.try_into().ok().map(u64::from_be_bytes)
}

fn put_verdict(request: Request, way: Way) -> Request {
    match way.chain() {
        Some(chain) => request.be32(VERDICT_CODE, libc::NFT_GOTO.cast_unsigned()).text(VERDICT_CHAIN, &chain),
        None => request.be32(VERDICT_CODE, libc::NFT_RETURN.cast_unsigned()),
    }
}

fn read_verdict(verdict: &[u8]) -> Way {
    let code = find(verdict, VERDICT_CODE).and_then(u32_of).map(|code| u32::from_be(code).cast_signed());
    match code {
        Some(libc::NFT_RETURN) => Way::Return,
        Some(libc::NFT_GOTO) => find(verdict, VERDICT_CHAIN).map_or(Way::Strange, |chain| Way::to(&text(chain))),
        _ => Way::Strange,
    }
}

fn read_data(data: &[u8]) -> Option<Data> {
    match find(data, DATA_VERDICT) {
        Some(verdict) => Some(Data::Verdict(read_verdict(verdict))),
        None => find(data, DATA_VALUE).map_or(Some(Data::NONE), |value| Key::read(value).map(Data::Value)),
    }
}

fn read(set: Set, element: &[u8]) -> Option<RawElement> {
    let key = find(find(element, ELEM_KEY)?, DATA_VALUE)?;
    let flags = find(element, ELEM_FLAGS).and_then(u32_of).map_or(0, u32::from_be);
    let start = flags & FLAG_INTERVAL_END == 0;
    // nft marks the gap before the first range with an end at zero; it means nothing to the kernel.
    let gap = !start && key.iter().all(|byte| *byte == 0);
    if gap {
        return None;
    }
    let end = find(element, ELEM_KEY_END).and_then(|end| find(end, DATA_VALUE)).map_or(Some(Key::EMPTY), Key::read)?;
    let data = find(element, ELEM_DATA).map_or(Some(Data::NONE), read_data)?;
    Some(RawElement { set, key: Key::read(key)?, start, end, data })
}

fn counter(message: &Message) -> Option<(String, (u64, u64))> {
    let attributes = message.after(HEADER.len());
    let data = find(attributes, OBJ_DATA)?;
    let number = |kind| find(data, kind)?.try_into().ok().map(u64::from_be_bytes);
    Some((text(find(attributes, OBJ_NAME)?), (number(COUNTER_PACKETS)?, number(COUNTER_BYTES)?)))
}
