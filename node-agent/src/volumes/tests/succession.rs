//! What a successor of a killed process shows.

use vsecm_node_agent_api::volume::VersionDir;

use self::node::next_publish;
use super::*;
use crate::{
    snapshot::tests::document_named,
    volumes::binding::{Access, binding_key},
};

/// Until the keeper has such word of the volume.
async fn until_bound(node: &Node, record: &VolumeRecord, fits: impl Fn(&Binding) -> bool) {
    let name = String::from(binding_key(&record.volume).unwrap());
    let is_bound = async {
        loop {
            let is_there = |kept: &keeper::Kept| {
                let (_, memfd) = kept.get(&name)?;
                Binding::from_memfd(memfd).filter(&fits)
            };
            if is_there(&node.kept.lock().unwrap()).is_some() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(Duration::from_secs(10), is_bound).await.unwrap();
}

fn serving_and_files(node: &Node, record: &VolumeRecord) -> (IsServing, u64) {
    let AgentReply::State { serving, files, .. } = node.volumes.state(&record.volume) else {
        panic!("a state was asked for");
    };
    (serving, files)
}

#[test]
fn a_successor_takes_over_what_the_keeper_has_without_spire_and_safe() {
    story(|| async {
        let (node, record) = (Node::new(), record());
        node.issue();
        node.say(said(1, "{\"a\":\"x\"}")).await;
        assert_eq!(node.attach(&record, 1000).await, AgentReply::Ready);
        let mount = node.serving_volume(&record).await;
        let successor = node.successor();
        successor.volumes.recover().await.unwrap();
        assert_eq!(serving_and_files(&successor, &record), (IsServing::Yes, 2));
        // csi finds out and asks: it is told that all is well
        let descriptor = mount.fuse().try_clone().unwrap();
        let resumed = successor.volumes.resume(&record, descriptor).await;
        assert_eq!(resumed, AgentReply::Served);
    });
}

#[test]
fn a_death_between_two_versions_is_made_up_for_in_all_volumes_that_share_a_secret() {
    story(|| async {
        let (node, record) = (Node::new(), record());
        let twin = VolumeRecord { volume: "csi-2".parse().unwrap(), ..record.clone() };
        node.issue();
        node.say(said(1, "{\"a\":\"x\"}")).await;
        let mut mounts = Vec::new();
        for record in [&record, &twin] {
            assert_eq!(node.attach(record, 1000).await, AgentReply::Ready);
            mounts.push(node.serving_volume(record).await);
        }
        // from now on csi does nothing
        let idle = node.idle_csi();
        node.say(said(2, "{\"a\":\"y\"}")).await;
        next_publish(&idle).await;
        let successor = node.successor();
        successor.volumes.recover().await.unwrap();
        let csi = successor.idle_csi();
        let mut told = std::collections::BTreeSet::new();
        while told.len() < 2 {
            let order = timeout(Duration::from_secs(5), next_publish(&csi)).await;
            let (volume, _dir) = order.expect("watchers of both are told");
            told.insert(volume);
        }
    });
}

#[test]
fn nothing_deleted_or_revoked_comes_back_with_a_successor() {
    story(|| async {
        let (node, record) = (Node::new(), record());
        node.issue();
        node.say(said(1, "{\"a\":\"x\"}")).await;
        assert_eq!(node.attach(&record, 1000).await, AgentReply::Ready);
        let _mount = node.serving_volume(&record).await;
        node.say(deleted(2)).await;
        node.until(&record, "the deletion", |status| status.files == 0).await;
        let successor = node.successor();
        successor.volumes.recover().await.unwrap();
        successor.until(&record, "recovery", |s| s.serving == IsServing::Yes && s.files == 0).await;
    });
}

#[test]
fn a_successor_shows_a_pod_without_identity_nothing_newer_than_it_saw() {
    story(|| async {
        let (node, record) = (Node::new(), record());
        node.issue();
        node.say(said(1, "{\"a\":\"x\"}")).await;
        assert_eq!(node.attach(&record, 1000).await, AgentReply::Ready);
        let _mount = node.serving_volume(&record).await;
        node.withdraw();
        node.until(&record, "the withdrawal", |status| {
            let condition = status.condition();
            condition.is_some_and(|text| text.contains("withdrawn"))
        })
        .await;
        // a twin of the pod still gets it
        node.say(said(2, "{\"a\":\"x\",\"b\":\"y\"}")).await;
        until_bound(&node, &record, |b| b.access == Access::Stopped(1)).await;
        let successor = node.successor();
        successor.volumes.recover().await.unwrap();
        let seen = serving_and_files(&successor, &record);
        assert_eq!(seen, (IsServing::Yes, 2));
    });
}

/// The order that a successor gives when the pod's entry went while no node-agent lived.
async fn order_after_a_missed_withdrawal(on_withdraw: OnWithdraw) -> Option<VersionDir> {
    let (node, mut record) = (Node::new(), record());
    record.options.on_withdraw = on_withdraw;
    node.issue();
    node.say(said(1, "{\"a\":\"x\"}")).await;
    assert_eq!(node.attach(&record, 1000).await, AgentReply::Ready);
    let _mount = node.serving_volume(&record).await;
    let successor = node.successor();
    successor.volumes.recover().await.unwrap();
    let csi = successor.idle_csi();
    successor.end_grace();
    let is_said = |status: &Status| {
        let condition = status.condition();
        condition.is_some_and(|text| text.contains("withdrawn"))
    };
    successor.until(&record, "the withdrawal", is_said).await;
    let access = match on_withdraw {
        OnWithdraw::Keep => Access::Stopped(1),
        OnWithdraw::Revoke => Access::Revoked,
    };
    until_bound(&node, &record, |b| b.access == access).await;
    assert_eq!(
        serving_and_files(&successor, &record),
        (IsServing::Yes, 2),
        "the pod sees them until csi has swapped"
    );
    let order = timeout(Duration::from_millis(200), next_publish(&csi)).await;
    order.ok().map(|(_volume, dir)| dir)
}

#[test]
fn a_withdrawal_that_nobody_heard_takes_the_files_on_request() {
    story(|| async {
        let order = order_after_a_missed_withdrawal(OnWithdraw::Revoke).await;
        assert_eq!(order.unwrap().as_str(), "..0-revoked");
    });
}

#[test]
fn a_withdrawal_that_nobody_heard_leaves_the_files_otherwise() {
    story(|| async {
        let order = order_after_a_missed_withdrawal(OnWithdraw::Keep).await;
        assert!(order.is_none(), "{order:?}");
    });
}

#[test]
fn an_optional_volume_whose_pod_never_had_an_identity_loses_none() {
    story(|| async {
        let (node, mut record) = (Node::new(), record());
        record.options.gate = Gating::Optional;
        assert_eq!(node.attach(&record, 10).await, AgentReply::Ready);
        let _mount = node.serving_volume(&record).await;
        let successor = node.successor();
        successor.volumes.recover().await.unwrap();
        successor.end_grace();
        successor.issue();
        successor.say(said(1, "{\"a\":\"x\"}")).await;
        until_bound(&successor, &record, |b| b.access == Access::Granted).await;
    });
}

#[test]
fn a_successor_shows_the_former_secret_until_the_new_one_has_content() {
    story(|| async {
        let (node, record) = (Node::new(), record());
        node.issue();
        node.say(said(1, "{\"a\":\"x\"}")).await;
        assert_eq!(node.attach(&record, 1000).await, AgentReply::Ready);
        let _mount = node.serving_volume(&record).await;
        // nobody else needs it
        let (watches, other) = (&node.volumes.means.watches, "other".parse().unwrap());
        let former = said(1, "{}").key().clone();
        let watch = watches.join(&other, &former, None);
        watches.leave(&other, &watch).await;
        node.issue_as("late");
        let is_former = |b: &Binding| b.key == former && b.access == Access::Stopped(1);
        until_bound(&node, &record, is_former).await;

        let successor = node.successor();
        successor.volumes.recover().await.unwrap();
        assert_eq!(serving_and_files(&successor, &record), (IsServing::Yes, 2));
        successor.issue_as("late");
        let is_waiting = |status: &Status| status.condition().is_some() && status.has_content;
        successor.until(&record, "the new identity", is_waiting).await;
        until_bound(&successor, &record, is_former).await;

        let csi = successor.idle_csi();
        let late = document_named("shop", "late", 2, "{\"a\":\"x\",\"b\":\"y\"}");
        let key = late.key().clone();
        successor.say(late).await;
        let order = timeout(Duration::from_secs(5), next_publish(&csi)).await;
        order.expect("the new secret");
        until_bound(&successor, &record, |b| b.key == key && b.access == Access::Granted).await;

        let third = successor.successor();
        third.volumes.recover().await.unwrap();
        let seen = serving_and_files(&third, &record);
        assert_eq!(seen, (IsServing::Yes, 3));
    });
}
