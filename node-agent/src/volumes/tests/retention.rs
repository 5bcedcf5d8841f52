//! What content does when its last volume has gone, and at its end.

use vsecm_safe_api::name::SecretKey;

use super::*;
use crate::snapshot::tests::document_until;

const HOUR: Duration = Duration::from_hours(1);

/// A pod had the secret, and is gone.
async fn one_pod_has_gone(node: &Node, record: &VolumeRecord, content: Snapshot) {
    let key = content.key().clone();
    node.issue();
    node.say(content).await;
    assert_eq!(node.attach(record, 1000).await, AgentReply::Ready);
    let (watches, other) = (&node.volumes.means.watches, "other".parse().unwrap());
    let watch = watches.join(&other, &key, None);
    watches.leave(&other, &watch).await;
    node.volumes.detach(&record.volume).await;
}

/// Names at the keeper, without what they are made of.
fn kept(node: &Node) -> Vec<String> {
    let kept = node.kept.lock().unwrap();
    kept.keys().map(|name| name.split('-').next().unwrap().to_owned()).collect()
}

async fn until_kept(node: &Node, names: &[&str]) {
    let is_so = async {
        while kept(node) != names {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(Duration::from_secs(10), is_so).await.unwrap_or_else(|_| panic!("{:?}", kept(node)));
}

fn until(end: SystemTime) -> Snapshot {
    document_until(SecretKey::parse("shop", "billing").unwrap(), 1, "{\"a\":\"x\"}", Some(end))
}

#[test]
fn a_pod_starts_from_what_another_left_while_safe_cannot_be_asked() {
    story(|| async {
        let (node, record) = (Node::retaining(HOUR), record());
        one_pod_has_gone(&node, &record, said(1, "{\"a\":\"x\"}")).await;
        assert_eq!(kept(&node), ["confirmed", "content"]);
        assert_eq!(node.volumes.retention().0.secrets, 1);
        let next = VolumeRecord { volume: "csi-2".parse().unwrap(), ..record };
        assert!(
            matches!(node.attach(&next, 10).await, AgentReply::Waiting { .. }),
            "Safe is asked"
        );
        assert_eq!(node.attach(&next, 10_000).await, AgentReply::Ready);
        let _mount = node.serving_volume(&next).await;
        let is_said = |status: &Status| {
            let condition = status.condition();
            condition.is_some_and(|text| text.contains("started from the snapshot"))
        };
        node.until(&next, "the condition", is_said).await;
        let (figures, since) = node.volumes.retention();
        assert_eq!((figures.secrets, figures.started), (0, 1));
        assert!(since.is_some());
        assert_eq!(node.volumes.census().stale[&Wait::Unconfirmed], 1);
        // Safe comes back, and says otherwise
        node.say(said(2, "{\"a\":\"x\",\"b\":\"y\"}")).await;
        node.until(&next, "news", |status| status.files == 3).await;
    });
}

#[test]
fn an_optional_volume_shows_nothing_that_safe_could_still_be_asked_about() {
    story(|| async {
        let (node, record) = (Node::retaining(HOUR), record());
        one_pod_has_gone(&node, &record, said(1, "{\"a\":\"x\"}")).await;
        let mut next = VolumeRecord { volume: "csi-2".parse().unwrap(), ..record };
        next.options.gate = Gating::Optional;
        assert_eq!(node.attach(&next, 10).await, AgentReply::Ready);
        let _mount = node.serving_volume(&next).await;
        node.until(&next, "nothing yet", |status| status.files == 0).await;
        node.until(&next, "what was left", |status| status.files == 2).await;
    });
}

#[test]
fn where_nothing_is_to_be_retained_a_pod_waits_and_nothing_is_left() {
    story(|| async {
        let (node, record) = (Node::retaining(Duration::ZERO), record());
        one_pod_has_gone(&node, &record, said(1, "{}")).await;
        assert!(kept(&node).is_empty());
        let AgentReply::Waiting { reason } = node.attach(&record, 3000).await else {
            panic!("Safe must be asked");
        };
        assert!(reason.contains("no identity of its own"), "{reason}");
    });
}

#[test]
fn what_was_deleted_is_not_retained() {
    story(|| async {
        let (node, record) = (Node::retaining(HOUR), record());
        node.issue();
        node.say(said(1, "{}")).await;
        assert_eq!(node.attach(&record, 1000).await, AgentReply::Ready);
        node.say(deleted(2)).await;
        let (watches, other) = (&node.volumes.means.watches, "other".parse().unwrap());
        let watch = watches.join(&other, said(1, "{}").key(), None);
        watches.leave(&other, &watch).await;
        node.volumes.detach(&record.volume).await;
        assert!(kept(&node).is_empty(), "{:?}", kept(&node));
    });
}

#[test]
fn a_successor_keeps_what_is_retained_and_what_lost_its_volumes_meanwhile() {
    story(|| async {
        let (node, record) = (Node::retaining(HOUR), record());
        one_pod_has_gone(&node, &record, said(1, "{}")).await;
        let successor = node.successor();
        successor.volumes.recover().await.unwrap();
        assert_eq!(successor.volumes.retention().0.secrets, 1);
        successor.issue();
        assert_eq!(successor.attach(&record, 10_000).await, AgentReply::Ready);
        let mount = successor.serving_volume(&record).await;
        // nobody is told that this one goes
        drop(mount);
        successor.kept.lock().unwrap().remove(record.volume.as_str());
        let third = successor.successor();
        third.volumes.recover().await.unwrap();
        assert_eq!(third.volumes.retention().0.secrets, 1);
    });
}

#[test]
fn a_successor_that_is_to_retain_nothing_leaves_nothing() {
    story(|| async {
        let (mut node, record) = (Node::retaining(HOUR), record());
        one_pod_has_gone(&node, &record, said(1, "{}")).await;
        node.max_stale = Duration::ZERO;
        let successor = node.successor();
        successor.volumes.recover().await.unwrap();
        assert!(kept(&node).is_empty(), "{:?}", kept(&node));
    });
}

#[test]
fn retained_content_goes_when_nobody_has_confirmed_it_for_too_long() {
    story(|| async {
        let (node, record) = (Node::retaining(Duration::from_millis(600)), record());
        one_pod_has_gone(&node, &record, said(1, "{}")).await;
        assert_eq!(kept(&node), ["confirmed", "content"]);
        tokio::select! {
            () = node.volumes.attend() => {}
            // the sign of life
            () = until_kept(&node, &["confirmed"]) => {}
        }
        assert_eq!(node.volumes.retention().0.secrets, 0);
    });
}

#[test]
fn an_end_takes_the_files_at_its_second_without_safe_and_they_do_not_come_back() {
    story(|| async {
        let (node, record) = (Node::new(), record());
        node.issue();
        let end = SystemTime::now() + Duration::from_secs(2);
        node.say(until(end)).await;
        assert_eq!(node.attach(&record, 1000).await, AgentReply::Ready);
        let _mount = node.serving_volume(&record).await;
        node.until(&record, "the files", |status| status.files == 2).await;
        assert!(SystemTime::now() < end, "the machine is too slow for this test");
        node.until(&record, "the end", |status| status.files == 0).await;
        assert!(SystemTime::now() >= end);
        let successor = node.successor();
        successor.volumes.recover().await.unwrap();
        successor.until(&record, "recovery", |s| s.serving == IsServing::Yes && s.files == 0).await;
        let twin = VolumeRecord { volume: "csi-2".parse().unwrap(), ..record };
        successor.issue();
        let AgentReply::Waiting { reason } = successor.attach(&twin, 10).await else {
            panic!("its time is over");
        };
        assert!(!reason.is_empty());
    });
}

#[test]
fn what_came_to_its_end_while_no_process_lived_is_not_shown_again() {
    story(|| async {
        let (node, record) = (Node::new(), record());
        node.issue();
        let end = SystemTime::now() + Duration::from_secs(3);
        node.say(until(end)).await;
        assert_eq!(node.attach(&record, 1000).await, AgentReply::Ready);
        let _mount = node.serving_volume(&record).await;
        let before = node.kept_now();
        node.until(&record, "the end", |status| status.files == 0).await;
        // as it was before the end: so the process had died in time
        node.set_kept(before);
        let successor = node.successor();
        successor.volumes.recover().await.unwrap();
        assert_eq!(successor.volumes.get(&record.volume).unwrap().status.borrow().files, 0);
    });
}

#[test]
fn an_end_takes_the_files_of_a_pod_without_identity_too() {
    story(|| async {
        let (node, record) = (Node::new(), record());
        node.issue();
        node.say(until(SystemTime::now() + Duration::from_secs(2))).await;
        assert_eq!(node.attach(&record, 1000).await, AgentReply::Ready);
        let _mount = node.serving_volume(&record).await;
        node.withdraw();
        let is_said =
            |status: &Status| status.condition().is_some_and(|text| text.contains("withdrawn"));
        node.until(&record, "the withdrawal", is_said).await;
        node.until(&record, "the end", |status| status.files == 0).await;
    });
}
