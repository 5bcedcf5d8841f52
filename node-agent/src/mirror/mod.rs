//! A volume as the kernel knows it: which folders and links there are, and which single change of
//! them is expected.
//!
//! A value of this type is never changed while a reader can see it: a change makes a new one
//! (cheap: everything large is shared). The only changes that come from outside are the file
//! operations that csi was asked for; exactly those are accepted, all others are refused, whoever
//! sends them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use vsecm_node_agent_api::volume::{OnRotate, VersionDir};

use crate::{
    inode::{Kind, Numbers, ROOT},
    snapshot::VersionId,
    tree::{File, Folder, Looks, Tree},
};

use self::links::Links;
pub use self::{
    changes::{Expected, Refusal},
    edition::{Edition, Origin},
    links::link_target,
};

mod changes;
mod edition;
mod held;
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
    /// How many names it has.
    pub names: u32,
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
    /// A version's folder, or one below it.
    Folder(&'a Edition, &'a Folder),
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
    expected: Option<Expected>,
    on_rotate: OnRotate,
    /// Inodes that show what is of the same path in the version shown now.
    followers: Arc<Followers>,
}

/// Inodes of old versions that mounts show, and their paths in a version; empty for its folder.
pub type Followers = BTreeMap<u64, String>;

impl Mirror {
    /// A volume that shows `tree`.
    pub fn new(numbers: Numbers, tree: Arc<Tree>, origin: Origin) -> Self {
        let mut links = Links::default();
        for (name, _child) in tree.children(tree.top()) {
            links.add(&numbers, name);
        }
        Self {
            numbers,
            looks: tree.looks(),
            data: tree.dir().clone(),
            data_tmp: None,
            links: Arc::new(links),
            editions: vec![Edition::listed(tree, origin)],
            expected: None,
            on_rotate: OnRotate::default(),
            followers: Arc::default(),
        }
    }

    /// The same, for a volume that asks for this.
    #[must_use]
    pub fn on_rotate(self, on_rotate: OnRotate) -> Self {
        Self { on_rotate, ..self }
    }

    /// The version that `..data` shows.
    pub fn shown(&self) -> Option<&Arc<Tree>> {
        self.found(self.data.as_str()).map(Edition::tree)
    }

    /// What csi may do now.
    pub fn expected(&self) -> Option<&Expected> {
        self.expected.as_ref()
    }

    /// Whether a version in memory has a folder of that name. A number is not used again for a
    /// folder that was removed: the kernel would have it dead.
    pub fn is_taken(&self, dir: &VersionDir) -> bool {
        self.editions.iter().any(|edition| edition.tree().dir() == dir)
    }

    /// The version `id`, if its folder is at the root, or is to be made there.
    pub fn staged(&self, id: VersionId) -> Option<Arc<Tree>> {
        let is_it = |e: &&Edition| {
            (e.is_staged() || e.is_listed()) && !e.is_revoked() && e.tree().source().id() == id
        };
        self.editions.iter().find(is_it).map(|s| Arc::clone(s.tree()))
    }

    /// Adds a version whose folder csi will make.
    pub fn stage(&mut self, tree: Arc<Tree>) {
        self.editions.push(Edition::staged(tree));
    }

    /// Adds a version that a predecessor may have shown.
    pub fn inherit(&mut self, tree: Arc<Tree>) {
        let mut edition = Edition::listed(tree, Origin::Inherited);
        match self.on_rotate {
            OnRotate::Follow => {}
            // until csi says which mounts there are
            OnRotate::Keep => edition.bind(true),
            OnRotate::Revoke => edition.revoke(),
        }
        self.editions.push(edition);
    }

    /// From now on these operations, and no others, are accepted.
    pub fn expect(&mut self, expected: Option<Expected>) {
        self.expected = expected;
    }

    /// Folders at the root beside `kept`.
    pub fn listed_beside(&self, kept: &VersionDir) -> Vec<VersionDir> {
        let listed = self.editions.iter().filter(|edition| edition.is_listed());
        listed.map(|edition| edition.tree().dir()).filter(|dir| *dir != kept).cloned().collect()
    }

    /// Takes all folders from the listing that are neither shown nor `kept`. Path walks still find
    /// them: an rmdir now would end those that have just come by with ENOENT.
    pub fn leave_others(&mut self, kept: Option<&VersionDir>) {
        let data = self.data.clone();
        let is_other = |e: &Edition| *e.tree().dir() != data && Some(e.tree().dir()) != kept;
        // what was never made, nobody has seen
        self.editions.retain(|edition| !(edition.is_staged() && is_other(edition)));
        for edition in &mut self.editions {
            if edition.is_listed() && is_other(edition) {
                edition.leave();
            }
        }
    }

    /// Folders that no path walk can be on its way into: they left the listing `grace` ago.
    pub fn to_retire(&self, now: Instant, grace: Duration) -> Vec<VersionDir> {
        let is_due = |e: &&Edition| e.is_leaving() && e.age(now) >= grace;
        self.editions.iter().filter(is_due).map(|e| e.tree().dir().clone()).collect()
    }

    /// Whether a folder waits for its end.
    pub fn is_leaving(&self) -> bool {
        self.editions.iter().any(Edition::is_leaving)
    }

    /// Takes folders from the root without csi: those that mounts show, which an rmdir would
    /// empty, and all while csi is away. Whoever is inside still finds the files; the caller tells
    /// the kernel.
    pub fn withdraw(&mut self, dirs: &[VersionDir]) -> Vec<Arc<Tree>> {
        let is_it = |e: &&mut Edition| e.is_leaving() && dirs.contains(e.tree().dir());
        let gone = self.editions.iter_mut().filter(is_it);
        gone.map(|edition| {
            edition.retire();
            Arc::clone(edition.tree())
        })
        .collect()
    }

    /// Forgets versions that nobody can read any more, and above a bound those that are held: the
    /// oldest first, what a mount shows last. Those that the kernel has names of are returned.
    pub fn prune(&mut self, now: Instant) -> Vec<Arc<Tree>> {
        self.editions.retain(|edition| edition.is_needed(now));
        let held = |e: &Edition| e.is_leaving() || e.is_retired();
        let mut size: usize =
            self.editions.iter().filter(|e| held(e)).map(|e| e.tree().size()).sum();
        let mut gone = Vec::new();
        for is_bound in [false, true] {
            self.editions.retain(|edition| {
                let is_kept = size <= RETIRED_LIMIT || !held(edition);
                if is_kept || edition.is_bound() != is_bound {
                    return true;
                }
                size -= edition.tree().size();
                if edition.is_leaving() {
                    gone.push(Arc::clone(edition.tree()));
                }
                false
            });
        }
        gone
    }

    /// Versions that went, and that the kernel still has inodes of: a late walk may have left names
    /// behind, or a descriptor is held.
    pub fn lingering(&self, now: Instant) -> Vec<Arc<Tree>> {
        let lingers = |e: &&Edition| e.is_retired() && !e.is_walked(now);
        self.editions.iter().filter(lingers).map(|edition| Arc::clone(edition.tree())).collect()
    }

    /// All names that the root may have had: links and folders of all versions.
    pub fn root_names(&self) -> BTreeSet<String> {
        let mut names = self.file_names();
        names.extend([DATA, DATA_TMP].map(str::to_owned));
        names.extend(self.editions.iter().map(|edition| edition.tree().dir().to_string()));
        names
    }

    /// Names of the files and folders of all versions.
    pub fn file_names(&self) -> BTreeSet<String> {
        let trees = self.editions.iter().map(Edition::tree);
        let folders = trees.flat_map(|tree| tree.folders().map(move |folder| (tree, folder)));
        let names = folders.flat_map(|(tree, folder)| tree.children(folder));
        names.map(|(name, _child)| name.to_owned()).collect()
    }

    /// How many versions are in memory.
    pub fn versions(&self) -> usize {
        self.editions.len()
    }

    /// The folder of that name at the root, also one that is not listed any more: a path walk may
    /// have read the old `..data` just before.
    fn found(&self, dir: &str) -> Option<&Edition> {
        let is_it =
            |e: &&Edition| (e.is_listed() || e.is_leaving()) && e.tree().dir().as_str() == dir;
        self.editions.iter().find(is_it)
    }

    fn pointer_ino(&self, dir: &VersionDir) -> u64 {
        self.numbers.number(Kind::Link, dir.as_str().as_bytes(), DATA, 0)
    }

    /// The child `name` of the folder with inode `parent`.
    pub fn lookup(&self, parent: u64, name: &str) -> Option<Node<'_>> {
        if parent != ROOT {
            let (edition, folder) = self.folder(parent)?;
            return Some(edition.node(edition.tree().child(folder, name)?));
        }
        match name {
            DATA => Some(Node::Pointer(&self.data)),
            DATA_TMP => self.data_tmp.as_ref().map(Node::Pointer),
            _ => match self.links.by_name.get_key_value(name) {
                Some((name, _ino)) => Some(Node::Link(name)),
                None => self.found(name).map(Edition::top),
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
                Kind::Folder | Kind::File => {
                    edition.tree().by_ino(ino).map(|child| edition.node(child))
                }
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
            Node::Folder(_, folder) => folder.ino(),
            Node::File(_, file) => file.ino(),
        };
        self.attributes_of(ino, node)
    }

    fn attributes_of(&self, ino: u64, node: &Node<'_>) -> Attributes {
        let (kind, size, time, generation) = match node {
            Node::Root => (Kind::Folder, 0, self.time(), 0),
            Node::Pointer(dir) => (Kind::Link, dir.as_str().len(), self.time(), 0),
            Node::Link(name) => (Kind::Link, link_target(name).len(), self.time(), 0),
            Node::Folder(edition, _) => {
                (Kind::Folder, 0, edition.tree().time(), edition.tree().source().id().generation())
            }
            Node::File(edition, _) => {
                let (size, time) = self.size_and_time(ino);
                (Kind::File, size, time, edition.tree().source().id().generation())
            }
            Node::Ghost(Kind::File) => {
                let (size, time) = self.size_and_time(ino);
                (Kind::File, size, time, 0)
            }
            Node::Ghost(kind) => (*kind, 0, self.time(), 0),
        };
        let mode = match (node, kind) {
            (Node::File(_, file), _) => file.mode(),
            (_, Kind::Folder) => self.looks.folder_mode,
            (_, Kind::File) => self.namesake(ino).map_or(self.looks.file_mode, File::mode),
            (_, Kind::Link) => 0o777,
        };
        let names = match node {
            // else an inotify watch would not hear of its end
            Node::File(edition, _) if edition.is_unlinked() => 0,
            // its own two, and one in each folder in it
            Node::Root => 2 + self.editions.iter().filter(|e| e.is_listed()).count(),
            Node::Folder(_, folder) => 2 + folder.inner(),
            _ if kind == Kind::Folder => 2,
            _ => 1,
        };
        let names = u32::try_from(names).unwrap_or(u32::MAX);
        let (size, group) = (size as u64, self.looks.group);
        Attributes { ino, kind, size, names, mode, group, time, generation }
    }

    fn time(&self) -> SystemTime {
        self.shown().map_or(SystemTime::UNIX_EPOCH, |t| t.time())
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
                names.extend(folders.map(|s| entry(s.tree().dir().as_str(), &s.top())));
                Some(names)
            }
            Node::Folder(..) | Node::Ghost(Kind::Folder) => {
                let Some((edition, folder)) = self.folder(ino) else { return Some(Vec::new()) };
                let children = edition.tree().children(folder);
                Some(children.map(|(name, child)| entry(name, &edition.node(child))).collect())
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
