//! One playground, and parts of it that are killed.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{
    Failure,
    readers::{Readers, document, number_of},
    table::Row,
};
use crate::{AtOnce, Component, Options, Playground, Pod, PodSpec, awaiting, story::SOON};

/// How a volume is read, or on what kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// `audit: off`: a file in the cache costs no request.
    Off,
    /// `audit: opens`: each open is a request.
    Opens,
    /// `audit: off`, with what Linux 6.9 and 6.16 brought switched off.
    OldKernel,
}

impl Mode {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Opens => "opens",
            Self::OldKernel => "off, no RESEND, no INC_EPOCH",
        }
    }

    /// The name of its folder.
    pub(super) fn folder(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Opens => "opens",
            Self::OldKernel => "old-kernel",
        }
    }

    fn options(self) -> Options {
        let pretend = match self {
            Self::Off | Self::Opens => "",
            Self::OldKernel => "no-resend,no-inc-epoch",
        };
        let say = |component| (component, "VSECM_PRETEND_KERNEL".to_owned(), pretend.to_owned());
        let environment = vec![say(Component::NodeAgent), say(Component::Csi)];
        let log_filter = std::env::var("RUST_LOG").unwrap_or_else(|_unset| "info".to_owned());
        Options { log_filter, environment, ..Options::default() }
    }

    fn audit(self) -> &'static str {
        match self {
            Self::Off | Self::OldKernel => "off",
            Self::Opens => "opens",
        }
    }
}

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Victim {
    /// node-agent's server; its supervisor starts it again.
    Server,
    /// node-agent's supervisor, which takes its server along; the kubelet starts both again.
    Supervisor,
    /// Both at once, as the kernel does where memory is out.
    Container,
    /// csi.
    Csi,
    /// The keeper.
    Keeper,
    /// node-agent by SIGTERM, as an upgrade does.
    Upgrade,
}

impl Victim {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Server => "node-agent",
            Self::Supervisor => "its supervisor",
            Self::Container => "both (out of memory)",
            Self::Csi => "csi",
            Self::Keeper => "keeper",
            Self::Upgrade => "node-agent by SIGTERM",
        }
    }
}

/// Between two versions: many a kill meets a swap.
const ROTATION: Duration = Duration::from_millis(100);

/// Until all readers have read again after a kill: longer than the watchdog takes.
const HANG: Duration = Duration::from_secs(30);

/// A playground with one pod.
pub(super) struct Bench {
    mode: Mode,
    playground: Arc<Playground>,
    pod: Arc<Pod>,
    version: Arc<AtomicU64>,
}

fn random(below: u64) -> Result<u64, Failure> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|error| error.to_string())?;
    Ok(u64::from_ne_bytes(bytes) % below)
}

impl Bench {
    pub(super) async fn start(folder: &Path, mode: Mode) -> Result<Self, Failure> {
        let playground = Arc::new(Playground::start(folder, mode.options()).await?);
        playground.register("web", "default", document(0).as_bytes()).await?;
        let spec = PodSpec::new("web").attribute("audit", mode.audit());
        let pod = playground.create_pod(spec)?;
        pod.ready(SOON).await?;
        Ok(Self { mode, playground, pod, version: Arc::default() })
    }

    /// Kills `victim` up to `most` times, for `limit` at most.
    pub(super) async fn kill(
        &self,
        victim: Victim,
        most: usize,
        limit: Duration,
    ) -> Result<(Row, Vec<String>), Failure> {
        let began = Instant::now();
        let readers = Readers::start(self.pod.path());
        let stop = CancellationToken::new();
        let rotating = tokio::spawn(self.rotate(stop.clone()));
        let aborts_before = self.aborts();
        let (mut stalls, mut restarts) = (Vec::new(), 0);
        let mut complaints = Vec::new();
        while stalls.len() < most && began.elapsed() < limit {
            sleep(Duration::from_micros(random(150_000)?)).await;
            readers.longest();
            self.strike(victim).await?;
            restarts += 1;
            // the successor serves when everybody has read again
            let then = readers.progress();
            let again = || readers.have_all_read_since(&then);
            if awaiting::until("all readers", HANG, again).await.is_err() {
                complaints.push(format!("a reader hangs after kill {}", stalls.len() + 1));
                break;
            }
            stalls.push(readers.longest());
            if self.mode == Mode::OldKernel && self.aborts() > aborts_before {
                // the pod has to be restarted, which ends this part
                break;
            }
        }
        stop.cancel();
        let rotated = rotating.await?;
        let aborts = self.aborts() - aborts_before;
        if aborts == 0 && complaints.is_empty() {
            complaints.extend(rotated.err());
            complaints.extend(self.newest_is_seen().await.err());
        }
        let (reads, mut failed) = readers.counts();
        complaints.extend(readers.complaints());
        let hanging = readers.stop();
        if hanging > 0 {
            complaints.push(format!("{hanging} readers hang for good"));
        }
        // whatever is wrong counts as a read that failed, so that the verdict has it
        failed = failed.max(u64::try_from(complaints.len())?);
        let row = Row {
            mode: self.mode.name(),
            victim: victim.name(),
            kills: stalls.len(),
            restarts,
            reads,
            failed,
            aborts,
            stalls,
        };
        Ok((row, complaints))
    }

    async fn strike(&self, victim: Victim) -> Result<(), Failure> {
        let playground = &self.playground;
        match victim {
            Victim::Server => {
                let dead = playground.crash(Component::NodeAgent).await?;
                let back = || playground.serving_pid(Component::NodeAgent).filter(|p| *p != dead);
                awaiting::value("node-agent's return", SOON, back).await?;
            }
            Victim::Supervisor | Victim::Container => {
                let at_once = match victim {
                    Victim::Container => AtOnce::Everything,
                    _ => AtOnce::FirstProcess,
                };
                playground.crash_whole(Component::NodeAgent, at_once).await?;
                playground.start_component(Component::NodeAgent).await?;
            }
            Victim::Csi | Victim::Keeper => {
                let component =
                    if victim == Victim::Csi { Component::Csi } else { Component::Keeper };
                playground.crash(component).await?;
                playground.start_component(component).await?;
            }
            Victim::Upgrade => {
                playground.stop(Component::NodeAgent).await?;
                playground.start_component(Component::NodeAgent).await?;
            }
        }
        Ok(())
    }

    /// New versions until `stop`; what went wrong with the operator's CLI.
    fn rotate(
        &self,
        stop: CancellationToken,
    ) -> impl Future<Output = Result<(), String>> + Send + 'static {
        let (playground, version) = (Arc::clone(&self.playground), Arc::clone(&self.version));
        async move {
            while !stop.is_cancelled() {
                let text = document(version.fetch_add(1, Relaxed) + 1);
                let put = playground.register("web", "default", text.as_bytes()).await;
                put.map_err(|error| format!("a version was not put: {error}"))?;
                sleep(ROTATION).await;
            }
            Ok(())
        }
    }

    /// The node does all of its work again: the newest version comes.
    async fn newest_is_seen(&self) -> Result<(), String> {
        let newest = self.version.load(Relaxed);
        let path = self.pod.path().join("secrets.json");
        let seen = || {
            let text = std::fs::read_to_string(&path).ok()?;
            (number_of(&text) == Some(newest)).then_some(())
        };
        let seen = awaiting::value("the newest version", SOON, seen).await;
        seen.map_err(|error| error.to_string())
    }

    /// Connections that the watchdog has aborted so far.
    fn aborts(&self) -> usize {
        let log = self.playground.log(Component::Csi).unwrap_or_default();
        log.matches("its connection is aborted").count()
    }

    pub(super) async fn end(self) -> Result<(), Failure> {
        self.playground.shutdown().await?;
        Ok(())
    }
}
