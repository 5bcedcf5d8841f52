//! The mounted root key after the start: watched, never followed.
//!
//! A file is looked at by time, not by inotify: the kubelet brings a change a minute late anyway,
//! the folder may appear later or be replaced, and a look that finds the same file reads nothing.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{sync::watch, time::sleep};
use vsecm_safe_api::client::chain;

use super::decision::Content;
use crate::seal::{Place, read_key_file};

/// Between two looks.
const LOOK: Duration = Duration::from_secs(10);

/// What the mount was last seen to be, beside the key in use.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Mount {
    /// It has not held a key yet.
    Empty,
    /// It holds the key in use, in the file of this stamp.
    Same(Option<Stamp>),
    /// It holds something else; a sentence says what.
    Changed(String),
}

/// Looks for ever. `in_use` is the digest of the key in use.
pub async fn follow_mount(path: PathBuf, in_use: [u8; 32], changed: watch::Sender<bool>) {
    follow(path, in_use, changed, LOOK).await;
}

async fn follow(
    path: PathBuf,
    in_use: [u8; 32],
    changed: watch::Sender<bool>,
    between_looks: Duration,
) {
    let mut seen = Mount::Empty;
    loop {
        let found = look(&path, &in_use, &seen);
        if found != seen {
            report(&path, &found);
            changed.send_replace(matches!(found, Mount::Changed(_)));
            seen = found;
        }
        sleep(between_looks).await;
    }
}

type Stamp = (u64, u64, i64, i64, u32);

/// Tells one file from the next: the kubelet writes a Secret volume anew, it never edits it.
fn stamp_of(path: &Path) -> Option<Stamp> {
    let found = fs::metadata(path).ok()?;
    Some((found.dev(), found.ino(), found.mtime(), found.mtime_nsec(), found.mode()))
}

fn look(path: &Path, in_use: &[u8; 32], before: &Mount) -> Mount {
    let stamp = stamp_of(path);
    // only that: what could not be read may be readable the next time, and the same file
    if stamp.is_some() && *before == Mount::Same(stamp) {
        return before.clone();
    }
    let text = match read_key_file(path) {
        Ok(text) => text,
        Err(error) => return Mount::Changed(chain(&error)),
    };
    let place = Place::File(path.to_owned());
    match Content::read(&place, text.as_ref().map(|text| text.as_str())) {
        Ok(Content::Key(key)) if key.digest() == *in_use => Mount::Same(stamp),
        Ok(Content::Key(key)) => {
            Mount::Changed(format!("it holds another key, with fingerprint {}", key.fingerprint()))
        }
        // the Secret was made after the pod's start: the mount follows
        Ok(Content::Missing | Content::Blank) if *before == Mount::Empty => Mount::Empty,
        Ok(Content::Missing) => Mount::Changed("it is gone".to_owned()),
        Ok(Content::Blank) => Mount::Changed("it is blank".to_owned()),
        Err(error) => Mount::Changed(chain(&error)),
    }
}

fn report(path: &Path, found: &Mount) {
    let file = path.display();
    match found {
        Mount::Changed(how) => tracing::error!(
            %file, how,
            "THE MOUNTED ROOT KEY IS NOT THE ONE IN USE. Safe goes on with the key that it has and \
             that its records need; after a restart it would not open them: put that key back"
        ),
        Mount::Same(_) => tracing::info!(%file, "the mounted root key is the one in use"),
        Mount::Empty => {}
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::seal::RootKey;

    fn write(path: &Path, text: &str) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    #[test]
    fn another_key_in_the_mount_is_a_change_and_a_late_one_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.txt");
        let (ours, theirs) = (RootKey::generate().unwrap(), RootKey::generate().unwrap());
        let look = |before: &Mount| look(&path, &ours.digest(), before);
        assert_eq!(look(&Mount::Empty), Mount::Empty);
        assert!(matches!(look(&Mount::Same(None)), Mount::Changed(_)), "it was there");
        write(&path, "{}");
        assert_eq!(look(&Mount::Empty), Mount::Empty);
        write(&path, &ours.serialize());
        let same = look(&Mount::Empty);
        assert_eq!(same, Mount::Same(stamp_of(&path)));
        assert_eq!(look(&Mount::Changed("it could not be read".to_owned())), same, "it heals");
        for bad in [theirs.serialize().as_str(), "nonsense", "{}"] {
            write(&path, bad);
            let Mount::Changed(how) = look(&same) else { panic!("{bad}") };
            assert!(!how.contains("AGE-SECRET-KEY"), "{how}");
        }
    }

    #[tokio::test]
    async fn the_gauge_follows_the_mount() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.txt");
        let key = RootKey::generate().unwrap();
        let changed = watch::Sender::new(false);
        let mut gauge = changed.subscribe();
        let followed = follow(path.clone(), key.digest(), changed, Duration::from_millis(1));
        let followed = tokio::spawn(followed);
        for (text, expected) in [("another", true), (key.serialize().as_str(), false)] {
            // as the kubelet: a new file under the name
            let next = folder.path().join("next");
            write(&next, text);
            fs::rename(&next, &path).unwrap();
            gauge.wait_for(|changed| *changed == expected).await.unwrap();
        }
        followed.abort();
    }
}
