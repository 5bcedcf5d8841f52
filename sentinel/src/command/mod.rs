//! One file per verb, and the exit codes.

mod delete;
mod list;
mod put;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use time::OffsetDateTime;
use vsecm_safe_api::name::{Namespace, SecretKey, SecretName};

pub(crate) use self::list::Row;
use self::{delete::Delete, list::List, put::Put};
use crate::{
    args::Args,
    config::{Config, ConfigError},
    input::Source,
    output::Form,
    session::CorrelationId,
    validity::{Validity, ValidityError},
};

/// What the exit code says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All was done.
    Done = 0,
    /// Safe refused, or this machine does.
    Refused = 1,
    /// The arguments, the environment or the value are wrong; nothing was sent.
    Usage = 2,
    /// SPIRE or Safe cannot be reached or asked, or the server is not Safe.
    Unreachable = 3,
    /// Some pairs were done and some were not.
    Partly = 4,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why arguments that can be read make no command.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UsageError {
    #[error("name a workload: safe -w NAME -s - < FILE")]
    NoWorkload,
    #[error("give the value by stdin (-s - < FILE) or --secret-file PATH, or delete with -d")]
    NoValue,
    #[error(transparent)]
    Validity(#[from] ValidityError),
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// What every command needs.
pub(crate) struct Context<'a> {
    pub(crate) config: Config,
    pub(crate) form: Form,
    pub(crate) correlation: CorrelationId,
    pub(crate) out: &'a mut dyn Write,
    pub(crate) err: &'a mut dyn Write,
}

/// One of the verbs.
#[derive(Debug)]
pub(crate) enum Command {
    Put(Put),
    Delete(Delete),
    List(List),
}

impl Command {
    /// Reads the arguments at the time `now`.
    pub(crate) fn parse(args: Args, now: OffsetDateTime) -> Result<Self, UsageError> {
        let Args {
            workloads,
            namespaces,
            secret,
            secret_file,
            format,
            not_before,
            expires,
            delete,
            list,
            output: _,
            environment: _,
        } = args;
        if list {
            return Ok(Self::List(List));
        }
        let keys = pairs(&workloads, &namespaces);
        if keys.is_empty() {
            return Err(UsageError::NoWorkload);
        }
        if delete {
            return Ok(Self::Delete(Delete { keys }));
        }
        Ok(Self::Put(Put {
            keys,
            source: Source::parse(secret, secret_file).ok_or(UsageError::NoValue)?,
            format: format.into(),
            validity: Validity::parse(not_before, expires, now)?,
        }))
    }

    pub(crate) async fn run(self, context: Context<'_>) -> io::Result<Exit> {
        match self {
            Self::Put(put) => put.run(context).await,
            Self::Delete(delete) => delete.run(context).await,
            Self::List(list) => list.run(context).await,
        }
    }
}

/// Each workload in each namespace, once, in the order given.
fn pairs(workloads: &[SecretName], namespaces: &[Namespace]) -> Vec<SecretKey> {
    let mut keys = Vec::new();
    for name in workloads {
        for namespace in namespaces {
            let key = SecretKey { namespace: namespace.clone(), name: name.clone() };
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    fn parse(line: &[&str]) -> Result<Command, UsageError> {
        let argv: Vec<OsString> = ["safe"].iter().chain(line).map(Into::into).collect();
        Command::parse(Args::parse(&argv).unwrap(), OffsetDateTime::UNIX_EPOCH)
    }

    #[test]
    fn each_pair_is_acted_on_once() {
        let line = ["-w", "a", "-w", "b", "-w", "a", "-n", "x", "-n", "y", "-n", "x", "-d"];
        let Ok(Command::Delete(delete)) = parse(&line) else { panic!("no deletion") };
        let keys: Vec<String> = delete.keys.iter().map(ToString::to_string).collect();
        assert_eq!(keys, ["x/a", "y/a", "x/b", "y/b"]);
    }

    #[test]
    fn the_namespace_is_default_where_none_is_given() {
        let Ok(Command::Put(put)) = parse(&["-w", "a", "-s", "-"]) else {
            panic!("no registration")
        };
        assert_eq!(put.keys[0].to_string(), "default/a");
    }

    #[test]
    fn what_is_missing_is_said() {
        assert!(matches!(parse(&[]), Err(UsageError::NoWorkload)));
        assert!(matches!(parse(&["-d"]), Err(UsageError::NoWorkload)));
        assert!(matches!(parse(&["-w", "a"]), Err(UsageError::NoValue)));
        let past = parse(&["-w", "a", "-s", "v", "-E", "1969-12-31T00:00:00Z"]);
        assert!(matches!(past, Err(UsageError::Validity(_))));
    }
}
