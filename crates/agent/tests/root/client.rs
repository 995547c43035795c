//! A plugin in a few lines: sends a call with a namespace's descriptor, reads the answer.

use std::fs::File;
use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use overlane_api::socket::{
    AddCall, Attachment, Call, CheckCall, DelCall, Endpoint, Failure, GcCall, Outcome, PROTOCOL, PodRef, Request,
    Response, frame,
};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

pub const NETWORK: &str = "overlane";

pub fn now_ns() -> u64 {
    overlane_agent::clock::boot_ns()
}

pub fn attachment(id: &str) -> Attachment {
    Attachment { container_id: id.to_owned(), ifname: "eth0".to_owned() }
}

/// An open call: the request is sent, the answer not yet read.
pub struct Pending(pub UnixStream);

impl Pending {
    pub fn answer(self) -> Outcome {
        self.try_answer().unwrap()
    }

    /// An error if the agent hung up.
    pub fn try_answer(mut self) -> std::io::Result<Outcome> {
        let mut head = [0; 4];
        self.0.read_exact(&mut head)?;
        let mut body = vec![0; u32::from_be_bytes(head) as usize];
        self.0.read_exact(&mut body)?;
        let response: Response = serde_json::from_slice(&body).unwrap();
        assert_eq!(response.protocol, PROTOCOL);
        Ok(response.outcome)
    }
}

#[derive(Clone)]
pub struct Client {
    pub socket: PathBuf,
}

impl Client {
    pub fn send(&self, request: &Request, netns: Option<&Path>) -> Pending {
        let stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let bytes = frame(request).unwrap();
        let file = netns.map(|path| File::open(path).unwrap());
        let fds: Vec<_> = file.iter().map(|file| file.as_fd()).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        }
        let sent = sendmsg(&stream, &[IoSlice::new(&bytes)], &mut control, SendFlags::empty()).unwrap();
        assert_eq!(sent, bytes.len());
        Pending(stream)
    }

    pub fn call(&self, call: Call, netns: Option<&Path>) -> Outcome {
        self.send(&Request { protocol: PROTOCOL, plugin_version: "test".into(), call }, netns).answer()
    }

    pub fn begin_add(&self, id: &str, netns: &Path, began_ns: u64, patience: Duration) -> Pending {
        let call = Call::Add(AddCall {
            ports: Vec::new(),
            bandwidth: None,
            attachment: attachment(id),
            network: NETWORK.into(),
            netns_path: netns.display().to_string(),
            began_ns,
            deadline_ns: began_ns + u64::try_from(patience.as_nanos()).unwrap(),
            pod: Some(PodRef { namespace: "default".into(), name: format!("pod-{id}"), uid: "u".into() }),
        });
        self.send(&Request { protocol: PROTOCOL, plugin_version: "test".into(), call }, Some(netns))
    }

    pub fn try_add(&self, id: &str, netns: &Path) -> Result<Endpoint, Failure> {
        match self.begin_add(id, netns, now_ns(), Duration::from_secs(10)).answer() {
            Outcome::Added(endpoint) => Ok(endpoint),
            Outcome::Failed(failure) => Err(failure),
            Outcome::Done | Outcome::Leased(_) => panic!("ADD answered like another verb"),
        }
    }

    pub fn add(&self, id: &str, netns: &Path) -> Endpoint {
        self.try_add(id, netns).unwrap()
    }

    pub fn del(&self, id: &str) {
        self.del_at(id, now_ns());
    }

    pub fn del_at(&self, id: &str, began_ns: u64) {
        let call = DelCall { attachment: attachment(id), network: NETWORK.into(), began_ns };
        done(self.call(Call::Del(call), None)).unwrap();
    }

    pub fn check(&self, id: &str, netns: &Path, expected: &[std::net::IpAddr]) -> Result<(), Failure> {
        let call = CheckCall {
            attachment: attachment(id),
            network: NETWORK.into(),
            netns_path: netns.display().to_string(),
            expected: expected.to_vec(),
        };
        done(self.call(Call::Check(call), Some(netns)))
    }

    pub fn gc(&self, valid: &[&str]) {
        let valid = valid.iter().map(|id| attachment(id)).collect();
        done(self.call(Call::Gc(GcCall { network: NETWORK.into(), valid, began_ns: now_ns() }), None)).unwrap();
    }

    pub fn status(&self) -> Result<(), Failure> {
        done(self.call(Call::Status, None))
    }

    /// `None` where the agent went away meanwhile, or says no.
    pub fn status_of_living(&self) -> Option<()> {
        let mut stream = UnixStream::connect(&self.socket).ok()?;
        let request = Request { protocol: PROTOCOL, plugin_version: "test".into(), call: Call::Status };
        stream.write_all(&frame(&request).unwrap()).ok()?;
        done(Pending(stream).try_answer().ok()?).ok()
    }
}

pub fn done(outcome: Outcome) -> Result<(), Failure> {
    match outcome {
        Outcome::Done => Ok(()),
        Outcome::Failed(failure) => Err(failure),
        Outcome::Added(_) | Outcome::Leased(_) => panic!("answered like ADD"),
    }
}
