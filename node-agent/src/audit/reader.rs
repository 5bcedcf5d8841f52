//! Who opens a file, from what the kernel says with the request and from `/proc`.
//!
//! Read while the reader waits for its answer: so it is there, and its number is nobody else's.
//! Nothing is read that can wait for a reader's memory (`cmdline`, `environ`, `exe`), and no
//! argument is ever read: there may be secrets among them.

use std::{fs::File, io::Read as _};

use vsecm_node_agent_api::volume::PodUid;

use super::cgroup::{Inside, inside};

/// All of `cgroup`, on version 1 too, and the first lines of `status`.
const READ_LIMIT: usize = 8 * 1024;

/// What the kernel says with a request.
#[derive(Clone, Copy, Debug)]
pub struct Asker {
    /// The thread, in the pid namespace of who mounted; 0 if it is not seen there.
    pub thread: u32,
    /// Its user; none behind an idmapped mount.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

/// Who opens a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reader {
    /// The process; `None` if it is not seen from here.
    pub pid: Option<u32>,
    /// Its user.
    pub uid: Option<u32>,
    /// Its group.
    pub gid: Option<u32>,
    /// Its name, as `ps -o comm` shows it.
    pub command: Option<String>,
    /// Whose it is.
    pub place: Place,
}

/// Where the reader is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the volume's pod, in that container.
    Pod(Option<String>),
    /// In another pod, which has access by the node.
    OtherPod(Inside),
    /// On the node, in no pod.
    Node,
    /// Not seen from here: another pid namespace, or a `/proc` that hides.
    Unseen,
}

impl Place {
    /// As the line says it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Pod(_) => "pod",
            Self::OtherPod(_) => "other-pod",
            Self::Node => "node",
            Self::Unseen => "unseen",
        }
    }

    /// The container, of whichever pod.
    pub fn container(&self) -> Option<&str> {
        match self {
            Self::Pod(container) => container.as_deref(),
            Self::OtherPod(inside) => inside.container.as_deref(),
            Self::Node | Self::Unseen => None,
        }
    }

    /// The reader's pod, where it is not the volume's.
    pub fn other_pod(&self) -> Option<&str> {
        match self {
            Self::OtherPod(inside) => Some(&inside.pod),
            _ => None,
        }
    }

    fn of(cgroup: &str, pod: &PodUid) -> Self {
        match inside(cgroup) {
            Some(inside) if inside.pod == pod.as_str() => Self::Pod(inside.container),
            Some(inside) => Self::OtherPod(inside),
            None => Self::Node,
        }
    }
}

/// The process of a thread, and its effective user and group.
#[derive(Debug, PartialEq, Eq)]
struct Status {
    process: u32,
    uid: u32,
    gid: u32,
}

impl Status {
    /// From the text of `/proc/<tid>/status`.
    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str, at: usize| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_ascii_whitespace().nth(at)?.parse().ok()
        };
        // real, effective, saved, file system: the last is what decides about files
        Some(Self { process: field("Tgid:", 0)?, uid: field("Uid:", 3)?, gid: field("Gid:", 3)? })
    }
}

impl Reader {
    /// Who that is, for a volume of `pod`.
    pub fn of(asker: Asker, pod: &PodUid) -> Self {
        let known = |id: u32| (id != u32::MAX).then_some(id);
        let mut reader = Self {
            pid: None,
            uid: known(asker.uid),
            gid: known(asker.gid),
            command: None,
            place: Place::Unseen,
        };
        let read = |pid: u32, what: &str| text(&format!("/proc/{pid}/{what}"));
        if asker.thread == 0 {
            return reader;
        }
        reader.pid = Some(asker.thread);
        if let Some(status) = read(asker.thread, "status").as_deref().and_then(Status::parse) {
            reader.pid = Some(status.process);
            reader.uid = reader.uid.or(Some(status.uid));
            reader.gid = reader.gid.or(Some(status.gid));
            // a thread may have a name of its own
            let command = read(status.process, "comm");
            reader.command = command.map(|name| name.trim_end_matches('\n').to_owned());
        }
        if let Some(cgroup) = read(asker.thread, "cgroup") {
            reader.place = Place::of(&cgroup, pod);
        }
        reader
    }
}

fn text(path: &str) -> Option<String> {
    let mut bytes = [0; READ_LIMIT];
    let length = File::open(path).and_then(|mut file| file.read(&mut bytes)).ok()?;
    Some(String::from_utf8_lossy(bytes.get(..length)?).into_owned())
}

#[cfg(test)]
mod tests {
    use nix::unistd::{getgid, getpid, gettid, getuid};

    use super::*;

    fn pod() -> PodUid {
        "5d7a2c1e-8f1b-4f0a-9a33-0c5d2b8e7f10".parse().unwrap()
    }

    #[test]
    fn a_thread_is_known_by_its_process_and_that_ones_name() {
        let name = std::fs::read_to_string("/proc/self/comm").unwrap();
        let thread = std::thread::Builder::new().name("other-name".to_owned());
        let asked = thread.spawn(|| {
            let thread = u32::try_from(gettid().as_raw()).unwrap();
            Reader::of(Asker { thread, uid: u32::MAX, gid: 7 }, &pod())
        });
        let reader = asked.unwrap().join().unwrap();
        assert_eq!(reader.pid, u32::try_from(getpid().as_raw()).ok());
        assert_eq!(reader.command.as_deref(), Some(name.trim_end()));
        assert_eq!(reader.uid, Some(getuid().as_raw()), "an idmapped mount does not tell it");
        assert_ne!(Some(7), Some(getgid().as_raw()));
        assert_eq!(reader.gid, Some(7), "what the kernel tells counts");
    }

    #[test]
    fn who_is_not_seen_is_said_to_be_unseen() {
        let reader = Reader::of(Asker { thread: 0, uid: 5, gid: 6 }, &pod());
        assert_eq!((reader.pid, reader.uid, reader.place), (None, Some(5), Place::Unseen));
        // no process has a number that high
        let reader = Reader::of(Asker { thread: 1 << 30, uid: 5, gid: 6 }, &pod());
        assert_eq!((reader.command, reader.place), (None, Place::Unseen));
    }

    #[test]
    fn a_reader_of_another_pod_or_of_the_node_is_told_apart() {
        let id = "a".repeat(64);
        let of = |uid: &str| Place::of(&format!("0::/kubepods/pod{uid}/{id}\n"), &pod());
        assert_eq!(of(pod().as_str()), Place::Pod(Some(id.clone())));
        let other = of("00000000-0000-4000-8000-000000000000");
        assert_eq!(other.word(), "other-pod");
        assert_eq!(other.other_pod(), Some("00000000-0000-4000-8000-000000000000"));
        assert_eq!(other.container(), Some(id.as_str()));
        assert_eq!(Place::of("0::/init.scope\n", &pod()), Place::Node);
    }
}
