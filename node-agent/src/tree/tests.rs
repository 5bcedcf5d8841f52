use proptest::prelude::*;
use vsecm_node_agent_api::{
    items::Items,
    volume::{Audit, FileMode, Gate, Layout, OnRotate, OnWithdraw},
};

use super::*;
use crate::{inode::tests::KEY, snapshot::tests::document};

pub(crate) fn options() -> VolumeOptions {
    VolumeOptions {
        layout: Layout::Files,
        document: "secrets.json".parse().unwrap(),
        items: Items::default(),
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

/// Shows items only.
pub(crate) fn tree_of(revision: u64, text: &str, items: &str) -> Tree {
    build(revision, text, &VolumeOptions { items: items.parse().unwrap(), ..options() })
}

fn build(revision: u64, text: &str, options: &VolumeOptions) -> Tree {
    let source = Source::Said(Arc::new(document(revision, text)));
    let dir = source.folder(|_| false).unwrap();
    Tree::build(&Numbers::new(KEY), source, options, dir)
}

fn names(tree: &Tree) -> Vec<String> {
    tree.files().iter().map(|file| file.path().to_string()).collect()
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
        let tree = Tree::build(&Numbers::new(KEY), source, &options(), dir);
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

const NESTED: &str = r#"{
    "user": "admin", "a.b": "literal", "a": {"b": "nested", "c.d": {"e": 1.50}, "l": [1]},
    "text": "{\"b\":1}", "a/b": "slash", "secrets.json": "mine"
}"#;

#[test]
fn items_are_all_that_is_shown_at_their_paths_with_their_modes() {
    let tree = tree_of(3, NESTED, "user=db/user:0400,user=copy,.=all/document.json,a/b=slash");
    assert_eq!(names(&tree), ["all/document.json", "copy", "db/user", "slash"]);
    assert_eq!(text(&tree, "db/user"), "admin");
    assert_eq!(text(&tree, "slash"), "slash");
    assert_eq!(text(&tree, "all/document.json"), NESTED);
    let modes: Vec<_> = tree.files().iter().map(File::mode).collect();
    assert_eq!(modes, [0o444, 0o444, 0o400, 0o444]);
    assert_eq!(tree.hidden(), [] as [String; 0], "nothing else was asked for");
    assert_eq!(tree.missing(), [] as [String; 0]);
}

#[test]
fn a_dotted_key_is_the_literal_one_or_else_a_way_into_objects() {
    let tree = tree_of(3, NESTED, r"a.b=1,a.c\.d.e=2,a.c\.d=3,a.l=4,secrets\.json=5");
    let texts: Vec<_> = ["1", "2", "3", "4", "5"].map(|path| text(&tree, path)).into();
    assert_eq!(texts, ["literal", "1.50", "{\"e\":1.50}", "[1]", "mine"]);
}

#[test]
fn keys_that_are_not_there_are_named() {
    let items = "user=u,nope=x,a.nope=x1,text.b=x2,a.l.0=x3,user.x=x4,a.c.d=x5,.=all";
    let tree = tree_of(3, NESTED, items);
    assert_eq!(names(&tree), ["all", "u"]);
    assert_eq!(tree.missing(), ["nope", "a.nope", "text.b", "a.l.0", "user.x", "a.c.d"]);
    let options = VolumeOptions { items: items.parse().unwrap(), ..options() };
    assert_eq!(missing(&document(3, NESTED), &options), tree.missing());
    assert_eq!(missing(&document(3, "plain"), &options).len(), 7, "a document has no keys");
}

#[test]
fn a_files_namesake_has_its_path() {
    let (old, new) = (tree_of(1, NESTED, "user=x/y,a.b=y"), tree_of(2, NESTED, "user=x/y"));
    let ino = |tree: &Tree, path: &str| tree.file(path).unwrap().ino();
    let Some(Child::File(file)) = new.namesake(ino(&old, "x/y")) else {
        panic!("the file must have a namesake");
    };
    assert_eq!(file.path().to_string(), "x/y");
    assert!(new.namesake(ino(&old, "y")).is_none());
    assert!(matches!(new.namesake(old.ino()), Some(Child::Folder(top)) if top.ino() == new.ino()));
}

proptest! {
    #[test]
    fn every_file_is_found_by_path_and_inode_and_inodes_are_unique(keys in prop::collection::hash_set("[a-zA-Z0-9._-]{1,6}", 0..60), revision in 1_u64..1000) {
        let object: serde_json::Map<_, _> = keys.iter().map(|k| (k.clone(), k.as_str().into())).collect();
        let json = serde_json::Value::Object(object).to_string();
        let tree = tree(revision, &json);
        each_is_found(&tree);
        for file in tree.files() {
            let path = file.path().to_string();
            if path != "secrets.json" {
                prop_assert_eq!(tree.bytes(file), path.as_bytes());
            }
        }
        prop_assert_eq!(tree.files().len() + tree.hidden().len(), keys.len() + 1);
    }

    #[test]
    fn items_of_any_shape_make_a_tree_in_which_all_is_found(paths in prop::collection::vec("[ab]{1,2}(/[ab]{1,2}){0,3}", 1..12)) {
        let items: Vec<_> = paths.iter().map(|path| format!("k={path}")).collect();
        if let Ok(items) = items.join(",").parse::<Items>() {
            let tree = build(1, "{\"k\":\"v\"}", &VolumeOptions { items, ..options() });
            each_is_found(&tree);
            prop_assert_eq!(tree.files().len(), paths.len());
            for path in &paths {
                prop_assert_eq!(text(&tree, path), "v");
            }
            let inner: usize = tree.folders().map(Folder::inner).sum();
            prop_assert_eq!(inner + 1, tree.folders().count());
        }
    }
}

fn each_is_found(tree: &Tree) {
    let files = tree.files().iter().map(File::ino);
    let inodes: std::collections::HashSet<_> =
        files.chain(tree.folders().map(Folder::ino)).collect();
    assert_eq!(inodes.len(), tree.files().len() + tree.folders().count());
    let mut walked = 0;
    for folder in tree.folders() {
        let by_ino = tree.by_ino(folder.ino());
        assert!(matches!(by_ino, Some(Child::Folder(found)) if found.ino() == folder.ino()));
        for (name, _child) in tree.children(folder) {
            assert!(tree.child(folder, name).is_some());
            walked += 1;
        }
    }
    assert_eq!(walked + 1, inodes.len());
    for file in tree.files() {
        assert_eq!(tree.file(&file.path().to_string()).map(File::ino), Some(file.ino()));
        let by_ino = tree.by_ino(file.ino());
        assert!(matches!(by_ino, Some(Child::File(found)) if found.path() == file.path()));
    }
}
