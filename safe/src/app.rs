//! Wiring: the only module that knows all others.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use spiffe::X509Source;
use time::OffsetDateTime;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use vsecm_safe_api::{
    process::raise_descriptor_limit,
    role::{Role, RolePatterns, SAFE_PATTERN},
};

use crate::{
    admin_proof::{AdminProof, KubernetesToken, TokenDigest},
    args::Args,
    custodian,
    feed::Feed,
    grpc::{self, Services},
    identity, places,
    recovery::{self, stored_records},
    seal::{RootKey, Sealer},
    store::{FileStore, Store},
};

/// Time for calls under way after SIGTERM. Kubernetes sends SIGKILL after 30 s.
const DRAIN: Duration = Duration::from_secs(10);
/// Accepted connections that the server has not taken yet.
const BACKLOG: usize = 64;

/// Runs until SIGTERM or SIGINT. The port accepts only when everything else is there.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let descriptors = raise_descriptor_limit().context("cannot raise the limit of descriptors")?;
    let stop = CancellationToken::new();
    let signals = tokio::spawn(signals(stop.clone())?);
    let patterns = args.patterns()?;
    let proof = admin_proof(&args).await?;
    let (custodian, feed, mut custody) = custody(&args)?;
    let Some(source) = identity(&args, &patterns, &stop).await? else {
        return Ok(());
    };
    let config = identity::server_config(source, args.trust_domain.clone())
        .context("cannot prepare mutual TLS")?;
    let listener = TcpListener::bind(args.listen.as_str())
        .await
        .with_context(|| format!("cannot listen at {}", args.listen))?;
    tracing::info!(address = %listener.local_addr()?, "Safe is ready");

    let (accepted, connections) = mpsc::channel(BACKLOG);
    let places = places::of_all(descriptors);
    let config = Arc::new(config);
    let accepting = identity::accept(listener, config, accepted, places, stop.clone());
    let accepting = tokio::spawn(accepting);
    let services = Services { patterns, proof, custodian, feed, stop: stop.clone() };
    let mut serving = tokio::spawn(grpc::serve(services, connections));
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        ended = &mut serving => if !stop.is_cancelled() {
            ended?.context("the server failed")?;
            bail!("the server ended by itself");
        },
        ended = &mut custody => if !stop.is_cancelled() {
            ended?;
            bail!("the custodian ended by itself");
        },
    }
    drain(serving, accepting, custody).await;
    signals.abort();
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
        let _accepted = accepting.await;
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

type Custody = (custodian::Handle, Arc<Feed>, JoinHandle<()>);

/// Opens the store, then the key that fits to it, then the records.
fn custody(args: &Args) -> anyhow::Result<Custody> {
    let store: Arc<dyn Store> = Arc::new(FileStore::open(&args.data)?);
    let found = store.load()?;
    let key = RootKey::load_or_create(&args.root_key, || stored_records(&found))?;
    let fingerprint = key.fingerprint().clone();
    let sealer = Sealer::new(key);
    let recovered = recovery::recover(&*store, &sealer, found, OffsetDateTime::now_utc())?;
    tracing::info!(
        %fingerprint,
        lineage = %store.lineage(),
        revision = recovered.revision.0,
        secrets = recovered.vault.iter().count(),
        "the store is open"
    );
    Ok(custodian::start(recovered, sealer, store))
}

/// Waits for the own SVID; `None` if asked to end before it came.
async fn identity(
    args: &Args,
    patterns: &RolePatterns,
    stop: &CancellationToken,
) -> anyhow::Result<Option<X509Source>> {
    tracing::info!(endpoint = args.workload_api, "waiting for an SVID");
    let source = X509Source::builder().endpoint(&args.workload_api).build();
    let source = tokio::select! {
        source = source => source.context("no SVID from the Workload API")?,
        () = stop.cancelled() => return Ok(None),
    };
    let id = source.svid()?.spiffe_id().to_string();
    if patterns.role(&id) != Role::Safe {
        bail!(
            "SPIRE knows this process as {id}, which {SAFE_PATTERN} does not take for Safe: no \
             client would talk to it"
        );
    }
    tracing::info!(%id, "identity");
    Ok(Some(source))
}
