//! What is known of a volume, for the kubelet: soon, whatever node-agent does.

use std::time::Duration;

use tokio::time::{sleep, timeout};
use vsecm_node_agent_api::{
    client::{AskError, VolumeState, chain, pauses},
    frame::{Gravity, Serving},
};

use super::{Held, Volumes, lock};

/// The kubelet's answer is due within a second, however node-agent hangs; a death of it lasts for
/// some milliseconds.
const PATIENCE: Duration = Duration::from_millis(700);

impl Volumes {
    /// The state of a volume. While node-agent does not answer, the usage is what it said last.
    pub(crate) async fn look(&self, held: &Held) -> VolumeState {
        let asked = timeout(PATIENCE, self.ask(held)).await;
        let trouble = match asked {
            Ok(Ok(state)) => return state,
            Ok(Err(error)) => chain(&error),
            Err(_late) => format!("{} does not answer", self.agent.name),
        };
        let (bytes, files) = lock(&held.seen).as_ref().map_or((0, 0), |s| (s.bytes, s.files));
        let (serving, gravity) = (Serving::No, Gravity::Abnormal);
        VolumeState { serving, condition: Some(trouble), gravity, bytes, files }
    }

    async fn ask(&self, held: &Held) -> Result<VolumeState, AskError> {
        let mut pauses = pauses();
        loop {
            match (self.state_of(held).await, pauses.next()) {
                (Err(AskError::Away(..)), Some(pause)) => sleep(pause).await,
                (asked, _) => return asked,
            }
        }
    }

    /// Asks node-agent, and keeps what it says.
    pub(super) async fn state_of(&self, held: &Held) -> Result<VolumeState, AskError> {
        let state = self.agent.state(&held.record.volume).await?;
        *lock(&held.seen) = Some(state.clone());
        Ok(state)
    }
}
