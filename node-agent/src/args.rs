//! Flags and their environment variables, parsed once.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use vsecm_node_agent_api::peer::PeerRule;
use vsecm_safe_api::{
    client::{ADDRESS, Address, DEFAULT_ADDRESS},
    role::{
        DEFAULT_NAME_PATTERN, DEFAULT_SAFE_PATTERN, DEFAULT_TRUST_DOMAIN, DEFAULT_WORKLOAD_PATTERN,
        IdPattern, NAME_PATTERN, NamePattern, PatternError, SAFE_PATTERN, TRUST_DOMAIN,
        WORKLOAD_PATTERN,
    },
};

use crate::{identity::Chooser, privileges::RunAs};

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
}

impl Settings {
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
