//! Wiring: the only module that knows all others.

use std::{
    io,
    sync::{Arc, OnceLock},
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use nix::unistd::geteuid;
use spiffe::X509Source;
use time::OffsetDateTime;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use vsecm_safe_api::{
    probe::{self, Probes},
    process::raise_descriptor_limit,
    role::RolePatterns,
};

use crate::{
    admin_proof::{AdminProof, KubernetesToken, TokenDigest},
    args::Args,
    custodian,
    deliveries::Deliveries,
    feed::Feed,
    grpc::{self, Services},
    identity::{self, Tls},
    metrics,
    own_identity::{self, Expected},
    places::{self, Places},
    readiness::{State, follow_identity},
    recovery::{self, stored_records},
    root_key::{self, KeySecret, follow_mount},
    seal::{RootKey, Sealer},
    store::{FileStore, Found, Store},
};

/// Time for calls under way after SIGTERM: they take milliseconds, and a drain of the node waits.
const DRAIN: Duration = Duration::from_secs(8);
/// Accepted connections that the server has not taken yet.
const BACKLOG: usize = 64;

/// Runs until SIGTERM or SIGINT. The port accepts only when everything else is there.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let descriptors = raise_descriptor_limit().context("cannot raise the limit of descriptors")?;
    let patterns = args.patterns()?;
    let stop = CancellationToken::new();
    let signals = tokio::spawn(signals(stop.clone())?);
    let signs = Signs::new();
    let _probes = signs.probes(&args).await?;
    let ended = tokio::select! {
        prepared = prepare(&args, patterns, &signs, &stop) => {
            serve(prepared?, &signs, descriptors, stop).await
        }
        // nothing is under way yet that could be lost
        () = stop.cancelled() => Ok(()),
    };
    signals.abort();
    ended
}

/// What Safe says of itself to the outside.
struct Signs {
    state: State,
    feed: Arc<OnceLock<Arc<Feed>>>,
    deliveries: Arc<Deliveries>,
    key_mount_changed: watch::Sender<bool>,
}

impl Signs {
    fn new() -> Self {
        Self {
            state: State::starting(),
            feed: Arc::default(),
            deliveries: Arc::default(),
            key_mount_changed: watch::Sender::new(false),
        }
    }

    async fn probes(&self, args: &Args) -> io::Result<Probes> {
        let changed = self.key_mount_changed.subscribe();
        let metrics = metrics::registry(
            self.state.subscribe(),
            Arc::clone(&self.feed),
            Arc::clone(&self.deliveries),
            changed,
        );
        let state = self.state.subscribe();
        let metrics = Some(Arc::new(metrics));
        probe::serve(args.probe_liveness, args.probe_readiness, state, metrics).await
    }
}

/// All that is needed to serve.
struct Prepared {
    listener: TcpListener,
    tls: Tls,
    source: X509Source,
    services: Services,
    custody: JoinHandle<()>,
    key_mount: JoinHandle<()>,
}

async fn prepare(
    args: &Args,
    patterns: RolePatterns,
    signs: &Signs,
    stop: &CancellationToken,
) -> anyhow::Result<Prepared> {
    let proof = admin_proof(args).await?;
    let Custody { handle: custodian, feed, task: custody, key_mount } =
        custody(args, signs).await?;
    let expected =
        Expected { trust_domain: args.trust_domain.clone(), safe: patterns.safe.clone() };
    let source = own_identity::wait(&args.workload_api, expected, &signs.state).await?;
    let tls =
        Tls::of(source.clone(), args.trust_domain.clone()).context("cannot prepare mutual TLS")?;
    let listener = TcpListener::bind(args.listen.as_str())
        .await
        .with_context(|| format!("cannot listen at {}", args.listen))?;
    tracing::info!(address = %listener.local_addr()?, "listening");
    let deliveries = Arc::clone(&signs.deliveries);
    let services = Services { patterns, proof, custodian, feed, deliveries, stop: stop.clone() };
    Ok(Prepared { listener, tls, source, services, custody, key_mount })
}

async fn serve(
    prepared: Prepared,
    signs: &Signs,
    descriptors: u64,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let Prepared { listener, tls, source, services, mut custody, key_mount } = prepared;
    let (accepted, connections) = mpsc::channel(BACKLOG);
    let all = places::of_all(descriptors);
    let places = (all, Places::new(all, services.patterns.node_agent.clone()));
    let accepting = identity::accept(listener, tls, accepted, places, stop.clone());
    let mut accepting = tokio::spawn(accepting);
    let mut serving = tokio::spawn(grpc::serve(services, connections));
    let following = tokio::spawn(follow_identity(source, signs.state.clone()));
    let by_itself = tokio::select! {
        biased;
        () = stop.cancelled() => None,
        ended = &mut serving => Some(match ended {
            Ok(Ok(())) => anyhow!("the server ended by itself"),
            Ok(Err(error)) => anyhow!(error).context("the server failed"),
            Err(error) => anyhow!(error).context("the server failed"),
        }),
        _ended = &mut accepting => Some(anyhow!("the listener ended by itself")),
        _ended = &mut custody => Some(anyhow!("the custodian ended by itself")),
    };
    key_mount.abort();
    following.abort();
    // it must not say ready once more
    let _aborted = following.await;
    signs.state.busy("Safe is ending");
    if let Some(error) = by_itself.filter(|_| !stop.is_cancelled()) {
        return Err(error);
    }
    drain(serving, accepting, custody).await;
    Ok(())
}

/// Ends with all that was acknowledged on stable storage: an acknowledgement comes after that.
async fn drain(
    serving: JoinHandle<Result<(), tonic::transport::Error>>,
    accepting: JoinHandle<()>,
    custody: JoinHandle<()>,
) {
    let drained = async {
        // in this order: the server holds the last handle of the custodian
        if !accepting.is_finished() {
            let _accepted = accepting.await;
        }
        if !serving.is_finished() {
            let _served = serving.await;
        }
        if !custody.is_finished() {
            let _kept = custody.await;
        }
    };
    match timeout(DRAIN, drained).await {
        Ok(()) => tracing::info!("all calls have ended"),
        Err(_elapsed) => tracing::warn!("calls are still under way after {DRAIN:?}; ending"),
    }
}

fn signals(stop: CancellationToken) -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("asked to end");
        stop.cancel();
    })
}

async fn admin_proof(args: &Args) -> anyhow::Result<Box<dyn AdminProof>> {
    if let Some(file) = &args.admin_token_digest {
        let proof = TokenDigest::new(file.clone());
        let proof = proof.with_context(|| format!("cannot use {}", file.display()))?;
        return Ok(Box::new(proof));
    }
    let client = kube::Client::try_default().await.context(
        "sentinel's second proof needs the Kubernetes API or VSECM_SAFE_ADMIN_TOKEN_DIGEST_FILE",
    )?;
    Ok(Box::new(KubernetesToken::new(client)))
}

struct Custody {
    handle: custodian::Handle,
    feed: Arc<Feed>,
    task: JoinHandle<()>,
    key_mount: JoinHandle<()>,
}

/// Opens the store, then the key that fits to it, then the records.
async fn custody(args: &Args, signs: &Signs) -> anyhow::Result<Custody> {
    let store = FileStore::open(&args.data);
    let store: Arc<dyn Store> = Arc::new(store.with_context(|| {
        format!("cannot use the data folder {} as user {}", args.data.display(), geteuid())
    })?);
    let found = store.load()?;
    let key = root_key(args, &found, signs).await?;
    signs.state.busy("opening the records");
    let fingerprint = key.fingerprint().clone();
    let changed = signs.key_mount_changed.clone();
    let key_mount = tokio::spawn(follow_mount(args.root_key.clone(), key.digest(), changed));
    let sealer = Sealer::new(key);
    let recovered = recovery::recover(&*store, &sealer, found, OffsetDateTime::now_utc())?;
    tracing::info!(
        %fingerprint,
        lineage = %store.lineage(),
        revision = recovered.revision.0,
        secrets = recovered.vault.iter().count(),
        "the store is open"
    );
    let (handle, feed, task) = custodian::start(recovered, sealer, store);
    let _first = signs.feed.set(Arc::clone(&feed));
    Ok(Custody { handle, feed, task, key_mount })
}

async fn root_key(args: &Args, found: &[Found], signs: &Signs) -> anyhow::Result<RootKey> {
    let Some(name) = &args.root_key_secret else {
        return Ok(RootKey::load_or_create(&args.root_key, || stored_records(found))?);
    };
    let client = kube::Client::try_default()
        .await
        .with_context(|| format!("the Secret {name} of the root key needs the Kubernetes API"))?;
    let secret = KeySecret::new(client, args.namespace.clone(), name.clone());
    signs.state.busy("looking for the root key");
    Ok(root_key::obtain(&args.root_key, &secret, &stored_records(found), &signs.state).await)
}
