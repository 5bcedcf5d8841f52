//! The story of the system for a reader, told by the system itself: each step is verified, and one
//! that does not hold ends the demo.

mod reader;
mod steps;
mod telling;

use std::{io, time::Duration};

use tokio::time::Instant;

use self::telling::Teller;
use crate::{
    Component, Options, Playground, PlaygroundError,
    awaiting::{RotationError, TooLate},
    kubelet::PodError,
    namespace::Home,
    users::Users,
};

/// Why the demo ended before its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DemoError {
    /// The playground.
    #[error(transparent)]
    Playground(#[from] PlaygroundError),
    /// A pod.
    #[error(transparent)]
    Pod(#[from] PodError),
    /// A rotation.
    #[error(transparent)]
    Rotation(#[from] RotationError),
    /// Something else that did not come.
    #[error(transparent)]
    TooLate(#[from] TooLate),
    /// A claim does not hold.
    #[error("this does not hold: {claim} (found: {found})")]
    DoesNotHold {
        /// What should be so.
        claim: &'static str,
        /// What is so.
        found: String,
    },
    /// A file or a command of the demo.
    #[error("cannot {what}")]
    Io {
        /// What was to be done.
        what: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}

/// What no step may take.
const SOON: Duration = Duration::from_secs(20);

/// The value of the first act.
const FIRST: &str = r#"{"username":"admin","password":"correct horse"}"#;

/// Tells the story.
pub(crate) async fn run(home: Home) -> Result<(), DemoError> {
    let folder = tempfile::Builder::new().prefix("vsecm-").tempdir();
    let folder = folder.map_err(io_error("make a temporary folder"))?;
    let options = Options { hold: Duration::from_secs(2), ..Options::default() };
    let mut teller = Teller::default();
    Teller::title(
        "VSecM on one machine: real processes, mutual TLS by SPIFFE identity, FUSE volumes",
    )?;
    Teller::detail("DEVELOPMENT IDENTITIES of a CA made just now: for trying things out only")?;
    let begun = Instant::now();
    let started = tokio::select! {
        started = Playground::start(folder.path(), options) => started?,
        () = interrupted() => return Err(DemoError::Interrupted),
    };
    introduce(&mut teller, &started, home, begun.elapsed())?;
    let outcome = tokio::select! {
        outcome = steps::all(&mut teller, &started) => outcome,
        () = interrupted() => Err(DemoError::Interrupted),
    };
    let ended = started.shutdown().await;
    drop(started);
    let path = folder.path().to_owned();
    if let Err(error) = outcome.and(ended.map_err(DemoError::from)) {
        // what the components wrote tells why
        let kept = folder.keep().join("logs").display().to_string();
        Teller::detail(&format!("The demo ends here; its logs are kept in {kept}"))?;
        return Err(error);
    }
    folder.close().map_err(io_error("remove the temporary folder"))?;
    if path.exists() {
        let found = path.display().to_string();
        let claim = "the folder of the playground is gone";
        return Err(DemoError::DoesNotHold { claim, found });
    }
    teller.step("Cleaned up: no process, no mount, no socket, no file is left")
}

fn introduce(
    teller: &mut Teller,
    playground: &Playground,
    home: Home,
    took: Duration,
) -> Result<(), DemoError> {
    let processes = Component::RUNNING.map(Component::binary).join(", ");
    teller.step(&format!("Started in {} ms: {processes}", took.as_millis()))?;
    let users = match playground.users() {
        Users::Own => "each with a user of its own",
        Users::Single => "with one user id for all, told apart by executable",
    };
    let home = match home {
        Home::Here => "",
        Home::OwnNamespace => ", in a user namespace, without root",
    };
    Teller::detail(&format!("{users}{home}; node-agent serves without any capability"))
}

async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};

    let listen =
        || Ok::<_, io::Error>((signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?));
    match listen() {
        Ok((mut interrupt, mut terminate)) => tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        },
        Err(error) => {
            tracing::warn!(%error, "signals are not listened to");
            std::future::pending::<()>().await;
        }
    }
}

fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> DemoError {
    let what = what.into();
    move |source| DemoError::Io { what, source }
}
