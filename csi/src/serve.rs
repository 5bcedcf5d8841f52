//! The gRPC servers on their Unix sockets.

use std::{
    convert::Infallible,
    task::{Context, Poll},
};

use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{
    body::Body,
    codegen::{BoxFuture, Service, http},
    server::NamedService,
    transport::{Error, Server},
};

use crate::{
    node::NodeService,
    plugin::{IdentityService, RegistrationService},
    proto::{
        csi::v1::{identity_server::IdentityServer, node_server::NodeServer},
        registration::registration_server::RegistrationServer,
    },
};

/// Serves Identity and Node until `stop`.
pub async fn csi(
    listener: UnixListener,
    node: NodeService,
    stop: CancellationToken,
) -> Result<(), Error> {
    let both = IdentityAndNode {
        identity: IdentityServer::new(IdentityService),
        node: NodeServer::new(node),
    };
    serve(listener, both, stop).await
}

/// Serves Registration until `stop`, if there is a socket for it.
pub async fn registration(
    listener: Option<UnixListener>,
    service: RegistrationService,
    stop: CancellationToken,
) -> Result<(), Error> {
    match listener {
        Some(listener) => serve(listener, RegistrationServer::new(service), stop).await,
        None => Ok(()),
    }
}

async fn serve<S>(listener: UnixListener, service: S, stop: CancellationToken) -> Result<(), Error>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send,
{
    let incoming = UnixListenerStream::new(listener);
    Server::builder()
        .serve_with_incoming_shutdown(service, incoming, stop.cancelled_owned())
        .await
}

/// The two services of the CSI socket. tonic's own router would link a web framework for it.
#[derive(Clone, Debug)]
struct IdentityAndNode {
    identity: IdentityServer<IdentityService>,
    node: NodeServer<NodeService>,
}

impl Service<http::Request<Body>> for IdentityAndNode {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = request.uri().path().split('/').nth(1);
        if service == Some(IdentityServer::<IdentityService>::NAME) {
            self.identity.call(request)
        } else {
            // also whatever is neither: the generated code answers UNIMPLEMENTED
            self.node.call(request)
        }
    }
}
