//! The whole system in one folder.

mod identities;
mod lifecycle;
mod logs;
mod operator;
mod pods;
mod random;
mod traces;

pub use self::{lifecycle::AtOnce, operator::CliOutput};

use std::{
    collections::BTreeMap,
    fs::{File, TryLockError},
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{
    authority::{Authority, AuthorityError},
    awaiting::TooLate,
    binaries::{self, BinariesError},
    component::{Component, Options, Setup},
    fuse::{NoFuse, require_fuse},
    kubelet::{Kubelet, PodError},
    layout::{Layout, LayoutError},
    mounts,
    process::{Guard, Process, ProcessError},
    users::Users,
};

/// Why a playground does not work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlaygroundError {
    /// FUSE cannot be mounted.
    #[error(transparent)]
    NoFuse(#[from] NoFuse),
    /// The folder cannot be used.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A binary is not there.
    #[error(transparent)]
    Binaries(#[from] BinariesError),
    /// The identity authority does not work.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// A process cannot be handled.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// Another one has the folder.
    #[error("a playground runs in {} already: end it, or choose another folder", folder.display())]
    Taken {
        /// The folder.
        folder: PathBuf,
    },
    /// A file of ours cannot be written or read.
    #[error("cannot use {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No port is free.
    #[error("no port on 127.0.0.1 is free for safe")]
    NoPort,
    /// No random bytes.
    #[error("the kernel gives no random bytes")]
    NoRandom,
    /// A component ended while it was expected to become ready.
    #[error("{component} ended at once, saying: {said}")]
    EndedAtOnce {
        /// Which.
        component: Component,
        /// The end of its log.
        said: String,
    },
    /// A component did not become ready.
    #[error("{source}; its log ends with: {said}")]
    NotReady {
        /// The deadline.
        #[source]
        source: TooLate,
        /// The end of its log.
        said: String,
    },
    /// It does not run.
    #[error("{0} does not run")]
    NotRunning(Component),
    /// It runs.
    #[error("{0} runs already")]
    Running(Component),
    /// A name cannot be part of an identity.
    #[error("pod {pod} cannot have an identity")]
    Name {
        /// Of the pod.
        pod: String,
        /// Why.
        #[source]
        source: spiffe::SpiffeIdError,
    },
    /// Something about a pod.
    #[error(transparent)]
    Pod(#[from] PodError),
    /// The CLI could not be run, or failed where success was asked for.
    #[error("`safe` failed with {status}: {said}")]
    Cli {
        /// Its end.
        status: String,
        /// What it said on stderr.
        said: String,
    },
    /// Something did not come.
    #[error(transparent)]
    TooLate(#[from] TooLate),
    /// The end was not clean.
    #[error("the playground left something behind: {}", .0.join("; "))]
    Leaks(Vec<String>),
}

/// How long a component may take until it is ready.
const START_LIMIT: Duration = Duration::from_secs(20);

/// The system on one machine: authority and kubelet in this process, every component in one of its
/// own. Dropping it ends all and leaves no mount; [`Playground::shutdown`] also checks that.
#[derive(Debug)]
pub struct Playground {
    setup: Setup,
    authority: Authority,
    kubelet: Kubelet,
    processes: Mutex<BTreeMap<Component, Process>>,
    guard: Mutex<Guard>,
    _lock: File,
}

impl Playground {
    /// Starts everything in `folder`, which is made if need be; returns when all is ready.
    ///
    /// # Errors
    /// [`PlaygroundError`], and then nothing runs on.
    pub async fn start(folder: &Path, options: Options) -> Result<Self, PlaygroundError> {
        require_fuse()?;
        let users = Users::detect();
        let layout = Layout::create(folder, users)?;
        let file = |path: &Path, source| PlaygroundError::File { path: path.to_owned(), source };
        let lock = take(&layout)?;
        // a predecessor that was killed left its mounts
        mounts::detach_below(layout.root()).map_err(|e| file(layout.root(), e))?;
        layout.furnish(users)?;
        let guard = Guard::post(layout.root()).map_err(|e| file(Path::new("/bin/sh"), e))?;
        let binaries = binaries::reachable(&layout, users)?;
        let authority = identities::authority(&layout, users, options.svid_lifetime)?;
        operator::make_token(&layout, users)?;
        let playground = Self {
            kubelet: Kubelet::new(layout.kubelet(), layout.csi_socket()),
            setup: Setup {
                layout,
                users,
                options,
                binaries,
                safe_address: random::free_address()?,
            },
            authority,
            processes: Mutex::default(),
            guard: Mutex::new(guard),
            _lock: lock,
        };
        tokio::try_join!(
            playground.start_component(Component::Keeper),
            playground.start_component(Component::Safe)
        )?;
        playground.start_component(Component::NodeAgent).await?;
        playground.start_component(Component::Csi).await?;
        Ok(playground)
    }

    fn processes(&self) -> MutexGuard<'_, BTreeMap<Component, Process>> {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its paths.
    pub fn layout(&self) -> &Layout {
        &self.setup.layout
    }

    /// Whether components have uids of their own.
    pub fn users(&self) -> Users {
        self.setup.users
    }

    /// The identity authority, whose entries and SVIDs a test may change.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Where safe listens.
    pub fn safe_address(&self) -> SocketAddr {
        self.setup.safe_address
    }

    /// Where the binaries are.
    pub fn binaries(&self) -> &Path {
        &self.setup.binaries
    }

    /// The name of the node.
    pub fn node_name(&self) -> &str {
        &self.setup.options.node_name
    }
}

/// Makes sure that nobody else works in the folder; the kernel frees it when we end.
fn take(layout: &Layout) -> Result<File, PlaygroundError> {
    let path = layout.lock_file();
    let file = |source| PlaygroundError::File { path: path.clone(), source };
    let lock = File::create(&path).map_err(file)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => {
            Err(PlaygroundError::Taken { folder: layout.root().to_owned() })
        }
        Err(TryLockError::Error(source)) => Err(file(source)),
    }
}
