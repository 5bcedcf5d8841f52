//! The keeper of descriptors.

use std::{
    env, fs,
    io::{self, Write},
    os::unix::fs::MetadataExt as _,
    path::Path,
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
    let own = inode(&args.socket)?;
    tokio::select! {
        () = serve(listener, &args) => {}
        () = terminated => remove_own(&args.socket, own)?,
    }
    Ok(())
}

/// Device and number.
fn inode(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Where the pods of two keepers overlap (one deleted by force, a release installed while the one before
/// ends), the successor's socket is at the path by now, and nobody would ever bind it again.
fn remove_own(path: &Path, own: (u64, u64)) -> io::Result<()> {
    match inode(path) {
        Ok(found) if found == own => fs::remove_file(path),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_successors_socket_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keeper.sock");
        let old = UnixListener::bind(&path).unwrap();
        let own = inode(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let _new = UnixListener::bind(&path).unwrap();
        remove_own(&path, own).unwrap();
        assert!(path.exists());
        drop(old);
        remove_own(&path, inode(&path).unwrap()).unwrap();
        assert!(!path.exists());
        remove_own(&path, own).unwrap();
    }
}
