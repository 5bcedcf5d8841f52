//! Flags and environment.

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr};

use clap::Parser;
use spiffe::TrustDomain;
use vsecm_safe_api::{
    probe,
    role::{
        DEFAULT_NAME_PATTERN, DEFAULT_NODE_AGENT_PATTERN, DEFAULT_SAFE_PATTERN,
        DEFAULT_SENTINEL_PATTERN, DEFAULT_TRUST_DOMAIN, DEFAULT_WORKLOAD_PATTERN, IdPattern,
        NAME_PATTERN, NODE_AGENT_PATTERN, NamePattern, PatternError, RolePatterns, SAFE_PATTERN,
        SENTINEL_PATTERN, TRUST_DOMAIN, WORKLOAD_PATTERN,
    },
};

/// Custody of secrets: sealed at rest, pushed to the workloads they belong to.
#[derive(Debug, Parser)]
#[command(name = "vsecm-safe", version)]
pub struct Args {
    /// The SPIFFE Workload API.
    #[arg(
        long,
        env = "SPIFFE_ENDPOINT_SOCKET",
        default_value = "unix:///spire-agent-socket/spire-agent.sock",
        value_name = "URI"
    )]
    pub workload_api: String,

    /// The trust domain; identities of others do not pass TLS.
    #[arg(long, env = TRUST_DOMAIN, default_value = DEFAULT_TRUST_DOMAIN)]
    pub trust_domain: TrustDomain,

    /// Where to listen: `:PORT` or `HOST:PORT`.
    #[arg(long, env = "VSECM_SAFE_TLS_PORT", default_value = ":8443", value_name = "ADDRESS")]
    pub listen: Listen,

    /// The folder of the sealed records.
    #[arg(
        long,
        env = "VSECM_SAFE_DATA_PATH",
        default_value = "/var/local/vsecm/data",
        value_name = "FOLDER"
    )]
    pub data: PathBuf,

    /// The file of the root key; with a Secret of the root key, where that is mounted.
    #[arg(long, env = "VSECM_ROOT_KEY_PATH", default_value = "/key/key.txt", value_name = "FILE")]
    pub root_key: PathBuf,

    /// The Kubernetes Secret of the root key, which Safe makes at its first start. Without it, the
    /// root key is in the file alone.
    #[arg(long, env = "VSECM_ROOT_KEY_SECRET", value_name = "NAME", value_parser = present)]
    pub root_key_secret: Option<String>,

    /// The namespace of that Secret; without it, the one that the Kubernetes client is set to.
    #[arg(long, env = "VSECM_NAMESPACE", value_name = "NAMESPACE", value_parser = present)]
    pub namespace: Option<String>,

    /// Where liveness is answered by HTTP. Without it, nowhere.
    #[arg(long, env = probe::LIVENESS, value_name = "ADDRESS", value_parser = probe::address)]
    pub probe_liveness: Option<SocketAddr>,

    /// Where readiness and `/metrics` are answered by HTTP. Without it, nowhere.
    #[arg(long, env = probe::READINESS, value_name = "ADDRESS", value_parser = probe::address)]
    pub probe_readiness: Option<SocketAddr>,

    /// A file with the SHA-256 of sentinel's token in hex. Without it, the Kubernetes API server
    /// is asked whose token it is.
    #[arg(long, env = "VSECM_SAFE_ADMIN_TOKEN_DIGEST_FILE", value_name = "FILE")]
    pub admin_token_digest: Option<PathBuf>,

    /// The SPIFFE IDs of Safe.
    #[arg(long, env = SAFE_PATTERN, default_value = DEFAULT_SAFE_PATTERN, value_name = "PATTERN")]
    pub safe_id: String,

    /// The SPIFFE IDs of sentinel.
    #[arg(
        long,
        env = SENTINEL_PATTERN,
        default_value = DEFAULT_SENTINEL_PATTERN,
        value_name = "PATTERN"
    )]
    pub sentinel_id: String,

    /// The SPIFFE ID of node-agent, the same on every node.
    #[arg(
        long,
        env = NODE_AGENT_PATTERN,
        default_value = DEFAULT_NODE_AGENT_PATTERN,
        value_name = "PATTERN"
    )]
    pub node_agent_id: String,

    /// The SPIFFE IDs of workloads.
    #[arg(
        long,
        env = WORKLOAD_PATTERN,
        default_value = DEFAULT_WORKLOAD_PATTERN,
        value_name = "PATTERN"
    )]
    pub workload_id: String,

    /// What yields name and namespace of a workload.
    #[arg(long, env = NAME_PATTERN, default_value = DEFAULT_NAME_PATTERN, value_name = "REGEXP")]
    pub workload_name: String,
}

impl Args {
    /// The patterns by which callers are told apart.
    pub fn patterns(&self) -> Result<RolePatterns, PatternError> {
        let trust_domain = self.trust_domain.as_str();
        let id = |variable, text| IdPattern::parse(variable, text, trust_domain);
        let of_one = |variable, text| IdPattern::parse_of_one_account(variable, text, trust_domain);
        Ok(RolePatterns {
            safe: of_one(SAFE_PATTERN, &self.safe_id)?,
            sentinel: of_one(SENTINEL_PATTERN, &self.sentinel_id)?,
            node_agent: IdPattern::parse_of_one(
                NODE_AGENT_PATTERN,
                &self.node_agent_id,
                trust_domain,
            )?,
            workload: id(WORKLOAD_PATTERN, &self.workload_id)?,
            name: NamePattern::parse(&self.workload_name, trust_domain)?,
        })
    }
}

/// An empty variable is a mistake in a manifest, not a name.
fn present(text: &str) -> Result<String, &'static str> {
    if text.is_empty() { Err("it is empty") } else { Ok(text.to_owned()) }
}

/// An address to listen at; without a host, all of IPv4.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen(String);

impl Listen {
    /// `HOST:PORT`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Listen {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const RULE: &str = "it must be :PORT or HOST:PORT";
        let (host, port) = text.rsplit_once(':').ok_or(RULE)?;
        let port: u16 = port.parse().map_err(|_number| RULE)?;
        let host = if host.is_empty() { "0.0.0.0" } else { host };
        Ok(Self(format!("{host}:{port}")))
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_flags_are_sound_and_the_defaults_give_patterns() {
        Args::command().debug_assert();
        let args = Args::parse_from(["vsecm-safe"]);
        assert!(args.patterns().is_ok());
    }

    #[test]
    fn a_port_alone_listens_everywhere() {
        let listen = |text: &str| text.parse::<Listen>().map(|l| l.to_string()).ok();
        assert_eq!(listen(":8443").as_deref(), Some("0.0.0.0:8443"));
        assert_eq!(listen("127.0.0.1:0").as_deref(), Some("127.0.0.1:0"));
        assert_eq!(listen("[::]:8443").as_deref(), Some("[::]:8443"));
        for bad in ["", "8443", ":x", ":99999"] {
            assert_eq!(listen(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_pattern_that_gives_rights_must_fix_the_service_account() {
        for (flag, variable) in [
            ("--safe-id", SAFE_PATTERN),
            ("--sentinel-id", SENTINEL_PATTERN),
            ("--node-agent-id", NODE_AGENT_PATTERN),
        ] {
            let wide = format!("{flag}=^spiffe://vsecm.com/workload/x/ns/[^/]+/sa/x/n/[^/]+$");
            let refusal = Args::parse_from(["vsecm-safe", &wide]).patterns().unwrap_err();
            assert!(refusal.to_string().contains(variable), "{refusal}");
        }
    }

    #[test]
    fn a_name_pattern_without_a_namespace_is_refused_by_the_variables_name() {
        let text = "--workload-name=^spiffe://vsecm.com/workload/([^/]+)$";
        let refusal = Args::parse_from(["vsecm-safe", text]).patterns().unwrap_err();
        assert!(refusal.to_string().contains("VSECM_WORKLOAD_NAME_REGEXP"));
    }
}
