//! csi and keeper as real processes: who serves, who stands by, what a probe hears.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};
use vsecm_csi::proto::{
    registration::{
        InfoRequest, RegistrationStatus, registration_client::RegistrationClient as Registration,
    },
    v1::{NodeGetInfoRequest, NodeGetVolumeStatsRequest, node_client::NodeClient},
};

const CSI: &str = env!("CARGO_BIN_EXE_vsecm-csi");
const KEEPER: &str = env!("CARGO_BIN_EXE_vsecm-keeper");
const SOON: Duration = Duration::from_secs(20);

/// Waits until something is there. No state of another process can be awaited otherwise.
fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + SOON;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "{what} never came");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A process that ends with its test.
struct Process(Child);

impl Process {
    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), signal).unwrap();
    }

    fn ended(&mut self) -> Option<i32> {
        until("the process's end", || self.0.try_wait().unwrap()).code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ended = self.0.kill().and_then(|()| self.0.wait()).is_err();
    }
}

struct Node(tempfile::TempDir);

impl Node {
    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn keeper(&self) -> (PathBuf, Process) {
        let folder = self.at("run/keeper");
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        let owner = format!("{}:{}", uid.as_raw(), gid.as_raw());
        let mut prepare = Command::new(KEEPER);
        prepare.arg("prepare").arg(&folder).args(["--owner", &owner]);
        assert!(prepare.status().unwrap().success());
        let (socket, own) = (folder.join("keeper.sock"), format!("uid:{}", uid.as_raw()));
        let mut command = Command::new(KEEPER);
        command.env("VSECM_KEEPER_SOCKET", &socket);
        command.args(["--csi-peer", &own, "--node-agent-peer", &own]);
        let process = Process(command.spawn().unwrap());
        until("the keeper's sign of life", || {
            let mut probe = Command::new(KEEPER);
            probe.arg("probe").arg("--socket").arg(&socket).stderr(Stdio::null());
            probe.status().unwrap().success().then_some(())
        });
        (socket, process)
    }

    /// csi of a pod; the pod's name is what it calls the node.
    fn csi(&self, pod: &str) -> Command {
        fs::create_dir_all(self.at("kubelet/pods")).unwrap();
        let own = format!("uid:{}", rustix::process::geteuid().as_raw());
        let mut command = Command::new(CSI);
        command
            .env("CSI_ENDPOINT", format!("unix://{}", self.at("csi.sock").display()))
            .env("VSECM_CSI_REGISTRATION_SOCKET", self.at("node@csi.vsecm.com-reg.sock"))
            .env("VSECM_KUBELET_DIR", self.at("kubelet"))
            .env("VSECM_NODE_NAME", pod)
            .env("VSECM_NODE_AGENT_SOCKET", self.at("node-agent.sock"))
            .env("VSECM_NODE_AGENT_PEER", &own)
            .env("VSECM_KEEPER_SOCKET", self.at("run/keeper/keeper.sock"))
            .env("VSECM_KEEPER_PEER", &own)
            .env("VSECM_NODE_LOCK", self.at("lock"))
            .env("VSECM_POD_UID", format!("uid-of-{pod}"))
            .env("VSECM_CSI_HEALTH_SOCKET", self.at(pod))
            .env("VSECM_CSI_LEAVE_NETWORK", "true")
            .env("VSECM_VOLUME_ENFORCED", "mode=0440\nlayout=files\n");
        command
    }

    fn start(&self, pod: &str) -> Process {
        Process(self.csi(pod).spawn().unwrap())
    }

    fn probe(&self, pod: &str, question: &str) -> (bool, String) {
        // as the kubelet does it: with the container's own environment
        let mut command = self.csi(pod);
        let Output { status, stdout, .. } = command.args(["probe", question]).output().unwrap();
        (status.success(), String::from_utf8(stdout).unwrap().trim_end().to_owned())
    }

    fn until_ready(&self, pod: &str, sentence: &str) {
        until(sentence, || (self.probe(pod, "ready") == (true, sentence.to_owned())).then_some(()));
    }
}

async fn dial(socket: &Path) -> Channel {
    let endpoint = Endpoint::try_from(format!("unix://{}", socket.display())).unwrap();
    endpoint.connect().await.unwrap()
}

async fn who_serves(node: &Node) -> String {
    who_answers(&node.at("csi.sock")).await
}

async fn who_answers(socket: &Path) -> String {
    let mut client = NodeClient::new(dial(socket).await);
    client.node_get_info(NodeGetInfoRequest {}).await.unwrap().into_inner().node_id
}

/// `GetInfo` with the path as authority, as the kubelet's library says it; the first frame that
/// is an answer to it: 1 are headers, 3 is a refusal.
fn ask_like_the_kubelet(socket: &Path) -> u8 {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let mut block = b"\x83\x86".to_vec();
    for (field, value) in [
        (&b"\x44"[..], "/pluginregistration.Registration/GetInfo"),
        (b"\x41", "%2Fvar%2Flib%2Fkubelet%2Fplugins_registry%2Fnode@csi.vsecm.com-reg.sock"),
        (b"\x5f", "application/grpc"),
        (b"\x40\x02te", "trailers"),
    ] {
        block.extend(field);
        block.push(u8::try_from(value.len()).unwrap());
        block.extend(value.bytes());
    }
    let length = u8::try_from(block.len()).unwrap();
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    bytes.extend([0, 0, length, 1, 4, 0, 0, 0, 1]);
    bytes.extend(block);
    bytes.extend(b"\0\0\x05\0\x01\0\0\0\x01\0\0\0\0\0");
    stream.write_all(&bytes).unwrap();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).unwrap();
        let [_, a, b, kind, _, _, _, _, number] = head;
        let mut payload = vec![0; usize::from(a) << 8 | usize::from(b)];
        stream.read_exact(&mut payload).unwrap();
        if number == 1 {
            return kind;
        }
    }
}

async fn register(node: &Node, plugin_registered: bool, error: &str) {
    let mut kubelet = Registration::new(dial(&node.at("node@csi.vsecm.com-reg.sock")).await);
    let info = kubelet.get_info(InfoRequest {}).await.unwrap().into_inner();
    assert_eq!((info.name.as_str(), info.endpoint.into()), ("csi.vsecm.com", node.at("csi.sock")));
    let status = RegistrationStatus { plugin_registered, error: error.to_owned() };
    kubelet.notify_registration_status(status).await.unwrap();
}

// the channels to csi must be able to close while the test waits
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn one_pod_serves_and_the_next_takes_over_when_it_dies() {
    let node = Node(tempfile::tempdir().unwrap());
    let mut first = node.start("a");
    let starting = "not ready: starting: taking the volumes over from the keeper";
    until("csi", || (node.probe("a", "live") == (true, starting.to_owned())).then_some(()));
    // neither keeper nor node-agent is there, and the kubelet is answered all the same
    let registration = node.at("node@csi.vsecm.com-reg.sock");
    until("the registration socket", || registration.exists().then_some(()));
    let soon = tokio::time::timeout(Duration::from_secs(1), async {
        let mut kubelet = Registration::new(dial(&registration).await);
        kubelet.get_info(InfoRequest {}).await.unwrap().into_inner().name
    });
    assert_eq!(soon.await.expect("the kubelet waits for a second"), "csi.vsecm.com");
    let registered = tokio::spawn({
        let socket = node.at("csi.sock");
        async move { who_answers(&socket).await }
    });
    assert_eq!(node.probe("a", "ready"), (false, starting.to_owned()));
    let mut kubelet = NodeClient::new(dial(&node.at("csi.sock")).await);
    let stats = NodeGetVolumeStatsRequest {
        volume_id: "csi-1".to_owned(),
        volume_path: node.at("x").display().to_string(),
        ..Default::default()
    };
    let unknown = kubelet.node_get_volume_stats(stats).await.unwrap_err();
    assert_eq!(unknown.code(), Code::Unavailable, "it is not known yet what is there");
    assert!(!registered.is_finished(), "no pod is to come here yet");
    let (_, _keeper) = node.keeper();
    assert_eq!(registered.await.unwrap(), "a");
    until("the volumes", || (node.probe("a", "ready").1 != starting).then_some(()));

    assert_eq!(ask_like_the_kubelet(&registration), 1);
    let waiting = "not ready: not registered: the kubelet has not come yet";
    assert_eq!(node.probe("a", "ready"), (false, waiting.to_owned()));
    register(&node, false, "no such plugin").await;
    let refused = "not ready: not registered: no such plugin";
    assert_eq!(node.probe("a", "ready"), (false, refused.to_owned()));
    register(&node, true, "").await;
    assert_eq!(node.probe("a", "ready"), (true, "ready: serving".to_owned()));
    let devices = fs::read_to_string(format!("/proc/{}/net/dev", first.0.id())).unwrap();
    assert_eq!(devices.lines().skip(2).count(), 1, "{devices}");

    let standing_by = "ready: standing by: another pod serves this node";
    let (mut second, mut third) = (node.start("b"), node.start("c"));
    node.until_ready("b", standing_by);
    node.until_ready("c", standing_by);
    third.signal(Signal::SIGTERM);
    assert_eq!(third.ended(), Some(0));
    assert_eq!(who_serves(&node).await, "a");
    first.signal(Signal::SIGKILL);
    assert_eq!(first.ended(), None);
    until("the successor", || node.probe("b", "ready").1.contains("not registered").then_some(()));
    assert_eq!(who_serves(&node).await, "b");
    register(&node, true, "").await;
    node.until_ready("b", "ready: serving");

    second.signal(Signal::SIGTERM);
    assert_eq!(second.ended(), Some(0));
    assert!(!node.at("csi.sock").exists() && !registration.exists());
    assert!(!node.probe("b", "live").0, "nobody answers");
}

#[test]
fn rules_that_no_pod_could_follow_end_csi_before_it_touches_anything() {
    let node = Node(tempfile::tempdir().unwrap());
    for (rules, said) in [
        ("mode=0999", "the volume attribute mode cannot be used: a mode is three or four octal"),
        ("audits=on", "volumeAttributes has \"audits\""),
        ("mode", "is not attribute=value"),
    ] {
        let ended = node.csi("a").env("VSECM_VOLUME_ENFORCED", rules).output().unwrap();
        assert_eq!(ended.status.code(), Some(2));
        let text = String::from_utf8(ended.stderr).unwrap();
        assert!(text.contains(said), "{text}");
        assert!(!node.at("lock").exists() && !node.at("a").exists());
    }
}
