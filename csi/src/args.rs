//! Flags of `vsecm-csi`; each has an environment variable.

use std::{num::ParseIntError, path::PathBuf, time::Duration};

use clap::ArgAction::Set;
use vsecm_node_agent_api::{kernel::Features, peer::PeerRule, volume::PodUid};

use crate::{
    mount::{DEFAULT_LABEL, Labelling},
    operator::Rules,
};

const AFTER_HELP: &str = "vsecm-csi probe live|ready asks a running one for its state.\n\
    vsecm-csi volumes prints the volumes of this node.";

/// CSI node plugin of the secret manager.
#[derive(Debug, clap::Parser)]
#[command(version, after_help = AFTER_HELP)]
pub struct Args {
    /// Socket for the kubelet's CSI calls, as `unix:///PATH`
    #[arg(long, env = "CSI_ENDPOINT", value_parser = endpoint)]
    pub endpoint: PathBuf,
    /// The same socket as the kubelet sees it, if that differs
    #[arg(long, env = "VSECM_CSI_KUBELET_ENDPOINT")]
    pub kubelet_endpoint: Option<PathBuf>,
    /// Socket for the registration with the kubelet, in its folder `plugins_registry`; its name has an @
    #[arg(long, env = "VSECM_CSI_REGISTRATION_SOCKET", value_parser = registration)]
    pub registration_socket: Option<PathBuf>,
    /// The kubelet's root folder, at the same path here as there
    #[arg(long, env = "VSECM_KUBELET_DIR", default_value = "/var/lib/kubelet")]
    pub kubelet_dir: String,
    /// This node's name
    #[arg(long, env = "VSECM_NODE_NAME")]
    pub node_name: String,
    /// node-agent's socket
    #[arg(long, env = "VSECM_NODE_AGENT_SOCKET")]
    pub node_agent_socket: PathBuf,
    /// Who node-agent is: uid:NUMBER or exe:NAME
    #[arg(long, env = "VSECM_NODE_AGENT_PEER")]
    pub node_agent_peer: PeerRule,
    /// The keeper's socket
    #[arg(long, env = "VSECM_KEEPER_SOCKET")]
    pub keeper_socket: PathBuf,
    /// Who the keeper is: uid:NUMBER or exe:NAME
    #[arg(long, env = "VSECM_KEEPER_PEER")]
    pub keeper_peer: PeerRule,
    /// Seconds that the first publish of a volume waits for its secret: then the pod's events say why
    #[arg(long, env = "VSECM_CSI_FIRST_HOLD_SECONDS", default_value = "8", value_parser = seconds)]
    pub first_hold: Duration,
    // below the 2 minutes that the kubelet gives an RPC
    /// Seconds that a later publish waits for its secret
    #[arg(long, env = "VSECM_CSI_HOLD_SECONDS", default_value = "110", value_parser = seconds)]
    pub hold: Duration,
    /// Seconds between looks for volumes whose pod is gone
    #[arg(
        long, env = "VSECM_CSI_COLLECT_SECONDS", default_value = "60", hide = true,
        value_parser = seconds
    )]
    pub collect: Duration,
    /// `SELinux` context of all files, on nodes with `SELinux`; empty: none
    #[arg(long, env = "VSECM_CSI_SELINUX_CONTEXT", default_value = DEFAULT_LABEL)]
    pub selinux_context: Labelling,
    /// File of the node whose lock says which pod serves; without it this process serves at once
    #[arg(long, env = "VSECM_NODE_LOCK", requires = "pod_uid")]
    pub lock: Option<PathBuf>,
    /// This pod's uid
    #[arg(long, env = "VSECM_POD_UID")]
    pub pod_uid: Option<PodUid>,
    /// Socket for the probes
    #[arg(long, env = "VSECM_CSI_HEALTH_SOCKET")]
    pub health_socket: Option<PathBuf>,
    /// For tests: kernel features that are done without, as in no-resend,no-inc-epoch
    #[arg(long, env = "VSECM_PRETEND_KERNEL", default_value = "", hide = true)]
    pub pretend_kernel: Features,
    /// Leave the pod's network first of all: true or false
    #[arg(long, env = "VSECM_CSI_LEAVE_NETWORK", action = Set, default_value_t = false)]
    pub leave_network: bool,
    /// volumeAttributes of pods that say nothing: lines attribute=value
    #[arg(long, env = "VSECM_VOLUME_DEFAULTS", default_value = "")]
    pub volume_defaults: Rules,
    /// volumeAttributes of all pods: lines attribute=value; a pod with another value is refused
    #[arg(long, env = "VSECM_VOLUME_ENFORCED", default_value = "")]
    pub volume_enforced: Rules,
}

fn endpoint(text: &str) -> Result<PathBuf, String> {
    match text.strip_prefix("unix://") {
        Some(path) if path.starts_with('/') => Ok(PathBuf::from(path)),
        _ => Err("the endpoint is a Unix socket, given as unix:///PATH".to_owned()),
    }
}

/// The kubelet's gRPC library says this path, percent-encoded, as `:authority`. The `http` crate
/// takes a percent sign for valid in front of an `@` only, and h2 refuses the call otherwise.
fn registration(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    let name = path.file_name().unwrap_or_default();
    if name.to_string_lossy().contains('@') {
        return Ok(path);
    }
    Err("the kubelet's calls are understood only if its name is like node@csi.vsecm.com-reg.sock"
        .to_owned())
}

fn seconds(text: &str) -> Result<Duration, ParseIntError> {
    text.parse().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_flags_are_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_registration_socket_without_an_at_sign_is_refused() {
        assert!(registration("/plugins_registry/node@csi.vsecm.com-reg.sock").is_ok());
        assert!(registration("/at@home/csi.vsecm.com-reg.sock").is_err());
    }

    #[test]
    fn an_endpoint_is_an_absolute_unix_socket() {
        assert_eq!(endpoint("unix:///run/csi.sock"), Ok("/run/csi.sock".into()));
        for bad in ["", "unix://csi.sock", "tcp://1.2.3.4:1", "/run/csi.sock"] {
            assert!(endpoint(bad).is_err(), "{bad:?} must be refused");
        }
    }
}
