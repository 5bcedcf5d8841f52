//! Mounts of a volume that others make of it: a namespace that copies it, a pod with a user
//! namespace of its own.

use std::{
    fs, io,
    io::Write as _,
    os::fd::{AsFd, AsRawFd as _, OwnedFd},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
};

use nix::{
    libc,
    sched::{CloneFlags, unshare},
    unistd::Pid,
};
use rustix::mount::{
    MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount_change, move_mount,
    open_tree, unmount,
};
use vsecm_tests::{Component, PodSpec, awaiting::until, story, story::SOON};

/// Threads of a node-agent that wait for a volume's requests, by the name that they have.
fn threads(pid: Pid) -> usize {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let name = |task: fs::DirEntry| fs::read_to_string(task.path().join("comm")).ok();
    tasks.filter_map(|task| name(task.ok()?)).filter(|name| name.trim() == "vsecm-volume").count()
}

/// Whether this is the first one: only there can connections be aborted, and are there other users.
fn is_first_user_namespace() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap();
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_pins_a_volume_keeps_no_thread_of_node_agent() {
    let story = story::start().await.unwrap();
    story.register("web", "default", br#"{"a":"1"}"#).await.unwrap();
    let agent = story.serving_pid(Component::NodeAgent).unwrap();
    let first = story.create_pod(PodSpec::new("web")).unwrap();
    first.ready(SOON).await.unwrap();
    let one = threads(agent);
    let (end, ended) = mpsc::channel::<()>();
    let (made, is_made) = mpsc::channel();
    let second = story.create_pod(PodSpec::new("web-1").workload("web")).unwrap();
    second.ready(SOON).await.unwrap();
    assert_eq!(second.read("a").await.unwrap(), b"1");
    assert!(threads(agent) > one);
    let copy = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
        made.send(()).unwrap();
        let _end = ended.recv().is_err();
    });
    is_made.recv().unwrap();
    story.delete_pod(&second, SOON).await.unwrap();
    if is_first_user_namespace() {
        until("the end of the volume's threads", SOON, || threads(agent) == one).await.unwrap();
    }
    assert_eq!(first.read("a").await.unwrap(), b"1", "the other volume is served on");
    drop(end);
    copy.join().unwrap();
    story.end().await.unwrap();
}

/// A process in a user namespace of its own, as a pod with `hostUsers: false` has one.
struct Guest(Child);

impl Guest {
    /// Whoever is root there is this uid here.
    fn start(root: u32) -> Self {
        let mut command = Command::new("unshare");
        command.args(["--user", "sh", "-c", "echo there; read end"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut guest = Self(command.spawn().unwrap());
        let mut line = [0; 6];
        io::Read::read_exact(guest.0.stdout.as_mut().unwrap(), &mut line).unwrap();
        for map in ["setgroups", "uid_map", "gid_map"] {
            let text = if map == "setgroups" { "deny".to_owned() } else { format!("0 {root} 1") };
            let mut file = fs::File::options().write(true).open(guest.proc(map)).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        }
        guest
    }

    fn proc(&self, name: &str) -> String {
        format!("/proc/{}/{name}", self.0.id())
    }

    /// What its root reads.
    fn cat(&self, file: &Path) -> Result<String, String> {
        let mut command = Command::new("nsenter");
        command.arg(format!("--user={}", self.proc("ns/user"))).args(["--setuid", "0"]);
        // no capability of this root counts for files of others
        command.args(["--setgid", "0", "cat"]).arg(file);
        let read = command.output().unwrap();
        if read.status.success() {
            Ok(String::from_utf8(read.stdout).unwrap())
        } else {
            Err(String::from_utf8(read.stderr).unwrap())
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ended = self.0.kill().and_then(|()| self.0.wait()).is_err();
    }
}

#[expect(unsafe_code, reason = "neither rustix nor nix wraps mount_setattr")]
fn map_ids(mount: &OwnedFd, users: &fs::File) -> io::Result<()> {
    let userns_fd = u64::try_from(users.as_raw_fd()).unwrap();
    let change = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd,
    };
    // SAFETY: both descriptors are open for the call's length, the path is a C string, and the
    // kernel reads a struct of that size, which lives on this stack.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const change,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_root_of_a_pods_own_user_namespace_reads_roots_files() {
    let story = story::start().await.unwrap();
    story.register("web", "default", br#"{"a":"1"}"#).await.unwrap();
    let pod = story.create_pod(PodSpec::new("web").attribute("mode", "0400")).unwrap();
    pod.ready(SOON).await.unwrap();
    // in a user namespace of one user there is no other one to map to
    let guest = Guest::start(if is_first_user_namespace() { 100_000 } else { 0 });
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mount = open_tree(rustix::fs::CWD, pod.path(), flags).unwrap();
    let users = fs::File::open(guest.proc("ns/user")).unwrap();
    // as a container runtime does it with each mount of such a pod
    map_ids(&mount, &users).expect("Linux 6.12 allows it for FUSE, if the server does");
    let inside = story.folder().join("inside");
    fs::create_dir(&inside).unwrap();
    move_mount(
        mount.as_fd(),
        "",
        rustix::fs::CWD,
        &inside,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
    .unwrap();
    drop(mount);
    let read = tokio::task::spawn_blocking({
        let (inside, target) = (inside.clone(), pod.path().to_owned());
        move || (guest.cat(&inside.join("a")), guest.cat(&target.join("a")))
    });
    let (mapped, plain) = read.await.unwrap();
    assert_eq!(mapped, Ok("1".to_owned()));
    assert_eq!(
        plain.is_err(),
        is_first_user_namespace(),
        "only through the mapped mount: {plain:?}"
    );
    unmount(&inside, UnmountFlags::DETACH).unwrap();
    story.end().await.unwrap();
}
