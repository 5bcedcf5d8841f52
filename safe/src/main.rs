//! `vsecm-safe`.

use std::process::ExitCode;

use clap::Parser as _;
use vsecm_safe::{app, args::Args};
use vsecm_safe_api::{client::chain, process};

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    process::harden()?;
    let args = Args::parse();
    process::log_to_stderr("info");
    if let Err(error) = app::run(args).await {
        tracing::error!(error = chain(&*error), "Safe cannot go on");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}
