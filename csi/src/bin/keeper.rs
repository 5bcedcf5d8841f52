//! The keeper of descriptors.

use clap::Parser;
use vsecm_csi::keeper::{Args, serve};
use vsecm_node_agent_api::{channel::Listener, process};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    process::harden()?;
    let args = Args::parse();
    process::log_to_stderr();
    process::raise_descriptor_limit()?;
    let terminated = process::terminated()?;
    let listener = Listener::bind(&args.socket)?;
    tokio::select! {
        () = serve(listener, &args) => {}
        () = terminated => std::fs::remove_file(&args.socket)?,
    }
    Ok(())
}
