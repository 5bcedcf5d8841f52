//! Wires the parts: one function per subsystem.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use spiffe::{TrustDomain, X509Source};
use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
};
use tracing::{error, info, warn};
use vsecm_safe_api::client::{chain, tls_config};

use crate::{
    args::Settings,
    backoff::Backoff,
    control::Control,
    duty::Duty,
    identity::spire::SpireDelegate,
    keeper::Keeper,
    privileges,
    tls::BaseConfig,
    volumes::{self, Volumes},
    watch::{self as watches, Watches},
};

/// How long a start waits for the keeper. Without it csi brings its descriptors, and Safe the
/// content: slower, yet better than no server at all.
const KEEPER_PATIENCE: Duration = Duration::from_secs(10);

/// Serves until SIGTERM (`Ok`) or until only a new process can help.
///
/// # Errors
/// Why the process must end, in words.
pub fn serve(settings: &Settings) -> anyhow::Result<()> {
    privileges::check()?;
    rustls::crypto::ring::default_provider()
        .install_default()
        .ok()
        .context("a TLS provider was installed before")?;
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let ended = runtime.block_on(run(settings));
    // volumes are not taken down: a successor goes on with them
    runtime.shutdown_background();
    ended
}

async fn run(settings: &Settings) -> anyhow::Result<()> {
    let mut stop = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let keeper = Keeper::new(settings.keeper_socket.clone(), settings.keeper_peer.clone());
    let duty = Arc::new(Duty::default());
    let (fatal, mut failures) = mpsc::channel(1);
    let volumes = Arc::new(Volumes::new(volumes::Means {
        identities: Box::new(identities(settings)?),
        watches: Watches::new(watches::Means {
            address: settings.safe.clone(),
            tls: own_identity(settings)?,
            keeper: keeper.clone(),
            node: settings.node_name.clone(),
        }),
        keeper: keeper.clone(),
        duty: Arc::clone(&duty),
        fatal,
    }));
    let serving = async {
        recover(&keeper, &volumes).await;
        tokio::spawn(keeper.clone().attend());
        // only now, so that csi sees this process when it serves
        let csi = settings.csi_peer.clone();
        Control::bind(&settings.socket, csi, Arc::clone(&volumes), duty)?.run().await;
        anyhow::Ok(())
    };
    tokio::select! {
        ended = serving => ended.context("cannot serve csi"),
        Some(reason) = failures.recv() => bail!("{reason}"),
        _signal = stop.recv() => {
            info!("stopping; volumes stay for a successor");
            Ok(())
        }
    }
}

fn identities(settings: &Settings) -> anyhow::Result<SpireDelegate> {
    let chooser = settings.chooser()?;
    SpireDelegate::new(&settings.spire_admin_socket, settings.node_name.clone(), chooser)
        .context("SPIRE_ADMIN_ENDPOINT_SOCKET")
}

/// This process's own identity, which brings the bundles that Safe is checked with. It is not
/// waited for: what was served before is served before SPIRE answers.
fn own_identity(settings: &Settings) -> anyhow::Result<watch::Receiver<Option<BaseConfig>>> {
    let (sender, receiver) = watch::channel(None);
    let safe = settings.safe()?;
    let trust_domain = TrustDomain::new(&settings.trust_domain).context("SPIFFE_TRUST_DOMAIN")?;
    let socket = settings.spiffe_socket.clone();
    tokio::spawn(async move {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        let source = loop {
            match X509Source::builder().endpoint(&socket).build().await {
                Ok(source) => break source,
                Err(failure) => {
                    warn!(reason = chain(&failure), "no identity of our own yet");
                    tokio::time::sleep(backoff.pause()).await;
                }
            }
        };
        match tls_config(source, trust_domain, safe) {
            Ok(config) => {
                info!("this process has its own identity");
                sender.send_replace(Some(BaseConfig::new(config)));
            }
            Err(failure) => error!(reason = chain(&failure), "Safe cannot be dialled"),
        }
        // kept, so that waiting for it never ends in an error
        sender.closed().await;
    });
    Ok(receiver)
}

async fn recover(keeper: &Keeper, volumes: &Volumes) {
    if let Err(failure) = keeper.wait(KEEPER_PATIENCE).await {
        error!(reason = chain(&failure), "starting without the keeper: nothing is recovered");
        return;
    }
    if let Err(failure) = volumes.recover().await {
        error!(reason = chain(&failure), "not everything was recovered");
    }
}
