//! Publish and unpublish.

use super::*;

#[test]
fn a_publish_attaches_a_served_volume_and_deposits_both_descriptors() {
    story(|bench| async move {
        bench.publish().await.unwrap();
        assert_eq!(bench.asked(), ["attach", "serve", "state"]);
        assert_eq!(bench.occupant(), Occupant::Ours);
        assert_eq!(bench.kept().await, [Descriptor::Fuse, Descriptor::Mount]);
        lock(&bench.agent).gate = None;
        bench.publish().await.expect("never gated again");
        assert_eq!(bench.asked(), ["state"]);
        lock(&bench.agent).served.clear();
        bench.publish().await.unwrap();
        assert_eq!(bench.asked(), ["state", "resume"]);
    });
}

#[test]
fn an_unpublish_leaves_nothing_and_succeeds_twice_and_with_no_peer() {
    story(|bench| async move {
        bench.unpublish().await.unwrap();
        bench.publish().await.unwrap();
        bench.unpublish().await.unwrap();
        assert_eq!(bench.occupant(), Occupant::Free);
        assert!(!bench.dir.join(mk_record(1).target).exists());
        assert_eq!(bench.kept().await, []);
        assert!(lock(&bench.agent).served.is_empty());
        bench.unpublish().await.unwrap();
        bench.publish().await.unwrap();
        bench.agent_task.abort();
        bench.keeper_task.abort();
        fs::remove_file(bench.dir.join("node-agent")).unwrap();
        fs::remove_file(bench.dir.join("keeper")).unwrap();
        bench.unpublish().await.unwrap();
        assert_eq!(bench.occupant(), Occupant::Free);
    });
}

#[test]
fn a_wait_ends_with_the_reason_and_leaves_nothing() {
    story(|bench| async move {
        let reason = "no secret named web in Safe yet: safe -w web -n shop -s -".to_owned();
        for gate in [
            AgentReply::Waiting { reason: reason.clone() },
            AgentReply::Withdrawn { reason: reason.clone() },
        ] {
            lock(&bench.agent).gate = Some(gate);
            assert_eq!(bench.publish().await.unwrap_err().to_string(), reason);
            assert_eq!(bench.occupant(), Occupant::Free);
            assert_eq!(bench.kept().await, []);
        }
    });
}

#[test]
fn a_dropped_call_stops_no_publish_and_a_second_one_finds_its_result() {
    story(|bench| async move {
        tokio::select! {
            biased;
            done = bench.publish() => panic!("the first call is given up at once: {done:?}"),
            () = std::future::ready(()) => {}
        }
        bench.publish().await.unwrap();
        let asked = bench.asked();
        assert_eq!(asked.iter().filter(|a| **a == "attach").count(), 1, "{asked:?}");
    });
}

#[test]
fn an_unpublish_ends_the_wait_of_a_publish() {
    story(|bench| async move {
        lock(&bench.agent).gate = None;
        let (up, down) = tokio::join!(biased; bench.publish(), bench.unpublish());
        assert!(matches!(up, Err(Trouble::Cancelled)), "{up:?}");
        down.unwrap();
        lock(&bench.agent).gate = Some(AgentReply::Ready);
        bench.publish().await.expect("a later publish is not cancelled");
    });
}

#[test]
fn a_server_that_answers_nothing_at_all_holds_up_neither_publish_nor_unpublish() {
    story(|bench| async move {
        bench.publish().await.unwrap();
        let server = lock(&bench.agent).served.values_mut().find_map(Option::take).unwrap();
        server.be_silent_on(ALL);
        bench.publish().await.unwrap();
        let successor = mk_volumes(&bench.dir);
        successor.recover().await;
        lock(&successor.state.held).values_mut().for_each(|held| held.writable = None);
        successor.publish(mk_record(1)).await.expect("the clone is made without the server");
        bench.unpublish().await.unwrap();
        assert_eq!(bench.occupant(), Occupant::Free);
        assert_eq!(server.withheld(), 0, "nobody stats a target, nor opens what is below it");
    });
}
