//! SPIRE's Delegated Identity API.
//!
//! The raw client: the comfortable one of `spire-api` yields only the first SVID of a message, and
//! their order is random.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use spiffe::transport::{Endpoint, connect};
use spire_api::pb::spire::api::{
    agent::delegatedidentity::v1::{
        SubscribeToX509sviDsRequest, SubscribeToX509sviDsResponse,
        delegated_identity_client::DelegatedIdentityClient,
    },
    types::Selector,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tonic::{Status, Streaming};
use tracing::{debug, info, warn};
use vsecm_node_agent_api::volume::PodRef;
use vsecm_safe_api::client::chain;

use super::{
    Chooser, Identity, Issue, Past, PodIdentity, Standing, Trouble,
    offer::{Offer, parse},
};
use crate::backoff::Backoff;

/// An empty first message of a new stream is no withdrawal before this time is over: a SPIRE agent
/// that has just started may not have heard of all entries.
const WITHDRAWAL_GRACE: Duration = Duration::from_mins(1);

/// Nor is a later empty message before this time is over: when an X.509 authority is tainted, an
/// agent throws away what it has signed, says so, and only then asks for new, which takes
/// milliseconds.
const RENEWAL_GRACE: Duration = Duration::from_secs(5);

/// Pods' identities from a SPIRE agent.
#[derive(Debug)]
pub struct SpireDelegate {
    endpoint: Endpoint,
    node: String,
    chooser: Chooser,
}

/// Why a stream ended or a message was not used.
#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error("SPIRE's admin socket cannot be reached")]
    Connect(#[source] spiffe::transport::TransportError),
    #[error("SPIRE's agent refused or failed")]
    Status(#[source] Box<Status>),
    #[error("SPIRE's agent ended the stream")]
    Ended,
}

impl SpireDelegate {
    /// Asks the agent at `socket` for pods of `node`.
    ///
    /// # Errors
    /// The socket is not a `unix://` or `tcp://` URI.
    pub fn new(
        socket: &str,
        node: String,
        chooser: Chooser,
    ) -> Result<Self, spiffe::transport::EndpointError> {
        Ok(Self { endpoint: Endpoint::parse(socket)?, node, chooser })
    }

    /// Only what the kubelet and the node say, never anything that a pod's author wrote.
    fn selectors(&self, pod: &PodRef) -> Vec<Selector> {
        let selector = |value: String| Selector { r#type: "k8s".to_owned(), value };
        vec![
            selector(format!("ns:{}", pod.namespace)),
            selector(format!("sa:{}", pod.service_account)),
            selector(format!("pod-name:{}", pod.name)),
            selector(format!("pod-uid:{}", pod.uid)),
            selector(format!("node-name:{}", self.node)),
        ]
    }
}

impl PodIdentity for SpireDelegate {
    fn follow(&self, pod: &PodRef, past: Past) -> watch::Receiver<Standing> {
        let asking = Trouble::Asking { since: SystemTime::now() };
        let (sender, receiver) =
            watch::channel(Standing { trouble: Some(asking), ..Standing::default() });
        let follower = Follower {
            endpoint: self.endpoint.clone(),
            selectors: self.selectors(pod),
            chooser: self.chooser.clone(),
            pod: pod.clone(),
            past,
            grace: WITHDRAWAL_GRACE,
            renewal_grace: RENEWAL_GRACE,
            sender,
        };
        tokio::spawn(follower.run());
        receiver
    }
}

/// What a message of SPIRE means for the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Offered {
    /// Its identity.
    Identity,
    /// None: it was never issued, or is withdrawn.
    Nothing,
    /// Something that is not understood or not unambiguous. An error is no withdrawal ([I2]).
    Unusable,
}

type Message = Result<Option<SubscribeToX509sviDsResponse>, Status>;

/// What SPIRE says, one message after the other.
trait Messages: Send {
    fn next(&mut self) -> impl Future<Output = Message> + Send;
}

impl Messages for Streaming<SubscribeToX509sviDsResponse> {
    async fn next(&mut self) -> Message {
        self.message().await
    }
}

struct Follower {
    endpoint: Endpoint,
    selectors: Vec<Selector>,
    chooser: Chooser,
    pod: PodRef,
    past: Past,
    grace: Duration,
    renewal_grace: Duration,
    sender: watch::Sender<Standing>,
}

impl Follower {
    async fn run(self) {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        loop {
            let ended = tokio::select! {
                () = self.sender.closed() => return,
                ended = self.stream(&mut backoff) => ended,
            };
            self.broke(&ended);
            tokio::select! {
                () = self.sender.closed() => return,
                () = tokio::time::sleep(backoff.pause()) => {}
            }
        }
    }

    /// Says it once: an agent that is away for long breaks the streams of all pods of the node
    /// again and again.
    fn broke(&self, ended: &StreamError) {
        let reason = chain(ended);
        self.sender.send_modify(|standing| {
            let before = standing.trouble.take();
            let since = before.as_ref().and_then(Trouble::since).unwrap_or_else(SystemTime::now);
            let trouble = match ended {
                StreamError::Status(status) => Trouble::of_status(status, since),
                StreamError::Connect(_) | StreamError::Ended => {
                    Trouble::Unreachable { since, reason: reason.clone() }
                }
            };
            if before.is_none_or(|before| before.wait() != trouble.wait()) {
                warn!(pod = %self.pod.name, namespace = %self.pod.namespace, reason, "the stream of identities broke, and is opened until it holds");
            } else {
                debug!(pod = %self.pod.name, namespace = %self.pod.namespace, reason, "the stream of identities broke again");
            }
            standing.trouble = Some(trouble);
        });
    }

    async fn stream(&self, backoff: &mut Backoff) -> StreamError {
        let mut stream = match self.open().await {
            Ok(stream) => stream,
            Err(error) => return error,
        };
        self.heed(&mut stream, backoff).await
    }

    /// Acts on a new stream's messages until its end.
    async fn heed(&self, stream: &mut impl Messages, backoff: &mut Backoff) -> StreamError {
        let mut was_issued = false;
        let grace_ends = Instant::now() + self.grace;
        // when it is withdrawn, unless an identity comes
        let mut doubt_ends = None;
        loop {
            let message = tokio::select! {
                message = stream.next() => message,
                () = sleep_until(doubt_ends.unwrap_or(grace_ends)), if doubt_ends.is_some() => {
                    doubt_ends = None;
                    self.withdraw();
                    continue;
                }
            };
            match message {
                Ok(Some(message)) => {
                    backoff.reset();
                    doubt_ends = match self.take(&message) {
                        Offered::Identity => {
                            was_issued = true;
                            None
                        }
                        Offered::Nothing if was_issued => {
                            doubt_ends.or_else(|| Some(Instant::now() + self.renewal_grace))
                        }
                        Offered::Nothing => Some(grace_ends),
                        Offered::Unusable => None,
                    };
                }
                Ok(None) => return StreamError::Ended,
                Err(status) => return StreamError::Status(Box::new(status)),
            }
        }
    }

    async fn open(&self) -> Result<Streaming<SubscribeToX509sviDsResponse>, StreamError> {
        let channel = connect(&self.endpoint).await.map_err(StreamError::Connect)?;
        let request = SubscribeToX509sviDsRequest { selectors: self.selectors.clone(), pid: 0 };
        let response = DelegatedIdentityClient::new(channel)
            .subscribe_to_x509svi_ds(request)
            .await
            .map_err(|status| StreamError::Status(Box::new(status)))?;
        Ok(response.into_inner())
    }

    /// Tells the pod's identity, if the message holds it.
    fn take(&self, message: &SubscribeToX509sviDsResponse) -> Offered {
        let offered = parse(message, &self.pod);
        let is_whole = offered.len() == message.x509_svids.len();
        let id = |offer: &Offer| offer.svid.spiffe_id().to_string();
        let (issue, trouble, said) = match self.chooser.choose(&self.pod, &offered, id) {
            Ok(Some((offer, key))) => {
                let identity =
                    Identity { svid: Arc::clone(&offer.svid), key, expires: offer.expires };
                info!(pod = %self.pod.name, namespace = %self.pod.namespace, ?identity, "an identity was issued");
                (Some(Issue::Issued(Arc::new(identity))), None, Offered::Identity)
            }
            _ if !is_whole => (None, Some(Trouble::Unreadable), Offered::Unusable),
            Ok(None) => (None, None, Offered::Nothing),
            Err(trouble) => {
                warn!(pod = %self.pod.name, namespace = %self.pod.namespace, reason = %trouble, "no identity is chosen");
                let said = match trouble {
                    Trouble::Ambiguous { .. } => Offered::Unusable,
                    // what else SPIRE offers is not the pod's, which is therefore not there
                    _ => Offered::Nothing,
                };
                (None, Some(trouble), said)
            }
        };
        self.sender.send_modify(|standing| {
            match &trouble {
                Some(Trouble::Ambiguous { .. }) => standing.is_contested = true,
                // of what is not understood it is not known whom it is for
                _ if said == Offered::Unusable => {}
                _ => standing.is_contested = false,
            }
            standing.trouble = trouble;
            if let Some(issue) = issue {
                standing.issue = issue;
            }
        });
        said
    }

    fn withdraw(&self) {
        self.sender.send_if_modified(|standing| {
            let was_issued = match standing.issue {
                Issue::Issued(_) => true,
                Issue::NotYet => self.past == Past::Issued,
                Issue::Withdrawn => false,
            };
            if was_issued {
                warn!(pod = %self.pod.name, namespace = %self.pod.namespace, "SPIRE withdrew the pod's identity");
                standing.issue = Issue::Withdrawn;
            }
            was_issued
        });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use spire_api::pb::spire::api::agent::delegatedidentity::v1::X509svidWithKey;

    use super::*;
    use crate::identity::tests::{chooser, issued, offered, pod};

    fn follower(past: Past, grace: Duration) -> (Follower, watch::Receiver<Standing>) {
        let (sender, receiver) = watch::channel(Standing::default());
        let follower = Follower {
            endpoint: Endpoint::parse("unix:///nowhere").unwrap(),
            selectors: vec![],
            chooser: chooser(),
            pod: pod(),
            past,
            grace,
            renewal_grace: grace,
            sender,
        };
        (follower, receiver)
    }

    /// An agent that says this, and then nothing.
    struct Says(VecDeque<SubscribeToX509sviDsResponse>);

    impl Messages for Says {
        async fn next(&mut self) -> Message {
            match self.0.pop_front() {
                Some(message) => Ok(Some(message)),
                None => std::future::pending().await,
            }
        }
    }

    /// That there is nothing.
    fn empty() -> Says {
        Says([SubscribeToX509sviDsResponse::default()].into())
    }

    /// What is known when the standing has changed, or after `watched`.
    async fn after_an_empty_stream(past: Past, grace: Duration, watched: Duration) -> Issue {
        let (follower, mut receiver) = follower(past, grace);
        let mut stream = empty();
        let mut backoff = Backoff::new(Duration::from_millis(1), Duration::from_millis(1));
        let is_told = receiver.wait_for(|standing| !matches!(standing.issue, Issue::NotYet));
        tokio::select! {
            ended = follower.heed(&mut stream, &mut backoff) => panic!("the stream lives: {ended}"),
            _told = is_told => {}
            () = tokio::time::sleep(watched) => {}
        }
        receiver.borrow().issue.clone()
    }

    #[tokio::test]
    async fn an_entry_that_went_while_nobody_listened_is_withdrawn_after_the_grace() {
        const SHORT: Duration = Duration::from_millis(20);
        const LONG: Duration = Duration::from_secs(10);
        let gone = after_an_empty_stream(Past::Issued, SHORT, LONG).await;
        assert!(matches!(gone, Issue::Withdrawn), "{gone:?}");
        let in_doubt = after_an_empty_stream(Past::Issued, LONG, SHORT * 3).await;
        assert!(matches!(in_doubt, Issue::NotYet), "{in_doubt:?}");
        let fresh = after_an_empty_stream(Past::Unknown, SHORT, SHORT * 3).await;
        assert!(matches!(fresh, Issue::NotYet), "{fresh:?}");
    }

    #[tokio::test]
    async fn an_agent_that_starts_empty_takes_no_identity_away_before_the_grace_is_over() {
        let (follower, mut receiver) = follower(Past::Unknown, Duration::from_millis(200));
        let issue = issued(&pod(), "billing");
        follower.sender.send_modify(|standing| standing.issue = issue);
        let mut stream = empty();
        let mut backoff = Backoff::new(Duration::from_millis(1), Duration::from_millis(1));
        let started = Instant::now();
        let is_withdrawn = |standing: &Standing| matches!(standing.issue, Issue::Withdrawn);
        tokio::select! {
            ended = follower.heed(&mut stream, &mut backoff) => panic!("the stream lives: {ended}"),
            _gone = receiver.wait_for(is_withdrawn) => {}
        }
        assert!(started.elapsed() >= follower.grace);
    }

    /// Whether the identity of an agent that says this is withdrawn.
    async fn is_withdrawn_after(messages: &[&[&str]], grace: Duration, watched: Duration) -> bool {
        let offers = |names: &&[&str]| SubscribeToX509sviDsResponse {
            x509_svids: names.iter().map(|workload| offered(&pod(), workload)).collect(),
            ..SubscribeToX509sviDsResponse::default()
        };
        let (follower, mut receiver) = follower(Past::Unknown, grace);
        let mut stream = Says(messages.iter().map(offers).collect());
        let mut backoff = Backoff::new(Duration::from_millis(1), Duration::from_millis(1));
        let is_withdrawn = |standing: &Standing| matches!(standing.issue, Issue::Withdrawn);
        tokio::select! {
            ended = follower.heed(&mut stream, &mut backoff) => panic!("the stream lives: {ended}"),
            _gone = receiver.wait_for(is_withdrawn) => true,
            () = tokio::time::sleep(watched) => false,
        }
    }

    #[tokio::test]
    async fn an_identity_that_is_thrown_away_to_be_renewed_is_not_withdrawn() {
        const SHORT: Duration = Duration::from_millis(20);
        const LONG: Duration = Duration::from_secs(10);
        let renewed: &[&[&str]] = &[&["billing"], &[], &["billing"]];
        assert!(!is_withdrawn_after(&renewed[..2], LONG, SHORT * 3).await);
        assert!(!is_withdrawn_after(renewed, SHORT * 10, SHORT * 20).await);
        assert!(is_withdrawn_after(&renewed[..2], SHORT, LONG).await);
    }

    #[tokio::test]
    async fn a_missing_socket_is_said_with_its_time_until_it_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let socket = format!("unix://{}", dir.path().join("admin.sock").display());
        let delegate = SpireDelegate::new(&socket, "node-1".into(), chooser()).unwrap();
        let mut receiver = delegate.follow(&pod(), Past::Unknown);
        assert!(matches!(receiver.borrow().trouble, Some(Trouble::Asking { .. })));
        let is_said = |standing: &Standing| {
            matches!(&standing.trouble, Some(Trouble::Unreachable { reason, .. })
                if reason.contains("admin socket cannot be reached"))
        };
        let said = tokio::time::timeout(Duration::from_secs(10), receiver.wait_for(is_said)).await;
        said.unwrap().unwrap();
    }

    #[test]
    fn of_two_identities_neither_is_meant_before_spire_says_so() {
        let (follower, receiver) = follower(Past::Unknown, WITHDRAWAL_GRACE);
        let offers = |messages: &[&str]| SubscribeToX509sviDsResponse {
            x509_svids: messages.iter().map(|workload| offered(&pod(), workload)).collect(),
            ..SubscribeToX509sviDsResponse::default()
        };
        assert_eq!(follower.take(&offers(&["billing"])), Offered::Identity);
        assert_eq!(follower.take(&offers(&["billing", "other"])), Offered::Unusable);
        follower.broke(&StreamError::Ended);
        let standing = receiver.borrow().clone();
        assert!(matches!(standing.issue, Issue::Issued(_)), "what is served goes on");
        assert!(matches!(standing.trouble, Some(Trouble::Unreachable { .. })));
        assert!(standing.is_contested, "an agent that is away takes no entry away");
        assert_eq!(follower.take(&offers(&["other"])), Offered::Identity);
        assert!(!receiver.borrow().is_contested);
    }

    #[test]
    fn an_offer_that_is_not_understood_is_no_withdrawal() {
        let (follower, receiver) = follower(Past::Unknown, WITHDRAWAL_GRACE);
        let none = SubscribeToX509sviDsResponse::default();
        assert_eq!(follower.take(&none), Offered::Nothing);
        let issue = issued(&pod(), "billing");
        follower.sender.send_modify(|standing| standing.issue = issue);
        let unreadable =
            SubscribeToX509sviDsResponse { x509_svids: vec![X509svidWithKey::default()], ..none };
        assert_eq!(follower.take(&unreadable), Offered::Unusable);
        let standing = receiver.borrow().clone();
        assert!(matches!(standing.issue, Issue::Issued(_)));
        assert_eq!(standing.trouble, Some(Trouble::Unreadable));
    }
}
