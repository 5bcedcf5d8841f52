//! Deliveries and waiting pods for the wire, in parts that a client takes by default.

use futures_util::stream;
use tonic::Status;
use vsecm_safe_api::{
    proto::{self, ListDeliveriesResponse},
    wire,
};

use crate::deliveries::{Delivered, Waits};

/// Rows of a part: those that wait have up to 2.5 KiB, and a client takes 4 MiB by default.
const PART: usize = 1_000;

pub(super) type Listing = stream::Iter<std::vec::IntoIter<Result<ListDeliveriesResponse, Status>>>;

pub(super) fn of(deliveries: &[Delivered], waiting: &[Waits]) -> Listing {
    let mut parts = Vec::new();
    for rows in deliveries.chunks(PART) {
        let deliveries = rows.iter().map(delivery).collect();
        parts.push(Ok(ListDeliveriesResponse { deliveries, waiting: Vec::new() }));
    }
    for rows in waiting.chunks(PART) {
        let waiting = rows.iter().map(waits).collect();
        parts.push(Ok(ListDeliveriesResponse { deliveries: Vec::new(), waiting }));
    }
    stream::iter(parts)
}

fn delivery(delivered: &Delivered) -> proto::Delivery {
    let Delivered { id, delivery, as_of } = delivered;
    proto::Delivery {
        key: Some((&delivery.key).into()),
        spiffe_id: id.to_string(),
        pod: delivery.pod.as_ref().map(ToString::to_string).unwrap_or_default(),
        revision: delivery.revision.0,
        is_empty: delivery.is_empty,
        acknowledged: Some(wire::timestamp(delivery.at)),
        node: delivery.node.clone(),
        as_of: as_of.map(wire::timestamp),
    }
}

fn waits(waits: &Waits) -> proto::WaitingPod {
    let Waits { pod, node, as_of } = waits;
    let (namespace, name) = &pod.name;
    let waiting = pod.waiting.as_ref().map(|waiting| proto::Waiting {
        since: Some(wire::timestamp(waiting.since)),
        reason: waiting.reason.clone(),
        sentence: waiting.sentence.clone(),
    });
    proto::WaitingPod {
        namespace: namespace.to_string(),
        name: name.to_string(),
        service_account: pod.service_account.clone(),
        key: pod.key.as_ref().map(Into::into),
        waiting,
        node: node.clone(),
        as_of: as_of.map(wire::timestamp),
    }
}
