//! From the registration of a new value to its readers.
//!
//! The beginning is the time that Safe gives the version, before it is on the disk; the end is the
//! moment at which a watcher hears of the new `..data`.

use std::{
    collections::HashMap,
    fs,
    os::fd::AsFd as _,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use inotify::{EventMask, Inotify, WatchMask};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{
    BenchError, PATIENCE, io_error,
    stats::Spread,
    table::{Bar, Table},
};
use crate::{Playground, Pod, PodSpec, kubelet::volume::unhurried};

/// Rotations of a secret that all pods have.
const SHARED: usize = 20;
/// Rotations of secrets that one pod has each.
const OWN: usize = 60;

/// A document of 1 KiB.
pub(super) fn value(version: usize) -> String {
    format!("{{\"version\":\"{version}\",\"filling\":\"{}\"}}", "x".repeat(1_000))
}

pub(super) async fn measure(
    playground: &Playground,
    table: &mut Table,
    pods: &[Arc<Pod>],
) -> Result<(), BenchError> {
    let mut samples = Vec::new();
    for version in 1..=OWN {
        if let Some(pod) = pods.get(version * 7919 % pods.len()) {
            let watched = Watched::of(std::slice::from_ref(pod))?;
            let name = &pod.spec().workload;
            samples.extend(rotate(playground, watched, name, version).await?);
        }
    }
    let bar = if pods.len() == 110 { Bar::AtMost(100.0) } else { Bar::None };
    table.spread("own secret changed -> visible", Spread::of(samples), bar)?;

    playground.register("shared", "default", value(0).as_bytes()).await?;
    let mut sharing = Vec::new();
    for number in 0..pods.len() {
        let name = format!("shared-{number}");
        sharing.push(playground.create_pod(PodSpec::new(&name).workload("shared"))?);
    }
    for pod in &sharing {
        pod.ready(PATIENCE).await?;
    }
    let mut samples = Vec::new();
    for version in 1..=SHARED {
        let watched = Watched::of(&sharing)?;
        samples.extend(rotate(playground, watched, "shared", version).await?);
    }
    let what = format!("secret of {} more pods changed -> visible", sharing.len());
    table.spread(&what, Spread::of(samples), bar)?;
    for pod in sharing {
        playground.delete_pod(&pod, PATIENCE).await?;
    }
    Ok(())
}

async fn rotate(
    playground: &Playground,
    watched: Watched,
    secret: &str,
    version: usize,
) -> Result<Vec<Duration>, BenchError> {
    let heard = tokio::spawn(unhurried(move || watched.all_turned()));
    let text = value(version);
    playground.register(secret, "default", text.as_bytes()).await?;
    let joined = heard.await.map_err(io_error("hear of a rotation"))?;
    joined.map_err(io_error("hear of a rotation"))
}

/// Volumes whose next version is awaited.
struct Watched {
    inotify: Inotify,
    volumes: HashMap<inotify::WatchDescriptor, std::path::PathBuf>,
}

impl Watched {
    fn of(pods: &[Arc<Pod>]) -> Result<Self, BenchError> {
        let inotify = Inotify::init().map_err(io_error("start inotify"))?;
        let mut volumes = HashMap::new();
        for pod in pods {
            let watched = inotify.watches().add(pod.path(), WatchMask::MOVED_TO);
            volumes.insert(watched.map_err(io_error("watch a volume"))?, pod.path().to_owned());
        }
        Ok(Self { inotify, volumes })
    }

    /// How long after its registration the version was there, in each volume.
    fn all_turned(mut self) -> std::io::Result<Vec<Duration>> {
        let mut samples = Vec::new();
        let mut buffer = vec![0; 64 * 1024];
        let deadline = Instant::now() + PATIENCE;
        while !self.volumes.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            if poll(&mut [PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN)], timeout)? == 0 {
                return Err(std::io::ErrorKind::TimedOut.into());
            }
            let heard = SystemTime::now();
            let mut turned = Vec::new();
            for event in self.inotify.read_events(&mut buffer)? {
                if event.mask.contains(EventMask::MOVED_TO) {
                    turned.extend(self.volumes.remove(&event.wd));
                }
            }
            for path in turned {
                // all times of a version's files are Safe's
                let said = fs::metadata(path.join("secrets.json"))?.modified()?;
                samples.push(heard.duration_since(said).unwrap_or_default());
            }
        }
        Ok(samples)
    }
}
