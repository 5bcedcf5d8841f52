//! Attributes as fuser wants them.

use std::time::SystemTime;

use fuser::{FileAttr, FileType, INodeNo};

use crate::{inode::Kind, mirror::Attributes};

/// As `stat` shows it.
pub(super) fn attr(attributes: &Attributes) -> FileAttr {
    let Attributes { ino, kind, size, names, mode, group, time, generation: _ } = *attributes;
    FileAttr {
        ino: INodeNo(ino),
        size,
        blocks: size.div_ceil(512),
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind: file_type(kind),
        perm: mode,
        nlink: names,
        uid: 0,
        gid: group,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

/// The type of that kind.
pub(super) fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::Folder => FileType::Directory,
        Kind::File => FileType::RegularFile,
        Kind::Link => FileType::Symlink,
    }
}

/// The answer to a lookup that finds nothing: no inode, valid like any other answer.
pub(super) fn absent() -> FileAttr {
    attr(&Attributes {
        ino: 0,
        kind: Kind::File,
        size: 0,
        names: 0,
        mode: 0,
        group: 0,
        time: SystemTime::UNIX_EPOCH,
        generation: 0,
    })
}
