//! What somebody has who is root on a node: the place of any process there, as SPIRE's agent sees
//! it. The agent goes by the caller's pid and its control groups.

use std::{
    fmt, fs,
    os::{fd::OwnedFd, unix::net::UnixStream as Pair},
    path::PathBuf,
    process::{Command, Stdio},
    thread,
};

use hyper_util::rt::TokioIo;
use spire_api::pb::spire::api::{
    agent::delegatedidentity::v1::{
        SubscribeToX509sviDsRequest, SubscribeToX509sviDsResponse,
        delegated_identity_client::DelegatedIdentityClient,
    },
    types::Selector,
};
use tokio::{net::UnixStream, time::timeout};
use tonic::{
    Streaming,
    transport::{Channel, Endpoint, Uri},
};

use super::{awaiting::SOON, created::Created, part::Part};

/// Where node-agent's container has SPIRE's admin socket.
const ADMIN: &str = "/spire-admin-socket/admin.sock";

const RELAY: &str = env!("CARGO_BIN_EXE_vsecm-relay");

/// Enters the groups and the pid namespace, then joins the socket to its input.
const ENTER: &str = r#"for group in $1; do echo $$ > "$group" || exit 1; done
exec nsenter --target "$2" --pid -- "$3" "$4""#;

/// A container that somebody has taken.
#[derive(Clone, Debug)]
pub(crate) struct Taken {
    pid: i32,
    groups: String,
}

/// An SVID with its key.
#[derive(Clone)]
pub(crate) struct Loot {
    pub(crate) id: String,
    pub(crate) certificate: Vec<u8>,
    pub(crate) key: Vec<u8>,
}

impl fmt::Debug for Loot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id)
    }
}

impl Taken {
    /// Takes a container on a node.
    #[track_caller]
    pub(crate) fn of(part: Part, node: &str) -> Self {
        let pid = *part.processes(Some(node)).first().expect("the container runs");
        Self { pid, groups: groups(pid) }
    }

    /// What SPIRE's agent says of these selectors to the container, for as long as one listens.
    pub(crate) async fn asks(
        &self,
        selectors: &[String],
    ) -> Streaming<SubscribeToX509sviDsResponse> {
        let selector = |value: &String| Selector { r#type: "k8s".to_owned(), value: value.clone() };
        let selectors = selectors.iter().map(selector).collect();
        let request = SubscribeToX509sviDsRequest { selectors, pid: 0 };
        let mut client = DelegatedIdentityClient::new(self.dial().await);
        client
            .subscribe_to_x509svi_ds(request)
            .await
            .expect("node-agent is a delegate")
            .into_inner()
    }

    /// The first identity for these selectors.
    pub(crate) async fn gets(&self, selectors: &[String]) -> Loot {
        let mut stream = self.asks(selectors).await;
        let first = async {
            loop {
                let message = stream.message().await.expect("SPIRE's agent answers");
                if let Some(loot) = loot(message.expect("the stream goes on")).pop() {
                    return loot;
                }
            }
        };
        timeout(SOON, first).await.unwrap_or_else(|_| panic!("no identity for {selectors:?}"))
    }

    async fn dial(&self) -> Channel {
        let Self { pid, groups } = self.clone();
        let dial = tower::service_fn(move |_: Uri| {
            let (ours, theirs) = Pair::pair().expect("a pair of sockets");
            let mut relay = Command::new("sh")
                .args(["-c", ENTER, "sh", &groups, &pid.to_string(), RELAY])
                .arg(format!("/proc/{pid}/root{ADMIN}"))
                .stdin(Stdio::from(OwnedFd::from(theirs)))
                .spawn()
                .expect("sh");
            // it ends when our end is closed
            thread::spawn(move || relay.wait());
            ours.set_nonblocking(true).expect("a socket");
            async { UnixStream::from_std(ours).map(TokioIo::new) }
        });
        // the address is never looked at: the connector knows where to go
        let endpoint = Endpoint::from_static("http://unix");
        endpoint.connect_with_connector(dial).await.expect("SPIRE's admin socket")
    }
}

/// What a message has.
pub(crate) fn loot(message: SubscribeToX509sviDsResponse) -> Vec<Loot> {
    let taken = message.x509_svids.into_iter().map(|with_key| {
        let svid = with_key.x509_svid.expect("an SVID");
        let id = svid.id.expect("its SPIFFE ID");
        Loot {
            id: format!("spiffe://{}{}", id.trust_domain, id.path),
            certificate: svid.cert_chain[0].to_vec(),
            key: with_key.x509_svid_key.to_vec(),
        }
    });
    taken.collect()
}

/// All that a container can be known by at SPIRE.
pub(crate) fn selectors(pod: &Created, container: &str, account: &str) -> Vec<String> {
    vec![
        format!("ns:{}", pod.namespace()),
        format!("sa:{account}"),
        format!("pod-name:{}", pod.name()),
        format!("pod-uid:{}", pod.uid()),
        format!("node-name:{}", pod.node()),
        format!("container-name:{container}"),
    ]
}

/// The files that take a process into the control groups of another, but for memory: what the
/// relay needs is not to be counted there.
fn groups(pid: i32) -> String {
    let lines = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("/proc/PID/cgroup");
    let files = lines.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        if controllers == "memory" {
            return None;
        }
        let name = controllers.trim_start_matches("name=");
        let mounts = ["/sys/fs/cgroup/".to_owned() + name, "/sys/fs/cgroup/unified".to_owned()];
        let files = mounts.map(|mount| PathBuf::from(format!("{mount}{path}/cgroup.procs")));
        files.into_iter().find(|file| file.exists())
    });
    files.map(|file| file.display().to_string()).collect::<Vec<_>>().join(" ")
}
