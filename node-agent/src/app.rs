//! Wires the parts: one function per subsystem.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, anyhow};
use tokio::{
    runtime::{self, Runtime},
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    task::spawn_blocking,
};
use tracing::{error, info};
use vsecm_node_agent_api::turn::Turn;
use vsecm_safe_api::client::chain;

use crate::{
    args::Settings,
    audit::{self, Audit},
    control::Control,
    duty::Duty,
    filesystem::Requests,
    health::{Health, Stage},
    identity::{own::OwnIdentity, spire::SpireDelegate},
    keeper::Keeper,
    kernel,
    kubernetes::{
        driver::{self, Driver},
        users::Users,
    },
    metrics::{self, Times},
    peers::Peers,
    privileges,
    report::{self, Reports},
    session::finish,
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
    let runtime = runtime()?;
    let ended = runtime.block_on(run(settings));
    // volumes are not taken down: a successor goes on with them
    runtime.shutdown_background();
    ended
}

/// Asks for the pods that have volumes of `driver`.
///
/// # Errors
/// They cannot be asked for.
pub fn users_of(driver: &str) -> anyhow::Result<Users> {
    let asked = runtime()?.block_on(Users::of(driver));
    asked.context("it is not known whether pods still have volumes")
}

fn runtime() -> anyhow::Result<Runtime> {
    rustls::crypto::ring::default_provider()
        .install_default()
        .ok()
        .context("a TLS provider was installed before")?;
    runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")
}

async fn run(settings: &Settings) -> anyhow::Result<()> {
    let mut stop = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    finish::prepare().context("cannot prepare the end of sessions")?;
    kernel::pretend(settings.pretend_kernel);
    let own = OwnIdentity::begin(settings)?;
    let driver = match &settings.kubernetes.csidriver {
        Some(name) => driver::watched(name.clone()),
        None => Driver::unwatched(),
    };
    let keeper = Keeper::new(settings.keeper_socket.clone(), settings.keeper_peer.clone());
    let duty = Arc::new(Duty::default());
    let (fatal, mut failures) = mpsc::channel(1);
    let audit = Audit::start(&settings.node_name, audit::Log).context("cannot start the audit")?;
    let requests = Arc::new(Requests::default());
    let (times, peers) = (Times::default(), Peers::default());
    let reports = Arc::new(Reports::default());
    let telling = report::Means {
        address: settings.safe.clone(),
        tls: own.tls(),
        node: settings.node_name.clone(),
    };
    let volumes = Arc::new(Volumes::new(volumes::Means {
        identities: Box::new(identities(settings)?),
        watches: Watches::new(watches::Means {
            address: settings.safe.clone(),
            tls: own.tls(),
            keeper: keeper.clone(),
            due: reports.due(),
            max_stale: settings.max_stale,
        }),
        keeper: keeper.clone(),
        duty: Arc::clone(&duty),
        reports: Arc::clone(&reports),
        driver: driver.clone(),
        sentinel: settings.kubernetes.namespace.clone(),
        audit: audit.clone(),
        requests: Arc::clone(&requests),
        times: times.clone(),
        fatal,
    }));
    let stage = watch::Sender::new(Stage::StandingBy);
    let health = Health {
        own: own.clone(),
        driver: driver.clone(),
        stage: stage.subscribe(),
        peers: peers.clone(),
        volumes: Arc::clone(&volumes),
    };
    let sources = metrics::Sources {
        volumes: Arc::clone(&volumes),
        own,
        driver,
        stage: stage.subscribe(),
        peers: peers.clone(),
        audit: audit.clone(),
        requests,
    };
    let registry = metrics::registry(sources, times);
    tokio::spawn(health.answer_probes(settings.ports, registry));
    let duty = &duty;
    // an end gives the turn back at once: a thread that lingers would keep it from a successor
    let serving = async {
        let _turn = turn(settings).await?;
        stage.send_replace(Stage::Recovering);
        recover(&keeper, &volumes).await;
        reports.begin(telling, keeper.clone(), Arc::clone(&volumes));
        let attended = Arc::clone(&volumes);
        tokio::spawn(async move { attended.attend().await });
        tokio::spawn(keeper.clone().attend(peers.clone()));
        // only now, so that csi sees this process when it serves
        let csi = settings.csi_peer.clone();
        let control = Control::bind(&settings.socket, csi, volumes, Arc::clone(duty), peers)?;
        stage.send_replace(Stage::Serving);
        if let Some(taint) = settings.startup_taint() {
            tokio::spawn(taint.remove_when_registered(duty.arrivals()));
        }
        control.run().await;
        anyhow::Ok(())
    };
    let ended = tokio::select! {
        ended = serving => ended.context("cannot serve csi"),
        Some(reason) = failures.recv() => Err(anyhow!(reason)),
        ended = async {
            stop.recv().await;
            duty.rest().await;
            spawn_blocking(finish::finish).await
        } => {
            info!("stopping; volumes stay for a successor");
            ended.context("sessions were not finished")
        }
    };
    audit.flush().await;
    ended
}

/// The right to serve this node; none is needed where there is no lock.
async fn turn(settings: &Settings) -> anyhow::Result<Option<Turn>> {
    let kubernetes = &settings.kubernetes;
    let (Some(lock), Some(pod)) = (&kubernetes.lock, &kubernetes.pod_uid) else {
        return Ok(None);
    };
    info!(lock = %lock.display(), "standing by until no other pod serves this node");
    let turn = Turn::wait(lock, pod).await;
    let turn = turn.map_err(|error| anyhow!("the lock {}: {error}", lock.display()))?;
    info!("it is this pod's turn");
    Ok(Some(turn))
}

fn identities(settings: &Settings) -> anyhow::Result<SpireDelegate> {
    let chooser = settings.chooser()?;
    SpireDelegate::new(&settings.spire_admin_socket, settings.node_name.clone(), chooser)
        .context("SPIRE_ADMIN_ENDPOINT_SOCKET")
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
