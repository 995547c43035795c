//! Frames on the agent socket: reading a request with its descriptor, writing an answer, and telling whether the
//! plugin is still there.
//!
//! Works on the blocking socket that it is given; timeouts are the socket's.

use std::io::{self, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use overlane_api::socket::{self, MAX_FRAME, Request, Response};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

/// Why no request could be read.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The peer hung up before a whole frame had come; nothing was asked.
    #[error("the peer hung up after {got} bytes of a frame")]
    HungUp {
        /// Bytes that had come.
        got: usize,
    },
    /// The peer announced more than any call can need.
    #[error("a longer frame was announced than the {MAX_FRAME} bytes that are read at most")]
    TooLong,
    /// The socket failed or the peer was silent for too long.
    #[error("read a frame: {source}")]
    Io {
        /// What the kernel said.
        #[from]
        source: io::Error,
    },
    /// The peer is of a version that this build does not serve.
    #[error("a request of a protocol version that is not served")]
    Version(Box<Response>),
    /// The frame holds something else than a request.
    #[error("a frame of {length} bytes is no request: {source}")]
    Json {
        /// The frame's length.
        length: usize,
        /// What the parser said.
        source: serde_json::Error,
    },
}

/// A request and the namespace descriptor that came with it.
#[derive(Debug)]
pub struct Received {
    /// The request.
    pub request: Request,
    /// The first descriptor on the frame; any further ones are closed unseen.
    pub fd: Option<OwnedFd>,
}

/// Reads one request. A call of usual size costs one system call.
pub fn read_request(stream: &UnixStream) -> Result<Received, FrameError> {
    let mut buffer = vec![0_u8; 4096];
    let mut fd = None;
    let mut got = 0;
    while got < 4 {
        let n = receive(stream, &mut buffer[got..], &mut fd)?;
        if n == 0 {
            return Err(FrameError::HungUp { got });
        }
        got += n;
    }
    let head = [buffer[0], buffer[1], buffer[2], buffer[3]];
    let end = 4 + socket::frame_length(head).map_err(|_| FrameError::TooLong)?;
    if buffer.len() < end {
        buffer.resize(end, 0);
    }
    while got < end {
        let n = (&*stream).read(&mut buffer[got..end])?;
        if n == 0 {
            return Err(FrameError::HungUp { got });
        }
        got += n;
    }
    Ok(Received { request: parse(&buffer[4..end])?, fd })
}

/// The version is looked at first: what else another version says need not be understood.
fn parse(json: &[u8]) -> Result<Request, FrameError> {
    #[derive(serde::Deserialize)]
    struct Head {
        protocol: u32,
    }
    let fail = |source| FrameError::Json { length: json.len(), source };
    let Head { protocol: spoken } = serde_json::from_slice(json).map_err(fail)?;
    if let Some(refusal) = Response::refusal(spoken) {
        return Err(FrameError::Version(Box::new(refusal)));
    }
    serde_json::from_slice(json).map_err(fail)
}

fn receive(stream: &UnixStream, buffer: &mut [u8], fd: &mut Option<OwnedFd>) -> io::Result<usize> {
    // Room for a few: what comes beyond the first is closed by its owner going out of scope.
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = loop {
        match recvmsg(stream, &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            result => break result?,
        }
    };
    for item in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = item {
            for received in fds {
                fd.get_or_insert(received);
            }
        }
    }
    Ok(message.bytes)
}

/// Writes the answer in one go.
pub fn write_response(stream: &UnixStream, response: &Response) -> io::Result<()> {
    let frame = socket::frame(response).map_err(io::Error::other)?;
    (&*stream).write_all(&frame)
}

/// Whether the plugin has closed its end or died.
pub fn peer_gone(stream: &UnixStream) -> bool {
    let mut fds = [PollFd::new(stream, PollFlags::RDHUP)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    match poll(&mut fds, Some(&now)) {
        Ok(_) => fds[0].revents().intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR),
        Err(_) => false,
    }
}

/// What became of an answer that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The plugin read it and closed.
    Read,
    /// The plugin died with the answer unread: the kernel resets a stream whose end goes with bytes in its queue
    /// (`unix_release_sock` in net/unix/af_unix.c).
    Unread,
    /// The plugin still had its end open when the time was up.
    Unknown,
}

/// Waits until the plugin has closed its end, at most `patience`.
pub fn delivery(stream: &UnixStream, patience: Duration) -> Delivery {
    if stream.set_read_timeout(Some(patience.max(Duration::from_millis(1)))).is_err() {
        return Delivery::Unknown;
    }
    let mut rest = [0_u8; 16];
    loop {
        match (&*stream).read(&mut rest) {
            Ok(0) => return Delivery::Read,
            // One call a connection: whatever else comes is not listened to.
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Delivery::Unread,
            Err(_) => return Delivery::Unknown,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
mod tests {
    //! Must catch: a descriptor that is lost when the frame comes in pieces; a hang-up taken for a request; an answer
    //! that nobody read taken for delivered.

    use super::*;
    use overlane_api::socket::{Call, Outcome, PROTOCOL};
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    use std::io::IoSlice;
    use std::os::fd::AsFd as _;

    fn frame(request: &Request) -> Vec<u8> {
        socket::frame(request).unwrap()
    }

    fn status() -> Request {
        Request { protocol: PROTOCOL, plugin_version: "t".into(), call: Call::Status }
    }

    fn send_with_fds(stream: &UnixStream, bytes: &[u8], count: usize) {
        let file = std::fs::File::open("/proc/self/ns/net").unwrap();
        let fds = vec![file.as_fd(); count];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        sendmsg(stream, &[IoSlice::new(bytes)], &mut control, SendFlags::empty()).unwrap();
    }

    #[test]
    fn whole_and_in_single_bytes() {
        for count in [1, 3] {
            let (a, b) = UnixStream::pair().unwrap();
            send_with_fds(&a, &frame(&status()), count);
            let received = read_request(&b).unwrap();
            assert_eq!(received.request, status());
            assert!(received.fd.is_some());
        }
        let (a, b) = UnixStream::pair().unwrap();
        let bytes = frame(&status());
        let sender = std::thread::spawn(move || {
            send_with_fds(&a, &bytes[..1], 1);
            for byte in &bytes[1..] {
                (&a).write_all(&[*byte]).unwrap();
            }
            a
        });
        let received = read_request(&b).unwrap();
        assert!(received.fd.is_some());
        drop(sender.join().unwrap());
    }

    #[test]
    fn every_cut_is_a_hang_up() {
        let bytes = frame(&status());
        for cut in 0..bytes.len() {
            let (a, b) = UnixStream::pair().unwrap();
            (&a).write_all(&bytes[..cut]).unwrap();
            drop(a);
            assert!(matches!(read_request(&b), Err(FrameError::HungUp { got }) if got == cut), "cut at {cut}");
        }
    }

    #[test]
    fn too_long_and_nonsense() {
        let (a, b) = UnixStream::pair().unwrap();
        (&a).write_all(&(MAX_FRAME + 1).to_be_bytes()).unwrap();
        assert!(matches!(read_request(&b), Err(FrameError::TooLong)));
        let (a, b) = UnixStream::pair().unwrap();
        (&a).write_all(b"\0\0\0\x02{]").unwrap();
        assert!(matches!(read_request(&b), Err(FrameError::Json { .. })));
        let (a, b) = UnixStream::pair().unwrap();
        let future = br#"{"protocol":99,"call":{"verb":"DANCE"}}"#;
        (&a).write_all(&[0, 0, 0, future.len().try_into().unwrap()]).unwrap();
        (&a).write_all(future).unwrap();
        assert!(matches!(read_request(&b), Err(FrameError::Version(_))));
    }

    proptest::proptest! {
        #[test]
        fn garbage_is_an_error_never_a_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let (a, b) = UnixStream::pair().unwrap();
            (&a).write_all(&bytes).unwrap();
            drop(a);
            proptest::prop_assert!(read_request(&b).is_err());
        }
    }

    #[test]
    fn delivery_is_told_from_loss() {
        let answer = Response { protocol: PROTOCOL, outcome: Outcome::Done };
        let (a, b) = UnixStream::pair().unwrap();
        assert!(!peer_gone(&b));
        write_response(&b, &answer).unwrap();
        let mut length = [0; 4];
        (&a).read_exact(&mut length).unwrap();
        let mut body = vec![0; u32::from_be_bytes(length) as usize];
        (&a).read_exact(&mut body).unwrap();
        assert_eq!(serde_json::from_slice::<Response>(&body).unwrap(), answer);
        assert_eq!(delivery(&b, Duration::from_millis(10)), Delivery::Unknown);
        drop(a);
        assert!(peer_gone(&b));
        assert_eq!(delivery(&b, Duration::from_secs(1)), Delivery::Read);

        let (a, b) = UnixStream::pair().unwrap();
        write_response(&b, &answer).unwrap();
        drop(a);
        assert_eq!(delivery(&b, Duration::from_secs(1)), Delivery::Unread);
    }
}
