//! A FUSE server by hand, for trees that no honest server would show. It agrees to every change and
//! never answers where it was told to hang.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    thread,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{Errno, read, write},
};

/// What a node is.
#[derive(Clone, Debug)]
pub(crate) enum Node {
    /// A folder, with the names that READDIR tells (LOOKUP goes by [`Tree::names`]).
    Folder(Vec<Vec<u8>>),
    /// An empty file.
    File,
    /// A symlink.
    Link(&'static str),
}

/// The tree that is shown. Node 1 is the root.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tree {
    /// Nodes by number.
    pub(crate) nodes: BTreeMap<u64, Node>,
    /// Numbers by folder and name.
    pub(crate) names: BTreeMap<(u64, Vec<u8>), u64>,
    /// A LOOKUP of this name is never answered.
    pub(crate) hang_at: Option<&'static str>,
}

impl Tree {
    /// An empty root.
    pub(crate) fn new() -> Self {
        let mut tree = Self::default();
        tree.nodes.insert(1, Node::Folder(vec![]));
        tree
    }

    /// Adds a node below `folder`, listed under its name.
    pub(crate) fn with(mut self, folder: u64, name: &str, number: u64, node: Node) -> Self {
        if let Some(Node::Folder(listed)) = self.nodes.get_mut(&folder) {
            listed.push(name.into());
        }
        self.nodes.insert(number, node);
        self.names.insert((folder, name.into()), number);
        self
    }
}

const INIT: u32 = 26;

/// Ends, and with it every request that hangs, when all of its clones are dropped.
pub(crate) type Service = Arc<OwnedFd>;

/// Serves `tree` on a `/dev/fuse` descriptor until the mount or the service is gone. Returns when
/// INIT has been answered.
pub(crate) fn serve(device: OwnedFd, tree: Tree) -> Service {
    let service = Arc::new(device);
    let device = Arc::downgrade(&service);
    let (ready, initialised) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let mut buffer = vec![0; 1 << 17];
        // the descriptor is not held while nothing is to be done
        while let Some(device) = device.upgrade() {
            let mut waiting = [PollFd::new(&*device, PollFlags::IN)];
            let pause = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
            match poll(&mut waiting, Some(&pause)) {
                Ok(0) => continue,
                Ok(_) | Err(Errno::INTR) => {}
                Err(_gone) => return,
            }
            match read(device.as_fd(), &mut buffer) {
                Ok(length) => {
                    let request = Request(&buffer[..length]);
                    if let Some(answer) = answer(&tree, &request) {
                        let frame = request.frame(answer);
                        // ENOENT: the asker has gone meanwhile
                        let _sent: Result<usize, Errno> = write(device.as_fd(), &frame);
                    }
                    if request.opcode() == INIT {
                        let _heard: Result<(), _> = ready.send(());
                    }
                }
                Err(Errno::INTR | Errno::AGAIN | Errno::NOENT) => {}
                Err(_gone) => return,
            }
        }
    });
    initialised.recv().unwrap();
    service
}

struct Request<'a>(&'a [u8]);

impl Request<'_> {
    fn u32_at(&self, at: usize) -> u32 {
        u32::from_ne_bytes(self.0[at..at + 4].try_into().unwrap())
    }

    fn u64_at(&self, at: usize) -> u64 {
        u64::from_ne_bytes(self.0[at..at + 8].try_into().unwrap())
    }

    fn opcode(&self) -> u32 {
        self.u32_at(4)
    }

    fn node(&self) -> u64 {
        self.u64_at(16)
    }

    fn body(&self) -> &[u8] {
        &self.0[40..]
    }

    fn name(&self) -> &[u8] {
        self.body().split(|b| *b == 0).next().unwrap_or_default()
    }

    fn frame(&self, answer: Result<Vec<u8>, Errno>) -> Vec<u8> {
        let (error, body) = match answer {
            Ok(body) => (0, body),
            Err(errno) => (-errno.raw_os_error(), vec![]),
        };
        let length = u32::try_from(16 + body.len()).unwrap();
        let mut frame = length.to_ne_bytes().to_vec();
        frame.extend(error.to_ne_bytes());
        frame.extend(self.u64_at(8).to_ne_bytes());
        frame.extend(body);
        frame
    }
}

fn answer(tree: &Tree, request: &Request<'_>) -> Option<Result<Vec<u8>, Errno>> {
    Some(match request.opcode() {
        1 => {
            let name = request.name();
            if tree.hang_at.is_some_and(|hang| hang.as_bytes() == name) {
                return None;
            }
            let number = tree.names.get(&(request.node(), name.to_vec()));
            number.map_or(Err(Errno::NOENT), |n| Ok(entry(*n, &tree.nodes[n])))
        }
        // FORGET and BATCH_FORGET have no answer
        2 | 42 => return None,
        3 => match tree.nodes.get(&request.node()) {
            Some(node) => Ok(attributes(request.node(), node)),
            None => Err(Errno::NOENT),
        },
        5 => match tree.nodes.get(&request.node()) {
            Some(Node::Link(target)) => Ok(target.as_bytes().to_vec()),
            _ => Err(Errno::INVAL),
        },
        // SYMLINK: it is made, somewhere else
        6 => Ok(entry(4242, &Node::Link("..2"))),
        // UNLINK, RMDIR, RENAME, RENAME2, FLUSH, RELEASE, RELEASEDIR, ACCESS: all right
        10 | 11 | 12 | 45 | 25 | 18 | 29 | 34 => Ok(vec![]),
        14 | 27 => Ok(vec![0; 16]),
        INIT => Ok(init()),
        28 => Ok(listing(tree, request)),
        _ => Err(Errno::NOSYS),
    })
}

fn init() -> Vec<u8> {
    let mut body = Vec::new();
    // major, minor, max_readahead, flags; max_background and threshold, max_write, time_gran
    for field in [7_u32, 31, 0, 0, 0, 4096, 1] {
        body.extend(field.to_ne_bytes());
    }
    body.resize(64, 0);
    body
}

/// `struct fuse_attr`, 88 bytes.
fn attr(number: u64, node: &Node) -> Vec<u8> {
    let (mode, size) = match node {
        Node::Folder(_) => (0o040_755_u32, 0_u64),
        Node::File => (0o100_444, 0),
        Node::Link(target) => (0o120_777, target.len() as u64),
    };
    let mut body = Vec::new();
    for field in [number, size, 0, 0, 0, 0] {
        body.extend(field.to_ne_bytes());
    }
    for field in [0, 0, 0, mode, 1, 0, 0, 0, 4096, 0] {
        body.extend(field.to_ne_bytes());
    }
    body
}

fn entry(number: u64, node: &Node) -> Vec<u8> {
    let mut body = number.to_ne_bytes().to_vec();
    // no generation, nothing may be cached
    body.extend([0; 32]);
    body.extend(attr(number, node));
    body
}

fn attributes(number: u64, node: &Node) -> Vec<u8> {
    let mut body = vec![0; 16];
    body.extend(attr(number, node));
    body
}

fn listing(tree: &Tree, request: &Request<'_>) -> Vec<u8> {
    let offset =
        usize::try_from(u64::from_ne_bytes(request.body()[8..16].try_into().unwrap())).unwrap();
    let room = usize::try_from(request.u32_at(40 + 16)).unwrap();
    let Some(Node::Folder(names)) = tree.nodes.get(&request.node()) else {
        return vec![];
    };
    let mut body = Vec::new();
    for (at, name) in names.iter().enumerate().skip(offset) {
        let padded = (24 + name.len()).next_multiple_of(8);
        if body.len() + padded > room {
            break;
        }
        let end = body.len() + padded;
        body.extend(7_u64.to_ne_bytes());
        body.extend((at as u64 + 1).to_ne_bytes());
        body.extend(u32::try_from(name.len()).unwrap().to_ne_bytes());
        body.extend(0_u32.to_ne_bytes());
        body.extend(name);
        body.resize(end, 0);
    }
    body
}
