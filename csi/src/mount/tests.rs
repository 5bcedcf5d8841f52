//! Mounts of our own, in a mount namespace of each test's own.

use std::{fs, io::ErrorKind, path::Path};

use vsecm_node_agent_api::target::Target;

use super::{
    control::{Connection, Control},
    lab::{ALL, Copy, Node, Server, TARGET, in_private_namespace, may_abort},
    *,
};

fn mk_kubelet(dir: &Path) -> (Kubelet, Target) {
    (Kubelet::open(dir).unwrap(), TARGET.parse().unwrap())
}

fn mk_mount(kubelet: &Kubelet, target: &Target) -> (Server, OwnedFd) {
    let Detached { fuse, mount } = superblock(None).unwrap();
    let server = Server::start(fuse);
    let writable = kubelet.attach(target, mount.as_fd()).unwrap();
    (server, writable)
}

#[test]
fn a_volume_is_read_only_at_its_target_and_writable_on_the_private_clone() {
    in_private_namespace(|dir| {
        let (kubelet, target) = mk_kubelet(dir);
        assert_eq!(kubelet.occupant(&target).unwrap(), Occupant::Free);
        let (server, writable) = mk_mount(&kubelet, &target);
        assert_eq!(kubelet.occupant(&target).unwrap(), Occupant::Ours);
        server.add("key", Node::File);
        let path = dir.join(TARGET);
        assert_eq!(fs::read_dir(&path).unwrap().count(), 1);
        let refused = std::os::unix::fs::symlink("x", path.join("y")).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ReadOnlyFilesystem);
        rustix::fs::symlinkat("x", &writable, "y").unwrap();
        assert_eq!(server.mutations(), [(lab::SYMLINK, "y".to_owned())]);

        let again = kubelet.writable(&target).unwrap();
        rustix::fs::symlinkat("x", &again, "z").unwrap();
        assert_eq!(fs::read_link(path.join("z")).unwrap(), Path::new("x"));
    });
}

#[test]
fn the_folder_of_the_pods_alone_may_come_from_the_node() {
    in_private_namespace(|dir| {
        let (pods, elsewhere) = (dir.join("pods"), dir.join("nodes"));
        fs::rename(&pods, &elsewhere).unwrap();
        fs::create_dir(&pods).unwrap();
        sys::mount_bind(&elsewhere, &pods).unwrap();
        sys::mount_change(&pods, sys::MountPropagationFlags::SHARED).unwrap();
        let (kubelet, target) = mk_kubelet(dir);
        let (_server, writable) = mk_mount(&kubelet, &target);
        assert_eq!(kubelet.occupant(&target).unwrap(), Occupant::Ours);
        rustix::fs::symlinkat("x", &writable, "y").unwrap();
        kubelet.writable(&target).unwrap();
        kubelet.clear(&target).unwrap();
        assert_eq!(kubelet.occupant(&target).unwrap(), Occupant::Free);
        assert!(!dir.join(TARGET).exists());
    });
}

#[test]
fn a_target_is_cleared_twice_and_with_a_dead_server() {
    in_private_namespace(|dir| {
        let (kubelet, target) = mk_kubelet(dir);
        kubelet.clear(&target).unwrap();
        for _round in 0..2 {
            let Detached { fuse, mount } = superblock(None).unwrap();
            kubelet.attach(&target, mount.as_fd()).unwrap();
            drop(fuse);
            kubelet.clear(&target).unwrap();
            kubelet.clear(&target).unwrap();
            assert_eq!(kubelet.occupant(&target).unwrap(), Occupant::Free);
            assert!(!dir.join(TARGET).exists());
        }
        fs::remove_dir_all(dir.join("pods")).unwrap();
        kubelet.clear(&target).unwrap();
    });
}

#[test]
fn a_descriptor_whose_superblock_is_gone_is_dead() {
    in_private_namespace(|dir| {
        let (kubelet, target) = mk_kubelet(dir);
        let Detached { fuse, mount } = superblock(None).unwrap();
        let writable = kubelet.attach(&target, mount.as_fd()).unwrap();
        assert!(!is_dead(fuse.as_fd()));
        kubelet.clear(&target).unwrap();
        assert!(!is_dead(fuse.as_fd()), "the clone keeps it");
        drop((mount, writable));
        assert!(is_dead(fuse.as_fd()));
    });
}

#[test]
fn a_foreign_mount_at_the_target_is_neither_covered_nor_taken_away() {
    in_private_namespace(|dir| {
        let (kubelet, target) = mk_kubelet(dir);
        let path = dir.join(TARGET);
        fs::create_dir(&path).unwrap();
        let flags = sys::MountFlags::empty();
        sys::mount("tmpfs", &path, "tmpfs", flags, None).unwrap();
        let foreign = Occupant::Foreign("tmpfs".to_owned());
        assert_eq!(kubelet.occupant(&target).unwrap(), foreign);
        let Detached { fuse: _fuse, mount } = superblock(None).unwrap();
        assert!(kubelet.attach(&target, mount.as_fd()).is_err());
        assert!(kubelet.writable(&target).is_err(), "no swap works on a foreign mount");
        kubelet.clear(&target).unwrap();
        assert_eq!(kubelet.occupant(&target).unwrap(), foreign);
        sys::unmount(&path, sys::UnmountFlags::DETACH).unwrap();
        assert!(kubelet.writable(&target).is_err(), "nor on the host's own folder");
    });
}

#[test]
fn no_symlink_on_the_way_to_the_target_is_followed() {
    in_private_namespace(|dir| {
        let (kubelet, target) = mk_kubelet(dir);
        let elsewhere = tempfile::tempdir().unwrap();
        let Detached { fuse: _fuse, mount } = superblock(None).unwrap();
        for link in [TARGET, "pods/1/volumes/kubernetes.io~csi/v", "pods/1"] {
            let link = dir.join(link);
            if link.exists() {
                fs::remove_dir_all(&link).unwrap();
            }
            std::os::unix::fs::symlink(elsewhere.path(), &link).unwrap();
            assert!(kubelet.attach(&target, mount.as_fd()).is_err(), "{link:?}");
            assert!(kubelet.writable(&target).is_err(), "{link:?}");
            let _refused = kubelet.clear(&target).is_err();
            assert!(link.is_symlink() && elsewhere.path().exists());
            fs::remove_file(&link).unwrap();
        }
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
    });
}

#[test]
fn the_kernels_own_text_is_understood() {
    let text = fs::read("/proc/self/mountinfo").unwrap();
    let lines = text.split(|b| *b == b'\n').filter(|line| !line.is_empty()).count();
    assert_eq!(mountinfo::parse(&text).count(), lines);
    assert!(mountinfo::topmost(&text, Path::new("/")).is_some());
}

#[test]
fn a_copy_in_another_namespace_keeps_a_connection_until_that_one_is_aborted() {
    in_private_namespace(|dir| {
        let (kubelet, target) = mk_kubelet(dir);
        let neighbour: Target = "pods/1/volumes/kubernetes.io~csi/w/mount".parse().unwrap();
        fs::create_dir(dir.join(neighbour.folder())).unwrap();
        let mut volumes = [&target, &neighbour].map(|target| {
            let Detached { fuse, mount } = superblock(None).unwrap();
            let watched = fuse.try_clone().unwrap();
            let server = Server::start(fuse);
            drop(kubelet.attach(target, mount.as_fd()).unwrap());
            (watched, server)
        });
        let [(one, _), (other, _)] = &mut volumes;
        let _copy = Copy::make();
        let connections = kubelet.clear(&target).unwrap();
        assert_eq!(connections.len(), 1);
        assert!(!is_dead(one.as_fd()), "the copy keeps it");
        let control = Control::mount();
        if !may_abort() {
            assert!(control.is_err());
            return;
        }
        let control = control.unwrap();
        assert!(control.waiting(&connections[0]).unwrap().is_some());
        for _twice in 0..2 {
            control.abort(&connections[0]).unwrap();
            assert!(is_dead(one.as_fd()));
        }
        assert!(!is_dead(other.as_fd()), "only that one");
    });
}

#[test]
fn the_connection_of_a_detached_mount_is_known_without_its_server() {
    in_private_namespace(|dir| {
        let (kubelet, target) = mk_kubelet(dir);
        let (server, writable) = mk_mount(&kubelet, &target);
        server.be_silent_on(ALL);
        let known = Connection::of_detached(writable.as_fd()).unwrap();
        let connections = kubelet.clear(&target).unwrap();
        assert_eq!(server.withheld(), 0, "no server is asked by an umount");
        assert_eq!(known.as_ref(), connections.first());
        assert!(known.is_some());
    });
}
