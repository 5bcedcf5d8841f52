//! Mutual TLS with SVIDs from SPIRE, and who the peer of a connection is.
//!
//! Any SVID of the trust domain passes TLS; each RPC is then allowed or refused by role, with an
//! audit line. Refusing a role in TLS would show up at the client as a riddle: in TLS 1.3 it has
//! finished its handshake before the server judges its certificate.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use rustls::{ProtocolVersion, ServerConfig, server::Acceptor};
use spiffe::{SpiffeId, TrustDomain, X509Source, cert::spiffe_id_from_der};
use spiffe_rustls::{Error as TlsError, LocalOnly, TlsStatus, mtls_server};
use time::OffsetDateTime;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{Sleep, sleep, timeout},
};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;
use vsecm_safe_api::{client::chain, svid::end_of};

use crate::places::{Place, Places};

/// A handshake takes milliseconds; whoever needs longer holds a place for nothing.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Handshakes under way at once: each costs a signature.
const HANDSHAKES: usize = 256;
/// A connection goes this long after its certificate's end, so that calls that are made late
/// hear why, and a client that stays dials again with its new certificate.
const LINGER: Duration = Duration::from_secs(10);
/// Pause after an accept that failed, as when descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Why a connection is not accepted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// The handshake failed.
    #[error("the TLS handshake failed")]
    Handshake(#[source] io::Error),
    /// It did not end.
    #[error("the TLS handshake took too long")]
    Slow,
    /// Only TLS 1.3 is spoken.
    #[error("the client speaks {0}, and only TLS 1.3 is spoken here")]
    Version(String),
    /// The client has no certificate.
    #[error("the client has no certificate")]
    Anonymous,
    /// The certificate has no SPIFFE ID.
    #[error("the client's certificate has no SPIFFE ID")]
    SpiffeId(#[source] spiffe::cert::error::CertificateError),
    /// The certificate's end cannot be read.
    #[error("the end of the client's certificate cannot be read")]
    Validity,
    /// One peer may not lock the others out.
    #[error("{0} holds too many connections already")]
    Greedy(SpiffeId),
}

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The SPIFFE ID.
    pub id: SpiffeId,
    /// When the certificate ends.
    pub not_after: OffsetDateTime,
}

impl Peer {
    /// Whether the certificate has ended: TLS never looks again, a connection may outlive it.
    pub fn is_expired(&self, now: OffsetDateTime) -> bool {
        now >= self.not_after
    }
}

/// A TLS configuration that follows the source: new handshakes use the newest SVID and bundles.
#[derive(Clone, Debug)]
pub struct Tls {
    config: Arc<ServerConfig>,
    status: TlsStatus,
}

impl Tls {
    /// With the SVIDs of this source, for clients of this trust domain.
    pub fn of(source: X509Source, trust_domain: TrustDomain) -> Result<Self, TlsError> {
        let local = trust_domain.clone();
        let (config, status) = mtls_server(source)
            .authorize(move |id: &SpiffeId| *id.trust_domain() == local)
            .trust_domain_policy(LocalOnly(trust_domain))
            .with_alpn_protocols([b"h2"])
            .build_with_status()?;
        Ok(Self { config: Arc::new(config), status })
    }

    async fn accept(mut self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let hello = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        self.settled().await;
        hello.into_stream(self.config).await
    }

    /// A renewed SVID is there a moment before TLS has it, and who says hello in between would be
    /// refused.
    async fn settled(&mut self) {
        let pending = |status: &TlsStatus| {
            matches!(status.current().error.as_deref(), Some(TlsError::PendingRevision { .. }))
        };
        while pending(&self.status) {
            if self.status.changed().await.is_err() {
                return;
            }
        }
    }
}

/// One connection with its peer. It ends by itself soon after the peer's certificate.
#[derive(Debug)]
pub struct Connection {
    stream: TlsStream<TcpStream>,
    peer: Peer,
    end: Pin<Box<Sleep>>,
    _places: (OwnedSemaphorePermit, Place),
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.end.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Accepts until `stop`, and gives on what has shown an SVID of the trust domain.
pub async fn accept(
    listener: TcpListener,
    tls: Tls,
    accepted: mpsc::Sender<io::Result<Connection>>,
    (connections, places): (usize, Places),
    stop: CancellationToken,
) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    let connections = Arc::new(Semaphore::new(connections));
    loop {
        let next = async {
            let place = Arc::clone(&connections).acquire_owned().await.ok()?;
            let turn = Arc::clone(&handshakes).acquire_owned().await.ok()?;
            Some((place, turn, listener.accept().await))
        };
        let next = tokio::select! {
            next = next => next,
            () = stop.cancelled() => return,
        };
        match next {
            None => return,
            Some((_, _, Err(error))) => {
                tracing::warn!(%error, "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
            Some((place, turn, Ok((stream, address)))) => {
                let (tls, accepted) = (tls.clone(), accepted.clone());
                let places = places.clone();
                tokio::spawn(async move {
                    match handshake(tls, stream, place, &places).await {
                        Ok(connection) => {
                            // none takes it while the server drains
                            let _closed = accepted.send(Ok(connection)).await;
                        }
                        Err(error) => refuse(address, &error),
                    }
                    drop(turn);
                });
            }
        }
    }
}

fn refuse(address: SocketAddr, error: &PeerError) {
    match error {
        // probes of the port look like this
        PeerError::Handshake(cause) if cause.kind() == io::ErrorKind::UnexpectedEof => {
            tracing::debug!(%address, "a connection ended before its handshake");
        }
        error => tracing::warn!(%address, error = chain(error), "a connection was refused"),
    }
}

async fn handshake(
    tls: Tls,
    stream: TcpStream,
    place: OwnedSemaphorePermit,
    places: &Places,
) -> Result<Connection, PeerError> {
    // frames are small and answers are waited for
    stream.set_nodelay(true).map_err(PeerError::Handshake)?;
    let stream = timeout(HANDSHAKE_TIMEOUT, tls.accept(stream))
        .await
        .map_err(|_elapsed| PeerError::Slow)?
        .map_err(PeerError::Handshake)?;
    let peer = peer(&stream)?;
    let own_place = places.take(&peer.id);
    let own_place = own_place.ok_or_else(|| PeerError::Greedy(peer.id.clone()))?;
    let left = peer.not_after - OffsetDateTime::now_utc();
    let left = Duration::try_from(left).unwrap_or(Duration::ZERO);
    Ok(Connection {
        end: Box::pin(sleep(left.saturating_add(LINGER))),
        stream,
        peer,
        _places: (place, own_place),
    })
}

fn peer(stream: &TlsStream<TcpStream>) -> Result<Peer, PeerError> {
    let (_, session) = stream.get_ref();
    // `process::harden` leaves no suite of TLS 1.2; whoever forgets it is stopped here
    match session.protocol_version() {
        Some(ProtocolVersion::TLSv1_3) => {}
        other => return Err(PeerError::Version(format!("{other:?}"))),
    }
    let leaf =
        session.peer_certificates().and_then(|chain| chain.first()).ok_or(PeerError::Anonymous)?;
    let id = spiffe_id_from_der(leaf).map_err(PeerError::SpiffeId)?;
    let not_after = end_of(leaf).ok_or(PeerError::Validity)?;
    Ok(Peer { id, not_after })
}
