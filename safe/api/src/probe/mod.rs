//! HTTP probes and metrics of a process of this system, as the kubelet and Prometheus ask for them.
//!
//! - Liveness says that the process answers at all. It never depends on another process: a restart
//!   cures nothing there.
//! - Readiness says whether the process can do its work now; if not, the answer is 503 and the
//!   sentence that says why. `/metrics` of the same port has the gauges.

mod swap;

use std::{
    collections::VecDeque,
    convert::Infallible,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Bytes,
    header::{CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
pub use prometheus_client;
use prometheus_client::{encoding::text::encode, registry::Registry};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};

pub use self::swap::swap_is_possible;

/// The variable of liveness' port.
pub const LIVENESS: &str = "VSECM_PROBE_LIVENESS_PORT";
/// The variable of readiness' port.
pub const READINESS: &str = "VSECM_PROBE_READINESS_PORT";

/// A probe's connection, from its first byte to its last: the kubelet gives up after a second.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections of one port at once. The port is open to the pod network.
const CONNECTIONS: usize = 32;
/// Bytes of a request: all connections together must not take the container's memory.
const REQUEST_LIMIT: usize = 8 * 1024;
/// Pause after an accept that failed, as when descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Whether the process can do its work; if not, a sentence that says why.
pub type Readiness = Result<(), String>;

/// Reads `:PORT` (all of IPv4) or `ADDRESS:PORT`; a parser for flags.
pub fn address(text: &str) -> Result<SocketAddr, &'static str> {
    const RULE: &str = "it must be :PORT or ADDRESS:PORT";
    match text.strip_prefix(':') {
        Some(port) => {
            let port = port.parse().map_err(|_number| RULE)?;
            Ok(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))
        }
        None => text.parse().map_err(|_address| RULE),
    }
}

/// The ports that answer, until it is dropped.
#[derive(Debug)]
pub struct Probes {
    liveness: Option<SocketAddr>,
    readiness: Option<SocketAddr>,
    servers: JoinSet<()>,
}

impl Probes {
    /// Where liveness is asked.
    pub fn liveness(&self) -> Option<SocketAddr> {
        self.liveness
    }

    /// Where readiness and `/metrics` are asked.
    pub fn readiness(&self) -> Option<SocketAddr> {
        self.readiness
    }
}

/// Answers at these addresses. A port that is not asked for is not opened.
pub async fn serve(
    liveness: Option<SocketAddr>,
    readiness: Option<SocketAddr>,
    state: watch::Receiver<Readiness>,
    metrics: Option<Arc<Registry>>,
) -> io::Result<Probes> {
    let mut probes = Probes { liveness: None, readiness: None, servers: JoinSet::new() };
    if let Some(at) = liveness {
        let listener = bind(at).await?;
        probes.liveness = Some(listener.local_addr()?);
        probes.servers.spawn(accept(listener, Door::Liveness));
    }
    if let Some(at) = readiness {
        let listener = bind(at).await?;
        probes.readiness = Some(listener.local_addr()?);
        probes.servers.spawn(accept(listener, Door::Readiness { state, metrics }));
    }
    Ok(probes)
}

async fn bind(at: SocketAddr) -> io::Result<TcpListener> {
    let bound = TcpListener::bind(at).await;
    bound.map_err(|e| io::Error::new(e.kind(), format!("cannot listen for probes at {at}: {e}")))
}

#[derive(Clone)]
enum Door {
    Liveness,
    Readiness { state: watch::Receiver<Readiness>, metrics: Option<Arc<Registry>> },
}

async fn accept(listener: TcpListener, door: Door) {
    let mut conversations = JoinSet::new();
    let mut open = VecDeque::<AbortHandle>::new();
    loop {
        match listener.accept().await {
            Ok((stream, _from)) => {
                while conversations.try_join_next().is_some() {}
                open.retain(|conversation| !conversation.is_finished());
                // the newest has its place: who waits for one would wait for strangers that say
                // nothing, and the kubelet ends a container whose liveness it cannot ask
                if open.len() >= CONNECTIONS {
                    open.pop_front().iter().for_each(AbortHandle::abort);
                }
                let answer = timeout(CONNECTION_TIMEOUT, converse(stream, door.clone()));
                open.push_back(conversations.spawn(async {
                    // whoever is slow or speaks no HTTP gets no answer, and no line in the log
                    let _answered = answer.await;
                }));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a probe");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn converse(stream: TcpStream, door: Door) -> hyper::Result<()> {
    let service = service_fn(move |request| {
        let answer = door.answer(&request);
        async move { Ok::<_, Infallible>(answer) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .max_buf_size(REQUEST_LIMIT)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

impl Door {
    fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        let Self::Readiness { state, metrics } = self else {
            return plain(StatusCode::OK, "OK");
        };
        if request.uri().path() == "/metrics" && request.method() == Method::GET {
            return exposition(metrics.as_deref());
        }
        match &*state.borrow() {
            Ok(()) => plain(StatusCode::OK, "OK"),
            Err(why) => plain(StatusCode::SERVICE_UNAVAILABLE, why),
        }
    }
}

fn plain(status: StatusCode, sentence: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(format!("{sentence}\n")));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn exposition(metrics: Option<&Registry>) -> Response<Full<Bytes>> {
    let Some(registry) = metrics else {
        return plain(StatusCode::NOT_FOUND, "this process has no metrics");
    };
    let mut text = String::new();
    if encode(&mut text, registry).is_err() {
        return plain(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written");
    }
    let mut response = Response::new(Full::from(text));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(OPENMETRICS));
    response
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::gauge::Gauge;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn ask(at: SocketAddr, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(at).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: probe\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    fn anywhere() -> SocketAddr {
        address("127.0.0.1:0").unwrap()
    }

    #[tokio::test]
    async fn readiness_follows_the_state_and_says_why_not() {
        let (says, state) = watch::channel(Err("no SVID yet".to_owned()));
        let probes = serve(Some(anywhere()), Some(anywhere()), state, None).await.unwrap();
        let (live, ready) = (probes.liveness().unwrap(), probes.readiness().unwrap());
        assert_eq!(ask(ready, "/").await, (503, "no SVID yet\n".to_owned()));
        assert_eq!(ask(live, "/healthz").await, (200, "OK\n".to_owned()));
        says.send(Ok(())).unwrap();
        assert_eq!(ask(ready, "/any/path").await, (200, "OK\n".to_owned()));
        says.send(Err("the SVID has expired".to_owned())).unwrap();
        assert_eq!(ask(ready, "/").await.0, 503);
        assert_eq!(ask(ready, "/metrics").await.0, 404, "it has none");
    }

    #[tokio::test]
    async fn metrics_stand_beside_readiness_and_need_none() {
        let mut registry = Registry::default();
        let gauge: Gauge = Gauge::default();
        registry.register("vsecm_things", "Things", gauge.clone());
        let (_says, state) = watch::channel(Err("not yet".to_owned()));
        let metrics = Some(Arc::new(registry));
        let probes = serve(None, Some(anywhere()), state, metrics).await.unwrap();
        assert_eq!(probes.liveness(), None);
        gauge.set(7);
        let (status, text) = ask(probes.readiness().unwrap(), "/metrics").await;
        assert_eq!(status, 200);
        assert!(text.contains("vsecm_things 7\n") && text.ends_with("# EOF\n"), "{text}");
    }

    #[tokio::test]
    async fn who_says_nothing_keeps_no_other_out() {
        let (_says, state) = watch::channel(Ok(()));
        let probes = serve(Some(anywhere()), None, state, None).await.unwrap();
        let live = probes.liveness().unwrap();
        let mut silent = Vec::new();
        for _ in 0..3 * CONNECTIONS {
            silent.push(TcpStream::connect(live).await.unwrap());
        }
        assert_eq!(ask(live, "/").await.0, 200);
        let (mut oldest, newest) = (silent.swap_remove(0), silent.pop().unwrap());
        assert_eq!(oldest.read(&mut [0]).await.unwrap_or(0), 0, "it has made room");
        let still_open = newest.try_read(&mut [0]).map_err(|e| e.kind());
        assert_eq!(still_open, Err(io::ErrorKind::WouldBlock), "nobody waited for its end");
    }

    #[tokio::test]
    async fn a_request_that_does_not_end_takes_little_memory() {
        let (_says, state) = watch::channel(Ok(()));
        let probes = serve(Some(anywhere()), None, state, None).await.unwrap();
        let mut stream = TcpStream::connect(probes.liveness().unwrap()).await.unwrap();
        let mut request = b"GET / HTTP/1.1\r\nHost: ".to_vec();
        request.resize(REQUEST_LIMIT, b'x');
        stream.write_all(&request).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }

    #[test]
    fn a_port_alone_listens_everywhere() {
        assert_eq!(address(":8081"), Ok("0.0.0.0:8081".parse().unwrap()));
        assert_eq!(address("[::]:8081"), Ok("[::]:8081".parse().unwrap()));
        for bad in ["", "8081", ":x", ":99999", "host:1"] {
            assert!(address(bad).is_err(), "{bad:?}");
        }
    }
}
