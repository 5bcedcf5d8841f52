//! The keeper of descriptors.

use clap::Parser;
use vsecm_csi::keeper::{Args, serve};
use vsecm_node_agent_api::{channel::Listener, process};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    process::begin()?;
    let args = Args::parse();
    let terminated = process::terminated()?;
    let listener = Listener::bind(&args.socket)?;
    tokio::select! {
        () = serve(listener, &args) => {}
        () = terminated => std::fs::remove_file(&args.socket)?,
    }
    Ok(())
}
