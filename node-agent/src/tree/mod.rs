//! The files of one version: a pure function of what Safe said and what the pod's author asked for.
//!
//! ```text
//!   /                      the volume's root
//!   |- ..data -> ..7       swapped by csi
//!   |- ..7/                this module's Tree
//!   |  |- password         a top-level key
//!   |  |- secrets.json     the document, byte for byte
//!   |  `- tls/key          an item's path may have folders
//!   |- password -> ..data/password
//!   |- secrets.json -> ..data/secrets.json
//!   `- tls -> ..data/tls
//! ```

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::SystemTime,
};

use vsecm_node_agent_api::{
    items::FilePath,
    volume::{VersionDir, VolumeOptions},
};

pub use self::plan::missing;
use self::plan::{Part, Plan, plan};
use crate::{
    inode::{Kind, Numbers, path_part},
    snapshot::{Content, Snapshot, VersionId, distinct_folders},
};

mod plan;

/// What a version shows.
#[derive(Clone, Debug)]
pub enum Source {
    /// What Safe said.
    Said(Arc<Snapshot>),
    /// No files, for a reason that is this volume's own.
    Nothing(Nothing),
}

/// Why a volume shows no files though Safe did not say so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nothing {
    /// The volume is optional and its secret is not there yet.
    NotYet,
    /// The pod's identity was withdrawn, and the volume asks for its files to go then.
    Revoked,
}

impl Source {
    /// Tells what is shown from everything else.
    pub fn id(&self) -> VersionId {
        match self {
            Self::Said(snapshot) => snapshot.id(),
            Self::Nothing(nothing) => VersionId::of(&[format!("{nothing:?}").as_bytes()]),
        }
    }

    fn time(&self) -> SystemTime {
        match self {
            Self::Said(snapshot) => snapshot.time(),
            Self::Nothing(_) => SystemTime::UNIX_EPOCH,
        }
    }

    /// Whether it takes the files away from the pod.
    pub fn is_withdrawal(&self) -> bool {
        match self {
            Self::Said(snapshot) => matches!(snapshot.content(), Content::Removed { .. }),
            Self::Nothing(nothing) => *nothing == Nothing::Revoked,
        }
    }

    /// Its place among what Safe said about the secret.
    pub fn sequence(&self) -> Option<u64> {
        match self {
            Self::Said(snapshot) => Some(snapshot.sequence()),
            Self::Nothing(_) => None,
        }
    }

    /// Which write of the store it shows, if it shows one.
    pub fn revision(&self) -> Option<u64> {
        match self {
            Self::Said(snapshot) => snapshot.position().map(|position| position.revision.0),
            Self::Nothing(_) => None,
        }
    }

    /// A folder's name that is not among `taken`.
    pub fn folder(&self, taken: impl Fn(&VersionDir) -> bool) -> Option<VersionDir> {
        let plain = match self {
            Self::Said(snapshot) => snapshot.folder(),
            Self::Nothing(Nothing::NotYet) => "..0".to_owned(),
            Self::Nothing(Nothing::Revoked) => "..0-revoked".to_owned(),
        };
        match plain.parse() {
            Ok(dir) if !taken(&dir) => Some(dir),
            _ => distinct_folders(&plain, self.id()).find(|dir| !taken(dir)),
        }
    }
}

/// The folder of one version. Never changed once it is built ([I4]).
#[derive(Debug)]
pub struct Tree {
    dir: VersionDir,
    source: Source,
    top: Folder,
    /// The folders below, each after the one that it is in.
    inner: Vec<Folder>,
    /// In the order of their paths.
    files: Vec<File>,
    by_ino: HashMap<u64, Place>,
    hidden: Vec<String>,
    missing: Vec<String>,
    looks: Looks,
}

/// The version's own folder, or one below it.
#[derive(Debug)]
pub struct Folder {
    ino: u64,
    children: BTreeMap<String, Place>,
}

/// One file.
#[derive(Debug)]
pub struct File {
    path: FilePath,
    ino: u64,
    part: Part,
    mode: u16,
}

/// What stands at a name.
#[derive(Clone, Copy, Debug)]
pub enum Child<'a> {
    /// A folder.
    Folder(&'a Folder),
    /// A file.
    File(&'a File),
}

impl Child<'_> {
    /// Its inode.
    pub fn ino(self) -> u64 {
        match self {
            Self::Folder(folder) => folder.ino,
            Self::File(file) => file.ino,
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Place {
    Top,
    Folder(usize),
    File(usize),
}

/// Who may see what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Looks {
    /// Permission bits of files.
    pub file_mode: u16,
    /// Permission bits of folders: as on a Secret volume, with setgid where there is a group.
    pub folder_mode: u16,
    /// Group of all.
    pub group: u32,
}

impl Looks {
    /// As the volume's options say.
    pub fn of(options: &VolumeOptions) -> Self {
        Self {
            file_mode: options.mode.bits(),
            folder_mode: options.group.map_or(0o755, |_group| 0o2755),
            group: options.group.unwrap_or(0),
        }
    }
}

impl Tree {
    /// The files of `source`, in the folder `dir`.
    pub fn build(
        numbers: &Numbers,
        source: Source,
        options: &VolumeOptions,
        dir: VersionDir,
    ) -> Self {
        let Plan { files, hidden, missing } = plan(&source, options);
        let mut tree = Self {
            dir,
            source,
            top: Folder { ino: 0, children: BTreeMap::new() },
            inner: Vec::new(),
            files: Vec::with_capacity(files.len()),
            by_ino: HashMap::with_capacity(files.len() + 1),
            hidden,
            missing,
            looks: Looks::of(options),
        };
        tree.top.ino = tree.fresh(numbers, Kind::Folder, "");
        tree.by_ino.insert(tree.top.ino, Place::Top);
        for (path, part, mode) in files {
            let ino = tree.fresh(numbers, Kind::File, &path.to_string());
            let mode =
                mode.map_or(tree.looks.file_mode, vsecm_node_agent_api::volume::FileMode::bits);
            let place = Place::File(tree.files.len());
            tree.place(numbers, &path, place);
            tree.by_ino.insert(ino, place);
            tree.files.push(File { path, ino, part, mode });
        }
        tree
    }

    fn fresh(&self, numbers: &Numbers, kind: Kind, path: &str) -> u64 {
        let id = self.source.id();
        let mut version = id.as_bytes().to_vec();
        if kind == Kind::Folder {
            // a version that is there again has a folder of another name: the kernel may have the
            // one that was removed, as a dead folder
            version.extend(self.dir.as_str().as_bytes());
        }
        let mut salt = 0;
        loop {
            let ino = numbers.number(kind, &version, path, salt);
            if !self.by_ino.contains_key(&ino) {
                return ino;
            }
            salt += 1;
        }
    }

    /// Puts a file into the folder that its path names, which is made where it is missing.
    fn place(&mut self, numbers: &Numbers, path: &FilePath, file: Place) {
        let Some((name, folders)) = path.names().split_last() else { return };
        let (mut place, mut walked) = (Place::Top, String::new());
        for folder in folders {
            walked.push_str(folder.as_str());
            place = match self.children_mut(place).get(folder.as_str()) {
                Some(inner) => *inner,
                None => self.add_folder(numbers, place, folder.as_str(), &walked),
            };
            walked.push('/');
        }
        self.children_mut(place).insert(name.to_string(), file);
    }

    fn add_folder(&mut self, numbers: &Numbers, outer: Place, name: &str, path: &str) -> Place {
        let ino = self.fresh(numbers, Kind::Folder, path);
        let place = Place::Folder(self.inner.len());
        self.inner.push(Folder { ino, children: BTreeMap::new() });
        self.by_ino.insert(ino, place);
        self.children_mut(outer).insert(name.to_owned(), place);
        place
    }

    fn children_mut(&mut self, place: Place) -> &mut BTreeMap<String, Place> {
        let inner = match place {
            Place::Folder(at) => self.inner.get_mut(at),
            // the paths of a plan never clash: no file is asked for what is in it
            Place::Top | Place::File(_) => None,
        };
        &mut inner.unwrap_or(&mut self.top).children
    }

    /// The folder's name.
    pub fn dir(&self) -> &VersionDir {
        &self.dir
    }

    /// What it shows.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// The folder's inode.
    pub fn ino(&self) -> u64 {
        self.top.ino
    }

    /// The version's own folder.
    pub fn top(&self) -> &Folder {
        &self.top
    }

    /// When the version came to be.
    pub fn time(&self) -> SystemTime {
        self.source.time()
    }

    /// Who may see it.
    pub fn looks(&self) -> Looks {
        self.looks
    }

    /// The files in the order of their paths.
    pub fn files(&self) -> &[File] {
        &self.files
    }

    /// The version's own folder and those below, each after the one that it is in.
    pub fn folders(&self) -> impl DoubleEndedIterator<Item = &Folder> {
        std::iter::once(&self.top).chain(&self.inner)
    }

    /// Keys of the document that have no file of their own.
    pub fn hidden(&self) -> &[String] {
        &self.hidden
    }

    /// Keys that the volume's items name and the document does not have.
    pub fn missing(&self) -> &[String] {
        &self.missing
    }

    fn at(&self, place: Place) -> Option<Child<'_>> {
        match place {
            Place::Top => Some(Child::Folder(&self.top)),
            Place::Folder(at) => self.inner.get(at).map(Child::Folder),
            Place::File(at) => self.files.get(at).map(Child::File),
        }
    }

    /// What is in a folder, in the order of the names.
    pub fn children<'a>(
        &'a self,
        folder: &'a Folder,
    ) -> impl Iterator<Item = (&'a str, Child<'a>)> {
        let children = folder.children.iter();
        children.filter_map(|(name, place)| Some((name.as_str(), self.at(*place)?)))
    }

    /// What stands at a name in a folder.
    pub fn child(&self, folder: &Folder, name: &str) -> Option<Child<'_>> {
        self.at(*folder.children.get(name)?)
    }

    /// What is at that path; the version's own folder at the empty one.
    pub fn at_path(&self, path: &str) -> Option<Child<'_>> {
        let mut found = Child::Folder(&self.top);
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let Child::Folder(folder) = found else { return None };
            found = self.child(folder, name)?;
        }
        Some(found)
    }

    /// The file at that path.
    pub fn file(&self, path: &str) -> Option<&File> {
        match self.at_path(path)? {
            Child::File(file) => Some(file),
            Child::Folder(_) => None,
        }
    }

    /// What has that inode.
    pub fn by_ino(&self, ino: u64) -> Option<Child<'_>> {
        self.at(*self.by_ino.get(&ino)?)
    }

    /// What has the path here that `ino` had in another version.
    pub fn namesake(&self, ino: u64) -> Option<Child<'_>> {
        let kind = Kind::of(ino);
        let is_it = |other: u64| Kind::of(other) == kind && path_part(other) == path_part(ino);
        let place = self.by_ino.iter().find_map(|(other, place)| is_it(*other).then_some(*place));
        self.at(place?)
    }

    /// A file's bytes.
    pub fn bytes<'a>(&'a self, file: &'a File) -> &'a [u8] {
        let Source::Said(snapshot) = &self.source else {
            return &[];
        };
        match &file.part {
            Part::Document => snapshot.document(),
            Part::Member(at) => {
                snapshot.members().get(*at).map_or(&[], |member| member.value.as_slice())
            }
            Part::Picked(value) => value,
        }
    }

    /// Bytes in all files.
    pub fn size(&self) -> usize {
        self.files.iter().map(|file| self.bytes(file).len()).sum()
    }
}

impl Folder {
    /// Its inode.
    pub fn ino(&self) -> u64 {
        self.ino
    }

    /// Folders in it.
    pub fn inner(&self) -> usize {
        self.children.values().filter(|place| matches!(place, Place::Folder(_))).count()
    }
}

impl File {
    /// Its path below the version's folder.
    pub fn path(&self) -> &FilePath {
        &self.path
    }

    /// Its inode.
    pub fn ino(&self) -> u64 {
        self.ino
    }

    /// Its permission bits.
    pub fn mode(&self) -> u16 {
        self.mode
    }
}

#[cfg(test)]
pub(crate) mod tests;
