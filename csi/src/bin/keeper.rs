//! The keeper of descriptors.

use std::{
    env,
    io::{self, Write},
    process::ExitCode,
};

use anyhow::Context;
use vsecm_csi::keeper::{Args, Command, prepare, probe, serve};
use vsecm_node_agent_api::{channel::Listener, process};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<ExitCode> {
    process::begin()?;
    match Command::parse(env::args().skip(1), |variable| env::var(variable).ok()) {
        Err(misuse) => {
            writeln!(io::stderr(), "vsecm-keeper: {misuse}")?;
            return Ok(ExitCode::from(2));
        }
        Ok(Command::Say(text)) => io::stdout().write_all(text.as_bytes())?,
        Ok(Command::Serve(args)) => keep(args).await?,
        Ok(Command::Prepare { folder, owner }) => {
            prepare(&folder, owner).with_context(|| folder.display().to_string())?;
        }
        Ok(Command::Probe { socket }) => {
            probe(&socket).await?;
            writeln!(io::stdout(), "the keeper answers")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn keep(args: Args) -> anyhow::Result<()> {
    let terminated = process::terminated()?;
    let listener = Listener::bind(&args.socket)?;
    tokio::select! {
        () = serve(listener, &args) => {}
        () = terminated => std::fs::remove_file(&args.socket)?,
    }
    Ok(())
}
