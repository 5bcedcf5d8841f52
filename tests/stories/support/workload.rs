//! A workload that speaks to Safe itself.

use std::time::Duration;

use spiffe::SpiffeId;
use tonic::{Code, Status, Streaming, transport::Channel};
use vsecm_safe_api::{
    proto::{self, secrets_client::SecretsClient},
    state::State,
};
use vsecm_tests::{
    Playground,
    authority::{Svid, ca::Lifetime},
};

use super::attacker;

/// A workload's SPIFFE ID in every playground.
pub(crate) fn id(name: &str, namespace: &str) -> SpiffeId {
    format!("spiffe://vsecm.com/workload/{name}/ns/{namespace}/sa/default/n/story").parse().unwrap()
}

/// An SVID for a workload that lasts as long as a story may.
pub(crate) fn svid(playground: &Playground, name: &str, namespace: &str) -> Svid {
    let lifetime = Lifetime::Once(Duration::from_hours(1));
    playground.authority().issue(&id(name, namespace), lifetime).unwrap()
}

/// A client that shows `svid`, or no certificate.
pub(crate) fn client(playground: &Playground, svid: Option<&Svid>) -> SecretsClient<Channel> {
    let address = attacker::address(playground);
    SecretsClient::new(attacker::channel(&address, svid.map(Into::into)))
        .max_decoding_message_size(4 << 20)
}

/// What Safe answers a client.
pub(crate) async fn fetch(client: &mut SecretsClient<Channel>) -> Result<State, Status> {
    let answer = client.fetch(proto::FetchRequest {}).await?.into_inner();
    Ok(State::try_from(answer.state).unwrap())
}

/// Opens a watch of one who has nothing.
pub(crate) async fn watch(
    client: &mut SecretsClient<Channel>,
) -> Result<Streaming<proto::WatchResponse>, Status> {
    let opened = client.watch(proto::WatchRequest { have: None }).await?;
    Ok(opened.into_inner())
}

/// The next state of a watch; `None` at its end.
pub(crate) async fn next(
    stream: &mut Streaming<proto::WatchResponse>,
) -> Result<Option<State>, Status> {
    let message = stream.message().await?;
    Ok(message.map(|m| State::try_from(m.state).unwrap()))
}

/// The document of a state.
pub(crate) fn document(state: &State) -> Option<&[u8]> {
    match state {
        State::Present(snapshot) => Some(snapshot.document.expose()),
        State::Absent(_) => None,
    }
}

/// Whether TLS was refused: the server judges a certificate after the client's handshake is over,
/// so the client hears of it as a broken connection.
pub(crate) fn is_broken_connection(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal)
}
