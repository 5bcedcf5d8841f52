//! A server that is not Safe, at Safe's address. It writes down every byte that a client trusts it with.

use std::sync::{Arc, Mutex};

use rustls::{ServerConfig, crypto::ring};
use tokio::{io::AsyncReadExt, net::TcpListener, sync::watch, task::JoinHandle};
use tokio_rustls::TlsAcceptor;
use vsecm_safe_api::client::Address;
use vsecm_tests::authority::Svid;

/// Ends with its drop.
#[derive(Debug)]
pub(crate) struct Impostor {
    heard: Arc<Mutex<Vec<u8>>>,
    attempts: watch::Receiver<usize>,
    task: JoinHandle<()>,
}

impl Impostor {
    /// Listens at `address` with `svid`, and asks nobody for a certificate.
    pub(crate) async fn listen(address: &Address, svid: &Svid) -> Self {
        let provider = Arc::new(ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(svid.certificates(), svid.private_key())
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind(address.to_string()).await.unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (count, attempts) = watch::channel(0);
        let book = Arc::clone(&heard);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                if let Ok(mut tls) = acceptor.accept(stream).await {
                    let mut bytes = Vec::new();
                    // a client that turns away ends this with an alert; what it sent before counts
                    let _end: std::io::Result<usize> = tls.read_to_end(&mut bytes).await;
                    book.lock().unwrap().extend_from_slice(&bytes);
                }
                count.send_modify(|n| *n += 1);
            }
        });
        Self { heard, attempts, task }
    }

    /// Waits until `n` clients have come and gone.
    pub(crate) async fn met(&self, n: usize) {
        let mut attempts = self.attempts.clone();
        attempts.wait_for(|count| *count >= n).await.unwrap();
    }

    /// Everything that clients said after the handshake.
    pub(crate) fn heard(&self) -> Vec<u8> {
        self.heard.lock().unwrap().clone()
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        self.task.abort();
    }
}
