//! What a volume shows to the kernel, and the way from one version to the next.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;
use tracing::{error, warn};
use vsecm_node_agent_api::{
    frame::{Bind, DIR_LIMIT},
    volume::{VersionDir, VolumeRecord},
};

use crate::{
    filesystem::Observers,
    inode::Numbers,
    mirror::{Expected, Followers, Mirror, Origin},
    session::{self, End, Serving, SessionError, Start},
    snapshot::Snapshot,
    tree::{Source, Tree},
    view::View,
};

/// A path walk that has read the old `..data`, or is inside the old folder, is over by then. After
/// that csi removes the folder, and subPath mounts of it follow.
pub(super) const GRACE: Duration = Duration::from_secs(2);

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

/// What a predecessor left.
#[derive(Debug, Default)]
pub(super) struct Estate {
    /// Versions that it may have shown until its death.
    pub(super) older: Vec<Arc<Snapshot>>,
    /// Versions that mounts show, and nothing else.
    pub(super) bound: Vec<Arc<Snapshot>>,
    /// Inodes that follow.
    pub(super) followers: Arc<Followers>,
}

/// What csi is to do, so that readers see a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Swap {
    pub(super) dir: VersionDir,
    pub(super) replaced: Vec<VersionDir>,
}

/// Whether watchers in the pod know of the version that is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// They do.
    Surely,
    /// A predecessor may have died between two versions: they are told again.
    Perhaps,
}

/// What the kernel is to be told: it knows of these otherwise for ever.
#[derive(Debug, Default)]
struct News {
    /// Versions whose folders went from the root.
    gone: Vec<Arc<Tree>>,
    /// Inodes whose bytes and size are others now, or none.
    changed: Vec<u64>,
    /// Folders that follow, and the names that they had or have.
    folders: Vec<u64>,
    names: BTreeSet<String>,
}

impl Shown {
    /// Starts to show `source`.
    pub(super) async fn start(
        record: &VolumeRecord,
        source: Source,
        estate: Estate,
        descriptor: std::os::fd::OwnedFd,
        start: Start,
        observers: Observers,
    ) -> Result<Self, SessionError> {
        let origin = match start {
            Start::Fresh => Origin::Own,
            Start::Resumed => Origin::Inherited,
        };
        let numbers = Numbers::new(record.inode_key);
        let told = if estate.older.is_empty() { Told::Surely } else { Told::Perhaps };
        let mut older_trees: Vec<Tree> = Vec::new();
        for snapshot in estate.bound.into_iter().chain(estate.older) {
            let taken = |dir: &VersionDir| older_trees.iter().any(|tree| tree.dir() == dir);
            if let Some(tree) = build(record, &numbers, Source::Said(snapshot), taken) {
                older_trees.push(tree);
            }
        }
        let taken = |dir: &VersionDir| older_trees.iter().any(|tree| tree.dir() == dir);
        let takes_all = source.is_withdrawal();
        let tree = build(record, &numbers, source, taken).ok_or_else(|| {
            SessionError::Start(std::io::Error::other("the version has no folder name"))
        })?;
        let mut mirror = Mirror::new(numbers.clone(), Arc::new(tree), origin)
            .on_rotate(record.options.on_rotate);
        for tree in older_trees {
            mirror.inherit(Arc::new(tree));
        }
        mirror.follow(estate.followers);
        if takes_all {
            mirror.revoke_others();
        }
        if told == Told::Surely {
            // what mounts show is not at the root
            mirror.leave_others(None);
        }
        let view = Arc::new(View::new(mirror));
        let served = Arc::clone(&view);
        let serve = move || session::serve(&served, descriptor, start, observers);
        let started = tokio::task::spawn_blocking(serve).await;
        let (serving, end) =
            started.map_err(|e| SessionError::Start(std::io::Error::other(e)))??;
        let shown =
            Self { record: record.clone(), numbers, view, serving: Arc::new(serving), end, told };
        if start == Start::Resumed {
            // pages that a predecessor had not dropped yet when it died
            shown.tell(shown.held_news()).await;
        }
        Ok(shown)
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
    pub(super) fn prepare(&self, source: &Source) -> Option<Swap> {
        let mirror = self.view.load();
        let shown = mirror.shown()?;
        if shown.source().id() == source.id() {
            if mirror.is_revoked() {
                self.view.set(Mirror::grant_shown);
            }
            return (self.told == Told::Perhaps).then(|| self.expect(shown.dir()));
        }
        let tree = if let Some(staged) = mirror.staged(source.id()) {
            staged
        } else {
            let taken = |dir: &VersionDir| mirror.is_taken(dir);
            Arc::new(build(&self.record, &self.numbers, source.clone(), taken)?)
        };
        let dir = tree.dir().clone();
        self.view.set(|mirror| {
            mirror.leave_others(Some(&dir));
            if mirror.staged(source.id()).is_none() {
                mirror.stage(tree);
            }
        });
        Some(self.expect(&dir))
    }

    /// Where `source` takes the files away: nothing that is there can be read any more. Now, and
    /// not when csi has swapped: it may be away.
    pub(super) async fn withdraw(&self, source: &Source) {
        let mirror = self.view.load();
        if !source.is_withdrawal() || self.shows(source) || mirror.is_revoked() {
            return;
        }
        self.view.set(Mirror::revoke_all);
        self.tell(self.held_news()).await;
    }

    /// From now on csi may swap to `dir`.
    fn expect(&self, dir: &VersionDir) -> Swap {
        self.view.set(|mirror| {
            let mut replaced = mirror.listed_beside(dir);
            // more than one is there only after failures; they go one after the other
            replaced.truncate(DIR_LIMIT);
            let swap = Swap { dir: dir.clone(), replaced: replaced.clone() };
            mirror.expect(Some(Expected::Publish { dir: dir.clone(), replaced }));
            swap
        })
    }

    /// After csi said that it swapped: whether readers see `source` now.
    pub(super) async fn settle(&mut self, source: &Source) -> bool {
        if !self.shows(source) {
            return false;
        }
        self.told = Told::Surely;
        let mut news = self.held_news();
        news.gone = self.view.set(|mirror| {
            mirror.expect(None);
            mirror.leave_others(None);
            mirror.prune(Instant::now())
        });
        self.tell(news).await;
        true
    }

    /// Folders that csi can remove now; it may do so from now on.
    pub(super) fn retire(&self) -> Vec<VersionDir> {
        self.view.set(|mirror| {
            let dirs = mirror.to_retire(Instant::now(), GRACE);
            mirror.expect(Some(Expected::Retire(dirs.clone())));
            dirs
        })
    }

    /// Whether folders wait for their end.
    pub(super) fn is_retiring(&self) -> bool {
        self.view.load().is_leaving()
    }

    /// After csi removed `dirs`, or could not: what is left of them goes without it.
    pub(super) async fn retired(&self, dirs: &[VersionDir]) {
        let gone = self.view.set(|mirror| {
            mirror.expect(None);
            let mut gone = mirror.withdraw(dirs);
            gone.extend(mirror.prune(Instant::now()));
            gone
        });
        if !gone.is_empty() {
            self.tell(News { gone, ..News::default() }).await;
        }
    }

    /// What is to follow now that these mounts are there; `None` if that is what follows already.
    pub(super) fn following(&self, binds: &[Bind]) -> Option<Arc<Followers>> {
        let mirror = self.view.load();
        let followers = mirror.following(binds);
        (followers != **mirror.followers()).then(|| Arc::new(followers))
    }

    /// From now on these inodes follow.
    pub(super) async fn follow(&self, followers: Arc<Followers>) {
        self.view.set(|mirror| mirror.follow(followers));
        self.tell(self.held_news()).await;
    }

    /// Versions that a mount may show, if the volume asks for these to be kept.
    pub(super) fn undecided(&self) -> BTreeSet<u64> {
        self.view.load().undecided()
    }

    /// Keeps the versions that mounts show, if the volume asks for it; their numbers.
    pub(super) fn keep(&self, binds: &[Bind]) -> BTreeSet<u64> {
        self.view.set(|mirror| mirror.keep(binds))
    }

    /// Takes away what late path walks left of versions that went.
    pub(super) async fn sweep(&self) {
        let mut gone = self.view.load().lingering(Instant::now());
        gone.extend(self.view.set(|mirror| mirror.prune(Instant::now())));
        if !gone.is_empty() {
            self.tell(News { gone, ..News::default() }).await;
        }
    }

    /// What is held of old versions and is not what it was.
    fn held_news(&self) -> News {
        let mirror = self.view.load();
        let mut news = News { changed: mirror.revoked(), ..News::default() };
        news.changed.extend(mirror.followers().keys());
        let folders = mirror.followers().keys().filter(|ino| mirror.list(**ino).is_some());
        news.folders = folders.copied().collect();
        if !news.folders.is_empty() {
            news.names = mirror.file_names();
        }
        news
    }

    /// Tells the kernel. On a thread of its own: the kernel may wait for operations in flight,
    /// which the session answers.
    async fn tell(&self, news: News) {
        let serving = Arc::clone(&self.serving);
        let told = tokio::task::spawn_blocking(move || {
            for tree in news.gone {
                serving.forget_version(&tree);
            }
            for folder in news.folders {
                for name in &news.names {
                    serving.forget_entry(folder, name);
                }
            }
            for ino in news.changed {
                serving.forget_content(ino);
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
