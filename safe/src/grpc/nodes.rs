//! `Nodes`: node agents say, under an identity of their own, which pods are there and which wait.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures_util::{Stream, stream};
use time::OffsetDateTime;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::sleep,
};
use tonic::{Request, Response, Status, Streaming, body::Body};
use vsecm_safe_api::proto::{NodeReport, NodeReportResponse, nodes_server::Nodes};

use super::{About, Caller, Services, status, watching::until};
use crate::{
    deliveries::{Pod, ReportError, Taken, Token, Withdrawn, claimed},
    places::OF_NODE_AGENTS,
    policy::Action,
};

/// One page of a report: what a stream that says nothing whole can make this process hold.
pub(super) const PAGE_LIMIT: usize = 16 * 1024;
/// After a whole report the next is not read for this long: nobody keeps this process busy with it.
const PACE: Duration = Duration::from_millis(100);

pub(super) struct NodesService {
    services: Arc<Services>,
    streams: Arc<Semaphore>,
}

impl NodesService {
    pub(super) fn new(services: Arc<Services>) -> Self {
        Self { services, streams: Arc::new(Semaphore::new(OF_NODE_AGENTS)) }
    }
}

/// Checks the role before a body is read.
pub(super) fn admit(
    services: &Services,
    request: http::Request<Body>,
) -> Result<http::Request<Body>, Status> {
    let (mut head, body) = request.into_parts();
    let caller = Caller::new(&head)?;
    services.listens_to(&caller)?;
    head.extensions.insert(caller);
    Ok(http::Request::from_parts(head, body))
}

type Answers = Pin<Box<dyn Stream<Item = Result<NodeReportResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Nodes for NodesService {
    type ReportStream = Answers;

    async fn report(
        &self,
        request: Request<Streaming<NodeReport>>,
    ) -> Result<Response<Answers>, Status> {
        let caller = request.extensions().get::<Caller>().cloned();
        let caller =
            caller.ok_or_else(|| Status::permission_denied("the call was not admitted"))?;
        let place = Arc::clone(&self.streams).try_acquire_owned();
        let reporting = Reporting {
            services: Arc::clone(&self.services),
            caller,
            pages: request.into_inner(),
            from: None,
            number: 0,
            is_over: false,
            _place: place.map_err(|_full| Status::resource_exhausted("too many reports"))?,
        };
        Ok(Response::new(Box::pin(stream::unfold(reporting, Reporting::answer))))
    }
}

/// One stream of reports.
struct Reporting {
    services: Arc<Services>,
    caller: Caller,
    pages: Streaming<NodeReport>,
    from: Option<From>,
    number: u64,
    is_over: bool,
    _place: OwnedSemaphorePermit,
}

/// Who reports.
struct From {
    stream: (Token, u64),
    context: String,
}

impl Reporting {
    async fn answer(mut self) -> Option<(Result<NodeReportResponse, Status>, Self)> {
        if self.is_over {
            return None;
        }
        if self.number > 0 {
            sleep(PACE).await;
        }
        match self.whole().await {
            Ok(Some(Taken { missing, withdrawn: _ })) => {
                self.number += 1;
                let number = self.number;
                Some((Ok(NodeReportResponse { number, missing }), self))
            }
            // the drop says so
            Ok(None) => None,
            Err(refusal) => {
                self.is_over = true;
                self.audit(refusal.message());
                Some((Err(refusal), self))
            }
        }
    }

    /// The next whole report; `None` at the stream's end.
    async fn whole(&mut self) -> Result<Option<Taken>, Status> {
        loop {
            let page = tokio::select! {
                biased;
                () = self.services.stop.cancelled() => {
                    return Err(Status::unavailable("Safe is shutting down"));
                }
                () = until(self.caller.peer.not_after) => {
                    self.caller.check_expiry()?;
                    continue;
                }
                page = self.pages.message() => page,
            };
            match page {
                Ok(Some(page)) => {
                    self.caller.check_expiry()?;
                    if let Some(taken) = self.take(page)? {
                        return Ok(Some(taken));
                    }
                }
                // it went away in the midst of a call: as good as an end
                Ok(None) => return Ok(None),
                Err(broken) if broken.code() == tonic::Code::OutOfRange => return Err(broken),
                Err(_broken) => return Ok(None),
            }
        }
    }

    fn take(&mut self, page: NodeReport) -> Result<Option<Taken>, Status> {
        let now = OffsetDateTime::now_utc();
        let NodeReport { node, origin, pods, more } = page;
        let stream = match &self.from {
            Some(from) => from.stream,
            None => self.begin(&node, &origin, now)?,
        };
        let pods: Result<Vec<Pod>, ReportError> = pods.into_iter().map(Pod::try_from).collect();
        let pods = pods.map_err(|e| status::from_report(&e))?;
        // only whole reports are paced
        if more && pods.is_empty() {
            return Err(Status::invalid_argument("a page that is not the last has a pod"));
        }
        let taken = self.services.deliveries.registry().page(stream, pods, more, now);
        let taken = taken.map_err(status::from_page)?;
        for Withdrawn { id, delivery } in taken.iter().flat_map(|taken| &taken.withdrawn) {
            let node = &delivery.node;
            let context = format!("{id}, which claimed to be on node {node}");
            let about = About {
                secret: Some(&delivery.key),
                revision: Some(delivery.revision),
                context: &context,
            };
            self.caller.audit(Action::Report, &about, "withdrawn");
        }
        Ok(taken)
    }

    fn begin(
        &mut self,
        node: &str,
        origin: &str,
        now: OffsetDateTime,
    ) -> Result<(Token, u64), Status> {
        claimed("node", node).map_err(|e| status::from_report(&e))?;
        let origin = origin.parse::<Token>();
        let origin = origin.map_err(|e| Status::invalid_argument(format!("origin: {e}")))?;
        let stream = self.services.deliveries.registry().open(origin, node, now);
        let stream = stream.map_err(|e| status::from_page(e.into()))?;
        let context = format!("claims to be on node {node}");
        self.from = Some(From { stream: (origin, stream), context });
        self.audit("opened");
        Ok((origin, stream))
    }

    fn audit(&self, outcome: &str) {
        let context = self.from.as_ref().map_or("", |from| &from.context);
        self.caller.audit(Action::Report, &About { context, ..About::default() }, outcome);
    }
}

impl Drop for Reporting {
    fn drop(&mut self) {
        if let Some(from) = &self.from {
            self.services.deliveries.registry().close(from.stream, OffsetDateTime::now_utc());
        }
        if !self.is_over {
            self.audit("closed by the caller");
        }
    }
}
