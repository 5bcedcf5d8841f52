//! Volumes with real mounts, a keeper and a csi in this process, and identities by hand.

use std::fs;

use tokio::runtime;
use vsecm_node_agent_api::{
    frame::ContentKey,
    volume::{Gate as Gating, OnWithdraw},
};
use vsecm_safe_api::position::{Lineage, Revision};

use self::node::Node;
use super::*;
use crate::{
    identity::tests::pod,
    inode::{Kind, Numbers, tests::KEY},
    kubernetes::driver::Unfit,
    peers::Peers,
    session::fixture::{Mount, apart},
    snapshot::{Content, Removal, tests::document_of},
    tree::tests::options,
    wait::Wait,
};

mod keeper;
mod node;
mod retention;
mod rush;
mod succession;
mod withdrawal;

fn record() -> VolumeRecord {
    VolumeRecord {
        volume: "csi-1".parse().unwrap(),
        pod: pod(),
        options: options(),
        target: "pods/0123/volumes/kubernetes.io~csi/vsecm/mount".into(),
        inode_key: KEY,
    }
}

fn said(revision: u64, text: &str) -> Snapshot {
    document_of("shop", revision, text)
}

fn deleted(revision: u64) -> Snapshot {
    let content = Content::Removed {
        removal: Removal::Deleted,
        lineage: Lineage::from_random([7; 16]),
        revision: Revision(revision),
    };
    let key = said(1, "{}").key().clone();
    Snapshot::new(key, content, SystemTime::now(), revision).unwrap()
}

fn missing() -> Driver {
    Driver::Unfit(Unfit::Missing { name: "csi.vsecm.com".into() })
}

/// Runs `test` on a thread with a mount namespace of its own.
fn story<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    apart(|| {
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(test());
    });
}

#[test]
fn a_pod_waits_for_its_identity_then_for_its_secret_and_hears_why() {
    story(|| async {
        let (node, record) = (Node::new(), record());
        let AgentReply::Waiting { reason } = node.attach(&record, 10).await else {
            panic!("there is no identity yet");
        };
        assert!(reason.contains("no SPIRE entry"), "{reason}");
        let held = node.attach(&record, 10_000);
        let wakes = async {
            node.issue();
            node.say(said(1, "{}")).await;
        };
        let (reply, ()) = tokio::join!(held, wakes);
        assert_eq!(reply, AgentReply::Ready);
    });
}

#[test]
fn an_attach_that_waits_ends_when_the_identity_is_withdrawn() {
    story(|| async {
        let (node, record) = (Node::new(), record());
        node.issue();
        let held = node.attach(&record, 10_000);
        let (reply, ()) = tokio::join!(held, async {
            tokio::task::yield_now().await;
            node.withdraw();
        });
        assert!(matches!(reply, AgentReply::Withdrawn { .. }), "{reply:?}");
        assert!(node.volumes.get(&record.volume).is_none());
    });
}

#[test]
fn two_identities_stop_a_pod_that_waits_and_no_pod_that_is_served() {
    story(|| async {
        let (node, record) = (Node::new(), record());
        node.issue_two();
        node.say(said(1, "{\"a\":\"x\"}")).await;
        let AgentReply::Waiting { reason } = node.attach(&record, 100).await else {
            panic!("which secret is meant is not known");
        };
        assert!(reason.contains("2 identities fit the pod"), "{reason}");
        assert_eq!(node.volumes.census().waiting[&Wait::AmbiguousIdentity], 1);
        node.issue();
        assert_eq!(node.attach(&record, 10_000).await, AgentReply::Ready);
        let _mount = node.serving_volume(&record).await;
        node.issue_two();
        let is_said = |status: &Status| status.condition().is_some_and(|c| c.contains("2 ident"));
        node.until(&record, "the second identity", is_said).await;
        assert_eq!(node.attach(&record, 100).await, AgentReply::Ready);
        assert_eq!(node.volumes.census().stale[&Wait::AmbiguousIdentity], 1);
    });
}

#[test]
fn without_a_good_csidriver_nothing_new_is_published_and_what_is_served_goes_on() {
    story(|| async {
        let (node, record) = (Node::new(), record());
        node.driver.send_replace(missing());
        let AgentReply::Waiting { reason } = node.attach(&record, 10).await else {
            panic!("the pod may not be whom it names");
        };
        assert!(reason.contains("no CSIDriver object"), "{reason}");
        assert!(node.volumes.get(&record.volume).is_none(), "SPIRE is not asked for it");
        assert_eq!(node.volumes.census().waiting[&Wait::CsiDriver], 1);
        node.volumes.detach(&record.volume).await;
        assert!(node.volumes.census().waiting.is_empty(), "the pod is gone");
        node.driver.send_replace(Driver::Good);
        let (held, ()) = tokio::join!(node.attach(&record, 10_000), async {
            tokio::task::yield_now().await;
            node.driver.send_replace(missing());
            node.issue();
            node.say(said(1, "{}")).await;
        });
        assert!(matches!(held, AgentReply::Waiting { .. }), "{held:?}");
        let census = node.volumes.census();
        assert_eq!((census.ready, census.waiting[&Wait::CsiDriver]), (0, 1), "counted once");
        node.volumes.detach(&record.volume).await;
        node.attach(&record, 10).await;
        node.issue();
        node.say(said(1, "{}")).await;
        assert_eq!(node.volumes.census().waiting[&Wait::CsiDriver], 1);
        node.driver.send_replace(Driver::Unknown("asking".into()));
        let (held, ()) = tokio::join!(node.attach(&record, 10_000), async {
            tokio::task::yield_now().await;
            node.driver.send_replace(Driver::Good);
        });
        assert_eq!(held, AgentReply::Ready);
        assert_eq!(node.volumes.census().ready, 1);
        let _mount = node.serving_volume(&record).await;
        node.driver.send_replace(missing());
        assert_eq!(node.attach(&record, 10).await, AgentReply::Ready);
        let census = node.volumes.census();
        assert_eq!((census.serving, census.identities), (1, [0, 1, 0, 0]));
        assert!(census.waiting.is_empty(), "{census:?}");
    });
}

#[test]
fn an_optional_volume_is_ready_at_once_and_empty_until_the_secret_exists() {
    story(|| async {
        let (node, mut record) = (Node::new(), record());
        record.options.gate = Gating::Optional;
        assert_eq!(node.attach(&record, 10).await, AgentReply::Ready);
        let mount = node.serving_volume(&record).await;
        node.issue();
        node.say(said(1, "{\"a\":\"x\"}")).await;
        node.until(&record, "the secret", |status| status.files == 2).await;
        let text = tokio::task::spawn_blocking(move || mount.text("a")).await;
        assert_eq!(text.unwrap(), "x");
    });
}

#[test]
fn an_optional_volume_stays_empty_while_two_identities_fit() {
    story(|| async {
        let (node, mut record) = (Node::new(), record());
        record.options.gate = Gating::Optional;
        node.issue_two();
        node.say(said(1, "{\"a\":\"x\"}")).await;
        assert_eq!(node.attach(&record, 10).await, AgentReply::Ready);
        let _mount = node.serving_volume(&record).await;
        let is_said = |status: &Status| status.condition().is_some_and(|c| c.contains("2 ident"));
        node.until(&record, "the second identity", is_said).await;
        let is_empty = |status: &Status| status.files == 0;
        node.until(&record, "nothing, as nobody knows what is meant", is_empty).await;
        node.issue();
        node.until(&record, "the secret", |status| status.files == 2).await;
        node.issue_two();
        node.until(&record, "the second identity", is_said).await;
        node.until(&record, "what the pod has seen", |status| status.files == 2).await;
    });
}

#[test]
fn content_follows_its_secret_and_goes_with_it() {
    story(|| async {
        let (node, record) = (Node::new(), record());
        node.issue();
        node.say(said(1, "{\"a\":\"x\"}")).await;
        assert_eq!(node.attach(&record, 1000).await, AgentReply::Ready);
        let mount = node.serving_volume(&record).await;
        let numbered = |number: u64| format!("{{\"a\":\"x\",\"r\":{number}}}");
        for revision in 2..50 {
            node.say(said(revision, &numbered(revision))).await;
        }
        // told by its size from all before
        let newest = numbered(12345);
        node.say(said(50, &newest)).await;
        let bytes = newest.len() as u64 + "x".len() as u64 + "12345".len() as u64;
        node.until(&record, "the newest", |status| status.bytes == bytes).await;
        let (mount, text) = tokio::task::spawn_blocking(move || {
            let text = mount.text("..data/r");
            (mount, text)
        })
        .await
        .unwrap();
        assert_eq!(text, "12345");
        node.say(deleted(51)).await;
        node.until(&record, "the deletion", |status| status.files == 0).await;
        // ..data and the empty version; the links at the root go just after the swap
        let names = move || fs::read_dir(mount.root()).unwrap().count();
        let gone = tokio::task::spawn_blocking(move || while names() != 2 {});
        let gone = timeout(Duration::from_secs(10), gone).await;
        gone.expect("the names must go").unwrap();
    });
}

#[test]
fn without_csi_the_old_version_stays_and_the_newest_comes_with_csi() {
    story(|| async {
        let (node, record) = (Node::new(), record());
        node.issue();
        node.say(said(1, "{\"a\":\"x\"}")).await;
        assert_eq!(node.attach(&record, 1000).await, AgentReply::Ready);
        let (mount, fuse) = Mount::new();
        assert_eq!(
            node.volumes.serve(&record.volume, record.inode_key, fuse).await,
            AgentReply::Served
        );
        node.say(said(2, "{\"a\":\"y\"}")).await;
        node.until(&record, "a condition", |status| {
            status.condition().is_some_and(|c| c.contains("csi is not there"))
        })
        .await;
        node.say(said(3, "{\"a\":\"zz\"}")).await;
        node.csi(mount.root()).await;
        let bytes = "{\"a\":\"zz\"}".len() as u64 + 2;
        node.until(&record, "the newest", |status| status.bytes == bytes).await;
    });
}

async fn files_after_a_withdrawal(on_withdraw: OnWithdraw, files: u64) {
    let (node, mut record) = (Node::new(), record());
    record.options.on_withdraw = on_withdraw;
    node.issue();
    node.say(said(1, "{\"a\":\"x\"}")).await;
    assert_eq!(node.attach(&record, 1000).await, AgentReply::Ready);
    let _mount = node.serving_volume(&record).await;
    node.withdraw();
    let is_said =
        |status: &Status| status.condition().is_some_and(|text| text.contains("withdrawn"));
    node.until(&record, "the withdrawal", is_said).await;
    node.say(said(2, "{\"a\":\"x\",\"b\":\"y\"}")).await;
    node.until(&record, "the files", |status| status.files == files).await;
    node.issue();
    node.until(&record, "the identity again", |status| status.files == 3).await;
}

#[test]
fn a_withdrawal_stops_updates_and_leaves_the_files() {
    story(|| files_after_a_withdrawal(OnWithdraw::Keep, 2));
}

#[test]
fn a_withdrawal_takes_the_files_on_request() {
    story(|| files_after_a_withdrawal(OnWithdraw::Revoke, 0));
}

#[test]
fn a_volume_that_is_stuck_keeps_two_versions_however_many_come() {
    story(|| async {
        let (node, record) = (Node::new(), record());
        node.issue();
        let AgentReply::Waiting { .. } = node.attach(&record, 100).await else {
            panic!("there is no secret yet");
        };
        let watches = &node.volumes.means.watches;
        let key = said(1, "{}").key().clone();
        let watch = watches.join(&record.volume, &key, None);
        watch.publish(said(1, "{\"a\":\"x\"}")).await;
        watch.shows(&record.volume, &said(1, "{\"a\":\"x\"}")).await;
        watch.will_show(&record.volume, &said(2, "{}"));
        for revision in 2..50 {
            watch.publish(said(revision, "{}")).await;
        }
        let kept: Vec<u64> = watch.versions().iter().map(|v| v.sequence()).collect();
        assert_eq!(kept, [1, 2, 49]);
        assert_eq!(node.kept_beside_notes(), 3 + 1, "and the binding");
    });
}

#[test]
fn a_session_that_ends_without_a_detach_ends_the_process_only_if_the_volume_is_kept() {
    story(|| async {
        let (mut node, record) = (Node::new(), record());
        node.issue();
        node.say(said(1, "{}")).await;
        assert_eq!(node.attach(&record, 1000).await, AgentReply::Ready);
        let mount = node.serving_volume(&record).await;
        tokio::task::spawn_blocking(move || drop(mount)).await.unwrap();
        node.until(&record, "the end", |status| status.serving == IsServing::No).await;
        let reason = node.fatal.recv().await.unwrap();
        assert!(reason.contains("csi-1"), "{reason}");
    });
}

#[test]
fn detach_is_for_unknown_volumes_too_and_leaves_nothing_at_the_keeper() {
    story(|| async {
        let (node, record) = (Node::new(), record());
        node.volumes.detach(&record.volume).await;
        node.issue();
        assert!(matches!(node.attach(&record, 100).await, AgentReply::Waiting { .. }));
        assert_eq!(node.kept.lock().unwrap().len(), 1, "the binding");
        node.volumes.detach(&record.volume).await;
        node.volumes.detach(&record.volume).await;
        assert!(node.kept.lock().unwrap().is_empty());
    });
}

#[test]
fn a_keeper_that_lost_everything_gets_it_back() {
    story(|| async {
        let (mut node, record) = (Node::new(), record());
        tokio::spawn(node.volumes.means.keeper.clone().attend(Peers::default()));
        node.issue();
        node.say(said(1, "{}")).await;
        assert_eq!(node.attach(&record, 1000).await, AgentReply::Ready);
        // beside the note that Safe is away
        let kept = Arc::clone(&node.kept);
        let count = || {
            let kept = kept.lock().unwrap();
            kept.keys().filter(|name| !name.starts_with("confirmed-")).count()
        };
        assert_eq!(count(), 2, "content and binding");
        node.lose_keeper().await;
        let is_back = async {
            while count() != 2 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(Duration::from_secs(10), is_back).await.unwrap();
        // and a question on the connection that broke is asked again
        node.lose_keeper().await;
        node.say(said(2, "{\"a\":1}")).await;
        assert!(!node.kept.lock().unwrap().is_empty());
    });
}

#[test]
fn a_keeper_that_hung_gets_what_is_true_when_it_answers_again() {
    story(|| async {
        let mut node = Node::new();
        let keeper = node.volumes.means.keeper.clone();
        tokio::spawn(keeper.clone().attend(Peers::default()));
        let content = said(1, "{}");
        let key = content_key(&content).unwrap();
        let stays: ContentKey = "stays".to_owned().try_into().unwrap();
        keeper.deposit(key.clone(), content.memfd()).await;
        node.stop_keeper();
        // both give up before the keeper answers, together: no one waits behind another
        let started = Instant::now();
        tokio::join!(keeper.remove(key.clone()), keeper.deposit(stays.clone(), content.memfd()),);
        assert!(started.elapsed() < Duration::from_secs(3));
        assert!(node.kept.lock().unwrap().contains_key(&String::from(key)));
        node.resume_keeper();
        let is_settled = async {
            loop {
                if node.kept.lock().unwrap().keys().eq([&String::from(stays.clone())]) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(Duration::from_secs(10), is_settled).await.unwrap();
    });
}

#[test]
fn a_volume_waits_for_the_keys_of_its_items_and_says_which_are_missing() {
    story(|| async {
        let (node, mut record) = (Node::new(), record());
        record.options.items = "a=x,b.c=y/z".parse().unwrap();
        node.issue();
        node.say(said(1, "{\"a\":1}")).await;
        let AgentReply::Waiting { reason } = node.attach(&record, 100).await else {
            panic!("not all keys are there");
        };
        let said_of = "the secret billing in namespace shop has no key \"b.c\" that";
        assert!(reason.starts_with(said_of), "{reason}");
        assert_eq!(node.volumes.census().waiting[&Wait::NoKey], 1);
        let held = node.attach(&record, 10_000);
        let comes = node.say(said(2, "{\"a\":1,\"b\":{\"c\":22}}"));
        assert_eq!(tokio::join!(held, comes).0, AgentReply::Ready);
        let mount = node.serving_volume(&record).await;
        node.say(said(3, "{\"b\":{\"c\":33}}")).await;
        let is_said = |status: &Status| {
            let is_gone = |c: String| c.contains("no key \"a\" any more");
            status.files == 1 && status.condition().is_some_and(is_gone)
        };
        node.until(&record, "the end of a key", is_said).await;
        assert_eq!(node.volumes.census().stale[&Wait::NoKey], 1);
        node.say(said(4, "{\"a\":4,\"b\":{\"c\":44}}")).await;
        let lacks = |status: &Status| status.conditions.iter().any(|r| r.wait == Wait::NoKey);
        let is_well = |status: &Status| status.files == 2 && !lacks(status);
        node.until(&record, "the key again", is_well).await;
        let text = tokio::task::spawn_blocking(move || mount.text("..data/y/z")).await;
        assert_eq!(text.unwrap(), "44");
    });
}

#[test]
fn what_an_optional_volume_does_not_have_is_absent_and_no_trouble() {
    story(|| async {
        let (node, mut record) = (Node::new(), record());
        record.options.items = "a=x,b=y".parse().unwrap();
        record.options.gate = Gating::Optional;
        node.issue();
        node.say(said(1, "{\"a\":1}")).await;
        assert_eq!(node.attach(&record, 100).await, AgentReply::Ready);
        let _mount = node.serving_volume(&record).await;
        let lacks = |status: &Status| status.conditions.iter().any(|r| r.wait == Wait::NoKey);
        let is_partly = |status: &Status| status.files == 1 && !lacks(status);
        node.until(&record, "the key that there is", is_partly).await;
    });
}

#[test]
fn a_publish_with_a_new_inode_key_joins_and_the_key_it_is_served_with_counts() {
    story(|| async {
        use std::os::unix::fs::MetadataExt as _;

        let (node, record) = (Node::new(), record());
        let inode_key = InodeKey::from_random([9; 16]);
        let again = VolumeRecord { inode_key, ..record.clone() };
        node.attach(&record, 10).await;
        let first = node.volumes.get(&record.volume).unwrap();
        node.attach(&again, 10).await;
        let joined = node.volumes.get(&record.volume).unwrap();
        assert!(Arc::ptr_eq(&first, &joined), "it asks for the same");
        node.issue();
        let content = said(1, "{\"a\":1}");
        let id = content.id();
        node.say(content).await;
        assert_eq!(node.attach(&again, 10_000).await, AgentReply::Ready);
        let mount = node.serving_volume(&again).await;
        let path = mount.root().join("..data/a");
        let ino = tokio::task::spawn_blocking(move || fs::metadata(path).unwrap().ino());
        let number = Numbers::new(inode_key).number(Kind::File, id.as_bytes(), "a", 0);
        assert_eq!(ino.await.unwrap(), number);
        let other = VolumeRecord { inode_key: KEY, ..record };
        assert_eq!(node.attach(&other, 10).await, AgentReply::Ready, "it is served already");
    });
}
