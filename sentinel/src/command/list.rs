//! `safe -l`: what is registered, never a value.

use std::io;

use serde::Serialize;
use vsecm_safe_api::{
    client::chain,
    name::SecretKey,
    proto,
    state::{Format, Reason},
    wire::{self, WireError},
};

use super::{Context, Exit};
use crate::{failure::CallError, output, session::Session, validity::written};

#[derive(Debug)]
pub(crate) struct List;

/// One registered secret. The names of the fields are those of the JSON, and stay.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Row {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) revision: u64,
    pub(crate) format: &'static str,
    pub(crate) size_bytes: u64,
    pub(crate) created: Option<String>,
    pub(crate) updated: Option<String>,
    /// `None`: from its creation on.
    pub(crate) not_before: Option<String>,
    /// `None`: never.
    pub(crate) expires: Option<String>,
    /// Whether workloads get it now, and if not, why.
    pub(crate) state: &'static str,
}

impl TryFrom<&proto::Item> for Row {
    type Error = WireError;

    fn try_from(item: &proto::Item) -> Result<Self, WireError> {
        let key = item.key.as_ref().ok_or(WireError::Missing("key"))?;
        let key = SecretKey::try_from(key)?;
        let time = |stamp: &Option<_>| -> Result<Option<String>, WireError> {
            Ok(stamp.as_ref().map(wire::time).transpose()?.map(written))
        };
        Ok(Self {
            namespace: key.namespace.to_string(),
            name: key.name.to_string(),
            revision: item.revision,
            format: match wire::format(item.format)? {
                Format::Json => "json",
                Format::Raw => "raw",
                Format::Yaml => "yaml",
            },
            size_bytes: item.size_bytes,
            created: time(&item.created)?,
            updated: time(&item.updated)?,
            not_before: time(&item.not_before)?,
            expires: time(&item.expires)?,
            state: match wire::reason(item.absent)? {
                None => "active",
                Some(Reason::NotRegistered) => "not-registered",
                Some(Reason::Deleted) => "deleted",
                Some(Reason::Expired) => "expired",
                Some(Reason::NotYetValid) => "not-yet-valid",
                Some(Reason::Unreadable) => "unreadable",
            },
        })
    }
}

impl List {
    pub(super) async fn run(self, mut context: Context<'_>) -> io::Result<Exit> {
        match Self::rows(&context).await {
            Ok(rows) => {
                output::rows(&mut context, &rows)?;
                Ok(Exit::Done)
            }
            Err(error) => {
                let (said, advice) = (chain(&error), error.advice());
                let id = &context.correlation;
                writeln!(
                    context.err,
                    "safe: nothing is listed: {said}; {advice} (correlation id {id})"
                )?;
                Ok(error.exit())
            }
        }
    }

    async fn rows(context: &Context<'_>) -> Result<Vec<Row>, CallError> {
        let session = Session::open(&context.config, &context.correlation).await?;
        let items = session.list().await?;
        let mut rows = items.iter().map(Row::try_from).collect::<Result<Vec<_>, _>>()?;
        rows.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        Ok(rows)
    }
}
