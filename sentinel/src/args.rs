//! What may be said on the command line. Each value is parsed here, once.

use std::{
    ffi::OsString,
    io::{self, Write},
    path::PathBuf,
};

use clap::{
    Parser, ValueEnum,
    builder::{OsStringValueParser, TypedValueParser as _},
    error::{ContextKind, ContextValue, ErrorKind},
};
use vsecm_safe_api::{
    client::{ADDRESS, DEFAULT_ADDRESS},
    name::{Namespace, SecretName},
    role::{
        DEFAULT_SAFE_PATTERN, DEFAULT_SENTINEL_PATTERN, DEFAULT_TRUST_DOMAIN, SAFE_PATTERN,
        SENTINEL_PATTERN, TRUST_DOMAIN,
    },
    state::Format,
};

use crate::{
    command::Exit,
    input::ArgvValue,
    output::Form,
    validity::{Expires, NotBefore},
};

const EXAMPLES: &str = "\
Examples:
  safe -w db -s - < db.json             register the value that stands in db.json
  safe -w db -n prod -n test -s - < f   the same value in two namespaces
  safe -w db --secret-file db.json      the same, where stdin is in use
  safe -w db -s VALUE                   VALUE also reaches process lists and, through kubectl
                                        exec, the audit log of the API server
  safe -w db -n prod -d                 delete it in one namespace
  safe -l                               what is registered; values are never shown

From outside the cluster (-i hands stdin on):
  kubectl exec -i -n vsecm-system deploy/vsecm-sentinel -- safe -w db -s - < db.json
";

const EXIT_CODES: &str = "\
The bytes of stdin and of a file are taken exactly as they are, a newline at the end included: \
write printf %s, not echo.

Exit codes: 0 all was done; 1 Safe refused, or could not do it; 2 bad usage or input, nothing was sent; \
3 SPIRE or Safe cannot be reached or asked (no identity within 10 s, no token file, no answer in \
30 s), or the server is not Safe; 4 partly done, with one sentence for each pair that was not.
";

const TEMPLATE: &str =
    "{about-with-newline}\n{before-help}{usage-heading} {usage}\n\n{all-args}{after-help}";

/// Registers secrets for workloads, lists and deletes them.
#[derive(Debug, Parser)]
#[command(name = "safe", version, before_help = EXAMPLES, after_help = EXIT_CODES, help_template = TEMPLATE)]
pub(crate) struct Args {
    /// Name of the workload; repeat it for several. Prefix k8s: or raw: as in VSecM
    #[arg(short = 'w', long = "workload", value_name = "NAME")]
    pub(crate) workloads: Vec<SecretName>,
    /// Namespace of the workload; repeat it for several
    #[arg(short = 'n', long = "namespace", value_name = "NAMESPACE", default_value = "default")]
    pub(crate) namespaces: Vec<Namespace>,
    /// The value; - reads it from stdin, where no process list or audit log sees it
    #[arg(
        short = 's',
        long,
        value_name = "VALUE|-",
        allow_hyphen_values = true,
        hide_default_value = true,
        conflicts_with = "secret_file",
        value_parser = OsStringValueParser::new().map(ArgvValue::new)
    )]
    pub(crate) secret: Option<ArgvValue>,
    /// Reads the value from a file
    #[arg(long, value_name = "PATH")]
    pub(crate) secret_file: Option<PathBuf>,
    /// How the value is shown: json gives a file per top-level key, raw (or none) one document; yaml
    /// the same as json for a YAML mapping
    #[arg(short = 'f', long, value_name = "FORMAT", default_value = "json")]
    pub(crate) format: FormatName,
    /// Not shown before this time (RFC 3339, or now)
    #[arg(
        short = 'N',
        long = "nbf",
        visible_alias = "not-before",
        value_name = "TIME",
        default_value = "now"
    )]
    pub(crate) not_before: NotBefore,
    /// Not shown from this time on (RFC 3339, or never)
    #[arg(
        short = 'E',
        long = "exp",
        visible_alias = "expires",
        value_name = "TIME",
        default_value = "never"
    )]
    pub(crate) expires: Expires,
    /// Deletes instead
    #[arg(short = 'd', long, conflicts_with_all = ["secret", "secret_file", "format", "not_before", "expires"])]
    pub(crate) delete: bool,
    /// Lists what is registered in all namespaces, without values
    #[arg(
        short = 'l',
        long,
        conflicts_with_all = ["workloads", "namespaces", "delete", "secret", "secret_file", "format", "not_before", "expires"]
    )]
    pub(crate) list: bool,
    /// For a person, or for a program
    #[arg(short = 'o', long, value_name = "FORM", default_value = "table")]
    pub(crate) output: Form,
    #[command(flatten)]
    pub(crate) environment: Environment,
}

/// Where Safe and SPIRE are; set in sentinel's pod.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Environment")]
pub(crate) struct Environment {
    /// SPIRE's Workload API
    #[arg(
        long,
        value_name = "URI",
        env = "SPIFFE_ENDPOINT_SOCKET",
        default_value = "unix:///spire-agent-socket/spire-agent.sock",
        hide_env_values = true
    )]
    pub(crate) spiffe_endpoint_socket: String,
    /// The trust domain
    #[arg(long, value_name = "NAME", env = TRUST_DOMAIN, default_value = DEFAULT_TRUST_DOMAIN, hide_env_values = true)]
    pub(crate) trust_domain: String,
    /// How long SPIRE may take to give an identity, in milliseconds
    #[arg(
        long,
        value_name = "MS",
        env = "VSECM_SAFE_SOURCE_ACQUISITION_TIMEOUT",
        default_value_t = 10_000,
        hide_env_values = true
    )]
    pub(crate) source_timeout: u64,
    /// Safe's address
    #[arg(long, value_name = "URL", env = ADDRESS, default_value = DEFAULT_ADDRESS, hide_env_values = true)]
    pub(crate) safe_url: String,
    /// Safe's SPIFFE ID: a pattern, or a plain prefix
    #[arg(long, value_name = "PATTERN", env = SAFE_PATTERN, default_value = DEFAULT_SAFE_PATTERN, hide_env_values = true)]
    pub(crate) safe_pattern: String,
    /// Sentinel's own SPIFFE ID: chosen where SPIRE gives several
    #[arg(long, value_name = "PATTERN", env = SENTINEL_PATTERN, default_value = DEFAULT_SENTINEL_PATTERN, hide_env_values = true)]
    pub(crate) sentinel_pattern: String,
    /// The token that proves sentinel beside its identity
    #[arg(
        long,
        value_name = "PATH",
        env = "VSECM_SENTINEL_TOKEN_FILE",
        default_value = "/var/run/secrets/vsecm/token",
        hide_env_values = true
    )]
    pub(crate) token_file: PathBuf,
}

/// A format by the names that VSecM has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FormatName {
    Json,
    Yaml,
    Raw,
    None,
}

impl From<FormatName> for Format {
    fn from(name: FormatName) -> Self {
        match name {
            FormatName::Json => Self::Json,
            FormatName::Yaml => Self::Yaml,
            FormatName::Raw | FormatName::None => Self::Raw,
        }
    }
}

/// The arguments ask for help, or cannot be understood.
#[derive(Debug)]
pub(crate) enum Unparsed {
    /// As clap says it.
    Said(clap::Error),
    /// An argument that may be a part of the value, and so is not repeated ([I7]).
    Position(Option<usize>),
}

impl Unparsed {
    pub(crate) fn say(&self, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<Exit> {
        match self {
            Self::Said(said) if said.use_stderr() => {
                write!(err, "{}", said.render())?;
                Ok(Exit::Usage)
            }
            Self::Said(help) => {
                write!(out, "{}", help.render())?;
                Ok(Exit::Done)
            }
            Self::Position(position) => {
                let which = match position {
                    Some(position) => format!("argument {position} is"),
                    None => "an argument is".to_owned(),
                };
                writeln!(
                    err,
                    "safe: {which} not understood; a value with spaces needs quotes, \
                     or comes by stdin: safe -w NAME -s - < FILE; see safe -h"
                )?;
                Ok(Exit::Usage)
            }
        }
    }
}

impl Args {
    /// Parses `argv`, whose first part is the program's name.
    pub(crate) fn parse(argv: &[OsString]) -> Result<Self, Unparsed> {
        Self::try_parse_from(argv).map_err(|error| hide_value(error, argv))
    }
}

fn hide_value(error: clap::Error, argv: &[OsString]) -> Unparsed {
    let is_secret_flag = |arg: &OsString| {
        let arg = arg.to_string_lossy();
        arg.starts_with("--secret") || (arg.starts_with("-s") && !arg.starts_with("--"))
    };
    if error.kind() != ErrorKind::UnknownArgument {
        return Unparsed::Said(error);
    }
    let unknown = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(unknown)) => unknown.as_str(),
        _ => "",
    };
    // without -s, only a stray word could be a value; a flag is named
    if unknown.starts_with('-') && !argv.iter().any(is_secret_flag) {
        return Unparsed::Said(error);
    }
    let position = argv.iter().skip(1).position(|arg| arg == unknown);
    Unparsed::Position(position.map(|index| index + 1))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &[&str]) -> Result<Args, Unparsed> {
        let argv: Vec<_> = ["safe"].iter().chain(line).map(OsString::from).collect();
        Args::parse(&argv)
    }

    fn refusal(line: &[&str]) -> String {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let exit = parse(line).unwrap_err().say(&mut out, &mut err).unwrap();
        assert_eq!(exit, Exit::Usage);
        assert!(out.is_empty());
        String::from_utf8(err).unwrap()
    }

    #[test]
    fn the_definition_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn names_and_namespaces_repeat_and_commas_do_not_split() {
        let args = parse(&["-w", "a", "-w", "b", "-n", "x", "-n", "y", "-s", "v"]).unwrap();
        assert_eq!((args.workloads.len(), args.namespaces.len()), (2, 2));
        assert!(refusal(&["-w", "a,b", "-s", "v"]).contains("\"a,b\" is not allowed"));
    }

    #[test]
    fn a_value_may_start_with_dashes() {
        assert!(parse(&["-w", "a", "-s", "-----BEGIN KEY-----"]).is_ok());
        assert!(parse(&["-w", "a", "-s", "-"]).is_ok());
        assert!(parse(&["-w", "a", "--secret=-5"]).is_ok());
    }

    #[test]
    fn debug_output_has_no_value() {
        let args = parse(&["-w", "a", "-s", "canary-7c1f"]).unwrap();
        assert!(!format!("{args:?}").contains("canary"));
    }

    #[test]
    fn a_stray_word_is_named_by_its_place_only() {
        let said = refusal(&["-w", "a", "-s", "my", "canary-7c1f"]);
        assert!(said.contains("argument 5 is not understood"), "{said}");
        let said = refusal(&["-w", "a", "-s", "my", "--canary-7c1f"]);
        assert!(!said.contains("canary"), "{said}");
    }

    #[test]
    fn an_unknown_flag_is_named_where_no_value_can_be_meant() {
        assert!(refusal(&["-w", "a", "--force"]).contains("--force"));
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        for line in [
            &["-w", "a", "-s", "v", "-d"][..],
            &["-w", "a", "-s", "v", "--secret-file", "f"],
            &["-w", "a", "--secret-file", "f", "-d"],
            &["-w", "a", "-d", "-E", "never"],
            &["-l", "-w", "a"],
            &["-l", "-d"],
        ] {
            assert!(refusal(line).contains("cannot be used with"), "{line:?}");
        }
    }

    #[test]
    fn a_time_that_is_none_is_refused() {
        assert!(refusal(&["-w", "a", "-s", "v", "-E", "tomorrow"]).contains("RFC 3339"));
        assert!(refusal(&["-w", "a", "-s", "v", "-N", "never"]).contains("RFC 3339"));
    }
}
