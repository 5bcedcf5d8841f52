//! Who has what, and who waits; pure: `now` is always passed in.
//!
//! A delivery was proved with the pod's own SVID. That a pod is gone, or waits, is a node agent's
//! word, and all node agents have one SPIFFE ID. What binds a delivery to the one that speaks for
//! it is the origin, which that one made up and cites in acknowledgements and reports alike: who
//! does not know it can neither withdraw the delivery nor replace the report. The node's name is
//! for people.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use time::{Duration, OffsetDateTime};
use vsecm_safe_api::{
    name::{Namespace, PodName, SecretKey},
    position::{Revision, Shown},
};

use super::{
    report::{Pod, Report},
    token::Token,
};

/// Deliveries at once: pods of a cluster, by Kubernetes' own bound.
const DELIVERIES: usize = 150_000;
/// Node agents at once: nodes of a cluster, by Kubernetes' own bound, and those that went lately.
const ORIGINS: usize = 8_192;
/// What one report costs at most: of a thousand pods that all wait, with long names.
const REPORT_BYTES: usize = 2 * 1024 * 1024;
/// What all cost together. One who fills this keeps others' waiting pods off the list, and no more.
const ALL_BYTES: usize = 16 * 1024 * 1024;

/// An acknowledgement may overtake the report that lists its pod by this much.
const SETTLES: Duration = Duration::seconds(10);
/// The pods of a node that does not report are taken to wait still for this long.
const GRACE: Duration = Duration::minutes(1);
/// Deliveries for which nobody speaks any more are forgotten after this.
const FORGOTTEN: Duration = Duration::days(1);
/// How often is looked for what is to be forgotten.
const SWEEP: Duration = Duration::seconds(10);

/// Why something is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// No room for more deliveries.
    #[error("Safe keeps {DELIVERIES} deliveries already")]
    Deliveries,
    /// No room for more node agents.
    #[error("{ORIGINS} node agents report already")]
    Origins,
    /// This report.
    #[error("a report may have {REPORT_BYTES} bytes")]
    Report,
    /// All reports.
    #[error("all reports together have {ALL_BYTES} bytes already")]
    Reports,
}

/// Why a page of a report is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// No room.
    #[error(transparent)]
    Full(#[from] Full),
    /// The same node agent has dialled again.
    #[error("a newer stream of the same node agent reports")]
    Superseded,
}

/// An acknowledgement that was found good.
#[derive(Clone, Debug)]
pub struct Acknowledged {
    /// By whom.
    pub id: Arc<str>,
    /// Of which secret.
    pub key: SecretKey,
    /// Which pod that is, if its SPIFFE ID says so.
    pub pod: Option<PodName>,
    /// What it shows.
    pub shown: Shown,
    /// On which node, as was claimed.
    pub node: String,
    /// Who may speak for it.
    pub origin: Option<Token>,
}

/// What a pod shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Of which secret.
    pub key: SecretKey,
    /// The pod, if its SPIFFE ID names it.
    pub pod: Option<PodName>,
    /// Which write.
    pub revision: Revision,
    /// Whether it is that there is no content.
    pub is_empty: bool,
    /// When it was acknowledged.
    pub at: OffsetDateTime,
    /// On which node, as was claimed.
    pub node: String,
    origin: Option<Token>,
    standing: Standing,
}

/// What the reports of a delivery's origin say of its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// None has listed it yet.
    New,
    /// One has: the next that does not withdraws it.
    Listed,
}

/// A delivery with its SPIFFE ID, and since when nobody speaks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// The SPIFFE ID.
    pub id: Arc<str>,
    /// What is delivered.
    pub delivery: Delivery,
    /// Nobody has spoken for it since; none while its node agent reports.
    pub as_of: Option<OffsetDateTime>,
}

/// A pod that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waits {
    /// What was reported of it.
    pub pod: Pod,
    /// The node, as was claimed.
    pub node: String,
    /// Its node agent has not reported since; none while it does.
    pub as_of: Option<OffsetDateTime>,
}

/// A delivery that is no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Withdrawn {
    /// The SPIFFE ID.
    pub id: Arc<str>,
    /// What it was.
    pub delivery: Delivery,
}

/// What became of a whole report.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Its pods, by their number, that have acknowledged nothing to this registry.
    pub missing: Vec<u32>,
    /// Deliveries that it ended.
    pub withdrawn: Vec<Withdrawn>,
}

/// How much there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Pods that show something.
    pub deliveries: usize,
    /// Pods that wait.
    pub waiting: usize,
    /// Node agents that report.
    pub reporting: usize,
}

/// What one node agent says.
#[derive(Debug, Default)]
struct Origin {
    node: String,
    stream: Option<u64>,
    ended: Option<OffsetDateTime>,
    has_reported: bool,
    report: Report,
    pending: Vec<Pod>,
    pending_bytes: usize,
    ids: HashSet<Arc<str>>,
}

impl Origin {
    /// Nothing is lost with it.
    fn is_empty(&self) -> bool {
        self.stream.is_none() && self.ids.is_empty() && self.report.bytes == 0
    }
}

/// All that node agents and their pods say.
#[derive(Debug)]
pub struct Registry {
    deliveries: HashMap<Arc<str>, Delivery>,
    origins: HashMap<Token, Origin>,
    bytes: usize,
    streams: u64,
    swept: OffsetDateTime,
}

impl Default for Registry {
    fn default() -> Self {
        Self {
            deliveries: HashMap::new(),
            origins: HashMap::new(),
            bytes: 0,
            streams: 0,
            swept: OffsetDateTime::UNIX_EPOCH,
        }
    }
}

impl Registry {
    /// Keeps what a pod shows now.
    ///
    /// # Errors
    /// [`Full`].
    pub fn acknowledge(&mut self, said: Acknowledged, now: OffsetDateTime) -> Result<(), Full> {
        let Acknowledged { id, key, pod, shown, node, origin } = said;
        self.sweep(now);
        if !self.deliveries.contains_key(&id) && self.deliveries.len() >= DELIVERIES {
            return Err(Full::Deliveries);
        }
        let is_new = origin.is_some_and(|origin| !self.origins.contains_key(&origin));
        if is_new && self.origins.len() >= ORIGINS {
            return Err(Full::Origins);
        }
        self.remove(&id);
        let mut standing = Standing::New;
        if let Some(token) = origin {
            self.forget_namesakes(token, &key.namespace, pod.as_ref());
            let origin = self.origins.entry(token).or_default();
            origin.ids.insert(Arc::clone(&id));
            if origin.stream.is_some() && origin.report.lists(&key, pod.as_ref()) {
                standing = Standing::Listed;
            }
        }
        let delivery = Delivery {
            key,
            pod,
            revision: shown.revision,
            is_empty: shown.digest.is_none(),
            at: now,
            node,
            origin,
            standing,
        };
        self.deliveries.insert(id, delivery);
        Ok(())
    }

    /// A pod that has another identity now has no longer what it had under the one before.
    fn forget_namesakes(&mut self, origin: Token, namespace: &Namespace, pod: Option<&PodName>) {
        let (Some(pod), Some(origin)) = (pod, self.origins.get(&origin)) else { return };
        let is_namesake = |id: &&Arc<str>| {
            self.deliveries.get(*id).is_some_and(|delivery| {
                delivery.pod.as_ref() == Some(pod) && delivery.key.namespace == *namespace
            })
        };
        let namesakes: Vec<_> = origin.ids.iter().filter(is_namesake).cloned().collect();
        for id in namesakes {
            self.remove(&id);
        }
    }

    fn remove(&mut self, id: &Arc<str>) -> Option<Withdrawn> {
        let delivery = self.deliveries.remove(id)?;
        if let Some(token) = delivery.origin
            && let Some(origin) = self.origins.get_mut(&token)
        {
            origin.ids.remove(id);
            if origin.is_empty() {
                self.origins.remove(&token);
            }
        }
        Some(Withdrawn { id: Arc::clone(id), delivery })
    }

    /// A node agent begins to report; it is told from an earlier stream of its own by the number.
    ///
    /// # Errors
    /// [`Full::Origins`].
    pub fn open(&mut self, token: Token, node: &str, now: OffsetDateTime) -> Result<u64, Full> {
        self.sweep(now);
        if !self.origins.contains_key(&token) && self.origins.len() >= ORIGINS {
            return Err(Full::Origins);
        }
        self.streams += 1;
        let origin = self.origins.entry(token).or_default();
        node.clone_into(&mut origin.node);
        origin.stream = Some(self.streams);
        // until its first report is whole, nothing is known
        origin.has_reported = false;
        origin.pending.clear();
        self.bytes -= std::mem::take(&mut origin.pending_bytes);
        Ok(self.streams)
    }

    /// Takes a part of a report; with the last part, the whole report.
    ///
    /// # Errors
    /// [`PageError`].
    pub fn page(
        &mut self,
        (token, stream): (Token, u64),
        pods: Vec<Pod>,
        more: bool,
        now: OffsetDateTime,
    ) -> Result<Option<Taken>, PageError> {
        self.sweep(now);
        let origin = self.origins.get_mut(&token).filter(|o| o.stream == Some(stream));
        let origin = origin.ok_or(PageError::Superseded)?;
        let bytes: usize = pods.iter().map(Pod::bytes).sum();
        if origin.pending_bytes + bytes > REPORT_BYTES {
            return Err(Full::Report.into());
        }
        if self.bytes + bytes > ALL_BYTES {
            return Err(Full::Reports.into());
        }
        self.bytes += bytes;
        origin.pending_bytes += bytes;
        origin.pending.extend(pods);
        if more {
            return Ok(None);
        }
        let pods = std::mem::take(&mut origin.pending);
        let missing = missing(&self.deliveries, origin, &pods);
        self.bytes -= std::mem::replace(&mut origin.report, Report::of(pods)).bytes;
        origin.pending_bytes = 0;
        origin.has_reported = true;
        let mut gone = Vec::new();
        for id in &origin.ids {
            let Some(delivery) = self.deliveries.get_mut(id) else { continue };
            if origin.report.lists(&delivery.key, delivery.pod.as_ref()) {
                delivery.standing = Standing::Listed;
            } else if delivery.standing == Standing::Listed {
                gone.push(Arc::clone(id));
            }
        }
        let withdrawn = gone.iter().filter_map(|id| self.remove(id)).collect();
        Ok(Some(Taken { missing, withdrawn }))
    }

    /// A stream of reports has ended. What it said stays for a while.
    pub fn close(&mut self, (token, stream): (Token, u64), now: OffsetDateTime) {
        let Some(origin) = self.origins.get_mut(&token).filter(|o| o.stream == Some(stream)) else {
            return;
        };
        origin.stream = None;
        origin.ended = Some(now);
        origin.pending.clear();
        self.bytes -= std::mem::take(&mut origin.pending_bytes);
        if origin.is_empty() {
            self.origins.remove(&token);
        }
    }

    /// Who has what and who waits, of one secret or of all, in order.
    pub fn list(
        &mut self,
        key: Option<&SecretKey>,
        now: OffsetDateTime,
    ) -> (Vec<Delivered>, Vec<Waits>) {
        self.sweep_now(now);
        let is_wanted = |of: Option<&SecretKey>| key.is_none() || of == key;
        let mut deliveries: Vec<_> = self
            .deliveries
            .iter()
            .filter(|(_, delivery)| is_wanted(Some(&delivery.key)))
            .map(|(id, delivery)| Delivered {
                id: Arc::clone(id),
                delivery: delivery.clone(),
                as_of: self.as_of(delivery),
            })
            .collect();
        deliveries.sort_by(|a, b| (&a.delivery.key, &a.id).cmp(&(&b.delivery.key, &b.id)));
        let mut waiting: Vec<_> = self
            .origins
            .values()
            .flat_map(|origin| origin.report.waiting.iter().map(move |pod| (origin, pod)))
            .filter(|(_, pod)| is_wanted(pod.key.as_ref()))
            .map(|(origin, pod)| Waits {
                pod: pod.clone(),
                node: origin.node.clone(),
                as_of: if origin.stream.is_some() { None } else { origin.ended },
            })
            .collect();
        waiting.sort_by(|a, b| (&a.pod.name, &a.node).cmp(&(&b.pod.name, &b.node)));
        (deliveries, waiting)
    }

    /// How much there is.
    pub fn counts(&mut self, now: OffsetDateTime) -> Counts {
        self.sweep(now);
        Counts {
            deliveries: self.deliveries.len(),
            waiting: self.origins.values().map(|origin| origin.report.waiting.len()).sum(),
            reporting: self.origins.values().filter(|origin| origin.stream.is_some()).count(),
        }
    }

    /// Since when nobody speaks for the delivery; none while somebody does.
    fn as_of(&self, delivery: &Delivery) -> Option<OffsetDateTime> {
        match delivery.origin.and_then(|token| self.origins.get(&token)) {
            Some(Origin { stream: Some(_), .. }) => None,
            Some(Origin { ended: Some(ended), .. }) => Some(delivery.at.max(*ended)),
            _never => Some(delivery.at),
        }
    }

    fn sweep(&mut self, now: OffsetDateTime) {
        // a clock that was set back is no reason never to look again
        if (now - self.swept).abs() >= SWEEP {
            self.sweep_now(now);
        }
    }

    /// Forgets what is over.
    fn sweep_now(&mut self, now: OffsetDateTime) {
        self.swept = now;
        for origin in self.origins.values_mut() {
            if origin.stream.is_none() && origin.ended.is_some_and(|ended| ended + GRACE <= now) {
                self.bytes -= std::mem::take(&mut origin.report).bytes;
            }
        }
        let is_over = |delivery: &Delivery| {
            if let Some(as_of) = self.as_of(delivery) {
                return as_of + FORGOTTEN <= now;
            }
            let origin = delivery.origin.and_then(|token| self.origins.get(&token));
            delivery.standing == Standing::New
                && delivery.at + SETTLES <= now
                && origin.is_some_and(|origin| {
                    origin.has_reported
                        && !origin.report.lists(&delivery.key, delivery.pod.as_ref())
                })
        };
        let over = self.deliveries.iter().filter(|(_, delivery)| is_over(delivery));
        let over: Vec<_> = over.map(|(id, _)| Arc::clone(id)).collect();
        for id in &over {
            self.remove(id);
        }
        self.origins.retain(|_, origin| !origin.is_empty());
    }
}

/// Which of a report's pods show something that its origin has no delivery for.
fn missing(deliveries: &HashMap<Arc<str>, Delivery>, origin: &Origin, pods: &[Pod]) -> Vec<u32> {
    let own = || origin.ids.iter().filter_map(|id| deliveries.get(id));
    let named: HashSet<_> =
        own().filter_map(|d| Some((&d.key.namespace, d.pod.as_ref()?))).collect();
    let unnamed: HashSet<_> = own().filter(|d| d.pod.is_none()).map(|d| &d.key).collect();
    let is_missing = |pod: &Pod| {
        let (namespace, name) = &pod.name;
        let is_known = named.contains(&(namespace, name))
            || pod.key.as_ref().is_some_and(|key| unnamed.contains(key));
        pod.shows && !is_known
    };
    let numbered = (0..).zip(pods);
    numbered.filter(|(_, pod)| is_missing(pod)).map(|(number, _)| number).collect()
}

#[cfg(test)]
mod tests;
