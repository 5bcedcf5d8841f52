//! Flags and their environment variables, parsed once.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};
use vsecm_node_agent_api::{kernel::Features, peer::PeerRule, volume::PodUid};
use vsecm_safe_api::{
    client::{ADDRESS, Address, DEFAULT_ADDRESS},
    name::Namespace,
    probe,
    role::{
        DEFAULT_NAME_PATTERN, DEFAULT_SAFE_PATTERN, DEFAULT_TRUST_DOMAIN, DEFAULT_WORKLOAD_PATTERN,
        IdPattern, NAME_PATTERN, NamePattern, PatternError, SAFE_PATTERN, TRUST_DOMAIN,
        WORKLOAD_PATTERN,
    },
};

use crate::{
    identity::Chooser,
    kubernetes::taint::StartupTaint,
    privileges::RunAs,
    probe::{ProbeError, Question},
};

/// The variable of the `CSIDriver` object's name.
const CSIDRIVER: &str = "VSECM_CSIDRIVER";

/// Brings the secrets of a node's pods from Safe to their files.
#[derive(Debug, Parser)]
#[command(name = "vsecm-node-agent", version)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Give up all privileges, then run `serve` and start it again whenever it dies.
    Supervise(Box<Settings>),
    /// Serve volumes; started by `supervise`.
    Serve(Box<Settings>),
    /// Ask the process of this container: exit code 0 is yes, 1 is no, with a sentence.
    Probe {
        /// What to ask.
        question: Question,
        /// Where.
        #[command(flatten)]
        ports: Ports,
    },
    /// Make a folder this user's alone.
    Prepare {
        /// The folder.
        folder: PathBuf,
    },
    /// Before an uninstall: exit code 1 names the pods that have volumes of the driver.
    VolumesInUse {
        /// The driver.
        #[arg(long, env = CSIDRIVER, default_value = "csi.vsecm.com")]
        driver: String,
    },
}

/// Where probes are answered.
#[derive(Clone, Copy, Debug, Args)]
pub struct Ports {
    /// Where liveness is answered, :PORT or ADDRESS:PORT; nowhere if not given.
    #[arg(long, env = probe::LIVENESS, value_parser = probe::address)]
    pub liveness_port: Option<SocketAddr>,
    /// Where readiness and /metrics are answered; nowhere if not given.
    #[arg(long, env = probe::READINESS, value_parser = probe::address)]
    pub readiness_port: Option<SocketAddr>,
}

impl Ports {
    /// Where a question is answered.
    ///
    /// # Errors
    /// [`ProbeError::NoPort`].
    pub fn of(&self, question: Question) -> Result<SocketAddr, ProbeError> {
        match question {
            Question::Live => self.liveness_port.ok_or(ProbeError::NoPort(probe::LIVENESS)),
            Question::Ready => self.readiness_port.ok_or(ProbeError::NoPort(probe::READINESS)),
        }
    }
}

/// What belongs to Kubernetes; off where it is not given.
#[derive(Clone, Debug, Args)]
pub struct KubernetesSettings {
    /// The lock of the node: while a process of another pod holds it, this one stands by.
    #[arg(long, env = "VSECM_NODE_LOCK", requires = "pod_uid")]
    pub lock: Option<PathBuf>,
    /// The uid of this pod.
    #[arg(long, env = "VSECM_POD_UID")]
    pub pod_uid: Option<PodUid>,
    /// The `CSIDriver` object: new volumes need it as it must be.
    #[arg(long, env = CSIDRIVER)]
    pub csidriver: Option<String>,
    /// The key of the taint that goes once the driver is registered.
    #[arg(long, env = "VSECM_STARTUP_TAINT", requires = "csidriver")]
    pub startup_taint: Option<String>,
    /// The namespace of sentinel, named to who must register a secret.
    #[arg(long, env = "VSECM_NAMESPACE", default_value = "vsecm-system")]
    pub namespace: Namespace,
}

/// The text is no duration.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a duration is a number of seconds, or one with a unit, as in 90s, 30m or 1h, not {0:?}")]
pub struct ParseDurationError(String);

fn duration(text: &str) -> Result<Duration, ParseDurationError> {
    let bad = || ParseDurationError(text.to_owned());
    let (number, unit) = text.split_at(text.trim_end_matches(['s', 'm', 'h']).len());
    let seconds = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 60 * 60,
        _ => return Err(bad()),
    };
    let number: u32 = number.parse().map_err(|_number| bad())?;
    Ok(Duration::from_secs(u64::from(number) * seconds))
}

/// Flags of both.
#[derive(Clone, Debug, Args)]
pub struct Settings {
    /// The socket on which csi is served.
    #[arg(long, env = "VSECM_NODE_AGENT_SOCKET")]
    pub socket: PathBuf,
    /// The keeper's socket.
    #[arg(long, env = "VSECM_KEEPER_SOCKET")]
    pub keeper_socket: PathBuf,
    /// Who may be csi: uid:N, or exe:NAME for development.
    #[arg(long, env = "VSECM_CSI_PEER")]
    pub csi_peer: PeerRule,
    /// Who must be the keeper: uid:N, or exe:NAME for development.
    #[arg(long, env = "VSECM_KEEPER_PEER")]
    pub keeper_peer: PeerRule,
    /// Where Safe listens.
    #[arg(long, env = ADDRESS, default_value = DEFAULT_ADDRESS)]
    pub safe: Address,
    /// SPIRE's Workload API, for the identity of this process.
    #[arg(long, env = "SPIFFE_ENDPOINT_SOCKET")]
    pub spiffe_socket: String,
    /// SPIRE's admin socket, for the identities of pods (unix:///...).
    #[arg(long, env = "SPIRE_ADMIN_ENDPOINT_SOCKET")]
    pub spire_admin_socket: String,
    /// The name of this node.
    #[arg(long, env = "VSECM_NODE_NAME")]
    pub node_name: String,
    /// How often in a minute a server that died is started again, before the container ends.
    #[arg(long, env = "VSECM_MOST_RESTARTS", default_value_t = 10)]
    pub most_restarts: usize,
    /// For tests: kernel features that are done without, as in no-resend,no-inc-epoch.
    #[arg(long, env = "VSECM_PRETEND_KERNEL", default_value = "", hide = true)]
    pub pretend_kernel: Features,
    /// User to become, UID:GID; capabilities are given up in any case.
    #[arg(long, env = "VSECM_RUN_AS")]
    pub run_as: Option<RunAs>,
    /// The trust domain.
    #[arg(long, env = TRUST_DOMAIN, default_value = DEFAULT_TRUST_DOMAIN)]
    pub trust_domain: String,
    /// Which SPIFFE IDs are Safe.
    #[arg(long, env = SAFE_PATTERN, default_value = DEFAULT_SAFE_PATTERN)]
    pub safe_pattern: String,
    /// Which SPIFFE IDs are workloads.
    #[arg(long, env = WORKLOAD_PATTERN, default_value = DEFAULT_WORKLOAD_PATTERN)]
    pub workload_pattern: String,
    /// Yields a workload's name and namespace.
    #[arg(long, env = NAME_PATTERN, default_value = DEFAULT_NAME_PATTERN)]
    pub name_pattern: String,
    /// How long content outlives its last volume on this node, from the moment when Safe confirmed
    /// it last, so that a new pod starts while Safe is away: 90s, 30m, 1h; 0: not at all.
    #[arg(long, env = "VSECM_MAX_STALE", default_value = "1h", value_parser = duration)]
    pub max_stale: Duration,
    /// Where probes are answered.
    #[command(flatten)]
    pub ports: Ports,
    /// What belongs to Kubernetes.
    #[command(flatten)]
    pub kubernetes: KubernetesSettings,
}

impl Settings {
    /// The taint that goes once the driver is registered.
    pub fn startup_taint(&self) -> Option<StartupTaint> {
        Some(StartupTaint {
            key: self.kubernetes.startup_taint.clone()?,
            node: self.node_name.clone(),
            driver: self.kubernetes.csidriver.clone()?,
        })
    }

    /// Which SPIFFE IDs are Safe.
    ///
    /// # Errors
    /// [`PatternError`], by the variable's name.
    pub fn safe(&self) -> Result<IdPattern, PatternError> {
        IdPattern::parse(SAFE_PATTERN, &self.safe_pattern, &self.trust_domain)
    }

    /// Chooses a pod's identity.
    ///
    /// # Errors
    /// [`PatternError`], by the variable's name.
    pub fn chooser(&self) -> Result<Chooser, PatternError> {
        let domain = &self.trust_domain;
        Ok(Chooser {
            trust_domain: domain.clone(),
            safe: self.safe()?,
            workload: IdPattern::parse(WORKLOAD_PATTERN, &self.workload_pattern, domain)?,
            name: NamePattern::parse(&self.name_pattern, domain)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_flags_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_duration_has_a_unit_or_is_seconds() {
        let seconds = |text| duration(text).map(|duration| duration.as_secs());
        for (text, expected) in [("0", 0), ("90", 90), ("90s", 90), ("30m", 1800), ("1h", 3600)] {
            assert_eq!(seconds(text), Ok(expected), "{text}");
        }
        for bad in ["", "h", "1d", "-1", "1.5h", "1hh", "1h30m", "99999999999"] {
            assert!(duration(bad).is_err(), "{bad:?} must be refused");
        }
    }

    #[test]
    fn a_pattern_without_a_namespace_is_refused_by_the_variables_name() {
        let arguments = Arguments::try_parse_from([
            "vsecm-node-agent",
            "serve",
            "--socket=/s",
            "--keeper-socket=/k",
            "--csi-peer=uid:1",
            "--keeper-peer=uid:2",
            "--spiffe-socket=unix:///a",
            "--spire-admin-socket=unix:///b",
            "--node-name=n",
            "--name-pattern=^spiffe://vsecm.com/workload/([^/]+)$",
        ])
        .unwrap();
        let Command::Serve(settings) = arguments.command else {
            panic!("serve must be parsed as serve");
        };
        let refused = settings.chooser().unwrap_err().to_string();
        assert!(refused.contains(NAME_PATTERN), "{refused}");
    }
}
