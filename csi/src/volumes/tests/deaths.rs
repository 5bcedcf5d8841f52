//! Peers that die or have lost what they had.

use super::*;

#[test]
fn a_publish_outlives_a_node_agent_that_is_away_for_a_moment() {
    story(|bench| async move {
        bench.agent_task.abort();
        let socket = bench.dir.join("node-agent");
        fs::remove_file(&socket).unwrap();
        let back = async {
            tokio::task::yield_now().await;
            let listener = Listener::bind(&socket).unwrap();
            tokio::spawn(run_agent(listener, Arc::clone(&bench.agent)));
        };
        let (up, ()) = tokio::join!(bench.volumes.publish(mk_record(1)), back);
        up.unwrap();
    });
}

#[test]
fn a_successor_of_csi_takes_everything_from_the_keeper() {
    story(|bench| async move {
        bench.publish().await.unwrap();
        let successor = mk_volumes(&bench.dir);
        successor.recover().await;
        let held = successor.held(&mk_record(1).volume).unwrap();
        assert!(held.fuse.is_some() && held.writable.is_some());
        bench.asked();
        successor.publish(mk_record(1)).await.unwrap();
        assert_eq!(bench.asked(), ["state"]);

        let target = mk_record(1).target.parse().unwrap();
        bench.volumes.kubelet.clear(&target).unwrap();
        let late = mk_volumes(&bench.dir);
        late.recover().await;
        assert!(late.ids().is_empty(), "its target is mounted no more");
        assert_eq!(bench.kept().await, []);
    });
}

#[test]
fn a_clone_that_the_keeper_lacks_is_made_again() {
    story(|bench| async move {
        bench.publish().await.unwrap();
        let volume = mk_record(1).volume;
        lock(&bench.volumes.state.held).get_mut(&volume).unwrap().writable = None;
        let keeper = bench.volumes.keeper.dial().await.unwrap();
        bench.volumes.keeper.remove_volume(&keeper, &volume).await.unwrap();
        bench.volumes.settle(&volume).await.unwrap();
        assert_eq!(bench.kept().await, [Descriptor::Fuse]);
        let successor = mk_volumes(&bench.dir);
        successor.recover().await;
        assert!(successor.held(&volume).unwrap().writable.is_some());
    });
}

#[test]
fn a_keeper_that_lost_everything_gets_it_back() {
    story(|bench| async move {
        bench.publish().await.unwrap();
        let settled = tokio::spawn(Arc::clone(&bench.volumes).stay_settled());
        bench.keeper_task.abort();
        let _keeper = run_keeper(&bench.dir);
        let whole = async {
            while bench.kept().await.len() < 2 {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(10), whole).await.unwrap();
        settled.abort();
    });
}

#[test]
fn a_mount_of_ours_that_nobody_serves_is_replaced_and_a_foreign_one_is_not() {
    story(|bench| async move {
        bench.publish().await.unwrap();
        let stranger = mk_volumes(&bench.dir);
        lock(&bench.agent).served.clear();
        bench.asked();
        stranger.publish(mk_record(1)).await.unwrap();
        let asked = bench.asked();
        assert_eq!(asked, ["state", "detach", "attach", "serve", "state"]);
        let other = VolumeRecord { volume: "csi-other".parse().unwrap(), ..mk_record(1) };
        let error = stranger.publish(other).await.unwrap_err();
        assert!(matches!(error, Trouble::Occupied(_)), "{error}");
    });
}

#[test]
fn a_volume_that_a_new_node_agent_cannot_resume_yet_is_tried_again() {
    story(|bench| async move {
        bench.publish().await.unwrap();
        lock(&bench.agent).served.clear();
        lock(&bench.agent).refusals = 3;
        let on_duty = tokio::spawn(duty::run(Arc::clone(&bench.volumes)));
        let served = async {
            while lock(&bench.agent).served.is_empty() {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(10), served).await.unwrap();
        on_duty.abort();
    });
}

#[test]
fn a_publish_whose_answer_was_lost_is_ok_only_if_the_volume_is_really_served() {
    story(|bench| async move {
        bench.publish().await.unwrap();
        // the kubelet has not heard of it, and node-agent has died
        lock(&bench.agent).served.clear();
        lock(&bench.agent).refusals = usize::MAX;
        let impatient = Volumes::new(Means {
            holds: Holds { first: Duration::from_millis(300), later: Duration::ZERO },
            ..mk_means(&bench.dir)
        });
        impatient.recover().await;
        let refused = impatient.publish(mk_record(1)).await.unwrap_err();
        assert!(matches!(refused, Trouble::Peer(AskError::Refused(..))), "{refused}");
        assert_eq!(bench.occupant(), Occupant::Ours, "and it is not thrown away");
        lock(&bench.agent).refusals = 0;
        impatient.publish(mk_record(1)).await.unwrap();
        assert!(lock(&bench.agent).served.contains_key(&mk_record(1).volume));
    });
}
