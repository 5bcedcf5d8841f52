//! What a successor of a killed process shows.

use vsecm_node_agent_api::frame::Order;

use super::*;
use crate::volumes::binding::{Access, binding_key};

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
        let AgentReply::State { serving, files, .. } = successor.volumes.state(&record.volume)
        else {
            panic!("a state was asked for");
        };
        assert_eq!((serving, files), (IsServing::Yes, 2));
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
        let twin = VolumeRecord {
            volume: "csi-2".parse().unwrap(),
            ..record.clone()
        };
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
        idle.receive::<Order>().await.unwrap().unwrap();
        let successor = node.successor();
        successor.volumes.recover().await.unwrap();
        let csi = successor.idle_csi();
        let mut told = std::collections::BTreeSet::new();
        while told.len() < 2 {
            let order = timeout(Duration::from_secs(5), csi.receive::<Order>()).await;
            let (order, _) = order.expect("watchers of both are told").unwrap().unwrap();
            told.insert(order.volume);
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
        node.until(&record, "the deletion", |status| status.files == 0)
            .await;
        let successor = node.successor();
        successor.volumes.recover().await.unwrap();
        successor
            .until(&record, "recovery", |s| {
                s.serving == IsServing::Yes && s.files == 0
            })
            .await;
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
            let condition = status.condition.as_ref();
            condition.is_some_and(|text| text.contains("withdrawn"))
        })
        .await;
        // a twin of the pod still gets it
        node.say(said(2, "{\"a\":\"x\",\"b\":\"y\"}")).await;
        let bound = binding_key(&record.volume).unwrap();
        let is_bound = async {
            let stopped =
                |memfd: &OwnedFd| Binding::from_memfd(memfd).unwrap().access == Access::Stopped(1);
            let name = String::from(bound);
            loop {
                if stopped(&node.kept.lock().unwrap().get(&name).unwrap().1) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(Duration::from_secs(10), is_bound).await.unwrap();
        let successor = node.successor();
        successor.volumes.recover().await.unwrap();
        let AgentReply::State { serving, files, .. } = successor.volumes.state(&record.volume)
        else {
            panic!("a state was asked for");
        };
        assert_eq!((serving, files), (IsServing::Yes, 2));
    });
}
