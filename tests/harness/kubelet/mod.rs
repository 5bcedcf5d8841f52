//! A kubelet, as far as it deals with a CSI driver's inline volumes: it publishes until that
//! succeeds, with its own pauses, and unpublishes when the pod goes.

mod publishing;
pub mod request;
pub mod spec;
pub mod volume;

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

use self::spec::PodSpec;
use crate::awaiting::{self, TooLate};

/// Something about a pod did not work.
#[derive(Debug, thiserror::Error)]
pub enum PodError {
    /// There is one of that name.
    #[error("there is a pod {namespace}/{name} already")]
    Exists {
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
    },
    /// There is none.
    #[error("there is no pod {namespace}/{name}")]
    Unknown {
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
    },
    /// A folder or link of the pod could not be made or removed.
    #[error("cannot make or remove {}", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The volume is not there in time.
    #[error("the volume of pod {namespace}/{name} is not ready after {within:?}: {event}")]
    NotReady {
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
        /// The deadline.
        within: Duration,
        /// What `kubectl describe pod` would show.
        event: String,
    },
    /// It did not go.
    #[error(transparent)]
    TooLate(#[from] TooLate),
}

/// What the kubelet is doing about a pod's volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// A publish call is in flight.
    Publishing,
    /// The last call failed; the next comes after a pause.
    Pausing,
    /// The volume is there.
    Ready,
    /// The volume has been unpublished, or never was.
    Gone,
}

/// State of a pod's volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodState {
    /// What is being done.
    pub phase: Phase,
    /// The last error, as the kubelet puts it into an event.
    pub event: Option<String>,
    /// Publish calls so far.
    pub calls: u32,
}

/// A pod with its volume.
#[derive(Debug)]
pub struct Pod {
    pub(crate) spec: PodSpec,
    uid: String,
    target: PathBuf,
    identity: PathBuf,
    state: watch::Receiver<PodState>,
    deleted: CancellationToken,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Pod {
    /// What it was made of.
    pub fn spec(&self) -> &PodSpec {
        &self.spec
    }

    /// Its uid.
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// The id of its volume.
    pub fn volume_id(&self) -> String {
        request::volume_id(&self.uid)
    }

    /// Where its volume is (to be) mounted.
    pub fn path(&self) -> &Path {
        &self.target
    }

    /// Its own Workload API.
    pub fn identity_socket(&self) -> &Path {
        &self.identity
    }

    /// State of its volume now.
    pub fn state(&self) -> PodState {
        self.state.borrow().clone()
    }

    /// The last error of a publish call.
    pub fn event(&self) -> Option<String> {
        self.state.borrow().event.clone()
    }

    /// Waits until the volume is there.
    ///
    /// # Errors
    /// [`PodError::NotReady`] with the last event.
    pub async fn ready(&self, within: Duration) -> Result<(), PodError> {
        let ready = |state: &PodState| state.phase == Phase::Ready;
        self.reaches(within, ready).await.map(drop)
    }

    /// Waits for a state of the volume.
    ///
    /// # Errors
    /// [`PodError::NotReady`] with the last event.
    pub async fn reaches(
        &self,
        within: Duration,
        wanted: impl FnMut(&PodState) -> bool,
    ) -> Result<PodState, PodError> {
        let mut state = self.state.clone();
        // the sender lives as long as the task, and its last word stays readable
        match timeout(awaiting::patience(within), state.wait_for(wanted)).await {
            Ok(Ok(state)) => Ok(state.clone()),
            Ok(Err(_)) | Err(_) => Err(PodError::NotReady {
                namespace: self.spec.namespace.clone(),
                name: self.spec.name.clone(),
                within,
                event: self.event().unwrap_or_else(|| "no call has failed yet".to_owned()),
            }),
        }
    }

    /// Waits until the state is another.
    pub(crate) async fn changed(&self, from: &PodState) {
        let mut state = self.state.clone();
        // the task's last word is `Gone`
        let _last: Result<_, _> = state.wait_for(|state| state != from).await;
    }

    /// Waits until a publish call has failed, and gives its sentence.
    ///
    /// # Errors
    /// [`PodError::NotReady`].
    pub async fn waits(&self, within: Duration) -> Result<String, PodError> {
        let failed = |state: &PodState| state.event.is_some();
        let state = self.reaches(within, failed).await?;
        Ok(state.event.unwrap_or_default())
    }
}

type Pods = BTreeMap<(String, String), Arc<Pod>>;

/// The kubelet.
pub struct Kubelet {
    folder: PathBuf,
    csi: PathBuf,
    pods: Mutex<Pods>,
}

impl fmt::Debug for Kubelet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Kubelet");
        debug.field("folder", &self.folder);
        debug.finish_non_exhaustive()
    }
}

impl Kubelet {
    /// A kubelet with its root `folder`, and a driver that listens at `csi`.
    pub fn new(folder: PathBuf, csi: PathBuf) -> Self {
        Self { folder, csi, pods: Mutex::default() }
    }

    fn pods(&self) -> std::sync::MutexGuard<'_, Pods> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the pod's folders and begins to publish its volume.
    ///
    /// # Errors
    /// [`PodError::Exists`], [`PodError::Folder`].
    pub fn admit(
        &self,
        spec: PodSpec,
        uid: String,
        identity: PathBuf,
        link: &Path,
    ) -> Result<Arc<Pod>, PodError> {
        let key = (spec.namespace.clone(), spec.name.clone());
        let mut pods = self.pods();
        if pods.contains_key(&key) {
            let (namespace, name) = key;
            return Err(PodError::Exists { namespace, name });
        }
        let target = request::target(&self.folder, &uid);
        // the driver makes the target, the kubelet what is above it
        let volume = target.parent().unwrap_or(&self.folder);
        fs::create_dir_all(volume).map_err(|e| folder_error(volume, e))?;
        make_link(link, &target).map_err(|e| folder_error(link, e))?;
        let call = request::publish(&spec, &uid, &target);
        let deleted = CancellationToken::new();
        let (state, task) = publishing::start(self.csi.clone(), call, deleted.clone());
        let pod = Arc::new(Pod {
            spec,
            uid,
            target,
            identity,
            state,
            deleted,
            task: Mutex::new(Some(task)),
        });
        pods.insert(key, Arc::clone(&pod));
        drop(pods);
        Ok(pod)
    }

    pub(crate) fn find(&self, namespace: &str, name: &str) -> Result<Arc<Pod>, PodError> {
        let key = (namespace.to_owned(), name.to_owned());
        let found = self.pods().get(&key).cloned();
        found.ok_or(PodError::Unknown { namespace: key.0, name: key.1 })
    }

    pub(crate) fn list(&self) -> Vec<Arc<Pod>> {
        self.pods().values().cloned().collect()
    }

    /// Ends the pod: a call in flight is awaited, as the kubelet does not cancel it, then the
    /// volume is unpublished until that succeeds.
    ///
    /// # Errors
    /// [`PodError::TooLate`], [`PodError::Folder`].
    pub async fn evict(&self, pod: &Pod, link: &Path, within: Duration) -> Result<(), PodError> {
        pod.deleted.cancel();
        let task = {
            let mut task = pod.task.lock().unwrap_or_else(PoisonError::into_inner);
            task.take()
        };
        let name = format!("{}/{}", pod.spec.namespace, pod.spec.name);
        let what = format!("the end of the publish calls for pod {name}");
        let mut patience = Patience::new(within);
        if let Some(task) = task {
            // a task that panicked has ended too
            let _ended = patience.wait(&what, task).await?;
        }
        let call = request::unpublish(&pod.uid, &pod.target);
        let unpublished = publishing::unpublish(&self.csi, call);
        let what = format!("NodeUnpublishVolume for pod {name}");
        patience.wait(&what, unpublished).await?;
        let key = (pod.spec.namespace.clone(), pod.spec.name.clone());
        self.pods().remove(&key);
        self.remove_folders(pod, link)
    }

    fn remove_folders(&self, pod: &Pod, link: &Path) -> Result<(), PodError> {
        fs::remove_file(link).map_err(|e| folder_error(link, e))?;
        if let Some(folder) = link.parent() {
            fs::remove_dir(folder).map_err(|e| folder_error(folder, e))?;
        }
        // only empty folders go: what a driver left below would be a mount, and is for the
        // playground's end to find
        let mut folder = pod.target.parent();
        let end = self.folder.join("pods");
        while let Some(path) = folder.filter(|path| **path != *end) {
            fs::remove_dir(path).map_err(|e| folder_error(path, e))?;
            folder = path.parent();
        }
        Ok(())
    }

    /// Stops calling, for the end of a playground whose driver has gone.
    pub(crate) fn abandon(&self) {
        for pod in self.list() {
            pod.deleted.cancel();
            let mut task = pod.task.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(task) = task.take() {
                task.abort();
            }
        }
    }
}

/// A deadline that several waits share.
struct Patience {
    within: Duration,
    until: tokio::time::Instant,
}

impl Patience {
    fn new(within: Duration) -> Self {
        Self { within, until: tokio::time::Instant::now() + within }
    }

    async fn wait<T>(&mut self, what: &str, work: impl Future<Output = T>) -> Result<T, TooLate> {
        let done = tokio::time::timeout_at(self.until, work).await;
        done.map_err(|_elapsed| TooLate { what: what.to_owned(), within: self.within })
    }
}

fn folder_error(path: &Path, source: io::Error) -> PodError {
    PodError::Folder { path: path.to_owned(), source }
}

fn make_link(link: &Path, target: &Path) -> io::Result<()> {
    if let Some(folder) = link.parent() {
        fs::create_dir_all(folder)?;
    }
    match fs::remove_file(link) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    std::os::unix::fs::symlink(target, link)
}
