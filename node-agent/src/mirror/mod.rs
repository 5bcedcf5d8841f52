//! A volume as the kernel knows it: which folders and links there are, and which single change of
//! them is expected.
//!
//! A value of this type is never changed while a reader can see it: a change makes a new one
//! (cheap: everything large is shared). The only changes that come from outside are the file
//! operations of csi's swap; exactly those of the swap in flight are accepted, all others are
//! refused, whoever sends them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, atomic::AtomicI64},
    time::{Duration, Instant, SystemTime},
};

use vsecm_node_agent_api::volume::VersionDir;

use crate::{
    inode::{Kind, Numbers, ROOT, name_part},
    snapshot::VersionId,
    tree::{File, Looks, Tree},
};

/// The link that is swapped.
pub const DATA: &str = "..data";
/// What it is renamed from.
pub const DATA_TMP: &str = "..data_tmp";

/// A version that is gone from the tree answers for its inodes at least this long: a path walk
/// that had reached its folder is over by then.
const WALK_GRACE: Duration = Duration::from_secs(5);

/// A version that came from a predecessor is held by an unknown number of descriptors; this long
/// they can still read pages that the kernel has dropped.
const INHERITED_GRACE: Duration = Duration::from_secs(60);

/// Bytes of old versions that one volume's open descriptors can keep in memory.
const RETIRED_LIMIT: usize = 64 * 1024 * 1024;

/// Why a change is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is not part of the swap in flight.
    #[error("the volume is read-only")]
    ReadOnly,
    /// The name is not there.
    #[error("there is no such name")]
    Missing,
    /// The folder still has files.
    #[error("the folder is not empty")]
    NotEmpty,
}

/// The swap that csi was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Swap {
    /// What `..data` shall show.
    pub publish: VersionDir,
    /// Which folder shall go then.
    pub retire: Option<VersionDir>,
}

/// What `stat` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Inode.
    pub ino: u64,
    /// Kind.
    pub kind: Kind,
    /// Size.
    pub size: u64,
    /// Permission bits.
    pub mode: u16,
    /// Group.
    pub group: u32,
    /// All times.
    pub time: SystemTime,
    /// Tells inodes with the same number apart.
    pub generation: u64,
}

/// What an inode stands for.
#[derive(Debug)]
pub enum Node<'a> {
    /// The volume's root.
    Root,
    /// `..data` or `..data_tmp`, now or before a swap.
    Pointer(&'a VersionDir),
    /// A name at the root, a link to `..data/<name>`.
    Link(&'a str),
    /// A version's folder.
    Folder(&'a Shelf),
    /// A version's file.
    File(&'a Shelf, &'a File),
    /// A number that was handed out for a version that is forgotten.
    Ghost(Kind),
}

/// A version and its place.
#[derive(Clone, Debug)]
pub struct Shelf {
    tree: Arc<Tree>,
    place: Place,
    unlinked: Arc<BTreeSet<u64>>,
    origin: Origin,
    since: Instant,
    looked_up: Arc<AtomicI64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Its folder is at the root.
    Listed,
    /// Its folder is gone; held descriptors can still read.
    Retired,
}

/// Who handed the version's inodes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// This process: it knows how many the kernel has.
    Own,
    /// A predecessor.
    Inherited,
}

/// The links at the root.
#[derive(Clone, Debug, Default)]
struct Links {
    by_name: BTreeMap<Arc<str>, u64>,
    by_ino: HashMap<u64, Arc<str>>,
}

/// A volume as the kernel knows it.
#[derive(Clone, Debug)]
pub struct Mirror {
    numbers: Numbers,
    looks: Looks,
    data: VersionDir,
    data_tmp: Option<VersionDir>,
    links: Arc<Links>,
    shelves: Vec<Shelf>,
    swap: Option<Swap>,
}

impl Shelf {
    fn new(tree: Arc<Tree>, origin: Origin) -> Self {
        Self {
            tree,
            place: Place::Listed,
            unlinked: Arc::default(),
            origin,
            since: Instant::now(),
            looked_up: Arc::default(),
        }
    }

    /// The version.
    pub fn tree(&self) -> &Arc<Tree> {
        &self.tree
    }

    /// How often the kernel was given an inode of this version, less what it has forgotten.
    pub fn looked_up(&self) -> &AtomicI64 {
        &self.looked_up
    }

    fn is_listed(&self) -> bool {
        self.place == Place::Listed
    }

    fn is_needed(&self, now: Instant) -> bool {
        let age = now.saturating_duration_since(self.since);
        let held = match self.origin {
            Origin::Own => self.looked_up.load(std::sync::atomic::Ordering::Relaxed) > 0,
            Origin::Inherited => age < INHERITED_GRACE,
        };
        self.is_listed() || held || age < WALK_GRACE
    }
}

impl Mirror {
    /// A volume that shows `tree`.
    pub fn new(numbers: Numbers, tree: Arc<Tree>, origin: Origin) -> Self {
        let mut links = Links::default();
        for file in tree.files() {
            links.add(&numbers, file.name().as_str());
        }
        Self {
            numbers,
            looks: tree.looks(),
            data: tree.dir().clone(),
            data_tmp: None,
            links: Arc::new(links),
            shelves: vec![Shelf::new(tree, origin)],
            swap: None,
        }
    }

    /// The version that `..data` shows.
    pub fn shown(&self) -> Option<&Arc<Tree>> {
        self.listed(self.data.as_str()).map(Shelf::tree)
    }

    /// The swap that is expected.
    pub fn swap(&self) -> Option<&Swap> {
        self.swap.as_ref()
    }

    /// Whether a folder of that name is at the root.
    pub fn is_listed(&self, dir: &VersionDir) -> bool {
        self.listed(dir.as_str()).is_some()
    }

    /// The folder at the root that shows the version `id`.
    pub fn staged(&self, id: VersionId) -> Option<Arc<Tree>> {
        let is_it = |s: &&Shelf| s.is_listed() && s.tree.source().id() == id;
        self.shelves.iter().find(is_it).map(|s| Arc::clone(&s.tree))
    }

    /// Folders at the root other than the one that is shown.
    pub fn others(&self) -> Vec<VersionDir> {
        let other = |s: &&Shelf| s.is_listed() && *s.tree.dir() != self.data;
        self.shelves
            .iter()
            .filter(other)
            .map(|s| s.tree.dir().clone())
            .collect()
    }

    /// Adds a version's folder to the root, beside the one that is shown.
    pub fn stage(&mut self, tree: Arc<Tree>, origin: Origin) {
        self.shelves.push(Shelf::new(tree, origin));
    }

    /// From now on the operations of `swap`, and no others, are accepted.
    pub fn expect(&mut self, swap: Option<Swap>) {
        self.swap = swap;
    }

    /// Takes a folder that is not shown from the root, without csi.
    pub fn withdraw(&mut self, dir: &VersionDir) {
        if *dir != self.data {
            self.retire(dir.as_str());
        }
    }

    /// Forgets versions that nobody can read any more.
    pub fn prune(&mut self, now: Instant) {
        self.shelves.retain(|shelf| shelf.is_needed(now));
        let mut kept = 0;
        let mut retired: Vec<usize> = Vec::new();
        for (at, shelf) in self.shelves.iter().enumerate().rev() {
            if !shelf.is_listed() {
                kept += shelf.tree.size();
                if kept > RETIRED_LIMIT {
                    retired.push(at);
                }
            }
        }
        // collected from the newest to the oldest, so the positions stay right
        for at in retired {
            self.shelves.remove(at);
        }
    }

    /// How many versions are in memory.
    pub fn versions(&self) -> usize {
        self.shelves.len()
    }

    fn listed(&self, dir: &str) -> Option<&Shelf> {
        let is_it = |s: &&Shelf| s.is_listed() && s.tree.dir().as_str() == dir;
        self.shelves.iter().find(is_it)
    }

    fn pointer_ino(&self, dir: &VersionDir) -> u64 {
        self.numbers
            .number(Kind::Link, dir.as_str().as_bytes(), DATA, 0)
    }

    /// The child `name` of the folder with inode `parent`.
    pub fn lookup(&self, parent: u64, name: &str) -> Option<Node<'_>> {
        if parent != ROOT {
            let Node::Folder(shelf) = self.node(parent)? else {
                return None;
            };
            let file = shelf.tree.file(name)?;
            return (!shelf.unlinked.contains(&file.ino())).then_some(Node::File(shelf, file));
        }
        match name {
            DATA => Some(Node::Pointer(&self.data)),
            DATA_TMP => self.data_tmp.as_ref().map(Node::Pointer),
            _ => match self.links.by_name.get_key_value(name) {
                Some((name, _ino)) => Some(Node::Link(name)),
                None => self.listed(name).map(Node::Folder),
            },
        }
    }

    /// What `ino` stands for; `None` if it was never handed out.
    pub fn node(&self, ino: u64) -> Option<Node<'_>> {
        if ino == ROOT {
            return Some(Node::Root);
        }
        let kind = Kind::of(ino)?;
        let found = match kind {
            Kind::Link => self.links.by_ino.get(&ino).map(|name| Node::Link(name)),
            Kind::Folder | Kind::File => None,
        };
        let by_shelf = || {
            // the newest first: it is asked for most
            self.shelves.iter().rev().find_map(|shelf| match kind {
                Kind::Folder => (shelf.tree.ino() == ino).then_some(Node::Folder(shelf)),
                Kind::File => shelf
                    .tree
                    .file_by_ino(ino)
                    .map(|file| Node::File(shelf, file)),
                Kind::Link => (self.pointer_ino(shelf.tree.dir()) == ino)
                    .then_some(Node::Pointer(shelf.tree.dir())),
            })
        };
        found.or_else(by_shelf).or(Some(Node::Ghost(kind)))
    }

    /// What `stat` of the node with inode `ino` shows. A ghost has the attributes of the file of
    /// its name that is shown now: a successor has no table, yet GETATTR must not fail.
    pub fn attributes(&self, ino: u64) -> Option<Attributes> {
        Some(self.attributes_of(ino, &self.node(ino)?))
    }

    /// As [`Self::attributes`], of a node found by name.
    pub fn entry(&self, node: &Node<'_>) -> Attributes {
        let ino = match node {
            Node::Root | Node::Ghost(_) => ROOT,
            Node::Pointer(dir) => self.pointer_ino(dir),
            Node::Link(name) => self.links.by_name.get(*name).copied().unwrap_or_default(),
            Node::Folder(shelf) => shelf.tree.ino(),
            Node::File(_, file) => file.ino(),
        };
        self.attributes_of(ino, node)
    }

    fn attributes_of(&self, ino: u64, node: &Node<'_>) -> Attributes {
        let (kind, size, time, generation) = match node {
            Node::Root => (Kind::Folder, 0, self.time(), 0),
            Node::Pointer(dir) => (Kind::Link, dir.as_str().len(), self.time(), 0),
            Node::Link(name) => (Kind::Link, link_target(name).len(), self.time(), 0),
            Node::Folder(shelf) => (
                Kind::Folder,
                0,
                shelf.tree.time(),
                shelf.tree.source().id().generation(),
            ),
            Node::File(shelf, file) => (
                Kind::File,
                shelf.tree.bytes(file).len(),
                shelf.tree.time(),
                shelf.tree.source().id().generation(),
            ),
            Node::Ghost(Kind::File) => (Kind::File, self.size_of_namesake(ino), self.time(), 0),
            Node::Ghost(kind) => (*kind, 0, self.time(), 0),
        };
        let mode = match kind {
            Kind::Folder => self.looks.folder_mode,
            Kind::File => self.looks.file_mode,
            Kind::Link => 0o777,
        };
        Attributes {
            ino,
            kind,
            size: size as u64,
            mode,
            group: self.looks.group,
            time,
            generation,
        }
    }

    fn time(&self) -> SystemTime {
        self.shown().map_or(SystemTime::UNIX_EPOCH, |t| t.time())
    }

    fn size_of_namesake(&self, ino: u64) -> usize {
        let Some(tree) = self.shown() else { return 0 };
        let namesake = |file: &&File| name_part(file.ino()) == name_part(ino);
        let file = tree.files().iter().find(namesake);
        file.map_or(0, |file| tree.bytes(file).len())
    }

    /// Names in the folder with inode `ino`; `None` if it is no folder.
    pub fn list(&self, ino: u64) -> Option<Vec<(&str, Attributes)>> {
        let entry = |name, node: &Node<'_>| (name, self.entry(node));
        match self.node(ino)? {
            Node::Root => {
                let mut names = vec![entry(DATA, &Node::Pointer(&self.data))];
                if let Some(dir) = &self.data_tmp {
                    names.push(entry(DATA_TMP, &Node::Pointer(dir)));
                }
                let links = self.links.by_name.keys();
                names.extend(links.map(|name| entry(name, &Node::Link(name))));
                let folders = self.shelves.iter().filter(|shelf| shelf.is_listed());
                names.extend(folders.map(|s| entry(s.tree.dir().as_str(), &Node::Folder(s))));
                Some(names)
            }
            Node::Folder(shelf) => {
                let linked = |file: &&File| !shelf.unlinked.contains(&file.ino());
                let files = shelf.tree.files().iter().filter(linked);
                Some(
                    files
                        .map(|f| entry(f.name().as_str(), &Node::File(shelf, f)))
                        .collect(),
                )
            }
            Node::Ghost(Kind::Folder) => Some(Vec::new()),
            _ => None,
        }
    }

    /// csi makes a link at the root.
    pub fn symlink(&mut self, parent: u64, name: &str, target: &str) -> Result<(), Refusal> {
        let swap = self.swap_at_root(parent)?;
        if name == DATA_TMP && target == swap.publish.as_str() {
            self.data_tmp = Some(swap.publish.clone());
            return Ok(());
        }
        if !self.will_show(name) || target != link_target(name) {
            return Err(Refusal::ReadOnly);
        }
        let numbers = self.numbers.clone();
        Arc::make_mut(&mut self.links).add(&numbers, name);
        Ok(())
    }

    /// csi renames `..data_tmp` to `..data`: the moment at which readers see the new version.
    pub fn rename(&mut self, from: (u64, &str), to: (u64, &str)) -> Result<(), Refusal> {
        let swap = self.swap_at_root(from.0)?;
        // what was not seen being made is not published: a successor does not know where a link
        // that its predecessor accepted points to
        if from.1 != DATA_TMP || to != (ROOT, DATA) || self.data_tmp.as_ref() != Some(&swap.publish)
        {
            return Err(Refusal::ReadOnly);
        }
        self.data = swap.publish.clone();
        self.data_tmp = None;
        Ok(())
    }

    /// csi removes a link at the root or a file of the retired version.
    pub fn unlink(&mut self, parent: u64, name: &str) -> Result<(), Refusal> {
        let swap = self.swap.as_ref().ok_or(Refusal::ReadOnly)?;
        if parent == ROOT {
            if name == DATA_TMP {
                return self.data_tmp.take().map(|_dir| ()).ok_or(Refusal::Missing);
            }
            if name == DATA || self.will_show(name) {
                return Err(Refusal::ReadOnly);
            }
            if !self.links.by_name.contains_key(name) {
                return Err(if self.listed(name).is_some() {
                    Refusal::ReadOnly
                } else {
                    Refusal::Missing
                });
            }
            Arc::make_mut(&mut self.links).remove(name);
            return Ok(());
        }
        let retire = swap.retire.clone().ok_or(Refusal::ReadOnly)?;
        if self.data == retire {
            return Err(Refusal::ReadOnly);
        }
        let is_it =
            |s: &&mut Shelf| s.is_listed() && *s.tree.dir() == retire && s.tree.ino() == parent;
        let shelf = self
            .shelves
            .iter_mut()
            .find(is_it)
            .ok_or(Refusal::ReadOnly)?;
        let ino = shelf.tree.file(name).ok_or(Refusal::Missing)?.ino();
        if !Arc::make_mut(&mut shelf.unlinked).insert(ino) {
            return Err(Refusal::Missing);
        }
        Ok(())
    }

    /// csi removes the retired version's folder.
    pub fn rmdir(&mut self, parent: u64, name: &str) -> Result<(), Refusal> {
        let swap = self.swap_at_root(parent)?;
        let retire = swap.retire.as_ref().ok_or(Refusal::ReadOnly)?;
        if name != retire.as_str() || self.data == *retire {
            return Err(Refusal::ReadOnly);
        }
        let shelf = self.listed(name).ok_or(Refusal::Missing)?;
        if shelf.unlinked.len() < shelf.tree.files().len() {
            return Err(Refusal::NotEmpty);
        }
        self.retire(&name.to_owned());
        Ok(())
    }

    fn swap_at_root(&self, parent: u64) -> Result<&Swap, Refusal> {
        let swap = self.swap.as_ref().filter(|_swap| parent == ROOT);
        swap.ok_or(Refusal::ReadOnly)
    }

    /// Whether the version to be published has a file of that name.
    fn will_show(&self, name: &str) -> bool {
        let publish = self.swap.as_ref().map(|swap| swap.publish.as_str());
        let shelf = publish.and_then(|dir| self.listed(dir));
        shelf.is_some_and(|shelf| shelf.tree.file(name).is_some())
    }

    fn retire(&mut self, dir: &str) {
        let is_it = |s: &&mut Shelf| s.is_listed() && s.tree.dir().as_str() == dir;
        if let Some(shelf) = self.shelves.iter_mut().find(is_it) {
            shelf.place = Place::Retired;
            shelf.since = Instant::now();
        }
    }
}

impl Links {
    fn add(&mut self, numbers: &Numbers, name: &str) {
        if self.by_name.contains_key(name) {
            return;
        }
        let mut salt = 0;
        let ino = loop {
            let ino = numbers.number(Kind::Link, b"", name, salt);
            if !self.by_ino.contains_key(&ino) {
                break ino;
            }
            salt += 1;
        };
        let name: Arc<str> = name.into();
        self.by_ino.insert(ino, Arc::clone(&name));
        self.by_name.insert(name, ino);
    }

    fn remove(&mut self, name: &str) {
        if let Some(ino) = self.by_name.remove(name) {
            self.by_ino.remove(&ino);
        }
    }
}

/// Where a name at the root points to.
pub fn link_target(name: &str) -> String {
    format!("{DATA}/{name}")
}

#[cfg(test)]
mod tests;
