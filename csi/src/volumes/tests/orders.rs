//! node-agent's orders.

use super::*;

#[test]
fn an_order_swaps_and_a_server_that_hangs_hangs_one_thread_only() {
    story(|bench| async move {
        bench.publish().await.unwrap();
        let step = Step::Publish { dir: "..1".parse().unwrap(), replaced: vec![] };
        let order =
            |id, volume: &str| Order { id, volume: volume.parse().unwrap(), step: step.clone() };
        lock(&bench.agent).orders = vec![order(1, "csi-1"), order(2, "csi-unknown")];
        let on_duty = tokio::spawn(duty::run(Arc::clone(&bench.volumes)));
        let mut replies = lock(&bench.agent).replies.subscribe();
        let both = replies.wait_for(|all| all.len() == 2).await.unwrap().clone();
        let outcome = |id| both.iter().find(|r| r.id == id).map(|r| r.outcome.clone());
        assert_eq!(outcome(1), Some(OrderOutcome::Swapped));
        assert_eq!(outcome(2), Some(OrderOutcome::UnknownVolume));
        on_duty.abort();

        let held = bench.volumes.held(&mk_record(1).volume).unwrap();
        let silent = |opcode| {
            let agent = lock(&bench.agent);
            agent.served.values().flatten().for_each(|server| server.be_silent_on(opcode));
        };
        silent(RENAME);
        let short = Duration::from_millis(50);
        let kubelet = &bench.volumes.kubelet;
        let swap = async || {
            duty::carry_out(short, Arc::clone(kubelet), Some(held.clone()), step.clone()).await
        };
        let failure = |outcome| match outcome {
            OrderOutcome::Failed { reason } => reason,
            other => panic!("{other:?}"),
        };
        let late = failure(swap().await);
        assert!(late.starts_with("no answer"), "{late}");
        let refused = failure(swap().await);
        assert!(refused.starts_with("the swap before"), "{refused}");
        bench.unpublish().await.expect("a hanging swap holds up no unpublish");
        lock(&bench.agent).served.clear();
        let _free = held.swapping.lock().await;
    });
}
