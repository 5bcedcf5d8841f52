use std::sync::atomic::Ordering::Relaxed;

use proptest::prelude::*;
use vsecm_node_agent_api::volume::VersionDir;

use super::{edition::WALK_GRACE, *};
use crate::tree::tests::tree;

fn mirror(text: &str) -> Mirror {
    Mirror::new(Numbers::new("csi-1"), Arc::new(tree(1, text)), Origin::Own)
}

fn dir(text: &str) -> VersionDir {
    text.parse().unwrap()
}

fn staged(old: &str, new: &str) -> Mirror {
    let mut mirror = mirror(old);
    mirror.stage(Arc::new(tree(2, new)), Origin::Own);
    mirror.expect(Some(Swap { publish: dir("..2") }));
    mirror
}

fn names(mirror: &Mirror, ino: u64) -> Vec<String> {
    let list = mirror.list(ino).unwrap();
    list.into_iter().map(|(name, _)| name.to_owned()).collect()
}

/// What csi does.
fn swap(mirror: &mut Mirror, new: &[&str], gone: &[&str]) {
    mirror.symlink(ROOT, DATA_TMP, "..2").unwrap();
    mirror.rename((ROOT, DATA_TMP), (ROOT, DATA)).unwrap();
    for name in new {
        mirror.symlink(ROOT, name, &link_target(name)).unwrap();
    }
    for name in gone {
        mirror.unlink(ROOT, name).unwrap();
    }
    assert_eq!(mirror.withdraw_others(None).len(), 1);
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
    let ino = |m: &Mirror, dir: &VersionDir| m.listed(dir.as_str()).unwrap().tree().ino();
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
    // no version loses a file, neither before the rename nor after it
    for is_renamed in [false, true] {
        if is_renamed {
            mirror.symlink(ROOT, DATA_TMP, "..2").unwrap();
            mirror.rename((ROOT, DATA_TMP), (ROOT, DATA)).unwrap();
        }
        assert_eq!(mirror.unlink(old_ino, "a"), Err(Refusal::ReadOnly));
        assert_eq!(mirror.unlink(new_ino, "b"), Err(Refusal::ReadOnly));
    }
}

#[test]
fn a_link_whose_making_was_not_seen_is_not_published() {
    let mut mirror = staged("{\"a\":1}", "{\"a\":2}");
    assert_eq!(mirror.rename((ROOT, DATA_TMP), (ROOT, DATA)), Err(Refusal::ReadOnly));
}

#[test]
fn a_version_goes_without_csi_and_walks_that_are_under_way_find_it() {
    let mut mirror = staged("{\"a\":1}", "{\"a\":2}");
    mirror.symlink(ROOT, DATA_TMP, "..2").unwrap();
    mirror.rename((ROOT, DATA_TMP), (ROOT, DATA)).unwrap();
    let gone = mirror.withdraw_others(None);
    assert_eq!(gone.len(), 1);
    assert_eq!(names(&mirror, ROOT), [DATA, "a", "secrets.json", "..2"]);
    let Some(Node::Folder(edition)) = mirror.lookup(ROOT, "..1") else {
        panic!("a walk may still come by");
    };
    assert!(!edition.is_listed());
    let folder = edition.tree().ino();
    assert!(mirror.lookup(folder, "a").is_some());
    assert!(!edition.is_passable(Instant::now() + WALK_GRACE));
}

#[test]
fn the_version_that_is_shown_and_the_one_to_be_shown_stay() {
    let mut mirror = staged("{\"a\":1}", "{\"a\":2}");
    assert!(mirror.withdraw_others(Some(&dir("..2"))).is_empty());
    assert_eq!(mirror.withdraw_others(None).len(), 1);
    assert!(mirror.is_listed(&dir("..1")));
    assert!(!mirror.is_listed(&dir("..2")));
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
    fn no_sequence_of_operations_outside_the_swap_changes_anything(operations in prop::collection::vec((0_u8..4, "(a|b|\\.\\.1|\\.\\.2|\\.\\.data|\\.\\.data_tmp|secrets\\.json)", "(a|\\.\\.1|\\.\\.data/a|/etc)"), 0..40)) {
        let mut mirror = mirror("{\"a\":1,\"b\":2}");
        let before = names(&mirror, ROOT);
        let folder = mirror.shown().unwrap().ino();
        for (operation, name, other) in operations {
            let refused = match operation {
                0 => mirror.symlink(ROOT, &name, &other),
                1 => mirror.rename((ROOT, &name), (ROOT, &other)),
                2 => mirror.unlink(folder, &name),
                _ => mirror.unlink(ROOT, &name),
            };
            prop_assert!(refused.is_err());
        }
        prop_assert_eq!(names(&mirror, ROOT), before);
    }
}
