//! Tables, JSON and sentences. Nothing here has a type for a value ([I11]).

use std::io::{self, Write};

use clap::ValueEnum;
use serde::Serialize;
use vsecm_safe_api::client::chain;

use crate::{
    command::{Context, Exit, Row},
    outcome::{Action, Done, Outcome, exit},
};

/// What the output looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    Table,
    Json,
}

/// One outcome. The names of the fields are those of the JSON, and stay.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OutcomeRow<'a> {
    namespace: &'a str,
    name: &'a str,
    action: &'static str,
    /// registered, deleted, absent (there was nothing to delete) or failed
    outcome: &'static str,
    revision: Option<u64>,
    error: Option<ErrorRow>,
    correlation_id: String,
}

#[derive(Serialize)]
struct ErrorRow {
    code: &'static str,
    message: String,
}

/// Prints what became of each pair, and says it by the exit code.
pub(crate) fn outcomes(context: Context<'_>, outcomes: &[Outcome]) -> io::Result<Exit> {
    let Context { form, correlation, out, err, .. } = context;
    for outcome in outcomes {
        match &outcome.result {
            Ok(done) if form == Form::Table => sentence_of_success(out, outcome, *done)?,
            Ok(_) => {}
            Err(_) => {
                let said = failure(outcome).unwrap_or_default();
                writeln!(err, "safe: {said} (correlation id {correlation})")?;
            }
        }
    }
    if form == Form::Json {
        let rows: Vec<_> =
            outcomes.iter().map(|outcome| row(outcome, correlation.to_string())).collect();
        json(out, &rows)?;
    }
    Ok(exit(outcomes))
}

fn sentence_of_success(out: &mut dyn Write, outcome: &Outcome, done: Done) -> io::Result<()> {
    let (name, namespace) = (&outcome.key.name, &outcome.key.namespace);
    match done {
        Done::Registered(revision) => {
            writeln!(out, "{name} in namespace {namespace}: registered, revision {}", revision.0)
        }
        Done::Deleted => writeln!(out, "{name} in namespace {namespace}: deleted"),
        Done::NothingToDelete => {
            writeln!(out, "{name} in namespace {namespace}: there was nothing to delete")
        }
    }
}

fn failure(outcome: &Outcome) -> Option<String> {
    let error = outcome.result.as_ref().err()?;
    let verb = match outcome.action {
        Action::Put => "registered",
        Action::Delete => "deleted",
    };
    let (name, namespace) = (&outcome.key.name, &outcome.key.namespace);
    Some(format!(
        "{name} in namespace {namespace} was not {verb}: {}; {}",
        chain(error),
        error.advice()
    ))
}

fn row(outcome: &Outcome, correlation_id: String) -> OutcomeRow<'_> {
    let (word, revision) = match &outcome.result {
        Ok(Done::Registered(revision)) => ("registered", Some(revision.0)),
        Ok(Done::Deleted) => ("deleted", None),
        Ok(Done::NothingToDelete) => ("absent", None),
        Err(_) => ("failed", None),
    };
    OutcomeRow {
        namespace: outcome.key.namespace.as_str(),
        name: outcome.key.name.as_str(),
        action: match outcome.action {
            Action::Put => "put",
            Action::Delete => "delete",
        },
        outcome: word,
        revision,
        error: outcome.result.as_ref().err().map(|error| ErrorRow {
            code: error.word(),
            message: failure(outcome).unwrap_or_default(),
        }),
        correlation_id,
    }
}

/// Prints what is registered.
pub(crate) fn rows(context: &mut Context<'_>, rows: &[Row]) -> io::Result<()> {
    match context.form {
        Form::Table => table(context.out, rows),
        Form::Json => json(context.out, &serde_json::json!({ "secrets": rows })),
    }
}

fn json(out: &mut dyn Write, what: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, what)?;
    writeln!(out)
}

const HEAD: [&str; 9] = [
    "NAMESPACE",
    "NAME",
    "REVISION",
    "SIZE",
    "CREATED",
    "UPDATED",
    "NOT-BEFORE",
    "EXPIRES",
    "STATE",
];

fn table(out: &mut dyn Write, rows: &[Row]) -> io::Result<()> {
    let head = HEAD.map(ToOwned::to_owned);
    let lines: Vec<[String; 9]> = std::iter::once(head).chain(rows.iter().map(cells)).collect();
    let widths: [usize; 9] = std::array::from_fn(|column| {
        let width = |line: &[String; 9]| line.get(column).map_or(0, String::len);
        lines.iter().map(width).max().unwrap_or(0)
    });
    for line in &lines {
        let padded: Vec<String> =
            line.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        writeln!(out, "{}", padded.join("  ").trim_end())?;
    }
    Ok(())
}

fn cells(row: &Row) -> [String; 9] {
    let or = |time: &Option<String>, word: &str| match time {
        Some(time) => to_the_second(time),
        None => word.to_owned(),
    };
    [
        row.namespace.clone(),
        row.name.clone(),
        row.revision.to_string(),
        row.size_bytes.to_string(),
        or(&row.created, "-"),
        or(&row.updated, "-"),
        or(&row.not_before, "-"),
        or(&row.expires, "never"),
        row.state.to_owned(),
    ]
}

/// Times are kept to the nanosecond and shown to the second.
fn to_the_second(time: &str) -> String {
    match time.split_once('.') {
        Some((whole, _)) => format!("{whole}Z"),
        None => time.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(namespace: &str, name: &str) -> Row {
        Row {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            revision: 7,
            format: "json",
            size_bytes: 12,
            created: Some("2026-01-01T00:00:00.123456789Z".to_owned()),
            updated: Some("2026-01-01T00:00:01Z".to_owned()),
            not_before: None,
            expires: None,
            state: "active",
        }
    }

    #[test]
    fn a_table_has_aligned_columns() {
        let mut out = Vec::new();
        table(&mut out, &[row("default", "db"), row("x", "a-long-name")]).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "\
NAMESPACE  NAME         REVISION  SIZE  CREATED               UPDATED               NOT-BEFORE  EXPIRES  STATE
default    db           7         12    2026-01-01T00:00:00Z  2026-01-01T00:00:01Z  -           never    active
x          a-long-name  7         12    2026-01-01T00:00:00Z  2026-01-01T00:00:01Z  -           never    active
"
        );
    }

    #[test]
    fn the_schema_of_a_row_is_stable() {
        assert_eq!(
            serde_json::to_string(&row("default", "db")).unwrap(),
            r#"{"namespace":"default","name":"db","revision":7,"format":"json","sizeBytes":12,"created":"2026-01-01T00:00:00.123456789Z","updated":"2026-01-01T00:00:01Z","notBefore":null,"expires":null,"state":"active"}"#
        );
    }
}
