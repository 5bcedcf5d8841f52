//! A stream of answers out of the book: one at once, then one whenever it would be another.

use std::{pin::Pin, sync::Arc};

use futures_util::stream::{self, Stream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::book::Book;

pub(super) type Feed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What a subscriber sees of the book now, and what tells it from what was seen before.
pub(super) struct Seen<T> {
    pub(super) fingerprint: Vec<u64>,
    pub(super) message: T,
}

/// Follows the book until `view` fails (its status is the stream's last word) or the authority ends.
pub(super) fn follow<T: Send + 'static>(
    book: &Arc<watch::Sender<Book>>,
    ended: CancellationToken,
    view: impl Fn(&Book) -> Result<Seen<T>, Status> + Send + 'static,
) -> Feed<T> {
    struct Follower<V> {
        changes: watch::Receiver<Book>,
        last: Option<Vec<u64>>,
        over: bool,
        ended: CancellationToken,
        view: V,
    }
    let follower = Follower { changes: book.subscribe(), last: None, over: false, ended, view };
    Box::pin(stream::unfold(follower, |mut follower| async move {
        loop {
            if follower.over {
                return None;
            }
            let seen = (follower.view)(&follower.changes.borrow_and_update());
            match seen {
                Err(status) => {
                    follower.over = true;
                    return Some((Err(status), follower));
                }
                Ok(seen) if follower.last.as_ref() != Some(&seen.fingerprint) => {
                    follower.last = Some(seen.fingerprint);
                    return Some((Ok(seen.message), follower));
                }
                Ok(_same) => {}
            }
            let alive = tokio::select! {
                () = follower.ended.cancelled() => false,
                changed = follower.changes.changed() => changed.is_ok(),
            };
            if !alive {
                follower.over = true;
                return Some((Err(Status::unavailable("the authority ended")), follower));
            }
        }
    }))
}
