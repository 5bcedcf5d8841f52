//! The keeper of descriptors.

use clap::Parser;
use vsecm_csi::{
    app,
    keeper::{Args, serve},
};
use vsecm_node_agent_api::{channel::Listener, process};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    process::harden()?;
    let args = Args::parse();
    process::log_to_stderr();
    process::raise_descriptor_limit()?;
    let stop = app::stop_on_signal()?;
    let listener = Listener::bind(&args.socket)?;
    tokio::select! {
        () = serve(listener, &args) => {}
        () = stop.cancelled() => std::fs::remove_file(&args.socket)?,
    }
    Ok(())
}
