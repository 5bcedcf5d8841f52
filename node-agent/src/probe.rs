//! The kubelet's probes, asked from inside: the container holds no other program.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    time::Duration,
};

use clap::ValueEnum;

/// The process answers from memory.
const PATIENCE: Duration = Duration::from_secs(2);

/// The longest answer that is read.
const LIMIT: u64 = 16 * 1024;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Question {
    /// Whether the process answers at all.
    Live,
    /// Whether it can do its work.
    Ready,
}

/// Why the answer is no.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// The port is not given.
    #[error("{0} is not set, so nobody answers this probe")]
    NoPort(&'static str),
    /// Nobody answers.
    #[error("nobody answers at {0}")]
    Silent(SocketAddr, #[source] io::Error),
    /// The process says why.
    #[error("{0}")]
    No(String),
}

/// Asks the process at the port of `address`, on this machine.
///
/// # Errors
/// [`ProbeError`].
pub fn ask(address: SocketAddr) -> Result<String, ProbeError> {
    let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let ip = if address.ip().is_unspecified() { here } else { address.ip() };
    let address = SocketAddr::new(ip, address.port());
    let answer = exchange(address).map_err(|error| ProbeError::Silent(address, error))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let sentence = body.trim().to_owned();
    match head.split(' ').nth(1) {
        Some("200") => Ok(sentence),
        _ => Err(ProbeError::No(sentence)),
    }
}

fn exchange(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(LIMIT).read_to_string(&mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use tokio::{sync::watch, task::spawn_blocking};
    use vsecm_safe_api::probe;

    use super::*;

    #[tokio::test]
    async fn the_answer_is_what_the_process_says_of_itself() {
        let (says, state) = watch::channel(Err("the CSIDriver object is missing".to_owned()));
        let anywhere = Some(probe::address("127.0.0.1:0").unwrap());
        let probes = probe::serve(anywhere, anywhere, state, None).await.unwrap();
        let (live, ready) = (probes.liveness().unwrap(), probes.readiness().unwrap());
        let asked = |at| async move { spawn_blocking(move || ask(at)).await.unwrap() };
        assert_eq!(asked(live).await.unwrap(), "OK");
        let no = asked(ready).await.unwrap_err().to_string();
        assert_eq!(no, "the CSIDriver object is missing");
        says.send(Ok(())).unwrap();
        asked(ready).await.unwrap();
        drop(probes);
        assert!(matches!(asked(ready).await, Err(ProbeError::Silent(..))));
    }
}
