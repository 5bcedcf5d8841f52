//! Frames with descriptors on a `SOCK_SEQPACKET` socket.

use std::{
    ffi::OsString,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
    accept_with, bind, connect, listen, recvmsg, sendmsg, socket_with,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{io::unix::AsyncFd, net::UnixListener};

use crate::{
    frame::{DESCRIPTOR_LIMIT, FRAME_LIMIT, VERSION},
    peer::{Peer, PeerRule},
};

/// Why a conversation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChannelError {
    /// The socket could not be made, bound or dialled.
    #[error("cannot open the socket {}", path.display())]
    Open {
        /// The socket's path.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The socket failed while in use.
    #[error("the connection failed")]
    Connection(#[source] io::Error),
    /// The peer is not the one that the rule names.
    #[error("the process {} with uid {} is not allowed on this socket", peer.pid, peer.uid)]
    Stranger {
        /// The peer that was met.
        peer: Peer,
    },
    /// A frame is larger than [`FRAME_LIMIT`] or carries more than [`DESCRIPTOR_LIMIT`] descriptors.
    #[error("a frame is over the limit of {FRAME_LIMIT} bytes and {DESCRIPTOR_LIMIT} descriptors")]
    TooLarge,
    /// A frame is not the JSON that was expected.
    #[error("a frame is not understood")]
    Malformed(#[source] serde_json::Error),
    /// The same, and the peer is of another version.
    #[error("a frame of version {theirs} is not understood; this process speaks version {VERSION}")]
    Version {
        /// What the frame says.
        theirs: u32,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The peer closed the connection where an answer was due.
    #[error("the peer closed the connection before it answered")]
    Closed,
}

fn seqpacket(path: &Path) -> io::Result<(OwnedFd, SocketAddrUnix)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    Ok((socket, SocketAddrUnix::new(path)?))
}

#[expect(unsafe_code, reason = "tokio offers no safe way to wait for a descriptor")]
fn register(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` names one open descriptor until it is dropped, and the `AsyncFd` owns it.
    unsafe { AsyncFd::register(socket) }.map_err(io::Error::from)
}

/// Removes the socket that a dead predecessor left at `path`, if there is one.
fn make_way(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// The name that a socket of ours has in a folder.
#[derive(Debug)]
pub struct SocketName {
    path: PathBuf,
    inode: (u64, u64),
}

impl SocketName {
    /// Takes the name away, if it is still this socket's: a successor may have it by now.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn give_up(self) -> io::Result<()> {
        match inode(&self.path) {
            Ok(inode) if inode == self.inode => std::fs::remove_file(&self.path),
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

fn inode(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Listens at `path` for streams of this process's own user, as gRPC takes them. It has the name
/// only once it listens, instead of what a dead predecessor left there: whoever sees the name can
/// dial. Before that its name has a dot, which the kubelet does not look at.
///
/// # Errors
/// What the kernel says.
pub fn listen_alone(path: &Path) -> io::Result<(UnixListener, SocketName)> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut hidden = OsString::from(".");
    hidden.push(name);
    let hidden = path.with_file_name(hidden);
    make_way(&hidden)?;
    let listener = UnixListener::bind(&hidden)?;
    rustix::fs::chmod(&hidden, rustix::fs::Mode::from_raw_mode(0o600))?;
    let inode = inode(&hidden)?;
    std::fs::rename(&hidden, path)?;
    Ok((listener, SocketName { path: path.to_owned(), inode }))
}

/// A listening socket.
#[derive(Debug)]
pub struct Listener {
    socket: AsyncFd<OwnedFd>,
}

impl Listener {
    /// Listens at `path`, replacing a socket that a dead predecessor left there.
    ///
    /// # Errors
    /// [`ChannelError::Open`].
    pub fn bind(path: &Path) -> Result<Self, ChannelError> {
        let open = |source| ChannelError::Open { path: path.to_owned(), source };
        let bound = || {
            make_way(path)?;
            let (socket, address) = seqpacket(path)?;
            bind(&socket, &address)?;
            // mode 0660 from the first moment would need a umask, which is the process's; the folder's 0710 guards the gap
            rustix::fs::chmod(path, rustix::fs::Mode::from_raw_mode(0o660))?;
            listen(&socket, 128)?;
            register(socket)
        };
        Ok(Self { socket: bound().map_err(open)? })
    }

    /// The next connection and who dialled it. Whether the peer may talk is the caller's to decide
    /// (by [`PeerRule::admits`]), since it may serve several.
    ///
    /// # Errors
    /// [`ChannelError::Connection`]; the listener can be used on.
    pub async fn accept(&self) -> Result<(Connection, Peer), ChannelError> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let accepted = loop {
            let mut ready = self.socket.readable().await.map_err(ChannelError::Connection)?;
            let attempt =
                ready.try_io(|socket| accept_with(socket, flags).map_err(io::Error::from));
            if let Ok(result) = attempt {
                break result.map_err(ChannelError::Connection)?;
            }
        };
        let peer = Peer::of(&accepted).map_err(ChannelError::Connection)?;
        Ok((Connection::new(accepted)?, peer))
    }
}

/// One end of a conversation.
#[derive(Debug)]
pub struct Connection {
    socket: AsyncFd<OwnedFd>,
}

impl Connection {
    fn new(socket: OwnedFd) -> Result<Self, ChannelError> {
        let socket = register(socket).map_err(ChannelError::Connection)?;
        Ok(Self { socket })
    }

    /// Dials `path` and makes sure that the process listening there is the expected one.
    ///
    /// # Errors
    /// [`ChannelError::Open`], [`ChannelError::Stranger`].
    pub async fn dial(path: &Path, expected: &PeerRule) -> Result<Self, ChannelError> {
        let open = |source| ChannelError::Open { path: path.to_owned(), source };
        let (socket, address) = seqpacket(path).map_err(open)?;
        // EAGAIN is a full backlog of the listener, which a Unix socket does not report by readiness
        loop {
            match connect(&socket, &address) {
                Ok(()) => break,
                Err(rustix::io::Errno::AGAIN) => {
                    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                }
                Err(e) => return Err(open(e.into())),
            }
        }
        let peer = Peer::of(&socket).map_err(ChannelError::Connection)?;
        if !expected.admits(peer) {
            return Err(ChannelError::Stranger { peer });
        }
        Self::new(socket)
    }

    /// Who is at the other end.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn peer(&self) -> io::Result<Peer> {
        Peer::of(self.socket.get_ref())
    }

    /// Two connected ends in one process.
    ///
    /// # Errors
    /// [`ChannelError::Connection`].
    pub fn pair() -> Result<(Self, Self), ChannelError> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (a, b) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
                .map_err(|e| ChannelError::Connection(e.into()))?;
        Ok((Self::new(a)?, Self::new(b)?))
    }

    /// Sends one frame with its descriptors; they stay open here.
    ///
    /// # Errors
    /// [`ChannelError::TooLarge`] before anything is sent, [`ChannelError::Connection`].
    pub async fn send<T: Serialize>(
        &self,
        message: &T,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), ChannelError> {
        let sent = Envelope { v: VERSION, body: message };
        let bytes = serde_json::to_vec(&sent).map_err(ChannelError::Malformed)?;
        if bytes.len() > FRAME_LIMIT || descriptors.len() > DESCRIPTOR_LIMIT {
            return Err(ChannelError::TooLarge);
        }
        self.socket
            .async_io(tokio::io::Interest::WRITABLE, |socket| {
                let mut space =
                    [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTOR_LIMIT))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                if !descriptors.is_empty()
                    && !control.push(SendAncillaryMessage::ScmRights(descriptors))
                {
                    return Err(io::Error::other("no room for the descriptors"));
                }
                let frame = [IoSlice::new(&bytes)];
                sendmsg(socket, &frame, &mut control, SendFlags::NOSIGNAL)?;
                Ok(())
            })
            .await
            .map_err(ChannelError::Connection)
    }

    /// Receives one frame with its descriptors; `None` when the peer has closed.
    ///
    /// # Errors
    /// [`ChannelError::TooLarge`], [`ChannelError::Malformed`], [`ChannelError::Connection`]. Descriptors of a refused frame are closed.
    pub async fn receive<T: DeserializeOwned>(
        &self,
    ) -> Result<Option<(T, Vec<OwnedFd>)>, ChannelError> {
        let (bytes, descriptors, truncated) = self
            .socket
            .async_io(tokio::io::Interest::READABLE, |socket| receive_once(socket.as_fd()))
            .await
            .map_err(ChannelError::Connection)?;
        if truncated {
            return Err(ChannelError::TooLarge);
        }
        // no message of ours is empty, so zero bytes are the end of the conversation
        if bytes.is_empty() {
            return Ok(None);
        }
        Ok(Some((opened(&bytes)?, descriptors)))
    }

    /// Sends a request and receives its answer.
    ///
    /// # Errors
    /// As [`Self::send`] and [`Self::receive`], and [`ChannelError::Closed`].
    pub async fn call<Q: Serialize, A: DeserializeOwned>(
        &self,
        request: &Q,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(A, Vec<OwnedFd>), ChannelError> {
        self.send(request, descriptors).await?;
        self.receive().await?.ok_or(ChannelError::Closed)
    }

    /// Says that no more frames come: a peer that only answers then closes its end.
    ///
    /// # Errors
    /// [`ChannelError::Connection`].
    pub fn finish(&self) -> Result<(), ChannelError> {
        rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Write)
            .map_err(|e| ChannelError::Connection(e.into()))
    }

    /// Waits until the peer has closed its end, without taking a frame.
    pub async fn closed(&self) {
        loop {
            let interest = tokio::io::Interest::READABLE | tokio::io::Interest::ERROR;
            let Ok(mut ready) = self.socket.ready(interest).await else {
                return;
            };
            if ready.ready().is_read_closed() || ready.ready().is_error() {
                return;
            }
            ready.clear_ready();
        }
    }
}

/// What every frame is.
#[derive(Serialize, Deserialize)]
struct Envelope<T> {
    v: u32,
    body: T,
}

/// What every version has.
#[derive(Deserialize)]
struct Marked {
    v: u32,
}

fn opened<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ChannelError> {
    serde_json::from_slice(bytes).map(|envelope: Envelope<T>| envelope.body).map_err(|source| {
        match serde_json::from_slice(bytes) {
            Ok(Marked { v: theirs }) if theirs != VERSION => {
                ChannelError::Version { theirs, source }
            }
            _ => ChannelError::Malformed(source),
        }
    })
}

fn receive_once(socket: BorrowedFd<'_>) -> io::Result<(Vec<u8>, Vec<OwnedFd>, bool)> {
    let mut bytes = vec![0; FRAME_LIMIT];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTOR_LIMIT))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut frame = [IoSliceMut::new(&mut bytes)];
    let received = recvmsg(socket, &mut frame, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    let truncated = received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC);
    bytes.truncate(received.bytes);
    Ok((bytes, descriptors, truncated))
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{Read, Seek, Write},
    };

    use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};

    use super::*;
    use crate::frame::{AgentReply, AgentRequest};

    #[tokio::test]
    async fn a_frame_arrives_with_its_descriptors() {
        let (a, b) = Connection::pair().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"hello").unwrap();
        file.rewind().unwrap();
        a.send(&AgentRequest::Duty, &[file.as_fd()]).await.unwrap();
        let (message, mut descriptors) = b.receive::<AgentRequest>().await.unwrap().unwrap();
        assert_eq!(message, AgentRequest::Duty);
        let mut text = String::new();
        File::from(descriptors.remove(0)).read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
    }

    #[tokio::test]
    async fn the_end_of_a_conversation_is_told_from_an_error() {
        let (a, b) = Connection::pair().unwrap();
        a.finish().unwrap();
        assert!(b.receive::<AgentReply>().await.unwrap().is_none());
        b.send(&AgentReply::Done, &[]).await.unwrap();
        assert!(a.receive::<AgentReply>().await.unwrap().is_some(), "the other direction stays");
        drop(a);
        assert!(b.receive::<AgentReply>().await.unwrap().is_none());
        let (a, b) = Connection::pair().unwrap();
        a.send(&"not a reply", &[]).await.unwrap();
        assert!(matches!(b.receive::<AgentReply>().await, Err(ChannelError::Malformed(_))));
    }

    #[test]
    fn what_a_newer_peer_adds_is_passed_over_and_what_it_asks_anew_names_both_versions() {
        let newer = br#"{"v":99,"body":{"detach":{"volume":"v","why":"x"}},"trace":"y"}"#;
        let volume = "v".parse().unwrap();
        assert_eq!(opened::<AgentRequest>(newer).unwrap(), AgentRequest::Detach { volume });
        let unknown = br#"{"v":99,"body":{"dance":{}}}"#;
        let refused = opened::<AgentRequest>(unknown).unwrap_err();
        assert!(matches!(refused, ChannelError::Version { theirs: 99, .. }), "{refused:?}");
        let said = refused.to_string();
        assert!(said.contains("99") && said.contains(&VERSION.to_string()), "{said}");
        let ours = format!(r#"{{"v":{VERSION},"body":7}}"#);
        let refused = opened::<AgentRequest>(ours.as_bytes()).unwrap_err();
        assert!(matches!(refused, ChannelError::Malformed(_)));
    }

    #[tokio::test]
    async fn a_frame_over_the_limit_is_refused_at_both_ends() {
        let (a, b) = Connection::pair().unwrap();
        let long = "x".repeat(FRAME_LIMIT);
        assert!(matches!(a.send(&long, &[]).await, Err(ChannelError::TooLarge)));
        let raw = vec![b'x'; FRAME_LIMIT + 1];
        rustix::net::send(a.socket.get_ref(), &raw, SendFlags::empty()).unwrap();
        assert!(matches!(b.receive::<String>().await, Err(ChannelError::TooLarge)));
    }

    #[tokio::test]
    async fn a_stranger_at_the_listening_end_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let _listener = Listener::bind(&path).unwrap();
        let own = rustix::process::geteuid().as_raw();
        assert!(Connection::dial(&path, &PeerRule::Uid(own)).await.is_ok());
        assert!(matches!(
            Connection::dial(&path, &PeerRule::Uid(own + 1)).await,
            Err(ChannelError::Stranger { .. })
        ));
    }

    #[tokio::test]
    async fn a_socket_has_its_name_only_while_it_listens_and_takes_no_other_ones_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node@csi-reg.sock");
        // what was killed in between, and what was killed later
        drop(std::os::unix::net::UnixListener::bind(dir.path().join(".node@csi-reg.sock")));
        drop(std::os::unix::net::UnixListener::bind(&path));
        let mut seen = inotify_of(dir.path());
        let (_first, first_name) = listen_alone(&path).unwrap();
        std::os::unix::net::UnixStream::connect(&path).unwrap();
        let names = seen();
        assert!(names.iter().all(|(_, name)| name.starts_with('.') || name == "node@csi-reg.sock"));
        let shown: Vec<_> = names.iter().filter(|(_, name)| !name.starts_with('.')).collect();
        assert_eq!(shown.len(), 1, "{names:?}");
        assert!(shown[0].0.contains(ReadFlags::MOVED_TO), "{names:?}");

        let (_second, second_name) = listen_alone(&path).unwrap();
        first_name.give_up().unwrap();
        std::os::unix::net::UnixStream::connect(&path).expect("it is the second one's by now");
        second_name.give_up().unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    /// What happens to names in a folder from now on.
    fn inotify_of(folder: &Path) -> impl FnMut() -> Vec<(ReadFlags, String)> {
        let queue = inotify::init(CreateFlags::NONBLOCK).unwrap();
        let wanted = WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::DELETE;
        inotify::add_watch(&queue, folder, wanted).unwrap();
        move || {
            let mut space = [MaybeUninit::uninit(); 4096];
            let mut events = inotify::Reader::new(&queue, &mut space);
            let mut seen = Vec::new();
            while let Ok(event) = events.next() {
                let name = event.file_name().unwrap().to_str().unwrap().to_owned();
                seen.push((event.events(), name));
            }
            seen
        }
    }
}
