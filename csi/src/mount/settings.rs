//! What a superblock of ours is made with.

use std::{
    fmt,
    os::fd::{AsRawFd, BorrowedFd},
    path::Path,
    str::FromStr,
};

use rustix::io::Errno;

use super::{StepError, step};

/// Where the kernel shows `SELinux`. It makes the folder in every sysfs, also in a container's, if
/// and only if `SELinux` is on.
pub const SELINUX: &str = "/sys/fs/selinux";

/// The `SELinux` context of all files of a volume. The kubelet passes none for an inline volume and
/// relabels nothing that is read-only: unlabelled, no container could read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label(String);

/// A text that is no `SELinux` context.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("an SELinux context is user:role:type:level, like {DEFAULT_LABEL}")]
pub struct LabelError;

/// What containers may read, on every distribution with `SELinux`.
pub const DEFAULT_LABEL: &str = "system_u:object_r:container_file_t:s0";

/// What the operator says of labels: one, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labelling(Option<Label>);

impl Labelling {
    /// The label, if this node has `SELinux`, which shows itself at `selinux`.
    pub fn where_needed(self, selinux: &Path) -> Option<Label> {
        self.0.filter(|_| selinux.exists())
    }
}

impl FromStr for Labelling {
    type Err = LabelError;

    fn from_str(text: &str) -> Result<Self, LabelError> {
        if text.is_empty() { Ok(Self(None)) } else { text.parse().map(Some).map(Self) }
    }
}

impl FromStr for Label {
    type Err = LabelError;

    fn from_str(text: &str) -> Result<Self, LabelError> {
        let word = |part: &str| {
            let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b',');
            !part.is_empty() && part.bytes().all(plain)
        };
        let parts: Vec<&str> = text.split(':').collect();
        let fits = matches!(parts.len(), 4 | 5) && parts.iter().all(|part| word(part));
        if fits { Ok(Self(text.to_owned())) } else { Err(LabelError) }
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Says every setting to the kernel: `say` makes the call.
pub(super) fn apply(
    fuse: BorrowedFd<'_>,
    label: Option<&Label>,
    mut say: impl FnMut(&'static str, Option<&str>) -> Result<(), Errno>,
) -> Result<(), StepError> {
    let number = fuse.as_raw_fd().to_string();
    for (key, value) in [
        ("source", Some("vsecm")),
        ("subtype", Some("vsecm")),
        ("rootmode", Some("40000")),
        ("user_id", Some("0")),
        ("group_id", Some("0")),
        // eight requests per MiB instead of 256
        ("max_read", Some("131072")),
        ("fd", Some(&number)),
        ("default_permissions", None),
        ("allow_other", None),
    ] {
        say(key, value).map_err(step("set a mount option"))?;
    }
    if let Some(Label(label)) = label {
        say("context", Some(label)).map_err(step("set the SELinux context of the mount"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::fd::AsFd};

    use super::*;

    fn said(label: Option<&Label>) -> Vec<(&'static str, Option<String>)> {
        let (null, mut said) = (File::open("/dev/null").unwrap(), Vec::new());
        let applied = apply(null.as_fd(), label, |key, value| {
            said.push((key, value.map(str::to_owned)));
            Ok(())
        });
        applied.unwrap();
        said
    }

    #[test]
    fn where_the_node_has_selinux_the_kernel_is_told_the_context_of_the_files() {
        let node = tempfile::tempdir().unwrap();
        let labelling: Labelling = DEFAULT_LABEL.parse().unwrap();
        let without = labelling.clone().where_needed(&node.path().join("none"));
        assert_eq!(without, None);
        assert_eq!("".parse::<Labelling>().unwrap().where_needed(node.path()), None);
        let with = labelling.where_needed(node.path());
        let told = said(with.as_ref());
        assert_eq!(told.last(), Some(&("context", Some(DEFAULT_LABEL.to_owned()))));
        assert_eq!(said(None), told[..told.len() - 1], "nothing else changes");
    }

    #[test]
    fn a_context_is_the_last_word_of_the_kernel() {
        // neither this kernel nor the one of CI has SELinux: it refuses what it is told
        if Path::new(SELINUX).exists() {
            return;
        }
        super::super::lab::in_private_namespace(|_dir| {
            let label = DEFAULT_LABEL.parse().unwrap();
            let refused = super::super::superblock(Some(&label)).unwrap_err();
            assert_eq!(refused.to_string(), "cannot set the SELinux context of the mount");
        });
    }

    #[test]
    fn a_text_that_is_no_context_is_refused() {
        for bad in ["", "x", "a:b:c", "a:b:c:", "a:b:c:s0\n", "a:b:c d:s0", "a:b:c:d:e:f"] {
            assert_eq!(bad.parse::<Label>(), Err(LabelError), "{bad:?}");
        }
        for good in [DEFAULT_LABEL, "u:r:t:s0:c1,c2", "u:r:t:s0-s0"] {
            assert_eq!(good.parse::<Label>().unwrap().to_string(), good);
        }
    }
}
