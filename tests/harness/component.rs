//! The components and how each is started.

use std::{
    fmt, fs, io,
    net::SocketAddr,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use crate::{layout::Layout, users::Users};

/// The trust domain of every playground.
pub const TRUST_DOMAIN: &str = "vsecm.com";

/// A part of the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Component {
    /// Holds the descriptors.
    Keeper,
    /// Holds the secrets.
    Safe,
    /// Serves the volumes; its first process is its supervisor.
    NodeAgent,
    /// Mounts the volumes.
    Csi,
    /// The operator's CLI: not a process that runs on.
    Sentinel,
}

impl Component {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Keeper, Self::Safe, Self::NodeAgent, Self::Csi, Self::Sentinel];

    /// Those that run on, in the order in which they are started.
    pub const RUNNING: [Self; 4] = [Self::Keeper, Self::Safe, Self::NodeAgent, Self::Csi];

    /// Short name, as in logs/NAME.log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Keeper => "keeper",
            Self::Safe => "safe",
            Self::NodeAgent => "node-agent",
            Self::Csi => "csi",
            Self::Sentinel => "sentinel",
        }
    }

    /// Name of the executable.
    pub fn binary(self) -> &'static str {
        match self {
            Self::Keeper => "vsecm-keeper",
            Self::Safe => "vsecm-safe",
            Self::NodeAgent => "vsecm-node-agent",
            Self::Csi => "vsecm-csi",
            Self::Sentinel => "safe",
        }
    }

    /// Path of its SPIFFE ID; csi and keeper have none.
    pub(crate) fn spiffe_path(self) -> Option<&'static str> {
        match self {
            Self::Keeper | Self::Csi => None,
            Self::Safe => Some("/workload/vsecm-safe/ns/vsecm-system/sa/vsecm-safe/n/vsecm-safe-0"),
            Self::Sentinel => Some(
                "/workload/vsecm-sentinel/ns/vsecm-system/sa/vsecm-sentinel/n/vsecm-sentinel-0",
            ),
            Self::NodeAgent => Some("/vsecm-node-agent"),
        }
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.binary())
    }
}

/// How the components of a playground are set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long csi holds a publish call whose secret is missing. A cluster has 110 s; here it is
    /// shorter, so that the reason is shown sooner.
    pub hold: Duration,
    /// Lifetime of SVIDs, which are renewed at half of it.
    pub svid_lifetime: Duration,
    /// `RUST_LOG` of the components.
    pub log_filter: String,
    /// Name of the node.
    pub node_name: String,
    /// More environment for a component, which wins over what it would have.
    pub environment: Vec<(Component, String, String)>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            hold: Duration::from_secs(20),
            svid_lifetime: Duration::from_mins(1),
            log_filter: "info".to_owned(),
            node_name: "playground".to_owned(),
            environment: Vec::new(),
        }
    }
}

/// All that a command line is made from.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) layout: Layout,
    pub(crate) users: Users,
    pub(crate) options: Options,
    pub(crate) binaries: PathBuf,
    pub(crate) safe_address: SocketAddr,
}

pub(crate) fn endpoint(path: &Path) -> String {
    format!("unix://{}", path.display())
}

impl Setup {
    /// The command that runs `component`, which writes to its log.
    pub(crate) fn command(&self, component: Component) -> io::Result<Command> {
        let log = self.layout.log(component);
        let log = fs::OpenOptions::new().append(true).create(true).open(log)?;
        let mut command = Command::new(self.binaries.join(component.binary()));
        command
            .env_clear()
            .env("RUST_LOG", &self.options.log_filter)
            .env("RUST_BACKTRACE", "1")
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        match component {
            Component::Keeper => self.keeper(&mut command),
            Component::Safe => self.safe(&mut command),
            Component::NodeAgent => self.node_agent(&mut command),
            Component::Csi => self.csi(&mut command),
            Component::Sentinel => {
                command.envs(self.operator_environment());
            }
        }
        // node-agent gives its user up itself, after its supervisor has started
        if component != Component::NodeAgent
            && let Some(ids) = self.users.ids(component)
        {
            command.uid(ids.uid).gid(ids.gid);
        }
        for (of, key, value) in &self.options.environment {
            if *of == component {
                command.env(key, value);
            }
        }
        Ok(command)
    }

    fn keeper(&self, command: &mut Command) {
        command
            .arg("--socket")
            .arg(self.layout.keeper_socket())
            .args(["--csi-peer", &self.users.peer(Component::Csi)])
            .args(["--node-agent-peer", &self.users.peer(Component::NodeAgent)]);
    }

    fn safe(&self, command: &mut Command) {
        let layout = &self.layout;
        let own = endpoint(&layout.workload_socket(Component::Safe));
        command
            .env("SPIFFE_ENDPOINT_SOCKET", own)
            .env("SPIFFE_TRUST_DOMAIN", TRUST_DOMAIN)
            .env("VSECM_SAFE_TLS_PORT", self.safe_address.to_string())
            .env("VSECM_SAFE_DATA_PATH", layout.safe_data())
            .env("VSECM_ROOT_KEY_PATH", layout.root_key())
            .env("VSECM_SAFE_ADMIN_TOKEN_DIGEST_FILE", layout.token_digest());
    }

    fn node_agent(&self, command: &mut Command) {
        let layout = &self.layout;
        let own = endpoint(&layout.workload_socket(Component::NodeAgent));
        command
            .arg("supervise")
            .arg("--socket")
            .arg(layout.node_agent_socket())
            .arg("--keeper-socket")
            .arg(layout.keeper_socket())
            .args(["--csi-peer", &self.users.peer(Component::Csi)])
            .args(["--keeper-peer", &self.users.peer(Component::Keeper)])
            .args(["--spire-admin-socket", &endpoint(&layout.admin_socket())])
            .args(["--node-name", &self.options.node_name])
            .env("SPIFFE_ENDPOINT_SOCKET", own)
            .env("SPIFFE_TRUST_DOMAIN", TRUST_DOMAIN)
            .env("VSECM_SAFE_ENDPOINT_URL", self.safe_url())
            // stories kill it more often than it would die
            .env("VSECM_MOST_RESTARTS", "1000000");
        if let Some(ids) = self.users.ids(Component::NodeAgent) {
            command.args(["--run-as", &format!("{}:{}", ids.uid, ids.gid)]);
        }
    }

    fn csi(&self, command: &mut Command) {
        let layout = &self.layout;
        let hold = self.options.hold.as_secs().max(1).to_string();
        command
            .args(["--endpoint", &endpoint(&layout.csi_socket())])
            .arg("--kubelet-dir")
            .arg(layout.kubelet())
            .args(["--node-name", &self.options.node_name])
            .arg("--node-agent-socket")
            .arg(layout.node_agent_socket())
            .arg("--keeper-socket")
            .arg(layout.keeper_socket())
            .args(["--node-agent-peer", &self.users.peer(Component::NodeAgent)])
            .args(["--keeper-peer", &self.users.peer(Component::Keeper)])
            .args(["--hold", &hold]);
    }

    /// Where safe is.
    pub(crate) fn safe_url(&self) -> String {
        format!("https://{}/", self.safe_address)
    }

    /// What the CLI needs, beside a path to it.
    pub(crate) fn operator_environment(&self) -> Vec<(&'static str, String)> {
        let layout = &self.layout;
        let own = endpoint(&layout.workload_socket(Component::Sentinel));
        vec![
            ("SPIFFE_ENDPOINT_SOCKET", own),
            ("SPIFFE_TRUST_DOMAIN", TRUST_DOMAIN.to_owned()),
            ("VSECM_SAFE_ENDPOINT_URL", self.safe_url()),
            ("VSECM_SENTINEL_TOKEN_FILE", layout.token().display().to_string()),
        ]
    }
}
