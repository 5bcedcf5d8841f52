//! gRPC over a Unix socket.

use std::path::PathBuf;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Error};
use tower::service_fn;

/// Dials the socket at `path`.
pub async fn unix(path: PathBuf) -> Result<Channel, Error> {
    // the address is never looked at: the connector knows where to go
    let endpoint = Endpoint::from_static("http://unix");
    let connect = service_fn(move |_: tonic::transport::Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    endpoint.connect_with_connector(connect).await
}
