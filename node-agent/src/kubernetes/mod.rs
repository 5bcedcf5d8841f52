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

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        sync::{Arc, Mutex},
    };

    use k8s_openapi::api::storage::v1::CSIDriver;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };
    use tracing::level_filters::LevelFilter;

    use super::*;

    const TOKEN: &str = "eyJ-a-token-of-nobody";

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(line);
            Ok(line.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// An API server that refuses one question; what it was asked.
    async fn refuses(server: TcpListener) -> String {
        let (mut stream, _from) = server.accept().await.unwrap();
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") {
            stream.read_buf(&mut asked).await.unwrap();
        }
        let status = r#"{"kind":"Status","status":"Failure","message":"no","code":403}"#;
        let length = status.len();
        let answer = format!("HTTP/1.1 403 Forbidden\r\nContent-Length: {length}\r\n\r\n{status}");
        stream.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8(asked).unwrap()
    }

    #[tokio::test]
    async fn the_service_accounts_token_is_logged_at_no_level() {
        let lines = Lines::default();
        let written = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(LevelFilter::TRACE)
            .with_writer(move || written.clone())
            .finish();
        let _all = tracing::subscriber::set_default(subscriber);
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = format!("http://{}", server.local_addr().unwrap());
        let mut config = kube::Config::new(at.parse().unwrap());
        config.auth_info.token = Some(TOKEN.to_owned().into());
        let client = kube::Client::try_from(config).unwrap();
        let api: kube::Api<CSIDriver> = kube::Api::all(client);
        let (asked, answered) = tokio::join!(refuses(server), answer(api.get("csi.vsecm.com")));
        assert!(asked.contains(TOKEN));
        assert!(answered.unwrap_err().to_string().ends_with("no"));
        let logged = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert!(logged.contains("kube_client") && logged.contains("hyper"), "{logged}");
        assert!(!logged.contains(TOKEN), "{logged}");
    }
}
