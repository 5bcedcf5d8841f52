//! The state of `vsecm-csi` in one line, on a socket of its own: what the kubelet's probes ask.

use std::{
    fmt, io,
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use tokio::{io::AsyncWriteExt, net::UnixListener, sync::watch, time::sleep};
use vsecm_node_agent_api::client::FIRST_PAUSE;

/// What this process does now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Another pod has the turn.
    StandingBy,
    /// The volumes are being taken over.
    Starting,
    /// What the kubelet said.
    NotRegistered(String),
    /// The kubelet knows the driver.
    Serving,
}

impl State {
    fn is_ready(&self) -> bool {
        matches!(self, Self::StandingBy | Self::Serving)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StandingBy => f.write_str("standing by: another pod serves this node"),
            Self::Starting => f.write_str("starting: taking the volumes over from the keeper"),
            Self::NotRegistered(why) => write!(f, "not registered: {}", why.escape_debug()),
            Self::Serving => f.write_str("serving"),
        }
    }
}

/// What is known of this process.
#[derive(Clone, Debug)]
struct Facts {
    phase: Phase,
    /// What the kubelet said; an error is why it does not know the driver.
    registration: Result<(), String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    StandingBy,
    Starting,
    Up,
}

impl Facts {
    fn state(&self) -> State {
        match (self.phase, &self.registration) {
            (Phase::StandingBy, _) => State::StandingBy,
            (Phase::Starting, _) => State::Starting,
            (Phase::Up, Err(why)) => State::NotRegistered(why.clone()),
            (Phase::Up, Ok(())) => State::Serving,
        }
    }
}

/// The state, for all who change or tell it.
#[derive(Clone, Debug)]
pub(crate) struct Health(watch::Sender<Facts>);

impl Default for Health {
    fn default() -> Self {
        let registration = Err("the kubelet has not come yet".to_owned());
        Self(watch::Sender::new(Facts { phase: Phase::Starting, registration }))
    }
}

impl Health {
    fn change(&self, change: impl FnOnce(&mut Facts)) {
        self.0.send_modify(|facts| {
            let before = facts.state();
            change(facts);
            let now = facts.state();
            if now != before {
                tracing::info!("{now}");
            }
        });
    }

    /// Another pod has the turn.
    pub(crate) fn stands_by(&self) {
        self.change(|facts| facts.phase = Phase::StandingBy);
    }

    /// The volumes are being taken over.
    pub(crate) fn starts(&self) {
        self.change(|facts| facts.phase = Phase::Starting);
    }

    /// The volumes are there.
    pub(crate) fn is_up(&self) {
        self.change(|facts| facts.phase = Phase::Up);
    }

    /// The kubelet knows the driver, or why not.
    pub(crate) fn registration(&self, said: Result<(), String>) {
        self.change(|facts| facts.registration = said);
    }

    /// Answers every connection with one line, for ever.
    pub(crate) async fn tell(self, listener: UnixListener) {
        loop {
            let Ok((mut stream, _)) = listener.accept().await else {
                sleep(FIRST_PAUSE).await;
                continue;
            };
            let state = self.0.borrow().state();
            let ready = if state.is_ready() { READY } else { "not ready" };
            // a line always has room in a fresh socket: nobody is waited for
            let _gone = stream.write_all(format!("{ready}: {state}\n").as_bytes()).await.is_err();
        }
    }
}

const READY: &str = "ready";

/// Asks the running `vsecm-csi` for its state. Exit code 0 if it is what was asked for.
#[derive(Debug, clap::Parser)]
#[command(bin_name = "vsecm-csi probe")]
pub struct Probe {
    /// What is asked
    question: Question,
    /// Where it answers
    #[arg(long, env = "VSECM_CSI_HEALTH_SOCKET")]
    health_socket: PathBuf,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Question {
    /// It answers
    Live,
    /// It stands by, or the kubelet has registered it
    Ready,
}

/// An answer takes no time; a probe of the kubelet takes 1 s by default.
const PATIENCE: Duration = Duration::from_secs(5);

impl Probe {
    /// Prints the sentence.
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        let path = self.health_socket.display();
        let line = ask(&self.health_socket).with_context(|| format!("no answer at {path}"))?;
        writeln!(io::stdout(), "{line}")?;
        let fits = matches!(self.question, Question::Live) || line.starts_with(READY);
        Ok(if fits { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn ask(path: &Path) -> io::Result<String> {
    let stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let line = BufReader::new(stream).lines().next();
    line.unwrap_or_else(|| Err(io::ErrorKind::UnexpectedEof.into()))
}

#[cfg(test)]
mod tests {
    use tokio::task::spawn_blocking;
    use vsecm_node_agent_api::channel::listen_alone;

    use super::*;

    #[tokio::test]
    async fn a_probe_hears_the_state_and_whether_it_is_ready() {
        type Step = fn(&Health);
        let dir = tempfile::tempdir().unwrap();
        let (health, path) = (Health::default(), dir.path().join("health"));
        let (listener, _name) = listen_alone(&path).unwrap();
        tokio::spawn(health.clone().tell(listener));
        let steps: [(Step, &str); 6] = [
            (|_| {}, "not ready: starting: taking the volumes over from the keeper"),
            (Health::stands_by, "ready: standing by: another pod serves this node"),
            (Health::starts, "not ready: starting: taking the volumes over from the keeper"),
            (Health::is_up, "not ready: not registered: the kubelet has not come yet"),
            (|h| h.registration(Err("no\n".to_owned())), "not ready: not registered: no\\n"),
            (|h| h.registration(Ok(())), "ready: serving"),
        ];
        for (step, answer) in steps {
            step(&health);
            for (question, fits) in
                [(Question::Live, true), (Question::Ready, answer.starts_with(READY))]
            {
                let path = path.clone();
                let heard = spawn_blocking(move || {
                    let probe = Probe { question, health_socket: path.clone() };
                    (ask(&path).unwrap(), probe.run().unwrap())
                });
                let (line, code) = heard.await.unwrap();
                assert_eq!(line, answer);
                assert_eq!(code == ExitCode::SUCCESS, fits, "{question:?}: {line}");
            }
        }
    }

    #[test]
    fn a_probe_of_nobody_fails_with_a_sentence() {
        let probe =
            Probe { question: Question::Live, health_socket: PathBuf::from("/nowhere/health") };
        assert_eq!(probe.run().unwrap_err().to_string(), "no answer at /nowhere/health");
    }
}
