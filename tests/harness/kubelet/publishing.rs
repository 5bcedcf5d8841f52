//! The calls, with the kubelet's deadline and pauses.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status};

use super::{Phase, PodState};
use crate::{
    dial,
    proto::csi::{NodePublishVolumeRequest, NodeUnpublishVolumeRequest, node_client::NodeClient},
};

/// `csiTimeout` of the kubelet.
const CALL_TIMEOUT: Duration = Duration::from_mins(2);

/// `initialDurationBeforeRetry` of the kubelet's exponential backoff …
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// … and its `maxDurationBeforeRetry`.
const LONGEST_PAUSE: Duration = Duration::from_secs(122);

struct Backoff(Duration);

impl Backoff {
    fn new() -> Self {
        Self(FIRST_PAUSE)
    }

    fn next(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(LONGEST_PAUSE);
        pause
    }
}

/// Publishes until it succeeds or the pod is deleted.
pub(super) fn start(
    csi: PathBuf,
    request: NodePublishVolumeRequest,
    deleted: CancellationToken,
) -> (watch::Receiver<PodState>, JoinHandle<()>) {
    let (state, seen) =
        watch::channel(PodState { phase: Phase::Publishing, event: None, calls: 0 });
    let task = tokio::spawn(async move {
        let mut backoff = Backoff::new();
        while !deleted.is_cancelled() {
            state.send_modify(|state| {
                state.phase = Phase::Publishing;
                state.calls += 1;
            });
            let outcome = publish(&csi, request.clone()).await;
            match outcome {
                Ok(()) => {
                    state.send_modify(|state| state.phase = Phase::Ready);
                    deleted.cancelled().await;
                }
                Err(status) => {
                    state.send_modify(|state| {
                        state.phase = Phase::Pausing;
                        state.event = Some(event(&status));
                    });
                    let pause = backoff.next();
                    tokio::select! {
                        () = deleted.cancelled() => {}
                        () = tokio::time::sleep(pause) => {}
                    }
                }
            }
        }
        state.send_modify(|state| state.phase = Phase::Gone);
    });
    (seen, task)
}

async fn publish(csi: &Path, request: NodePublishVolumeRequest) -> Result<(), Status> {
    let mut client = connect(csi).await?;
    let mut request = Request::new(request);
    request.set_timeout(CALL_TIMEOUT);
    client.node_publish_volume(request).await.map(drop)
}

/// Unpublishes until it succeeds.
pub(super) async fn unpublish(csi: &Path, request: NodeUnpublishVolumeRequest) {
    let mut backoff = Backoff::new();
    loop {
        let attempt = async {
            let mut client = connect(csi).await?;
            let mut request = Request::new(request.clone());
            request.set_timeout(CALL_TIMEOUT);
            client.node_unpublish_volume(request).await
        };
        match attempt.await {
            Ok(_) => return,
            Err(status) => tracing::warn!(?status, "NodeUnpublishVolume failed"),
        }
        tokio::time::sleep(backoff.next()).await;
    }
}

/// The kubelet dials anew for each call.
async fn connect(csi: &Path) -> Result<NodeClient<tonic::transport::Channel>, Status> {
    let channel = dial::unix(csi.to_owned()).await;
    let channel = channel.map_err(|error| {
        let sentence = format!("cannot dial {}: {error}", csi.display());
        Status::unavailable(sentence)
    })?;
    Ok(NodeClient::new(channel))
}

/// What stands in the event `FailedMount`.
fn event(status: &Status) -> String {
    let code = match status.code() {
        // as Go spells it
        Code::Cancelled => "Canceled".to_owned(),
        code => format!("{code:?}"),
    };
    format!("rpc error: code = {code} desc = {}", status.message())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_two_minutes_and_two_seconds() {
        let mut backoff = Backoff::new();
        let pauses: Vec<_> = (0..10).map(|_| backoff.next().as_secs_f64()).collect();
        let wanted = [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 122.0, 122.0];
        assert_eq!(pauses, wanted);
    }

    #[test]
    fn an_event_reads_as_the_kubelets() {
        assert_eq!(
            event(&Status::unavailable("not yet")),
            "rpc error: code = Unavailable desc = not yet"
        );
    }
}
