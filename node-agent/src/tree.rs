//! The files of one version: a pure function of what Safe said and what the pod's author asked for.
//!
//! ```text
//!   /                      the volume's root
//!   |- ..data -> ..7       swapped by csi
//!   |- ..7/                this module's Tree
//!   |  |- password         a top-level key
//!   |  `- secrets.json     the document, byte for byte
//!   |- password -> ..data/password
//!   `- secrets.json -> ..data/secrets.json
//! ```

use std::{collections::HashMap, sync::Arc, time::SystemTime};

use vsecm_node_agent_api::volume::{FileName, Layout, VersionDir, VolumeOptions};

use crate::{
    inode::{Kind, Numbers},
    snapshot::{Content, Snapshot, VersionId, distinct_folders},
};

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
    ino: u64,
    files: Vec<File>,
    by_ino: HashMap<u64, usize>,
    hidden: Vec<String>,
    looks: Looks,
}

/// One file.
#[derive(Debug)]
pub struct File {
    name: FileName,
    ino: u64,
    part: Part,
}

#[derive(Clone, Copy, Debug)]
enum Part {
    Document,
    Entry(usize),
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
        let (parts, hidden) = parts(&source, options);
        let id = source.id();
        let mut files = Vec::with_capacity(parts.len());
        let mut by_ino = HashMap::with_capacity(parts.len());
        for (name, part) in parts {
            let mut salt = 0;
            let ino = loop {
                let ino = numbers.number(Kind::File, id.as_bytes(), name.as_str(), salt);
                if !by_ino.contains_key(&ino) {
                    break ino;
                }
                salt += 1;
            };
            by_ino.insert(ino, files.len());
            files.push(File { name, ino, part });
        }
        Self {
            ino: numbers.number(Kind::Folder, id.as_bytes(), dir.as_str(), 0),
            dir,
            source,
            files,
            by_ino,
            hidden,
            looks: Looks::of(options),
        }
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
        self.ino
    }

    /// When the version came to be.
    pub fn time(&self) -> SystemTime {
        self.source.time()
    }

    /// Who may see it.
    pub fn looks(&self) -> Looks {
        self.looks
    }

    /// The files in the order of their names.
    pub fn files(&self) -> &[File] {
        &self.files
    }

    /// Keys of the document that have no file of their own.
    pub fn hidden(&self) -> &[String] {
        &self.hidden
    }

    /// The file of that name.
    pub fn file(&self, name: &str) -> Option<&File> {
        let at = self.files.binary_search_by(|file| file.name.as_str().cmp(name)).ok()?;
        self.files.get(at)
    }

    /// The file with that inode.
    pub fn file_by_ino(&self, ino: u64) -> Option<&File> {
        self.files.get(*self.by_ino.get(&ino)?)
    }

    /// A file's bytes.
    pub fn bytes(&self, file: &File) -> &[u8] {
        let Source::Said(snapshot) = &self.source else {
            return &[];
        };
        match file.part {
            Part::Document => snapshot.document(),
            Part::Entry(at) => {
                let entry = snapshot.entries().files.get(at);
                entry.map_or(&[], |(_name, value)| value.as_slice())
            }
        }
    }

    /// Bytes in all files.
    pub fn size(&self) -> usize {
        self.files.iter().map(|file| self.bytes(file).len()).sum()
    }
}

impl File {
    /// Its name.
    pub fn name(&self) -> &FileName {
        &self.name
    }

    /// Its inode.
    pub fn ino(&self) -> u64 {
        self.ino
    }
}

/// Name and part of each file in the order of the names, and the keys that have none.
fn parts(source: &Source, options: &VolumeOptions) -> (Vec<(FileName, Part)>, Vec<String>) {
    let Source::Said(snapshot) = source else {
        return (Vec::new(), Vec::new());
    };
    if matches!(snapshot.content(), Content::Removed { .. }) {
        return (Vec::new(), Vec::new());
    }
    let mut parts = vec![(options.document.clone(), Part::Document)];
    let mut hidden = Vec::new();
    if options.layout == Layout::Files {
        let entries = snapshot.entries();
        hidden.clone_from(&entries.unfit);
        for (at, (name, _value)) in entries.files.iter().enumerate() {
            if *name == options.document {
                hidden.push(name.to_string());
            } else {
                parts.push((name.clone(), Part::Entry(at)));
            }
        }
    }
    parts.sort_by(|(a, _), (b, _)| a.as_str().cmp(b.as_str()));
    (parts, hidden)
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;
    use vsecm_node_agent_api::volume::{Audit, FileMode, Gate, OnRotate, OnWithdraw};

    use super::*;
    use crate::snapshot::tests::document;

    pub(crate) fn options() -> VolumeOptions {
        VolumeOptions {
            layout: Layout::Files,
            document: "secrets.json".parse().unwrap(),
            mode: FileMode::try_from(0o444).unwrap(),
            gate: Gate::Required,
            on_withdraw: OnWithdraw::Keep,
            audit: Audit::Off,
            on_rotate: OnRotate::Follow,
            group: None,
        }
    }

    pub(crate) fn tree(revision: u64, text: &str) -> Tree {
        build(revision, text, &options())
    }

    fn build(revision: u64, text: &str, options: &VolumeOptions) -> Tree {
        let source = Source::Said(Arc::new(document(revision, text)));
        let dir = source.folder(|_| false).unwrap();
        Tree::build(&Numbers::new("csi-1"), source, options, dir)
    }

    fn names(tree: &Tree) -> Vec<&str> {
        tree.files().iter().map(|f| f.name().as_str()).collect()
    }

    fn text<'a>(tree: &'a Tree, name: &str) -> &'a str {
        std::str::from_utf8(tree.bytes(tree.file(name).unwrap())).unwrap()
    }

    #[test]
    fn a_json_object_gives_a_file_per_key_and_the_document_byte_for_byte() {
        let json = "{ \"user\": \"admin\", \"port\": 5432,\n \"o\": {\"a\": [1, 2]} }";
        let tree = tree(7, json);
        assert_eq!(names(&tree), ["o", "port", "secrets.json", "user"]);
        assert_eq!(text(&tree, "user"), "admin");
        assert_eq!(text(&tree, "port"), "5432");
        assert_eq!(text(&tree, "o"), "{\"a\":[1,2]}");
        assert_eq!(text(&tree, "secrets.json"), json);
        assert_eq!(tree.dir().as_str(), "..7");
    }

    #[test]
    fn what_is_no_json_object_is_one_document() {
        for json in ["[1]", "plain", "\"a\"", "{\"a\""] {
            assert_eq!(names(&tree(1, json)), ["secrets.json"]);
        }
    }

    #[test]
    fn the_layout_document_shows_nothing_else() {
        let mut options = options();
        options.layout = Layout::Document;
        options.document = "all".parse().unwrap();
        assert_eq!(names(&build(1, "{\"a\":1}", &options)), ["all"]);
    }

    #[test]
    fn keys_that_cannot_be_files_are_named_and_take_nothing_down() {
        let long = "x".repeat(256);
        let json = format!(
            "{{\"a/b\":1,\"..\":2,\"\":3,\"{long}\":4,\"secrets.json\":5,\"ok\":6,\"..data\":7}}"
        );
        let tree = tree(1, &json);
        assert_eq!(names(&tree), ["ok", "secrets.json"]);
        assert_eq!(text(&tree, "secrets.json"), json);
        let mut hidden = tree.hidden().to_vec();
        hidden.sort();
        assert_eq!(hidden, ["", "..", "..data", "a/b", "secrets.json", &long]);
    }

    #[test]
    fn nothing_has_a_folder_without_files() {
        for nothing in [Nothing::NotYet, Nothing::Revoked] {
            let source = Source::Nothing(nothing);
            let dir = source.folder(|_| false).unwrap();
            let tree = Tree::build(&Numbers::new("v"), source, &options(), dir);
            assert!(tree.files().is_empty());
        }
    }

    #[test]
    fn a_folder_name_that_is_taken_gets_a_suffix() {
        let source = Source::Said(Arc::new(document(7, "{}")));
        let taken: VersionDir = "..7".parse().unwrap();
        let other = source.folder(|dir| *dir == taken).unwrap();
        assert!(other.as_str().starts_with("..7-"), "{other}");
        let third = source.folder(|dir| *dir == taken || *dir == other).unwrap();
        assert_eq!(third.as_str(), format!("{other}-2"));
    }

    #[test]
    fn a_thousand_keys_and_a_mebibyte_fit() {
        let value = "v".repeat(1000);
        let members: Vec<String> = (0..1000).map(|n| format!("\"k{n}\":\"{value}\"")).collect();
        let tree = tree(1, &format!("{{{}}}", members.join(",")));
        assert_eq!(tree.files().len(), 1001);
        assert_eq!(text(&tree, "k999"), value);
    }

    proptest! {
        #[test]
        fn every_file_is_found_by_name_and_inode_and_inodes_are_unique(keys in prop::collection::hash_set("[a-zA-Z0-9._-]{1,6}", 0..60), revision in 1_u64..1000) {
            let object: serde_json::Map<_, _> = keys.iter().map(|k| (k.clone(), k.as_str().into())).collect();
            let json = serde_json::Value::Object(object).to_string();
            let tree = tree(revision, &json);
            let inodes: std::collections::HashSet<_> = tree.files().iter().map(File::ino).collect();
            prop_assert_eq!(inodes.len(), tree.files().len());
            for file in tree.files() {
                prop_assert_eq!(tree.file(file.name().as_str()).map(File::ino), Some(file.ino()));
                prop_assert_eq!(tree.file_by_ino(file.ino()).map(File::name), Some(file.name()));
                if file.name().as_str() != "secrets.json" {
                    prop_assert_eq!(tree.bytes(file), file.name().as_str().as_bytes());
                }
            }
            prop_assert_eq!(tree.files().len() + tree.hidden().len(), keys.len() + 1);
        }
    }
}
