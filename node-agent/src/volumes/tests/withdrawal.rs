//! What is taken away cannot be read by what is held, whatever csi does.

use std::{fs::File, os::unix::fs::FileExt as _};

use super::{node::next_publish, *};

const ESTALE: i32 = 116;

async fn becomes_stale(held: &File) {
    let is_stale = async {
        loop {
            let read = held.read_at(&mut [0; 16], 0);
            if read.is_err_and(|error| error.raw_os_error() == Some(ESTALE)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(Duration::from_secs(5), is_stale).await.expect("the end of what is held");
}

/// A node whose csi hangs in a swap, and a file of the version before that is held open.
async fn stuck() -> (Node, Mount, File) {
    let (node, record) = (Node::new(), record());
    node.issue();
    node.say(said(1, "{\"a\":\"x\"}")).await;
    assert_eq!(node.attach(&record, 1000).await, AgentReply::Ready);
    let mount = node.serving_volume(&record).await;
    let held = File::open(mount.path("a")).unwrap();
    assert_eq!(held.read_at(&mut [0; 16], 0).unwrap(), 1);
    let idle = node.idle_csi();
    node.say(said(2, "{\"a\":\"y\"}")).await;
    next_publish(&idle).await;
    // it stays, and answers nothing
    std::mem::forget(idle);
    (node, mount, held)
}

#[test]
fn what_is_deleted_cannot_be_read_even_while_csi_hangs_in_an_older_order() {
    story(|| async {
        let (node, _mount, held) = stuck().await;
        assert_eq!(held.read_at(&mut [0; 16], 0).unwrap(), 1);
        node.say(deleted(3)).await;
        becomes_stale(&held).await;
        assert!(held.metadata().is_ok(), "GETATTR is answered always");
    });
}
