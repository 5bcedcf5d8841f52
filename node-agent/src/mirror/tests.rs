use std::sync::atomic::Ordering::Relaxed;

use proptest::prelude::*;
use vsecm_node_agent_api::frame::Bind;

use super::{edition::WALK_GRACE, *};
use crate::{
    inode::tests::KEY,
    tree::{
        Child,
        tests::{tree, tree_of},
    },
};

fn mirror(text: &str) -> Mirror {
    Mirror::new(Numbers::new(KEY), Arc::new(tree(1, text)), Origin::Own)
}

fn dir(text: &str) -> VersionDir {
    text.parse().unwrap()
}

fn staged(old: &str, new: &str) -> Mirror {
    let mut mirror = mirror(old);
    stage(&mut mirror, new);
    mirror
}

fn stage(mirror: &mut Mirror, new: &str) {
    mirror.stage(Arc::new(tree(2, new)));
    mirror.expect(Some(Expected::Publish { dir: dir("..2"), replaced: vec![dir("..1")] }));
}

fn names(mirror: &Mirror, ino: u64) -> Vec<String> {
    let list = mirror.list(ino).unwrap();
    list.into_iter().map(|(name, _)| name.to_owned()).collect()
}

/// What csi does.
fn swap(mirror: &mut Mirror, new: &[&str], gone: &[&str]) {
    mirror.mkdir(ROOT, "..2").unwrap();
    mirror.symlink(ROOT, DATA_TMP, "..2").unwrap();
    mirror.rename((ROOT, DATA_TMP), (ROOT, DATA)).unwrap();
    for name in new {
        mirror.symlink(ROOT, name, &link_target(name)).unwrap();
    }
    for name in gone {
        mirror.unlink(ROOT, name).unwrap();
    }
    mirror.leave_others(None);
}

/// What comes after the grace.
fn retire(mirror: &mut Mirror) {
    let dirs = mirror.to_retire(Instant::now(), Duration::ZERO);
    assert_eq!(dirs, [dir("..1")]);
    mirror.expect(Some(Expected::Retire(dirs)));
    mirror.rmdir(ROOT, "..1").unwrap();
    mirror.expect(None);
}

#[test]
fn a_swap_shows_the_new_version_and_takes_the_old_one_away() {
    let mut mirror = staged("{\"a\":1,\"b\":2}", "{\"b\":3,\"c\":4}");
    swap(&mut mirror, &["c"], &["a"]);
    assert_eq!(names(&mirror, ROOT), [DATA, "b", "c", "secrets.json", "..2"]);
    assert_eq!(mirror.shown().unwrap().dir(), &dir("..2"));
}

#[test]
fn a_held_inode_of_a_retired_version_still_shows_its_bytes() {
    let mut mirror = staged("{\"a\":1}", "{\"a\":2}");
    let old = mirror.shown().unwrap().file("a").unwrap().ino();
    swap(&mut mirror, &[], &[]);
    let Some(Node::File(edition, file)) = mirror.node(old) else {
        panic!("the old file must be found by its inode");
    };
    assert_eq!(edition.tree().bytes(file), b"1");
}

#[test]
fn a_forgotten_version_answers_getattr_and_nothing_else() {
    let mut mirror = staged("{\"a\":1}", "{\"a\":23}");
    let old = mirror.shown().unwrap().file("a").unwrap().ino();
    swap(&mut mirror, &[], &[]);
    retire(&mut mirror);
    mirror.prune(Instant::now());
    assert_eq!(mirror.versions(), 2, "a path walk may still be under way");
    mirror.prune(Instant::now() + WALK_GRACE * 2);
    assert_eq!(mirror.versions(), 1);
    assert!(matches!(mirror.node(old), Some(Node::Ghost(Kind::File))));
    let attributes = mirror.attributes(old).unwrap();
    assert_eq!((attributes.ino, attributes.size), (old, 2));
}

#[test]
fn a_version_that_the_kernel_holds_is_kept() {
    let mut mirror = staged("{\"a\":1}", "{\"a\":2}");
    let old = mirror.shown().unwrap().file("a").unwrap().ino();
    let Some(Node::File(edition, _)) = mirror.node(old) else {
        panic!("there must be a file");
    };
    let looked_up = edition.clone();
    let looked_up = looked_up.looked_up();
    looked_up.store(1, Relaxed);
    swap(&mut mirror, &[], &[]);
    retire(&mut mirror);
    mirror.prune(Instant::now() + WALK_GRACE * 2);
    assert_eq!(mirror.versions(), 2);
    looked_up.store(0, Relaxed);
    mirror.prune(Instant::now() + WALK_GRACE * 2);
    assert_eq!(mirror.versions(), 1);
}

#[test]
fn without_a_swap_in_flight_everything_is_refused() {
    let mut mirror = mirror("{\"a\":1}");
    let folder = mirror.shown().unwrap().ino();
    assert_eq!(mirror.symlink(ROOT, DATA_TMP, "..1"), Err(Refusal::ReadOnly));
    assert_eq!(mirror.unlink(ROOT, "a"), Err(Refusal::ReadOnly));
    assert_eq!(mirror.unlink(folder, "a"), Err(Refusal::ReadOnly));
    assert_eq!(mirror.rename((ROOT, DATA_TMP), (ROOT, DATA)), Err(Refusal::ReadOnly));
}

#[test]
fn during_a_swap_everything_else_is_refused() {
    let mut mirror = staged("{\"a\":1}", "{\"b\":1}");
    let (old, new) = (dir("..1"), dir("..2"));
    assert_eq!(mirror.mkdir(ROOT, "..3"), Err(Refusal::ReadOnly));
    assert_eq!(mirror.mkdir(ROOT, "..1"), Err(Refusal::ReadOnly));
    mirror.mkdir(ROOT, "..2").unwrap();
    assert_eq!(mirror.mkdir(ROOT, "..2"), Err(Refusal::ReadOnly), "it is there");
    let ino = |m: &Mirror, dir: &VersionDir| m.found(dir.as_str()).unwrap().tree().ino();
    for (name, target) in [
        (DATA_TMP, "..1"),
        (DATA_TMP, "/etc"),
        (DATA, "..2"),
        ("b", "/etc/passwd"),
        ("b", "..2/b"),
        ("a", "..data/a"),
        ("x", "..data/x"),
    ] {
        let refused = mirror.symlink(ROOT, name, target);
        assert_eq!(refused, Err(Refusal::ReadOnly), "{name} -> {target}");
    }
    assert!(mirror.rename((ROOT, DATA_TMP), (ROOT, DATA)).is_err());
    assert!(mirror.rename((ROOT, "secrets.json"), (ROOT, DATA)).is_err());
    for name in [DATA, "secrets.json", "..1", "..2"] {
        assert_eq!(mirror.unlink(ROOT, name), Err(Refusal::ReadOnly), "{name}");
    }
    let (old_ino, new_ino) = (ino(&mirror, &old), ino(&mirror, &new));
    assert_eq!(mirror.chmod(old_ino), Err(Refusal::ReadOnly));
    assert_eq!(mirror.chmod(ROOT), Err(Refusal::ReadOnly));
    assert_eq!(mirror.chmod(new_ino), Ok(()));
    assert_eq!(mirror.unlink(old_ino, "a"), Err(Refusal::ReadOnly), "before the rename");
    mirror.symlink(ROOT, DATA_TMP, "..2").unwrap();
    mirror.rename((ROOT, DATA_TMP), (ROOT, DATA)).unwrap();
    assert_eq!(mirror.unlink(old_ino, "a"), Ok(()));
    assert_eq!(mirror.unlink(old_ino, "b"), Err(Refusal::Missing));
    assert_eq!(mirror.unlink(new_ino, "b"), Err(Refusal::ReadOnly), "it is not replaced");
    for name in ["..1", "..2"] {
        assert_eq!(mirror.rmdir(ROOT, name), Err(Refusal::ReadOnly), "{name}");
    }
}

#[test]
fn folders_go_when_they_are_due_and_no_others() {
    let mut mirror = staged("{\"a\":1}", "{\"a\":2}");
    swap(&mut mirror, &[], &[]);
    assert!(mirror.to_retire(Instant::now(), WALK_GRACE).is_empty(), "a walk may be under way");
    mirror.expect(Some(Expected::Retire(vec![dir("..1"), dir("..2")])));
    let folder = mirror.shown().unwrap().ino();
    assert_eq!(mirror.rmdir(folder, "..1"), Err(Refusal::ReadOnly));
    assert_eq!(mirror.rmdir(ROOT, "..2"), Err(Refusal::ReadOnly), "it is shown");
    assert_eq!(mirror.rmdir(ROOT, "a"), Err(Refusal::ReadOnly));
    assert_eq!(mirror.mkdir(ROOT, "..3"), Err(Refusal::ReadOnly));
    assert_eq!(mirror.unlink(ROOT, "a"), Err(Refusal::ReadOnly));
    assert_eq!(mirror.rmdir(ROOT, "..1"), Ok(()));
    assert_eq!(mirror.rmdir(ROOT, "..1"), Err(Refusal::ReadOnly), "it is gone");
}

#[test]
fn a_version_is_not_there_before_csi_has_made_its_folder() {
    let mut mirror = staged("{\"a\":1}", "{\"a\":2}");
    assert!(mirror.lookup(ROOT, "..2").is_none());
    assert!(!names(&mirror, ROOT).contains(&"..2".to_owned()));
    mirror.mkdir(ROOT, "..2").unwrap();
    assert!(mirror.lookup(ROOT, "..2").is_some());
}

#[test]
fn an_unlinked_file_is_found_by_late_walks_and_has_no_name() {
    let mut mirror = staged("{\"a\":1}", "{\"a\":2}");
    let old = Arc::clone(mirror.shown().unwrap());
    swap(&mut mirror, &[], &[]);
    mirror.expect(Some(Expected::Publish { dir: dir("..2"), replaced: vec![dir("..1")] }));
    mirror.unlink(old.ino(), "a").unwrap();
    let Some(Node::File(..)) = mirror.lookup(old.ino(), "a") else {
        panic!("a walk may still come by");
    };
    let ino = old.file("a").unwrap().ino();
    assert_eq!(mirror.attributes(ino).unwrap().names, 0);
    assert_eq!(mirror.bytes(ino), Some(&b"1"[..]));
}

#[test]
fn folders_in_a_version_follow_and_go_with_it() {
    let text = "{\"user\":1,\"pass\":22,\"host\":333}";
    let old = with_folders(1, text);
    let mut mirror = Mirror::new(Numbers::new(KEY), Arc::clone(&old), Origin::Own);
    mirror.stage(with_folders(2, "{\"user\":1,\"pass\":4444}"));
    mirror.expect(Some(Expected::Publish { dir: dir("..2"), replaced: vec![dir("..1")] }));
    swap(&mut mirror, &[], &[]);
    let db = match old.at_path("db") {
        Some(Child::Folder(folder)) => folder.ino(),
        _ => panic!("a folder"),
    };
    mirror.follow(Arc::new(mirror.following(&[bind("db", Some(db))])));
    assert_eq!(names(&mirror, db), ["pass"]);
    let pass = mirror.entry(&mirror.lookup(db, "pass").unwrap());
    assert_eq!(pass.size, 4);
    assert!(mirror.file_names().contains("host"), "the kernel may know it there");

    mirror.expect(Some(Expected::Retire(vec![dir("..1")])));
    assert_eq!(mirror.rmdir(db, "net"), Ok(()));
    assert_eq!(mirror.rmdir(db, "pass"), Err(Refusal::ReadOnly));
    assert_eq!(mirror.rmdir(mirror.shown().unwrap().ino(), "db"), Err(Refusal::ReadOnly));
    assert_eq!(mirror.rmdir(old.ino(), "db"), Ok(()));
    assert_eq!(mirror.rmdir(ROOT, "..1"), Ok(()));
}

fn bind(path: &str, ino: Option<u64>) -> Bind {
    Bind { dir: dir("..1"), path: path.to_owned(), ino }
}

#[test]
fn a_mount_of_a_file_or_folder_follows_and_what_else_is_held_does_not() {
    let mut mirror = staged("{\"a\":\"1\",\"b\":\"1\"}", "{\"a\":\"22\",\"c\":\"3\"}");
    let old = Arc::clone(mirror.shown().unwrap());
    let ino = |name: &str| old.file(name).unwrap().ino();
    assert!(mirror.following(&[bind("a", None)]).is_empty(), "it is shown still");
    swap(&mut mirror, &["c"], &["b"]);
    let followers = mirror.following(&[bind("a", None), bind("", Some(old.ino()))]);
    mirror.follow(Arc::new(followers));
    assert_eq!(mirror.bytes(ino("a")), Some(&b"22"[..]));
    assert_eq!(mirror.attributes(ino("a")).unwrap().size, 2);
    assert_eq!(mirror.bytes(ino("b")), Some(&b"1"[..]), "it is held, not mounted");
    let listed = names(&mirror, old.ino());
    assert_eq!(listed, ["a", "c", "secrets.json"]);
    assert!(mirror.lookup(old.ino(), "b").is_none());
    let Some(Node::File(edition, _)) = mirror.lookup(old.ino(), "c") else { panic!("it follows") };
    assert_eq!(edition.tree().dir(), &dir("..2"));
}

#[test]
fn a_mount_of_a_name_that_vanished_cannot_be_read_yet_has_attributes() {
    let mut mirror = staged("{\"a\":\"1\"}", "{\"b\":\"2\"}");
    let ino = mirror.shown().unwrap().file("a").unwrap().ino();
    swap(&mut mirror, &["b"], &["a"]);
    mirror.follow(Arc::new(mirror.following(&[bind("a", None)])));
    assert_eq!(mirror.bytes(ino), None);
    assert!(mirror.attributes(ino).unwrap().size > 0, "the kernel reads no bytes by itself");
}

#[test]
fn followers_are_followers_also_for_who_knows_their_numbers_alone() {
    let mut mirror = mirror("{\"a\":\"1\"}");
    let older = tree(9, "{\"a\":\"9\",\"b\":\"9\"}");
    let ino = |name: &str| older.file(name).unwrap().ino();
    let known = |path: &str, ino| Bind { dir: dir("..9"), path: path.to_owned(), ino: Some(ino) };
    let binds = [known("a", ino("a")), known("", older.ino())];
    mirror.follow(Arc::new(mirror.following(&binds)));
    assert_eq!(mirror.bytes(ino("a")), Some(&b"1"[..]));
    assert_eq!(names(&mirror, older.ino()), ["a", "secrets.json"]);
    assert_eq!(mirror.bytes(ino("b")), None, "a ghost");
}

#[test]
fn a_version_that_csi_publishes_too_late_cannot_be_read() {
    let mut mirror = staged("{\"a\":\"1\"}", "{\"a\":\"2\"}");
    mirror.revoke_all();
    swap(&mut mirror, &[], &[]);
    let ino = mirror.shown().unwrap().file("a").unwrap().ino();
    assert_eq!(mirror.bytes(ino), None);
    assert!(mirror.is_revoked());
}

fn rotated(on_rotate: OnRotate) -> (Mirror, u64) {
    let mut mirror = mirror("{\"a\":\"1\"}").on_rotate(on_rotate);
    stage(&mut mirror, "{\"a\":\"2\"}");
    let ino = mirror.shown().unwrap().file("a").unwrap().ino();
    swap(&mut mirror, &[], &[]);
    retire(&mut mirror);
    (mirror, ino)
}

#[test]
fn with_revoke_an_older_version_cannot_be_read_from_the_swap_on() {
    let (mirror, ino) = rotated(OnRotate::Revoke);
    assert_eq!(mirror.bytes(ino), None);
    assert!(mirror.attributes(ino).is_some());
    assert!(mirror.revoked().contains(&ino));
    assert!(mirror.following(&[bind("a", Some(ino))]).is_empty());
}

#[test]
fn with_keep_a_version_stays_as_long_as_a_mount_shows_it() {
    let (mut mirror, ino) = rotated(OnRotate::Keep);
    assert!(mirror.following(&[bind("a", Some(ino))]).is_empty());
    assert_eq!(mirror.keep(&[bind("a", Some(ino))]), [1].into());
    let later = Instant::now() + Duration::from_hours(1);
    mirror.prune(later);
    assert_eq!(mirror.bytes(ino), Some(&b"1"[..]));
    assert!(mirror.keep(&[]).is_empty());
    mirror.prune(later);
    assert_eq!(mirror.bytes(ino), None);
}

#[test]
fn what_is_taken_away_cannot_be_read_in_any_mode_not_even_before_csi_has_swapped() {
    for mode in [OnRotate::Follow, OnRotate::Keep, OnRotate::Revoke] {
        let (mut mirror, old) = rotated(mode);
        mirror.follow(Arc::new(mirror.following(&[bind("a", Some(old))])));
        mirror.keep(&[bind("a", Some(old))]);
        let shown = mirror.shown().unwrap().file("a").unwrap().ino();
        mirror.revoke_all();
        for ino in [old, shown] {
            assert_eq!(mirror.bytes(ino), None, "{mode:?}");
            assert!(mirror.attributes(ino).is_some(), "{mode:?}");
        }
        mirror.grant_shown();
        assert_eq!(mirror.bytes(shown), Some(&b"2"[..]), "{mode:?}");
    }
}

#[test]
fn a_link_whose_making_was_not_seen_is_not_published() {
    let mut mirror = staged("{\"a\":1}", "{\"a\":2}");
    mirror.mkdir(ROOT, "..2").unwrap();
    assert_eq!(mirror.rename((ROOT, DATA_TMP), (ROOT, DATA)), Err(Refusal::ReadOnly));
}

#[test]
fn walks_that_are_under_way_find_a_version_and_those_that_are_inside_also_after_its_end() {
    let mut mirror = staged("{\"a\":1}", "{\"a\":2}");
    swap(&mut mirror, &[], &[]);
    assert_eq!(names(&mirror, ROOT), [DATA, "a", "secrets.json", "..2"]);
    let Some(Node::Folder(edition, _)) = mirror.lookup(ROOT, "..1") else {
        panic!("a walk may still come by");
    };
    let folder = edition.tree().ino();
    assert_eq!(mirror.withdraw(&[dir("..1"), dir("..2")]).len(), 1);
    assert!(mirror.lookup(ROOT, "..1").is_none());
    assert!(mirror.lookup(folder, "a").is_some());
}

#[test]
fn the_version_that_is_shown_and_the_one_to_be_shown_stay() {
    let mut mirror = staged("{\"a\":1}", "{\"a\":2}");
    mirror.leave_others(Some(&dir("..2")));
    assert_eq!(mirror.versions(), 2);
    mirror.leave_others(None);
    assert_eq!(mirror.versions(), 1, "what csi has not made yet, nobody has seen");
    assert!(mirror.found("..1").is_some_and(Edition::is_listed));
}

const FOLDERS: &str = "user=user,pass=db/pass:0400,host=db/net/host";

fn with_folders(revision: u64, text: &str) -> Arc<Tree> {
    Arc::new(tree_of(revision, text, FOLDERS))
}

#[test]
fn a_folder_has_one_link_at_the_root_and_is_walked_name_by_name() {
    let text = "{\"user\":1,\"pass\":22,\"host\":333}";
    let mirror = Mirror::new(Numbers::new(KEY), with_folders(1, text), Origin::Own);
    assert_eq!(names(&mirror, ROOT), [DATA, "db", "user", "..1"]);
    let mut folder = mirror.shown().unwrap().ino();
    for (name, inside, links) in [("db", ["net", "pass"].as_slice(), 3), ("net", &["host"], 2)] {
        let node = mirror.lookup(folder, name).unwrap();
        let attributes = mirror.entry(&node);
        assert_eq!((attributes.kind, attributes.mode), (Kind::Folder, 0o755));
        assert_eq!(attributes.names, links);
        folder = attributes.ino;
        assert_eq!(names(&mirror, folder), inside);
    }
    let host = mirror.entry(&mirror.lookup(folder, "host").unwrap());
    assert_eq!((host.kind, host.size, host.mode), (Kind::File, 3, 0o444));
    assert!(mirror.lookup(folder, "pass").is_none());
    assert_eq!(mirror.attributes(ROOT).unwrap().names, 3);
}

#[test]
fn a_folder_of_a_forgotten_version_answers_getattr_and_lists_nothing() {
    let text = "{\"user\":1,\"pass\":22,\"host\":333}";
    let old = with_folders(1, text);
    let mirror = Mirror::new(Numbers::new(KEY), with_folders(2, "{\"pass\":4444}"), Origin::Own);
    for folder in old.folders() {
        let attributes = mirror.attributes(folder.ino()).unwrap();
        assert_eq!((attributes.ino, attributes.kind), (folder.ino(), Kind::Folder));
        assert_eq!(names(&mirror, folder.ino()), [] as [String; 0]);
    }
    let pass = mirror.attributes(old.file("db/pass").unwrap().ino()).unwrap();
    assert_eq!((pass.size, pass.mode), (4, 0o400));
    let host = mirror.attributes(old.file("db/net/host").unwrap().ino()).unwrap();
    assert_eq!((host.size, host.mode), (1, 0o444));
}

#[test]
fn a_swap_links_what_is_first_in_each_path() {
    let old = with_folders(1, "{\"user\":1}");
    let mut mirror = Mirror::new(Numbers::new(KEY), old, Origin::Own);
    mirror.stage(with_folders(2, "{\"pass\":2}"));
    mirror.expect(Some(Expected::Publish { dir: dir("..2"), replaced: vec![dir("..1")] }));
    for strange in ["pass", "db/pass", "net"] {
        let refused = mirror.symlink(ROOT, strange, &link_target(strange));
        assert_eq!(refused, Err(Refusal::ReadOnly), "{strange}");
    }
    swap(&mut mirror, &["db"], &["user"]);
    assert_eq!(names(&mirror, ROOT), [DATA, "db", "..2"]);
}

#[test]
fn a_swap_takes_the_names_of_files_in_folders_too_and_a_bound_folder_follows() {
    let old = with_folders(1, "{\"user\":1,\"pass\":2,\"host\":3}");
    let inner: Vec<_> = old.folders().map(Folder::ino).collect();
    let mut mirror = Mirror::new(Numbers::new(KEY), Arc::clone(&old), Origin::Own);
    mirror.stage(with_folders(2, "{\"user\":1,\"pass\":22}"));
    mirror.expect(Some(Expected::Publish { dir: dir("..2"), replaced: vec![dir("..1")] }));
    swap(&mut mirror, &[], &[]);
    assert_eq!(mirror.unlink(inner[1], "net"), Err(Refusal::Missing), "a folder is no file");
    assert_eq!(mirror.unlink(inner[1], "pass"), Ok(()));
    assert_eq!(mirror.unlink(inner[2], "host"), Ok(()));
    assert_eq!(mirror.unlink(inner[2], "user"), Err(Refusal::Missing));
    let bind = Bind { dir: dir("..1"), path: "db".to_owned(), ino: None };
    let followers = mirror.following(&[bind]);
    assert_eq!(followers, Followers::from([(inner[1], "db".to_owned())]));
    mirror.follow(Arc::new(followers));
    assert_eq!(names(&mirror, inner[1]), ["pass"], "net is gone");
    let pass = mirror.lookup(inner[1], "pass").unwrap();
    assert_eq!(mirror.entry(&pass).size, 2);
}

proptest! {
    #[test]
    fn every_listed_name_is_found_again_by_its_inode(keys in prop::collection::hash_set("[a-z]{1,3}", 0..40)) {
        let object: serde_json::Map<_, _> = keys.iter().map(|k| (k.clone(), 1.into())).collect();
        let mirror = mirror(&serde_json::Value::Object(object).to_string());
        let folder = mirror.shown().unwrap().ino();
        for parent in [ROOT, folder] {
            let list = mirror.list(parent).unwrap();
            let inodes: BTreeSet<_> = list.iter().map(|(_, a)| a.ino).collect();
            prop_assert_eq!(inodes.len(), list.len());
            for (name, attributes) in list {
                let node = mirror.lookup(parent, name).unwrap();
                prop_assert_eq!(mirror.entry(&node), attributes);
                prop_assert_eq!(mirror.attributes(attributes.ino), Some(attributes));
            }
        }
    }

    #[test]
    fn no_sequence_of_operations_outside_the_swap_changes_anything(operations in prop::collection::vec((0_u8..6, "(a|b|\\.\\.1|\\.\\.2|\\.\\.data|\\.\\.data_tmp|secrets\\.json)", "(a|\\.\\.1|\\.\\.data/a|/etc)"), 0..40)) {
        let mut mirror = mirror("{\"a\":1,\"b\":2}");
        let before = names(&mirror, ROOT);
        let folder = mirror.shown().unwrap().ino();
        for (operation, name, other) in operations {
            let refused = match operation {
                0 => mirror.symlink(ROOT, &name, &other),
                1 => mirror.rename((ROOT, &name), (ROOT, &other)),
                2 => mirror.unlink(folder, &name),
                3 => mirror.mkdir(ROOT, &name),
                4 => mirror.rmdir(ROOT, &name),
                _ => mirror.unlink(ROOT, &name),
            };
            prop_assert!(refused.is_err());
        }
        prop_assert_eq!(names(&mirror, ROOT), before);
    }
}
