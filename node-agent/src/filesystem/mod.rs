//! Answers the kernel, from memory only ([I5]).
//!
//! No-open mode: OPEN and OPENDIR are answered ENOSYS once, and all answers are valid for ever.
//! After that an open, a read and a listing of what was read before cost no request, and work while
//! no process serves the volume at all. What changes is told to the kernel: by csi's own file
//! operations, or by a notification.
//!
//! A volume with `audit: opens` is asked about every open instead. The kernel learns that from the
//! first answer, for as long as the connection lives: so it hangs on the volume's record alone.

use std::{
    ffi::OsStr,
    io,
    path::Path,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, SystemTime},
};

use fuser::{
    AccessFlags, BsdFileFlags, Errno, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags, RenameFlags,
    ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyIoctl,
    ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use tracing::{debug, warn};
use vsecm_node_agent_api::kernel::Feature;

use self::attr::{absent, attr, file_type};
pub use self::requests::{Operation, Requests};
use crate::{
    audit::{
        Recorder,
        line::{Opened, Outcome},
        reader::Asker,
    },
    inode::ROOT,
    kernel::may_use,
    mirror::{Mirror, Node, Refusal, link_target},
    tree::{File, Source, Tree},
    view::View,
};

mod attr;
mod requests;

/// For ever; a larger number of seconds is no `Duration` in the kernel.
const FOREVER: Duration = Duration::from_secs(1 << 31);

/// What is asked of the kernel; a flag that it does not offer is done without.
///
/// - `CACHE_SYMLINKS`: else each path walk costs a READLINK;
/// - `EXPLICIT_INVAL_DATA`: a GETATTR never drops pages of a version;
/// - `HAS_RESEND`: a successor gets what its predecessor had taken;
/// - `NO_EXPORT_SUPPORT`: no file handles, which would pass by the mount;
/// - `ALLOW_IDMAP`: mounts for pods with `hostUsers: false`, as users are checked by the kernel.
const WANTED: InitFlags = InitFlags::FUSE_PARALLEL_DIROPS
    .union(InitFlags::FUSE_CACHE_SYMLINKS)
    .union(InitFlags::FUSE_EXPLICIT_INVAL_DATA)
    .union(InitFlags::FUSE_HAS_RESEND)
    .union(InitFlags::FUSE_NO_EXPORT_SUPPORT)
    .union(InitFlags::FUSE_ALLOW_IDMAP);

/// What is asked for, without what this process is to do without.
fn wanted() -> InitFlags {
    let unless = |feature, flag| if may_use(feature) { InitFlags::empty() } else { flag };
    WANTED
        - unless(Feature::Resend, InitFlags::FUSE_HAS_RESEND)
        - unless(Feature::NoExportSupport, InitFlags::FUSE_NO_EXPORT_SUPPORT)
        - unless(Feature::Idmap, InitFlags::FUSE_ALLOW_IDMAP)
}

/// Who hears of what the kernel asks.
#[derive(Clone, Debug, Default)]
pub struct Observers {
    /// Counts it.
    pub requests: Arc<Requests>,
    /// Records opens; without it the kernel is told not to ask.
    pub opens: Option<Arc<Recorder>>,
}

/// Serves a view.
#[derive(Debug)]
pub struct VolumeFilesystem {
    view: Arc<View>,
    observers: Observers,
}

impl VolumeFilesystem {
    /// Serves `view`.
    pub fn new(view: Arc<View>, observers: Observers) -> Self {
        Self { view, observers }
    }

    fn count(&self, operation: Operation) {
        self.observers.requests.count(operation);
    }

    /// What an open comes to.
    fn opened(&self, ino: INodeNo, flags: OpenFlags) -> Opened {
        let mirror = self.view.load();
        let is_read = flags.acc_mode() == OpenAccMode::O_RDONLY;
        let readable = if is_read { Outcome::Opened } else { Outcome::ReadOnly };
        match (mirror.readable(ino.0), mirror.node(ino.0)) {
            (Some((edition, file)), _) => opened(edition.tree(), file, readable),
            // known, and not to be read any more
            (None, Some(Node::File(edition, file))) => opened(edition.tree(), file, Outcome::Stale),
            _ => {
                let outcome = Outcome::Stale;
                Opened { secret: None, revision: None, file: None, outcome }
            }
        }
    }

    fn refuse(operation: &str, name: &OsStr, refusal: Refusal) -> Errno {
        debug!(operation, ?name, %refusal, "a change was refused");
        match refusal {
            Refusal::ReadOnly => Errno::EROFS,
            Refusal::Missing => Errno::ENOENT,
        }
    }

    fn changed(
        &self,
        operation: &str,
        name: &OsStr,
        reply: ReplyEmpty,
        change: impl FnOnce(&mut Mirror, &str) -> Result<(), Refusal>,
    ) {
        let name_text = name.to_str().ok_or(Refusal::Missing);
        match name_text.and_then(|text| self.view.change(|mirror| change(mirror, text))) {
            Ok(()) => reply.ok(),
            Err(refusal) => reply.error(Self::refuse(operation, name, refusal)),
        }
    }

    fn forgotten(&self, ino: u64, count: u64) {
        let mirror = self.view.load();
        if let Some(Node::File(edition, _) | Node::Folder(edition, _)) = mirror.node(ino) {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            edition.looked_up().fetch_sub(count, Relaxed);
        }
    }
}

fn opened(tree: &Tree, file: &File, outcome: Outcome) -> Opened {
    let said = match tree.source() {
        Source::Said(snapshot) => Some(snapshot),
        Source::Nothing(_) => None,
    };
    Opened {
        secret: said.map(|snapshot| snapshot.key().secret.clone()),
        revision: said.and_then(|snapshot| snapshot.position()).map(|position| position.revision),
        file: Some(file.path().to_string()),
        outcome,
    }
}

fn found(mirror: &Mirror, node: &Node<'_>, reply: ReplyEntry) {
    let attributes = mirror.entry(node);
    if let Node::File(edition, _) | Node::Folder(edition, _) = node {
        edition.looked_up().fetch_add(1, Relaxed);
    }
    let generation = Generation(attributes.generation);
    reply.entry(&FOREVER, &attr(&attributes), generation);
}

/// The rest of the protocol: refused, or not there (which the kernel remembers). Not left to
/// fuser's defaults, as those write a log line per request.
macro_rules! refuse {
    ($($operation:ident($($argument:ty),*; $reply:ty): $counted:ident, $errno:ident;)*) => {$(
        fn $operation(&self, _request: &Request, $(_: $argument,)* reply: $reply) {
            self.count(Operation::$counted);
            reply.error(Errno::$errno);
        }
    )*};
}

impl Filesystem for VolumeFilesystem {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let offered = config.capabilities();
        if let Err(missing) = config.add_capabilities(wanted() & offered) {
            warn!(?missing, "the kernel refuses what it offered");
        }
        // nothing is ever written
        if let Err(nearest) = config.set_max_write(4096) {
            warn!(nearest, "the size of writes cannot be bounded");
        }
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.count(Operation::Lookup);
        let mirror = self.view.load();
        match name.to_str().and_then(|name| mirror.lookup(parent.0, name)) {
            Some(node) => found(&mirror, &node, reply),
            // remembered by the kernel until the name appears: a flood of missing names costs nothing
            None => reply.entry(&FOREVER, &absent(), Generation(0)),
        }
    }

    fn forget(&self, _request: &Request, ino: INodeNo, count: u64) {
        self.count(Operation::Forget);
        self.forgotten(ino.0, count);
    }

    fn getattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        self.count(Operation::Getattr);
        match self.view.load().attributes(ino.0) {
            Some(attributes) => reply.attr(&FOREVER, &attr(&attributes)),
            None => reply.error(Errno::ESTALE),
        }
    }

    fn readlink(&self, _request: &Request, ino: INodeNo, reply: ReplyData) {
        self.count(Operation::Readlink);
        match self.view.load().node(ino.0) {
            Some(Node::Pointer(dir)) => reply.data(dir.as_str().as_bytes()),
            Some(Node::Link(name)) => reply.data(link_target(name).as_bytes()),
            _ => reply.error(Errno::ESTALE),
        }
    }

    fn read(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.count(Operation::Read);
        let mirror = self.view.load();
        let Some(bytes) = mirror.bytes(ino.0) else {
            debug!(ino = ino.0, "a version that is forgotten cannot be read");
            return reply.error(Errno::ESTALE);
        };
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let end = start.saturating_add(size as usize).min(bytes.len());
        reply.data(bytes.get(start..end).unwrap_or_default());
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.count(Operation::Open);
        let Some(recorder) = &self.observers.opens else {
            // asked once, and never again
            return reply.error(Errno::ENOSYS);
        };
        let asker = Asker { thread: request.pid(), uid: request.uid(), gid: request.gid() };
        // before the answer: until then the kernel holds the reader, so it is the one who asks
        let reader = recorder.reader(asker);
        let opened = self.opened(ino, flags);
        let outcome = opened.outcome;
        recorder.record(reader, opened);
        match outcome {
            // what is cached stays; without NOFLUSH a close would ask, and hang in an outage
            Outcome::Opened => {
                let flags = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH;
                reply.opened(FileHandle(0), flags);
            }
            // the kernel looks the path up again
            Outcome::Stale => reply.error(Errno::ESTALE),
            Outcome::ReadOnly => reply.error(Errno::EROFS),
        }
    }

    fn release(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.count(Operation::Release);
        reply.ok();
    }

    fn readdir(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        self.count(Operation::Readdir);
        let mirror = self.view.load();
        let Some(mut names) = mirror.list(ino.0) else {
            return reply.error(Errno::ENOTDIR);
        };
        // an entry's place is its inode, so that places stay right when others come and go
        names.sort_by_key(|(_name, attributes)| attributes.ino);
        let dots = [(ino, 1, "."), (INodeNo(ROOT), 2, "..")];
        let dots = dots.map(|(ino, at, name)| (ino, at, FileType::Directory, name));
        let names =
            names.into_iter().map(|(name, a)| (INodeNo(a.ino), a.ino, file_type(a.kind), name));
        for (ino, at, kind, name) in dots.into_iter().chain(names) {
            if at > offset && reply.add(ino, at, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        self.count(Operation::Statfs);
        let mirror = self.view.load();
        let tree = mirror.shown();
        let blocks = tree.map_or(0, |tree| tree.size().div_ceil(4096));
        let files = tree.map_or(0, |tree| tree.files().len());
        reply.statfs(blocks as u64, 0, 0, files as u64, 0, 4096, 255, 4096);
    }

    fn mkdir(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        self.count(Operation::Change);
        let Some(text) = name.to_str() else { return reply.error(Errno::EROFS) };
        if let Err(refusal) = self.view.change(|mirror| mirror.mkdir(parent.0, text)) {
            return reply.error(Self::refuse("mkdir", name, refusal));
        }
        let mirror = self.view.load();
        match mirror.lookup(parent.0, text) {
            Some(node) => found(&mirror, &node, reply),
            None => reply.error(Errno::EROFS),
        }
    }

    fn setattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        self.count(Operation::Change);
        let is_more =
            uid.is_some() || gid.is_some() || size.is_some() || atime.is_some() || mtime.is_some();
        let mirror = self.view.load();
        let attributes = mirror.attributes(ino.0).filter(|_| mirror.chmod(ino.0).is_ok());
        match attributes {
            Some(attributes) if !is_more => reply.attr(&FOREVER, &attr(&attributes)),
            _ => reply.error(Errno::EROFS),
        }
    }

    fn symlink(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        self.count(Operation::Change);
        let (Some(text), Some(target)) = (name.to_str(), target.to_str()) else {
            return reply.error(Errno::EROFS);
        };
        let change = |mirror: &mut Mirror| mirror.symlink(parent.0, text, target);
        if let Err(refusal) = self.view.change(change) {
            return reply.error(Self::refuse("symlink", name, refusal));
        }
        let mirror = self.view.load();
        match mirror.lookup(parent.0, text) {
            Some(node) => found(&mirror, &node, reply),
            None => reply.error(Errno::EROFS),
        }
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        self.count(Operation::Change);
        let Some(to) = new_name.to_str().filter(|_name| flags.is_empty()) else {
            return reply.error(Errno::EROFS);
        };
        self.changed("rename", name, reply, |mirror, from| {
            mirror.rename((parent.0, from), (new_parent.0, to))
        });
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.count(Operation::Change);
        self.changed("unlink", name, reply, |mirror, name| mirror.unlink(parent.0, name));
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.count(Operation::Change);
        self.changed("rmdir", name, reply, |mirror, name| mirror.rmdir(parent.0, name));
    }

    refuse! {
        mknod(INodeNo, &OsStr, u32, u32, u32; ReplyEntry): Change, EROFS;
        link(INodeNo, INodeNo, &OsStr; ReplyEntry): Change, EROFS;
        create(INodeNo, &OsStr, u32, u32, i32; ReplyCreate): Change, EROFS;
        write(
            INodeNo, FileHandle, u64, &[u8], WriteFlags, OpenFlags, Option<LockOwner>; ReplyWrite
        ): Change, EROFS;
        setxattr(INodeNo, &OsStr, &[u8], i32, u32; ReplyEmpty): Change, EROFS;
        removexattr(INodeNo, &OsStr; ReplyEmpty): Change, EROFS;
        opendir(INodeNo, OpenFlags; ReplyOpen): Other, ENOSYS;
        flush(INodeNo, FileHandle, LockOwner; ReplyEmpty): Other, ENOSYS;
        fsync(INodeNo, FileHandle, bool; ReplyEmpty): Other, ENOSYS;
        fsyncdir(INodeNo, FileHandle, bool; ReplyEmpty): Other, ENOSYS;
        getxattr(INodeNo, &OsStr, u32; ReplyXattr): Other, ENOSYS;
        listxattr(INodeNo, u32; ReplyXattr): Other, ENOSYS;
        access(INodeNo, AccessFlags; ReplyEmpty): Other, ENOSYS;
        lseek(INodeNo, FileHandle, i64, i32; ReplyLseek): Other, ENOSYS;
        ioctl(INodeNo, FileHandle, IoctlFlags, u32, &[u8], u32; ReplyIoctl): Other, ENOTTY;
    }
}
