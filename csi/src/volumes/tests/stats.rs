//! What the kubelet hears of a volume, whatever peers do.

use super::*;

#[test]
fn the_state_of_a_volume_comes_within_a_second_also_from_a_node_agent_that_hangs_or_is_away() {
    story(|bench| async move {
        bench.publish().await.unwrap();
        let held = bench.volumes.held(&mk_record(1).volume).unwrap();
        let look = async || {
            let soon = timeout(Duration::from_secs(1), bench.volumes.look(&held));
            soon.await.expect("the kubelet waits for a second")
        };
        let state = look().await;
        assert_eq!((state.serving, state.bytes, state.files), (Serving::Yes, 10, 2));

        lock(&bench.agent).is_mute = true;
        let state = look().await;
        assert_eq!((state.serving, state.bytes, state.files), (Serving::No, 10, 2));
        assert_eq!(state.gravity, Gravity::Abnormal);
        assert_eq!(state.condition.as_deref(), Some("node-agent does not answer"));

        bench.agent_task.abort();
        fs::remove_file(bench.dir.join("node-agent")).unwrap();
        let state = look().await;
        assert_eq!((state.serving, state.bytes), (Serving::No, 10));
    });
}

#[test]
fn before_it_is_known_what_is_there_nothing_is_published_or_unpublished() {
    story(|bench| async move {
        bench.publish().await.unwrap();
        bench.asked();
        let starting = mk_unrecovered(&bench.dir);
        let record = mk_record(1);
        let target = record.target.parse().unwrap();
        let refused = starting.unpublish(record.volume.clone(), target).await.unwrap_err();
        assert!(matches!(refused, Trouble::Recovering), "{refused}");
        let (up, ()) = tokio::join!(starting.publish(record), starting.recover());
        up.expect("a call that comes while the volumes are taken over waits for that");
        assert_eq!(bench.asked(), ["state"]);
    });
}
