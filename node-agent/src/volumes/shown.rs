//! What a volume shows to the kernel, and the way from one version to the next.

use std::{sync::Arc, time::Instant};

use tokio::sync::oneshot;
use tracing::{error, warn};
use vsecm_node_agent_api::volume::{VersionDir, VolumeRecord};

use crate::{
    inode::Numbers,
    mirror::{Mirror, Origin, Swap},
    session::{self, End, Serving, SessionError, Start},
    snapshot::Snapshot,
    tree::{Source, Tree},
    view::View,
};

/// A volume that the kernel asks this process about.
pub(super) struct Shown {
    record: VolumeRecord,
    numbers: Numbers,
    view: Arc<View>,
    serving: Arc<Serving>,
    /// Hears of the session's end.
    pub(super) end: oneshot::Receiver<End>,
    told: Told,
}

/// Whether watchers in the pod know of the version that is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// They do.
    Surely,
    /// A predecessor may have died between two versions: they are told again.
    Perhaps,
}

impl Shown {
    /// Starts to show `source`. `older` are versions that a predecessor may have shown.
    pub(super) async fn start(
        record: &VolumeRecord,
        source: Source,
        older: Vec<Arc<Snapshot>>,
        descriptor: std::os::fd::OwnedFd,
        start: Start,
    ) -> Result<Self, SessionError> {
        let origin = match start {
            Start::Fresh => Origin::Own,
            Start::Resumed => Origin::Inherited,
        };
        let numbers = Numbers::new(record.volume.as_str());
        let mut older_trees: Vec<Tree> = Vec::new();
        for snapshot in older {
            let taken = |dir: &VersionDir| older_trees.iter().any(|tree| tree.dir() == dir);
            if let Some(tree) = build(record, &numbers, Source::Said(snapshot), taken) {
                older_trees.push(tree);
            }
        }
        let taken = |dir: &VersionDir| older_trees.iter().any(|tree| tree.dir() == dir);
        let tree = build(record, &numbers, source, taken).ok_or_else(|| {
            SessionError::Start(std::io::Error::other("the version has no folder name"))
        })?;
        let told = if older_trees.is_empty() { Told::Surely } else { Told::Perhaps };
        let mut mirror = Mirror::new(numbers.clone(), Arc::new(tree), origin);
        for tree in older_trees {
            mirror.stage(Arc::new(tree), origin);
        }
        let view = Arc::new(View::new(mirror));
        let served = Arc::clone(&view);
        let started =
            tokio::task::spawn_blocking(move || session::serve(&served, descriptor, start)).await;
        let (serving, end) =
            started.map_err(|e| SessionError::Start(std::io::Error::other(e)))??;
        Ok(Self { record: record.clone(), numbers, view, serving: Arc::new(serving), end, told })
    }

    /// The version that readers see.
    pub(super) fn tree(&self) -> Option<Arc<Tree>> {
        self.view.load().shown().cloned()
    }

    /// Whether `source` is what readers see.
    pub(super) fn shows(&self, source: &Source) -> bool {
        self.tree().is_some_and(|tree| tree.source().id() == source.id())
    }

    /// Makes the tree ready for readers to see `source`, and says what csi is to do; `None` if
    /// there is nothing to do.
    pub(super) async fn prepare(&self, source: &Source) -> Option<Swap> {
        let mirror = self.view.load();
        let shown = mirror.shown()?;
        if shown.source().id() == source.id() {
            return (self.told == Told::Perhaps).then(|| self.expect(shown.dir()));
        }
        let tree = if let Some(staged) = mirror.staged(source.id()) {
            staged
        } else {
            let taken = |dir: &VersionDir| mirror.is_listed(dir);
            Arc::new(build(&self.record, &self.numbers, source.clone(), taken)?)
        };
        let gone = self.view.set(|mirror| {
            let gone = mirror.withdraw_others(Some(tree.dir()));
            if !mirror.is_listed(tree.dir()) {
                mirror.stage(Arc::clone(&tree), Origin::Own);
            }
            gone
        });
        self.tell(gone, Some(tree.dir().clone())).await;
        Some(self.expect(tree.dir()))
    }

    /// From now on csi may swap to `dir`.
    fn expect(&self, dir: &VersionDir) -> Swap {
        let swap = Swap { publish: dir.clone() };
        self.view.set(|mirror| mirror.expect(Some(swap.clone())));
        swap
    }

    /// After csi said that it swapped: whether readers see `source` now.
    pub(super) async fn settle(&mut self, source: &Source) -> bool {
        if !self.shows(source) {
            return false;
        }
        self.told = Told::Surely;
        let gone = self.view.set(|mirror| {
            mirror.expect(None);
            mirror.withdraw_others(None)
        });
        self.tell(gone, None).await;
        self.prune();
        true
    }

    /// Forgets versions that nobody can read any more.
    pub(super) fn prune(&self) {
        self.view.set(|mirror| mirror.prune(Instant::now()));
    }

    /// Takes away what late path walks left of versions that went.
    pub(super) async fn sweep(&self) {
        let lingering = self.view.load().lingering(Instant::now());
        if !lingering.is_empty() {
            self.tell(lingering, None).await;
        }
        self.prune();
    }

    /// Tells the kernel of versions that went and one that came. On a thread of its own: the
    /// kernel may wait for operations in flight, which the session answers.
    async fn tell(&self, gone: Vec<Arc<Tree>>, came: Option<VersionDir>) {
        let serving = Arc::clone(&self.serving);
        let told = tokio::task::spawn_blocking(move || {
            for tree in gone {
                serving.forget_version(&tree);
            }
            if let Some(dir) = came {
                serving.forget_name(dir.as_str());
            }
            serving.forget_listing();
        });
        if let Err(failure) = told.await {
            error!(%failure, "the kernel was not told of a new version");
        }
    }
}

fn build(
    record: &VolumeRecord,
    numbers: &Numbers,
    source: Source,
    taken: impl Fn(&VersionDir) -> bool,
) -> Option<Tree> {
    let dir = source.folder(taken)?;
    let tree = Tree::build(numbers, source, &record.options, dir);
    for key in tree.hidden() {
        warn!(
            volume = %record.volume, namespace = %record.pod.namespace, pod = %record.pod.name,
            key, "this key is no file name (or is the document's), it is shown in the document only"
        );
    }
    Some(tree)
}
