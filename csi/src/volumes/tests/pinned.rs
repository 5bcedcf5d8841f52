//! A mount namespace that copied a volume before it was taken down.

use std::os::fd::AsFd;

use super::*;
use crate::mount::{
    is_dead,
    lab::{Copy, may_abort},
};

fn fuse(bench: &Bench) -> OwnedFd {
    let held = bench.volumes.held(&mk_record(1).volume).unwrap();
    held.fuse.unwrap().try_clone().unwrap()
}

#[test]
fn a_namespace_that_pins_a_volume_keeps_no_server_of_it() {
    story(|bench| async move {
        bench.publish().await.unwrap();
        let (fuse, _copy) = (fuse(&bench), Copy::make());
        bench.unpublish().await.unwrap();
        assert_eq!(bench.occupant(), Occupant::Free);
        assert_eq!(is_dead(fuse.as_fd()), may_abort());
    });
}

#[test]
fn what_a_csi_left_that_died_while_it_took_a_volume_down_is_ended_by_its_successor() {
    story(|bench| async move {
        bench.publish().await.unwrap();
        let (fuse, _copy) = (fuse(&bench), Copy::make());
        // unmounted, and no more
        drop(bench.volumes.kubelet.clear(&mk_record(1).target.parse().unwrap()).unwrap());
        lock(&bench.volumes.state.held).clear();
        assert!(!is_dead(fuse.as_fd()));
        mk_unrecovered(&bench.dir).recover().await;
        assert_eq!(bench.kept().await, []);
        assert_eq!(is_dead(fuse.as_fd()), may_abort());
    });
}
