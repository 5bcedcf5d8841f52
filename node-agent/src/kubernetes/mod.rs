//! What Kubernetes' API server says. A node whose volumes are served needs nothing of it: it is
//! asked about what is to be published next, never about what is there.
//!
//! - [`driver`]: whether the kubelet's word about pods can be believed;
//! - [`taint`]: pods may be scheduled here;
//! - [`users`]: who would miss this driver.

use std::{error::Error as StdError, time::Duration};

use vsecm_safe_api::client::chain;

pub mod driver;
mod follow;
pub mod taint;
pub mod users;

/// An answer that takes longer than this never comes.
const ANSWER_WAIT: Duration = Duration::from_secs(10);

/// Why the API server's answer is not there. No variant has a source: its own words, which `said`
/// takes from it, would be said again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KubernetesError {
    /// Neither a service account's token nor a kubeconfig is there.
    #[error(
        "it is not known where Kubernetes' API server is, or as whom to ask it: {}",
        said(.0)
    )]
    Config(kube::Error),
    /// It refused or failed.
    #[error("Kubernetes' API server refused or failed: {}", said(.0))]
    Api(kube::Error),
    /// It did not answer.
    #[error("Kubernetes' API server did not answer within {} seconds", ANSWER_WAIT.as_secs())]
    Silent,
}

/// What the server said, or why it was not reached.
fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        kube::Error::InferConfig(reason) => reason.to_string(),
        other => chain(other as &(dyn StdError + 'static)),
    }
}

async fn client() -> Result<kube::Client, KubernetesError> {
    kube::Client::try_default().await.map_err(KubernetesError::Config)
}

async fn answer<T>(
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, KubernetesError> {
    match tokio::time::timeout(ANSWER_WAIT, call).await {
        Ok(answer) => answer.map_err(KubernetesError::Api),
        Err(_elapsed) => Err(KubernetesError::Silent),
    }
}
