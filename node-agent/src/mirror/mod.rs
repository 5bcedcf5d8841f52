//! A volume as the kernel knows it: which folders and links there are, and which single change of
//! them is expected.
//!
//! A value of this type is never changed while a reader can see it: a change makes a new one
//! (cheap: everything large is shared). The only changes that come from outside are the file
//! operations of csi's swap; exactly those of the swap in flight are accepted, all others are
//! refused, whoever sends them.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Instant, SystemTime},
};

use vsecm_node_agent_api::volume::VersionDir;

use crate::{
    inode::{Kind, Numbers, ROOT, name_part},
    snapshot::VersionId,
    tree::{File, Looks, Nothing, Source, Tree},
};

use self::links::Links;
pub use self::{
    changes::{Refusal, Swap},
    edition::{Edition, Origin},
    links::link_target,
};

mod changes;
mod edition;
mod links;

/// The link that is swapped.
pub const DATA: &str = "..data";
/// What it is renamed from.
pub const DATA_TMP: &str = "..data_tmp";

/// Bytes of old versions that one volume's open descriptors can keep in memory.
const RETIRED_LIMIT: usize = 64 * 1024 * 1024;

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
    Folder(&'a Edition),
    /// A version's file.
    File(&'a Edition, &'a File),
    /// A number that was handed out for a version that is forgotten.
    Ghost(Kind),
}

/// A volume as the kernel knows it.
#[derive(Clone, Debug)]
pub struct Mirror {
    numbers: Numbers,
    looks: Looks,
    data: VersionDir,
    data_tmp: Option<VersionDir>,
    links: Arc<Links>,
    editions: Vec<Edition>,
    swap: Option<Swap>,
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
            editions: vec![Edition::new(tree, origin)],
            swap: None,
        }
    }

    /// The version that `..data` shows.
    pub fn shown(&self) -> Option<&Arc<Tree>> {
        self.listed(self.data.as_str()).map(Edition::tree)
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
        let is_it = |s: &&Edition| s.is_listed() && s.tree().source().id() == id;
        self.editions.iter().find(is_it).map(|s| Arc::clone(s.tree()))
    }

    /// Adds a version's folder to the root, beside the one that is shown.
    pub fn stage(&mut self, tree: Arc<Tree>, origin: Origin) {
        self.editions.push(Edition::new(tree, origin));
    }

    /// From now on the operations of `swap`, and no others, are accepted.
    pub fn expect(&mut self, swap: Option<Swap>) {
        self.swap = swap;
    }

    /// Takes all folders from the root that are neither shown nor `kept`, without csi.
    ///
    /// This is how versions go: an rmdir would end path walks that have just come by the folder
    /// with ENOENT, and would empty a container's subPath of a folder. Here whoever is inside
    /// still finds the files; the caller tells the kernel.
    pub fn withdraw_others(&mut self, kept: Option<&VersionDir>) -> Vec<Arc<Tree>> {
        let data = self.data.clone();
        let is_other = |e: &&mut Edition| {
            let dir = e.tree().dir();
            e.is_listed() && *dir != data && Some(dir) != kept
        };
        let others = self.editions.iter_mut().filter(is_other);
        others
            .map(|edition| {
                edition.retire();
                Arc::clone(edition.tree())
            })
            .collect()
    }

    /// Forgets versions that nobody can read any more.
    pub fn prune(&mut self, now: Instant) {
        self.editions.retain(|edition| edition.is_needed(now));
        let mut kept = 0;
        let mut retired: Vec<usize> = Vec::new();
        for (at, edition) in self.editions.iter().enumerate().rev() {
            if !edition.is_listed() {
                kept += edition.tree().size();
                if kept > RETIRED_LIMIT {
                    retired.push(at);
                }
            }
        }
        // collected from the newest to the oldest, so the positions stay right
        for at in retired {
            self.editions.remove(at);
        }
    }

    /// Versions that went, and that the kernel still has inodes of: a late walk may have left names
    /// behind, or a descriptor is held.
    pub fn lingering(&self, now: Instant) -> Vec<Arc<Tree>> {
        let lingers = |e: &&Edition| !e.is_listed() && !e.is_walked(now);
        self.editions.iter().filter(lingers).map(|edition| Arc::clone(edition.tree())).collect()
    }

    /// All names that the root may have had: links and folders of all versions.
    pub fn root_names(&self) -> BTreeSet<String> {
        let mut names: BTreeSet<String> = [DATA, DATA_TMP].map(str::to_owned).into();
        for edition in &self.editions {
            let tree = edition.tree();
            names.insert(tree.dir().to_string());
            names.extend(tree.files().iter().map(|file| file.name().to_string()));
        }
        names
    }

    /// How many versions are in memory.
    pub fn versions(&self) -> usize {
        self.editions.len()
    }

    fn listed(&self, dir: &str) -> Option<&Edition> {
        let is_it = |s: &&Edition| s.is_listed() && s.tree().dir().as_str() == dir;
        self.editions.iter().find(is_it)
    }

    /// The folder of that name, also one that went a moment ago: a path walk may have read the
    /// old `..data` just before.
    fn passable(&self, dir: &str) -> Option<&Edition> {
        let now = Instant::now();
        let is_recent = |e: &&Edition| e.tree().dir().as_str() == dir && e.is_passable(now);
        let is_revoked = || {
            let source = self.shown().map(|tree| tree.source());
            matches!(source, Some(Source::Nothing(Nothing::Revoked)))
        };
        let recent = || self.editions.iter().rev().find(is_recent);
        self.listed(dir).or_else(|| if is_revoked() { None } else { recent() })
    }

    fn pointer_ino(&self, dir: &VersionDir) -> u64 {
        self.numbers.number(Kind::Link, dir.as_str().as_bytes(), DATA, 0)
    }

    /// The child `name` of the folder with inode `parent`.
    pub fn lookup(&self, parent: u64, name: &str) -> Option<Node<'_>> {
        if parent != ROOT {
            let Node::Folder(edition) = self.node(parent)? else {
                return None;
            };
            let file = edition.tree().file(name)?;
            return Some(Node::File(edition, file));
        }
        match name {
            DATA => Some(Node::Pointer(&self.data)),
            DATA_TMP => self.data_tmp.as_ref().map(Node::Pointer),
            _ => match self.links.by_name.get_key_value(name) {
                Some((name, _ino)) => Some(Node::Link(name)),
                None => self.passable(name).map(Node::Folder),
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
        let by_edition = || {
            // the newest first: it is asked for most
            self.editions.iter().rev().find_map(|edition| match kind {
                Kind::Folder => (edition.tree().ino() == ino).then_some(Node::Folder(edition)),
                Kind::File => edition.tree().file_by_ino(ino).map(|file| Node::File(edition, file)),
                Kind::Link => (self.pointer_ino(edition.tree().dir()) == ino)
                    .then_some(Node::Pointer(edition.tree().dir())),
            })
        };
        found.or_else(by_edition).or(Some(Node::Ghost(kind)))
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
            Node::Folder(edition) => edition.tree().ino(),
            Node::File(_, file) => file.ino(),
        };
        self.attributes_of(ino, node)
    }

    fn attributes_of(&self, ino: u64, node: &Node<'_>) -> Attributes {
        let (kind, size, time, generation) = match node {
            Node::Root => (Kind::Folder, 0, self.time(), 0),
            Node::Pointer(dir) => (Kind::Link, dir.as_str().len(), self.time(), 0),
            Node::Link(name) => (Kind::Link, link_target(name).len(), self.time(), 0),
            Node::Folder(edition) => {
                (Kind::Folder, 0, edition.tree().time(), edition.tree().source().id().generation())
            }
            Node::File(edition, file) => (
                Kind::File,
                edition.tree().bytes(file).len(),
                edition.tree().time(),
                edition.tree().source().id().generation(),
            ),
            Node::Ghost(Kind::File) => (Kind::File, self.size_of_namesake(ino), self.time(), 0),
            Node::Ghost(kind) => (*kind, 0, self.time(), 0),
        };
        let mode = match kind {
            Kind::Folder => self.looks.folder_mode,
            Kind::File => self.looks.file_mode,
            Kind::Link => 0o777,
        };
        Attributes { ino, kind, size: size as u64, mode, group: self.looks.group, time, generation }
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
                let folders = self.editions.iter().filter(|edition| edition.is_listed());
                names.extend(folders.map(|s| entry(s.tree().dir().as_str(), &Node::Folder(s))));
                Some(names)
            }
            Node::Folder(edition) => {
                let files = edition.tree().files().iter();
                Some(files.map(|f| entry(f.name().as_str(), &Node::File(edition, f))).collect())
            }
            Node::Ghost(Kind::Folder) => Some(Vec::new()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
