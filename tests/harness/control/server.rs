//! The side of `up`.

use std::{fs, io, os::unix::fs::PermissionsExt as _, path::Path, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream, unix::OwnedWriteHalf},
    task::JoinSet,
};

use super::{PodInfo, PodName, Reply, Request, Wait};
use crate::{
    Playground, PlaygroundError,
    kubelet::{Phase, Pod, PodError, spec::PodSpec},
};

/// A publish call that is held can last two minutes, and a deletion awaits it.
const DELETION_LIMIT: Duration = Duration::from_secs(150);

/// The listening socket.
#[derive(Debug)]
pub(crate) struct Control(UnixListener);

impl Control {
    /// Listens at `path`; only we and root may come.
    pub(crate) fn listen(path: &Path) -> io::Result<Self> {
        match fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        Ok(Self(listener))
    }
}

/// Serves requests until it is dropped.
pub(crate) async fn serve(control: &Control, playground: &Arc<Playground>) {
    let mut conversations = JoinSet::new();
    loop {
        tokio::select! {
            accepted = control.0.accept() => match accepted {
                Ok((stream, _)) => {
                    let playground = Arc::clone(playground);
                    conversations.spawn(async move {
                        // whoever asked and went away needs no answer
                        let _gone: io::Result<()> = converse(stream, &playground).await;
                    });
                }
                Err(error) => tracing::warn!(%error, "a request was not accepted"),
            },
            Some(_) = conversations.join_next() => {}
        }
    }
}

async fn converse(stream: UnixStream, playground: &Playground) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    BufReader::new(read).read_line(&mut line).await?;
    let reply = match serde_json::from_str(&line) {
        Ok(request) => answer(request, playground, &mut write)
            .await
            .unwrap_or_else(|error| Reply::Failed(error.to_string())),
        Err(error) => Reply::Failed(format!("the request is not understood: {error}")),
    };
    send(&mut write, &reply).await
}

async fn send(write: &mut OwnedWriteHalf, reply: &Reply) -> io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    write.write_all(&line).await
}

async fn answer(
    request: Request,
    playground: &Playground,
    write: &mut OwnedWriteHalf,
) -> Result<Reply, PlaygroundError> {
    match request {
        Request::Create { spec, wait } => create(playground, spec, wait, write).await,
        Request::Delete(PodName { namespace, name }) => {
            let pod = playground.pod(&namespace, &name)?;
            playground.delete_pod(&pod, DELETION_LIMIT).await?;
            Ok(Reply::Done)
        }
        Request::List => {
            let pods = playground.pods();
            let infos = pods.iter().map(|pod| describe(playground, pod));
            Ok(Reply::Pods(infos.collect()))
        }
        Request::Describe(PodName { namespace, name }) => {
            let pod = playground.pod(&namespace, &name)?;
            Ok(Reply::Pod(describe(playground, &pod)))
        }
    }
}

async fn create(
    playground: &Playground,
    spec: PodSpec,
    wait: Wait,
    write: &mut OwnedWriteHalf,
) -> Result<Reply, PlaygroundError> {
    let pod = playground.create_pod(spec)?;
    if wait == Wait::ForVolume {
        follow(&pod, write).await?;
    }
    Ok(Reply::Pod(describe(playground, &pod)))
}

/// Waits until the volume is there, or whoever asked has gone: the pod stays.
async fn follow(pod: &Pod, write: &mut OwnedWriteHalf) -> Result<(), PlaygroundError> {
    let mut told = None;
    loop {
        let state = pod.state();
        match state.phase {
            Phase::Ready => return Ok(()),
            Phase::Gone => {
                let PodSpec { namespace, name, .. } = pod.spec().clone();
                return Err(PodError::Unknown { namespace, name }.into());
            }
            Phase::Publishing | Phase::Pausing => {}
        }
        if state.event != told {
            told.clone_from(&state.event);
            let sentence = state.event.clone().unwrap_or_default();
            if send(write, &Reply::Progress(sentence)).await.is_err() {
                return Ok(());
            }
        }
        pod.changed(&state).await;
    }
}

fn describe(playground: &Playground, pod: &Pod) -> PodInfo {
    let spec = pod.spec();
    let state = pod.state();
    let words = match state.phase {
        Phase::Ready => "ready",
        Phase::Publishing | Phase::Pausing => "waiting",
        Phase::Gone => "deleted",
    };
    PodInfo {
        name: PodName { namespace: spec.namespace.clone(), name: spec.name.clone() },
        workload: spec.workload.clone(),
        state: words.to_owned(),
        event: state.event.filter(|_| state.phase != Phase::Ready),
        volume: pod.path().to_owned(),
        link: playground.layout().pod_link(&spec.namespace, &spec.name),
        identity_socket: pod.identity_socket().to_owned(),
    }
}
