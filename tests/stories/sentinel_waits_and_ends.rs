//! Sentinel's pod is ready exactly while `safe` can be run in it, says in a sentence what is
//! missing, and ends at once when it is asked to.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use spiffe::SpiffeId;
use vsecm_tests::{
    Component, Options,
    authority::{ca::Lifetime, entry::Entry},
    awaiting, binaries,
    story::{self, SOON, Story},
};

const HOUR: Lifetime = Lifetime::Renewed(Duration::from_hours(1));

/// `vsecm-sentinel` beside a playground, with what `safe` has there.
struct Sentinel {
    process: Child,
    log: PathBuf,
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        // it has ended where the story came to its end
        let _killed = self.process.kill();
        let _reaped = self.process.wait();
    }
}

impl Sentinel {
    fn start(story: &Story) -> Self {
        let log = story.folder().join("logs/vsecm-sentinel.log");
        let process = Command::new(binaries::built().unwrap().join("vsecm-sentinel"))
            .env_clear()
            .envs(story.operator_environment())
            .env("VSECM_PROBE_LIVENESS_PORT", "127.0.0.1:0")
            .env("VSECM_PROBE_READINESS_PORT", "127.0.0.1:0")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Self { process, log }
    }

    fn log(&self) -> Vec<Value> {
        let log = fs::read_to_string(&self.log).unwrap();
        log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// How often the log has this sentence.
    fn said(&self, text: &str) -> usize {
        self.log().iter().filter(|line| line.to_string().contains(text)).count()
    }

    async fn address(&self, probe: &str) -> SocketAddr {
        let stated = || self.log().iter().find_map(|line| line.get(probe)?.as_str()?.parse().ok());
        awaiting::value("the address of a probe", SOON, stated).await.unwrap()
    }

    /// Waits until readiness is answered so.
    async fn answers(&self, status: u16, part: &str) {
        let at = self.address("readiness").await;
        let mut last = None;
        let what = format!("{status} with {part:?}");
        let asked = awaiting::until(&what, SOON, || {
            let answer = ask(at);
            let is_it = answer.0 == status && answer.1.contains(part);
            last = Some(answer);
            is_it
        });
        let asked = asked.await;
        assert!(asked.is_ok(), "{asked:?}; the last answer was {last:?}");
    }

    async fn ends(mut self, signal: Signal) -> ExitStatus {
        kill(Pid::from_raw(self.process.id().cast_signed()), signal).unwrap();
        let ended = || self.process.try_wait().unwrap();
        awaiting::value("the end of sentinel", Duration::from_secs(2), ended).await.unwrap()
    }
}

fn ask(at: SocketAddr) -> (u16, String) {
    let mut stream = TcpStream::connect(at).unwrap();
    stream.write_all(b"GET /any/path HTTP/1.1\r\nHost: probe\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// SPIRE knows sentinel as `id` from now on.
fn known_as(story: &Story, id: &str, lifetime: Lifetime) {
    let id = SpiffeId::new(id).unwrap();
    let entry = Entry::new(id, story.selectors_of(Component::Sentinel), lifetime);
    story.authority().put_entry(Component::Sentinel.name(), entry).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_ready_exactly_while_the_cli_has_an_identity_and_a_token() {
    let patience = "VSECM_SAFE_SOURCE_ACQUISITION_TIMEOUT".to_owned();
    let environment = vec![(Component::Sentinel, patience, "1000".to_owned())];
    let options = Options { environment, ..Options::default() };
    let story = story::start_with(options).await.unwrap();
    let own = story.identity_of(Component::Sentinel).unwrap().to_string();
    let sentinel = Sentinel::start(&story);
    sentinel.answers(200, "OK").await;
    let listed = story.safe(&["-l"], b"").await.unwrap();
    assert_eq!(listed.code, Some(0), "{listed:?}");

    let stranger = "spiffe://vsecm.com/workload/web/ns/default/sa/web/n/web-1";
    for (id, said) in [
        (stranger, "which VSECM_SPIFFEID_PREFIX_SENTINEL does not take for sentinel"),
        ("spiffe://elsewhere.org/x", "spiffe://elsewhere.org/x, which is not of the trust domain"),
    ] {
        known_as(&story, id, HOUR);
        sentinel.answers(503, said).await;
    }
    assert!(story.authority().remove_entry(Component::Sentinel.name()));
    sentinel.answers(503, "SPIRE has no entry for this pod").await;
    let refused = story.safe(&["-l"], b"").await.unwrap();
    assert_eq!(refused.code, Some(3), "{refused:?}");
    known_as(&story, &own, Lifetime::Once(Duration::from_secs(2)));
    sentinel.answers(200, "OK").await;
    sentinel.answers(503, "has expired at").await;
    known_as(&story, &own, HOUR);
    sentinel.answers(200, "OK").await;

    let token = story.layout().token();
    let aside = token.with_extension("aside");
    fs::rename(&token, &aside).unwrap();
    sentinel
        .answers(
            503,
            &format!("cannot be read: No such file or directory (os error 2), {}", token.display()),
        )
        .await;
    fs::write(&token, "\n").unwrap();
    sentinel.answers(503, "is blank").await;
    fs::rename(&aside, &token).unwrap();
    sentinel.answers(200, "OK").await;

    assert_eq!(ask(sentinel.address("liveness").await), (200, "OK\n".to_owned()));
    assert_eq!(sentinel.said("is blank"), 1, "each change is logged once");
    assert_eq!(sentinel.said("SPIRE has no entry"), 1, "each change is logged once");
    assert_eq!(sentinel.ends(Signal::SIGTERM).await.code(), Some(0));
    story.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn among_several_identities_cli_and_pod_take_sentinels() {
    let story = story::start().await.unwrap();
    // before sentinel's own in the order of entries, as where every pod has an entry of its own
    for (entry, id) in [
        ("a", "spiffe://vsecm.com/ns/vsecm-system/sa/vsecm-sentinel"),
        ("z", "spiffe://vsecm.com/z"),
    ] {
        let entry_of =
            Entry::new(SpiffeId::new(id).unwrap(), story.selectors_of(Component::Sentinel), HOUR);
        story.authority().put_entry(entry, entry_of).unwrap();
    }
    let sentinel = Sentinel::start(&story);
    sentinel.answers(200, "OK").await;
    let listed = story.safe(&["-l"], b"").await.unwrap();
    assert_eq!(listed.code, Some(0), "{listed:?}");
    assert_eq!(sentinel.ends(Signal::SIGINT).await.code(), Some(0));
    story.end().await.unwrap();
}

/// What `safe` says where Safe is not to be had, as in a cluster where it is not ready yet: each in
/// one sentence, with the exit code that scripts go by.
#[tokio::test(flavor = "multi_thread")]
async fn the_cli_says_in_a_sentence_why_safe_is_not_to_be_had() {
    let story = story::start().await.unwrap();
    let unknown = ["-l", "--safe-url", "https://vsecm-safe.invalid:8443/"];
    let said = story.safe(&unknown, b"").await.unwrap();
    assert_eq!(said.code, Some(3), "{said:?}");
    for part in ["cannot talk to Safe at vsecm-safe.invalid:8443", "lookup", "check that Safe runs"]
    {
        assert!(said.stderr.contains(part), "{}", said.stderr);
    }
    let sentences = said.stderr.lines().filter(|line| line.starts_with("safe: "));
    assert_eq!(sentences.count(), 1, "{}", said.stderr);

    let digest = story.layout().token_digest();
    let aside = digest.with_extension("aside");
    fs::rename(&digest, &aside).unwrap();
    let said = story.safe(&["-l"], b"").await.unwrap();
    assert_eq!(said.code, Some(1), "{said:?}");
    for part in ["the token cannot be checked now", "run the command again"] {
        assert!(said.stderr.contains(part), "{}", said.stderr);
    }
    fs::rename(&aside, &digest).unwrap();

    story.stop(Component::Safe).await.unwrap();
    let said = story.safe(&["-l"], b"").await.unwrap();
    assert_eq!(said.code, Some(3), "{said:?}");
    for part in ["cannot talk to Safe at", "refused", "check that Safe runs"] {
        assert!(said.stderr.contains(part), "{}", said.stderr);
    }
    story.start_component(Component::Safe).await.unwrap();
    story.end().await.unwrap();
}
