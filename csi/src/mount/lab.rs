//! For tests: a mount namespace of one's own, which takes all its mounts with it whatever happens,
//! and a FUSE server that does as it is told, good or bad.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    io::{Read, Write},
    os::fd::OwnedFd,
    path::Path,
    sync::{Arc, Mutex, mpsc},
    thread,
};

use nix::sched::{CloneFlags, unshare};
use rustix::mount::{MountPropagationFlags, mount_change};

/// The target of every test, below the folder that a test is given.
pub(crate) const TARGET: &str = "pods/1/volumes/kubernetes.io~csi/v/mount";

/// Runs a test with a kubelet's folder. The folder is removed from outside the namespace, where
/// none of its mounts was ever seen.
pub(crate) fn in_private_namespace<T: Send>(test: impl FnOnce(&Path) -> T + Send) -> T {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("pods/1/volumes/kubernetes.io~csi/v")).unwrap();
    let inside = || {
        unshare(CloneFlags::CLONE_NEWNS).expect("mount tests run as root, or in a user namespace");
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
        test(dir.path())
    };
    let ended = thread::scope(|scope| scope.spawn(inside).join());
    ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// A mount namespace with a copy of every mount of this one, until it is dropped: what a container
/// is, or a process of a careless administrator.
pub(crate) struct Copy(Option<mpsc::Sender<()>>, Option<thread::JoinHandle<()>>);

impl Copy {
    pub(crate) fn make() -> Self {
        let (end, ended) = mpsc::channel::<()>();
        let (made, is_made) = mpsc::channel();
        let copy = thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
            made.send(()).unwrap();
            let _end = ended.recv().is_err();
        });
        is_made.recv().unwrap();
        Self(Some(end), Some(copy))
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        drop(self.0.take());
        let _ended = self.1.take().map(thread::JoinHandle::join);
    }
}

/// Whether this is the first user namespace: nowhere else can connections be aborted.
pub(crate) fn may_abort() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap();
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

#[derive(Clone, Debug)]
pub(crate) enum Node {
    Folder(BTreeMap<String, u64>),
    Link(String),
    File,
}

pub(crate) const LOOKUP: u32 = 1;
pub(crate) const SETATTR: u32 = 4;
pub(crate) const SYMLINK: u32 = 6;
pub(crate) const MKDIR: u32 = 9;
pub(crate) const UNLINK: u32 = 10;
pub(crate) const RMDIR: u32 = 11;
pub(crate) const RENAME: u32 = 12;
const INIT: u32 = 26;
/// Every request.
pub(crate) const ALL: u32 = u32::MAX;
const ROOT: u64 = 1;

#[derive(Debug)]
struct Tree {
    nodes: HashMap<u64, Node>,
    silent_on: Option<u32>,
    withheld: Vec<(u32, u64)>,
    mutations: Vec<(u32, String)>,
}

/// A server of a small tree. Dropped, it answers what it withheld, so that no thread hangs for ever.
#[derive(Debug)]
pub(crate) struct Server {
    device: Arc<File>,
    tree: Arc<Mutex<Tree>>,
}

impl Server {
    /// Serves a fresh superblock.
    pub(crate) fn start(fuse: OwnedFd) -> Self {
        let root = Node::Folder(BTreeMap::new());
        let tree = Arc::new(Mutex::new(Tree {
            nodes: HashMap::from([(ROOT, root)]),
            silent_on: None,
            withheld: Vec::new(),
            mutations: Vec::new(),
        }));
        let device = Arc::new(File::from(fuse));
        let server = Self { device, tree };
        let (device, tree) = (Arc::clone(&server.device), Arc::clone(&server.tree));
        thread::spawn(move || serve(&device, &tree));
        server
    }

    /// Adds an entry below the root, or below a folder at the root.
    pub(crate) fn add(&self, path: &str, node: Node) {
        let mut tree = self.tree.lock().unwrap();
        let (parent, name) = match path.split_once('/') {
            Some((folder, name)) => (tree.child(ROOT, folder).unwrap(), name),
            None => (ROOT, path),
        };
        tree.insert(parent, name, node);
    }

    pub(crate) fn be_silent_on(&self, opcode: u32) {
        self.tree.lock().unwrap().silent_on = Some(opcode);
    }

    /// Answers what was withheld with EIO and withholds no more.
    pub(crate) fn speak(&self) {
        let mut tree = self.tree.lock().unwrap();
        tree.silent_on = None;
        for (_, unique) in tree.withheld.split_off(0) {
            reply(&self.device, unique, Err(5));
        }
    }

    /// How many requests have come since it is silent, without the one that every connection
    /// begins with.
    pub(crate) fn withheld(&self) -> usize {
        let tree = self.tree.lock().unwrap();
        tree.withheld.iter().filter(|(opcode, _)| *opcode != INIT).count()
    }

    pub(crate) fn mutations(&self) -> Vec<(u32, String)> {
        self.tree.lock().unwrap().mutations.clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.speak();
    }
}

fn reply(mut device: &File, unique: u64, body: Result<Vec<u8>, i32>) {
    let (error, body) = match body {
        Ok(body) => (0, body),
        Err(error) => (-error, Vec::new()),
    };
    let length = u32::try_from(16 + body.len()).unwrap();
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(error.to_ne_bytes());
    bytes.extend(unique.to_ne_bytes());
    bytes.extend(body);
    // an interrupted request is gone
    let _gone = device.write(&bytes).is_err();
}

fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn serve(mut device: &File, tree: &Mutex<Tree>) {
    let mut buffer = vec![0; 1 << 18];
    loop {
        let length = match device.read(&mut buffer) {
            Ok(length) => length,
            Err(e) if matches!(e.raw_os_error(), Some(2 | 4 | 11)) => continue,
            Err(_) => return,
        };
        let request = &buffer[..length];
        let opcode = u32::from_ne_bytes(request[4..8].try_into().unwrap());
        let (unique, node) = (number(request, 8), number(request, 16));
        // FORGET, BATCH_FORGET, INTERRUPT have no reply
        if matches!(opcode, 2 | 42 | 36) {
            continue;
        }
        let mut tree = tree.lock().unwrap();
        if tree.silent_on.is_some_and(|silent| silent == opcode || silent == ALL) {
            tree.withheld.push((opcode, unique));
            continue;
        }
        let answer = tree.answer(opcode, node, &request[40..]);
        drop(tree);
        reply(device, unique, answer);
    }
}

fn words(body: &[u8]) -> Vec<String> {
    body.split(|b| *b == 0).map(|w| String::from_utf8(w.to_vec()).unwrap()).collect()
}

impl Tree {
    fn answer(&mut self, opcode: u32, node: u64, body: &[u8]) -> Result<Vec<u8>, i32> {
        match opcode {
            INIT => {
                let mut out = Vec::new();
                for word in [7_u32, 31, 0, 0, 0, 4096, 1] {
                    out.extend(word.to_ne_bytes());
                }
                out.resize(64, 0);
                Ok(out)
            }
            LOOKUP => {
                let child = self.child(node, &words(body)[0]).ok_or(2)?;
                Ok(self.entry(child))
            }
            3 => {
                let mut out = vec![0; 16];
                out.extend(self.attributes(node));
                Ok(out)
            }
            5 => match self.nodes.get(&node) {
                Some(Node::Link(target)) => Ok(target.clone().into_bytes()),
                _ => Err(22),
            },
            SYMLINK => {
                let names = words(body);
                self.mutations.push((opcode, names[0].clone()));
                if self.child(node, &names[0]).is_some() {
                    return Err(17);
                }
                let child = self.insert(node, &names[0], Node::Link(names[1].clone()));
                Ok(self.entry(child))
            }
            MKDIR => {
                let name = words(&body[8..])[0].clone();
                self.mutations.push((opcode, name.clone()));
                if self.child(node, &name).is_some() {
                    return Err(17);
                }
                let child = self.insert(node, &name, Node::Folder(BTreeMap::new()));
                Ok(self.entry(child))
            }
            SETATTR => {
                self.mutations.push((opcode, String::new()));
                let mut out = vec![0; 16];
                out.extend(self.attributes(node));
                Ok(out)
            }
            UNLINK | RMDIR => {
                let name = words(body)[0].clone();
                self.mutations.push((opcode, name.clone()));
                match self.nodes.get_mut(&node) {
                    Some(Node::Folder(children)) => children.remove(&name).ok_or(2)?,
                    _ => return Err(20),
                };
                Ok(Vec::new())
            }
            RENAME => {
                let names = words(&body[8..]);
                self.mutations.push((opcode, names[1].clone()));
                let Some(Node::Folder(children)) = self.nodes.get_mut(&node) else {
                    return Err(20);
                };
                let moved = children.remove(&names[0]).ok_or(2)?;
                children.insert(names[1].clone(), moved);
                Ok(Vec::new())
            }
            28 => Ok(self.listing(node, number(body, 8))),
            _ => Err(38),
        }
    }

    fn child(&self, node: u64, name: &str) -> Option<u64> {
        match self.nodes.get(&node) {
            Some(Node::Folder(children)) => children.get(name).copied(),
            _ => None,
        }
    }

    fn insert(&mut self, parent: u64, name: &str, node: Node) -> u64 {
        let id = ROOT + u64::try_from(self.nodes.len()).unwrap();
        self.nodes.insert(id, node);
        if let Some(Node::Folder(children)) = self.nodes.get_mut(&parent) {
            children.insert(name.to_owned(), id);
        }
        id
    }

    fn entry(&self, node: u64) -> Vec<u8> {
        let mut out = node.to_ne_bytes().to_vec();
        out.resize(40, 0);
        out.extend(self.attributes(node));
        out
    }

    fn attributes(&self, node: u64) -> Vec<u8> {
        let mode: u32 = match self.nodes.get(&node) {
            Some(Node::Folder(_)) => 0o040_755,
            Some(Node::Link(_)) => 0o120_777,
            _ => 0o100_444,
        };
        let mut out = node.to_ne_bytes().to_vec();
        out.resize(60, 0);
        out.extend(mode.to_ne_bytes());
        out.extend(1_u32.to_ne_bytes());
        out.resize(88, 0);
        out
    }

    fn listing(&self, node: u64, offset: u64) -> Vec<u8> {
        let Some(Node::Folder(children)) = self.nodes.get(&node) else {
            return Vec::new();
        };
        let mut out = Vec::new();
        for (index, (name, id)) in (1_u64..).zip(children) {
            if index <= offset || out.len() > 3000 {
                continue;
            }
            for word in [*id, index] {
                out.extend(word.to_ne_bytes());
            }
            out.extend(u32::try_from(name.len()).unwrap().to_ne_bytes());
            out.extend(0_u32.to_ne_bytes());
            out.extend(name.bytes());
            out.resize(out.len().next_multiple_of(8), 0);
        }
        out
    }
}
