//! A development identity authority that behaves as a SPIRE agent does, without attesting anybody.
//!
//! It has a CA of its own in memory, hands out real, short-lived X.509-SVIDs and pushes new ones at
//! half of their life and on every change of an entry. Callers are told apart by the socket they
//! come to: each socket lies in a folder that only its user can enter. It is for one machine and
//! for trying things out, so it refuses to run in a Kubernetes pod.
//!
//! - [`ca`][]: certificates;
//! - [`entry`][]: who gets which identity;
//! - `book`: entries with their SVIDs of now;
//! - `workload`, `delegated`: the two APIs.

mod book;
pub mod ca;
mod delegated;
pub mod entry;
mod feed;
mod socket;
#[cfg(test)]
mod tests;
mod workload;

use std::{
    collections::BTreeMap,
    env, fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use spiffe::{SpiffeId, TrustDomain};
use tokio::sync::watch;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::transport::Server;

use self::{book::Book, delegated::Delegated, workload::Workload};
pub use self::{
    ca::{Ca, CaError, Lifetime, Svid},
    entry::{Attested, Entry, Selector},
    socket::Caller,
};
use crate::proto::{
    spire::api::agent::delegatedidentity::v1::delegated_identity_server::DelegatedIdentityServer,
    workload::spiffe_workload_api_server::SpiffeWorkloadApiServer,
};

/// Why the authority does not work.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// It is not meant for a cluster.
    #[error(
        "the development identity authority does not run in Kubernetes (KUBERNETES_SERVICE_HOST is set): use SPIRE there"
    )]
    InKubernetes,
    /// A socket could not be made.
    #[error("cannot listen at {}", path.display())]
    Listen {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A certificate could not be made.
    #[error("the development identity authority cannot issue")]
    Issue(#[from] CaError),
}

/// What all sockets answer from.
#[derive(Clone, Debug)]
struct Shared {
    trust_domain: TrustDomain,
    book: Arc<watch::Sender<Book>>,
    issuers: Arc<Mutex<BTreeMap<String, Arc<Ca>>>>,
    own: Arc<Ca>,
    ended: CancellationToken,
}

impl Shared {
    fn bundle(&self) -> (String, Vec<u8>) {
        let name = format!("spiffe://{}", self.trust_domain);
        (name, self.own.bundle().to_vec())
    }

    /// The CA of the id's trust domain; a foreign one is made when it is first needed.
    fn ca_for(&self, id: &SpiffeId) -> Result<Arc<Ca>, CaError> {
        if id.is_member_of(&self.trust_domain) {
            return Ok(Arc::clone(&self.own));
        }
        let name = id.trust_domain().to_string();
        let mut issuers = self.issuers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ca) = issuers.get(&name) {
            return Ok(Arc::clone(ca));
        }
        let ca = Arc::new(Ca::new(id.trust_domain().clone())?);
        issuers.insert(name, Arc::clone(&ca));
        drop(issuers);
        Ok(ca)
    }

    fn issue(&self, id: &SpiffeId, lifetime: Lifetime) -> Result<Svid, CaError> {
        self.ca_for(id)?.issue(id, lifetime)
    }
}

/// The authority: entries, sockets, and the task that renews.
#[derive(Debug)]
pub struct Authority {
    shared: Shared,
    tasks: TaskTracker,
    sockets: Mutex<BTreeMap<PathBuf, CancellationToken>>,
}

impl Authority {
    /// Makes the CA and starts renewing; there are no entries and no sockets yet.
    ///
    /// # Errors
    /// [`AuthorityError::InKubernetes`], [`AuthorityError::Issue`].
    pub fn start(trust_domain: TrustDomain) -> Result<Self, AuthorityError> {
        if env::var_os("KUBERNETES_SERVICE_HOST").is_some() {
            return Err(AuthorityError::InKubernetes);
        }
        tracing::warn!(
            %trust_domain,
            "DEVELOPMENT IDENTITIES: this authority attests nobody; never use it for real secrets"
        );
        let shared = Shared {
            own: Arc::new(Ca::new(trust_domain.clone())?),
            trust_domain,
            book: Arc::new(watch::Sender::new(Book::default())),
            issuers: Arc::default(),
            ended: CancellationToken::new(),
        };
        let tasks = TaskTracker::new();
        tasks.spawn(renew(shared.clone()));
        Ok(Self { shared, tasks, sockets: Mutex::default() })
    }

    /// Adds or replaces an entry; all whom it concerns hear of it at once.
    ///
    /// # Errors
    /// [`AuthorityError::Issue`].
    pub fn put_entry(&self, entry_id: &str, entry: Entry) -> Result<(), AuthorityError> {
        let mut outcome = Ok(());
        self.shared.book.send_modify(|book| {
            let issue = |entry: &Entry| self.shared.issue(&entry.id, entry.lifetime);
            outcome = book.put(entry_id, entry, Instant::now(), issue);
        });
        Ok(outcome?)
    }

    /// Withdraws an entry; whether it was there. SVIDs that were issued stay valid to their end.
    pub fn remove_entry(&self, entry_id: &str) -> bool {
        let remove = |book: &mut Book| book.remove(entry_id);
        self.shared.book.send_if_modified(remove)
    }

    /// Issues an SVID past all entries, for clients and servers that a test runs itself. A foreign
    /// trust domain has a CA of its own.
    ///
    /// # Errors
    /// [`AuthorityError::Issue`].
    pub fn issue(&self, id: &SpiffeId, lifetime: Lifetime) -> Result<Svid, AuthorityError> {
        Ok(self.shared.issue(id, lifetime)?)
    }

    /// The CA of the authority's own trust domain.
    pub fn ca(&self) -> &Ca {
        &self.shared.own
    }

    /// Serves the Workload API at `path` to `caller`, for whom `attested` holds.
    ///
    /// # Errors
    /// [`AuthorityError::Listen`].
    pub fn serve_workload(
        &self,
        path: &Path,
        caller: Caller,
        attested: impl IntoIterator<Item = Selector>,
    ) -> Result<(), AuthorityError> {
        let service = SpiffeWorkloadApiServer::new(Workload {
            shared: self.shared.clone(),
            attested: attested.into_iter().collect(),
            caller,
        });
        let (incoming, closed) = self.open(path, caller)?;
        self.tasks.spawn(async move {
            let server = Server::builder().add_service(service);
            report(server.serve_with_incoming_shutdown(incoming, closed.cancelled()).await);
        });
        Ok(())
    }

    /// Serves the Delegated Identity API at `path` to `caller`, for whom `attested` holds, and
    /// who must have an entry for `authorized`.
    ///
    /// # Errors
    /// [`AuthorityError::Listen`].
    pub fn serve_delegated(
        &self,
        path: &Path,
        caller: Caller,
        attested: impl IntoIterator<Item = Selector>,
        authorized: SpiffeId,
    ) -> Result<(), AuthorityError> {
        let attested: Attested = attested.into_iter().collect();
        let service = DelegatedIdentityServer::new(Delegated {
            shared: self.shared.clone(),
            attested,
            caller,
            authorized,
        });
        let (incoming, closed) = self.open(path, caller)?;
        self.tasks.spawn(async move {
            let server = Server::builder().add_service(service);
            report(server.serve_with_incoming_shutdown(incoming, closed.cancelled()).await);
        });
        Ok(())
    }

    fn open(
        &self,
        path: &Path,
        caller: Caller,
    ) -> Result<(UnixListenerStream, CancellationToken), AuthorityError> {
        let listener = socket::listen(path, caller)
            .map_err(|source| AuthorityError::Listen { path: path.to_owned(), source })?;
        let closed = self.shared.ended.child_token();
        self.sockets
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(path.to_owned(), closed.clone());
        Ok((UnixListenerStream::new(listener), closed))
    }

    /// Takes a socket away; what is connected stays so until its identity goes.
    pub fn close(&self, path: &Path) {
        let mut sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(closed) = sockets.remove(path) {
            closed.cancel();
            remove_socket(path);
        }
    }

    /// Ends all streams and removes all sockets.
    pub async fn shutdown(&self) {
        self.end();
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn end(&self) {
        self.shared.ended.cancel();
        let mut sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        for (path, _closed) in std::mem::take(&mut *sockets) {
            remove_socket(&path);
        }
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        self.end();
    }
}

fn report(served: Result<(), tonic::transport::Error>) {
    if let Err(error) = served {
        tracing::error!(?error, "a socket of the identity authority failed");
    }
}

/// With its folder, which is the socket's own.
fn remove_socket(path: &Path) {
    let gone = fs::remove_file(path).and_then(|()| path.parent().map_or(Ok(()), fs::remove_dir));
    if let Err(error) = gone
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "a socket of the identity authority stays");
    }
}

/// Renews SVIDs until the authority ends.
async fn renew(shared: Shared) {
    let mut changes = shared.book.subscribe();
    loop {
        let next = changes.borrow_and_update().next_renewal();
        let due = async {
            match next {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = shared.ended.cancelled() => return,
            heard = changes.changed() => if heard.is_err() { return },
            () = due => {
                shared.book.send_if_modified(|book| {
                    let issue = |entry: &Entry| shared.issue(&entry.id, entry.lifetime);
                    book.renew(Instant::now(), issue).unwrap_or_else(|error| {
                        tracing::error!(?error, "an SVID could not be renewed");
                        false
                    })
                });
            }
        }
    }
}
