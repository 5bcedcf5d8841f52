//! Publishes that wait, are too many, or have lost their pod.

use super::*;

fn waiting() -> AgentReply {
    AgentReply::Waiting { reason: "no secret named web in Safe yet".to_owned() }
}

#[test]
fn the_first_wait_is_short_so_that_the_pods_events_soon_say_why() {
    story(|bench| async move {
        lock(&bench.agent).gate = Some(waiting());
        for _round in 0..2 {
            for _call in 0..3 {
                bench.publish().await.unwrap_err();
            }
            bench.unpublish().await.unwrap();
            let holds = lock(&bench.agent).holds.split_off(0);
            let seconds: Vec<_> = holds.into_iter().map(|ms| ms.div_ceil(1000)).collect();
            assert_eq!(seconds, [8, 110, 110]);
        }
    });
}

#[test]
fn a_ninth_volume_of_a_pod_is_refused_until_another_one_goes() {
    story(|bench| async move {
        let record = |number: usize| {
            let target = format!("pods/1/volumes/kubernetes.io~csi/v{number}/mount");
            VolumeRecord {
                volume: format!("csi-1-{number}").parse().unwrap(),
                target,
                ..mk_record(1)
            }
        };
        for number in 0..9 {
            let target: Target = record(number).target.parse().unwrap();
            fs::create_dir(bench.dir.join(target.folder())).unwrap();
        }
        lock(&bench.agent).gate = Some(waiting());
        for number in 0..8 {
            let refused = bench.volumes.publish(record(number)).await.unwrap_err();
            assert!(matches!(refused, Trouble::NotYet(_)), "{refused}");
        }
        lock(&bench.agent).gate = Some(AgentReply::Ready);
        let refused = bench.volumes.publish(record(8)).await.unwrap_err();
        assert!(matches!(refused, Trouble::Crowded(Crowded::Pod)), "{refused}");
        bench.volumes.publish(record(7)).await.expect("it is in already");
        let (gone, other) = (record(0), record(8));
        bench.volumes.unpublish(gone.volume, gone.target.parse().unwrap()).await.unwrap();
        bench.volumes.publish(other).await.unwrap();
        for number in [7, 8] {
            let record = record(number);
            bench.volumes.unpublish(record.volume, record.target.parse().unwrap()).await.unwrap();
        }
    });
}

#[test]
fn a_target_that_cannot_be_reached_is_said_before_any_wait() {
    story(|bench| async move {
        let target: Target = mk_record(1).target.parse().unwrap();
        let folder = bench.dir.join(target.folder());
        fs::remove_dir(&folder).unwrap();
        std::os::unix::fs::symlink("/", &folder).unwrap();
        lock(&bench.agent).gate = None;
        let refused = bench.publish().await.unwrap_err();
        assert!(matches!(refused, Trouble::Mount(_)), "{refused}");
        assert_eq!(bench.asked(), Vec::<&str>::new());
    });
}

#[test]
fn what_belongs_to_a_pod_whose_folder_is_gone_is_collected() {
    story(|bench| async move {
        let other = mk_record(2);
        let folder = bench.dir.join(other.target.parse::<Target>().unwrap().folder());
        fs::create_dir_all(folder).unwrap();
        bench.volumes.publish(other.clone()).await.unwrap();
        bench.publish().await.unwrap();
        let collecting = tokio::spawn(Arc::clone(&bench.volumes).collect(Duration::from_millis(1)));
        // as a node does that is cleaned by hand
        drop(bench.volumes.kubelet.clear(&mk_record(1).target.parse().unwrap()).unwrap());
        fs::remove_dir_all(bench.dir.join("pods/1")).unwrap();
        until("its record is gone", async || bench.volumes.ids().len() == 1).await;
        until("the keeper has it no more", async || bench.kept().await.is_empty()).await;
        until("it is no volume of the node", async || {
            lock(&bench.volumes.state.claims).all().len() == 1
        })
        .await;
        assert_eq!(bench.volumes.ids(), std::slice::from_ref(&other.volume));
        assert!(lock(&bench.agent).served.contains_key(&other.volume));
        assert!(!lock(&bench.agent).served.contains_key(&mk_record(1).volume));
        collecting.abort();
        bench.volumes.unpublish(other.volume, other.target.parse().unwrap()).await.unwrap();
    });
}
