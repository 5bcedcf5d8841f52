//! Reports under this process's own identity: which pods are there, and which wait.

use std::{sync::Arc, time::Duration};

use futures_util::stream;
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tonic::{Code, Status, Streaming};
use tracing::{debug, info, warn};
use vsecm_node_agent_api::volume::PodUid;
use vsecm_safe_api::{
    client::{ClientError, chain, channel},
    proto::{NodeReport, NodeReportResponse, PodReport, Waiting, nodes_client::NodesClient},
    wire::timestamp,
};

use super::{Means, Reports};
use crate::{
    backoff::Backoff,
    volumes::{Presence, Volumes},
};

/// Between a change and the report of it: a node whose pods all start makes few reports.
const LULL: Duration = Duration::from_millis(200);

/// Connection, handshake and the beginning of the answer together.
const OPEN_WAIT: Duration = Duration::from_secs(15);

/// Bytes of the pods of one page; Safe takes 16 KiB, and one pod has 3 KiB at most.
const PAGE: usize = 12 * 1024;

/// Bytes of a sentence: a thousand pods that wait fit into one report.
const SENTENCE: usize = 700;

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("Safe did not answer within {} seconds", OPEN_WAIT.as_secs())]
    Silent,
    #[error("Safe refused or failed")]
    Status(#[source] Box<Status>),
    #[error("Safe ended the stream")]
    Ended,
}

impl From<Status> for Broken {
    fn from(status: Status) -> Self {
        Self::Status(Box::new(status))
    }
}

impl Broken {
    /// Whether it is the end of this process's certificate, as comes to each stream.
    fn is_expiry(&self) -> bool {
        matches!(self, Self::Status(status) if status.code() == Code::Unauthenticated)
    }
}

impl Reports {
    /// Reports whatever changes. Never ends.
    pub(super) async fn report(self: Arc<Self>, means: Means, volumes: Arc<Volumes>) {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        let mut said: Option<String> = None;
        loop {
            let broken = match self.stream(&means, &volumes, &mut backoff, &mut said).await {
                Ok(never) => match never {},
                Err(broken) => broken,
            };
            let reason = chain(&broken);
            if broken.is_expiry() || said.as_ref() == Some(&reason) {
                debug!(reason, "reports to Safe begin anew");
            } else {
                warn!(reason, "Safe is not told which pods wait, until it can be asked again");
                said = Some(reason);
            }
            sleep(backoff.pause()).await;
        }
    }

    async fn stream(
        &self,
        means: &Means,
        volumes: &Volumes,
        backoff: &mut Backoff,
        said: &mut Option<String>,
    ) -> Result<std::convert::Infallible, Broken> {
        let mut tls = means.tls.clone();
        // it is kept as long as this process lives
        let base = tls.wait_for(Option::is_some).await.ok().and_then(|base| base.clone());
        let Some(base) = base else { return Err(Broken::Ended) };
        let mut client = NodesClient::new(channel(&means.address, base.own())?);
        let (pages, receiver) = mpsc::channel(1);
        let pages_of = |mut receiver: mpsc::Receiver<NodeReport>| async move {
            let page = receiver.recv().await?;
            Some((page, receiver))
        };
        let opened = client.report(stream::unfold(receiver, pages_of));
        let opened = timeout(OPEN_WAIT, opened).await.map_err(|_elapsed| Broken::Silent)?;
        let mut answers: Streaming<NodeReportResponse> = opened?.into_inner();
        let mut told: Option<Vec<Presence>> = None;
        loop {
            let present = volumes.presence();
            if told.as_ref() != Some(&present) {
                for page in paged(&means.node, &self.origin(), &present) {
                    pages.send(page).await.map_err(|_closed| Broken::Ended)?;
                }
                let answer = answers.message().await?.ok_or(Broken::Ended)?;
                backoff.reset();
                if said.take().is_some() {
                    info!("Safe is told again which pods wait");
                }
                self.are_unknown(unknown(&present, &answer.missing));
                told = Some(present);
            }
            tokio::select! {
                () = self.changed.notified() => sleep(LULL).await,
                // none is due: only an end comes
                ended = answers.message() => drop(ended?.ok_or(Broken::Ended)?),
            }
        }
    }
}

/// The pods that Safe lacks, by their number.
fn unknown(present: &[Presence], missing: &[u32]) -> Vec<PodUid> {
    let of = |number: &u32| present.get(usize::try_from(*number).ok()?);
    missing.iter().filter_map(of).map(|presence| presence.pod.uid.clone()).collect()
}

fn paged(node: &str, origin: &str, present: &[Presence]) -> Vec<NodeReport> {
    let page = |pods| NodeReport { node: node.into(), origin: origin.into(), pods, more: true };
    let mut pages = Vec::new();
    let (mut pods, mut bytes) = (Vec::new(), 0);
    for presence in present {
        let pod = pod_report(presence);
        let length = prost::Message::encoded_len(&pod);
        if bytes + length > PAGE {
            pages.push(page(std::mem::take(&mut pods)));
            bytes = 0;
        }
        bytes += length;
        pods.push(pod);
    }
    pages.push(NodeReport { more: false, ..page(pods) });
    pages
}

fn pod_report(presence: &Presence) -> PodReport {
    let Presence { pod, secret, shows, waiting } = presence;
    let waiting = waiting.as_ref().map(|waiting| Waiting {
        since: Some(timestamp(waiting.since.into())),
        reason: waiting.wait.label().to_owned(),
        sentence: plain(&waiting.sentence),
    });
    PodReport {
        namespace: pod.namespace.to_string(),
        name: pod.name.to_string(),
        service_account: pod.service_account.to_string(),
        key: secret.as_ref().map(Into::into),
        shows: *shows,
        waiting,
    }
}

/// As Safe takes it: bounded, in one line.
fn plain(sentence: &str) -> String {
    let mut plain = String::new();
    for character in sentence.chars().map(|c| if c.is_control() { ' ' } else { c }) {
        if plain.len() + character.len_utf8() > SENTENCE {
            break;
        }
        plain.push(character);
    }
    plain
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::{identity::tests::pod, volumes::Lack, wait::Wait};

    fn presence(sentence: &str) -> Presence {
        let waiting = Lack {
            since: SystemTime::UNIX_EPOCH,
            wait: Wait::NoEntry,
            sentence: sentence.to_owned(),
        };
        Presence { pod: pod(), secret: None, shows: false, waiting: Some(waiting) }
    }

    #[test]
    fn a_report_of_a_thousand_pods_comes_in_pages_that_safe_takes() {
        let present: Vec<_> = (0..1000).map(|_| presence(&"x".repeat(2000))).collect();
        let pages = paged("node-1", "origin", &present);
        let (last, others) = pages.split_last().unwrap();
        assert!(!last.more && others.iter().all(|page| page.more) && others.len() > 10);
        assert_eq!(pages.iter().map(|page| page.pods.len()).sum::<usize>(), 1000);
        for page in &pages {
            assert!(prost::Message::encoded_len(page) < 16 * 1024);
        }
        let none = paged("node-1", "origin", &[]);
        assert_eq!((none.len(), none[0].more), (1, false), "that there is no pod is said, too");
    }

    #[test]
    fn a_sentence_is_one_line_and_bounded() {
        assert_eq!(plain("a\nb\u{1b}[31m"), "a b [31m");
        assert!(plain(&"ä".repeat(1000)).len() <= SENTENCE);
    }

    #[test]
    fn the_pods_that_safe_lacks_are_named_by_their_number() {
        let mut other = presence("");
        other.pod.uid = "4567".parse().unwrap();
        let present = [presence(""), other];
        assert_eq!(unknown(&present, &[1, 7]), ["4567".parse().unwrap()]);
    }
}
