//! From the creation of a pod to its files, and to its end.

use std::time::{Duration, Instant};

use super::{
    BenchError, PATIENCE,
    stats::Spread,
    table::{Bar, Table},
};
use crate::{Playground, Pod, PodSpec, kubelet::Phase};

/// Pods, one after the other.
const PODS: usize = 60;

pub(super) async fn measure(playground: &Playground, table: &mut Table) -> Result<(), BenchError> {
    playground.register("life", "default", b"{\"a\":\"b\"}").await?;
    let (mut attached, mut gone) = (Vec::new(), Vec::new());
    for number in 0..PODS {
        let begun = Instant::now();
        let pod =
            playground.create_pod(PodSpec::new(&format!("life-{number}")).workload("life"))?;
        pod.ready(PATIENCE).await?;
        attached.push(begun.elapsed());
        let begun = Instant::now();
        playground.delete_pod(&pod, PATIENCE).await?;
        gone.push(begun.elapsed());
    }
    table.section("A volume's life, by a kubelet's calls, with SPIRE's answer")?;
    table.spread("pod created -> volume ready", Spread::of(attached), Bar::None)?;
    table.spread("pod deleted -> volume gone", Spread::of(gone), Bar::None)?;
    let mut late = Vec::new();
    for number in 0..PODS {
        late.push(register_late(playground, &format!("late-{number}")).await?);
    }
    table.spread("secret registered -> waiting volume ready", Spread::of(late), Bar::AtMost(100.0))
}

/// From the operator's command to the volume, for a pod whose publish call is held.
async fn register_late(playground: &Playground, name: &str) -> Result<Duration, BenchError> {
    let pod = playground.create_pod(PodSpec::new(name))?;
    held(&pod).await?;
    let begun = Instant::now();
    playground.register(name, "default", b"{\"a\":\"b\"}").await?;
    let answered = begun.elapsed();
    pod.ready(PATIENCE).await?;
    let took = begun.elapsed().saturating_sub(answered);
    playground.delete_pod(&pod, PATIENCE).await?;
    Ok(took)
}

async fn held(pod: &Pod) -> Result<(), BenchError> {
    pod.reaches(PATIENCE, |state| state.phase == Phase::Publishing).await?;
    Ok(())
}
