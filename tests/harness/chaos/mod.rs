//! The program `vsecm-chaos`: deaths of every part of the node, at random moments, under readers
//! and rotations ([I6]).

mod args;
mod part;
mod readers;
mod table;

use std::{
    error::Error,
    io::{self, Write as _},
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Parser as _;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use self::{
    args::Args,
    part::{Bench, Mode, Victim},
    table::{HEAD, Row},
};
use crate::namespace;

type Failure = Box<dyn Error>;

/// What is killed, in which mode, how often: over 1,000 kills of node-agent, 200 of csi and keeper.
const PARTS: [(Mode, &[(Victim, usize)]); 3] = [
    (
        Mode::Off,
        &[
            (Victim::Server, 500),
            (Victim::Supervisor, 25),
            (Victim::Container, 25),
            (Victim::Csi, 100),
            (Victim::Keeper, 100),
            (Victim::Upgrade, 50),
        ],
    ),
    (
        Mode::Opens,
        &[
            (Victim::Server, 500),
            (Victim::Supervisor, 25),
            (Victim::Container, 25),
            (Victim::Csi, 100),
            (Victim::Keeper, 100),
            (Victim::Upgrade, 50),
        ],
    ),
    // a kernel without NOTIFY_RESEND and NOTIFY_INC_EPOCH: an end by SIGTERM loses nothing. A kill -9
    // does (its readers hang until a watchdog aborts the volume), and is not shown yet
    (Mode::OldKernel, &[(Victim::Upgrade, 100)]),
];

/// Runs the program; exit code 1 if a read failed.
pub fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            // stderr may be gone, and then there is nobody to tell
            let _told: io::Result<()> =
                io::stderr().write_all(format!("vsecm-chaos: {failure}\n").as_bytes());
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<bool, Failure> {
    // before the runtime, whose threads would forbid it
    namespace::enter_if_needed()?;
    Runtime::new()?.block_on(everything(args))
}

async fn everything(args: &Args) -> Result<bool, Failure> {
    let began = Instant::now();
    say(&format!("kernel {}; 4 readers, rotations in flight\n{HEAD}", kernel()))?;
    let (mut good, mut kills) = (true, 0);
    let wanted = |mode: Mode, victim: Victim| {
        let name = format!("{} {}", mode.name(), victim.name());
        name.contains(&args.only)
    };
    let mut left: usize = PARTS
        .iter()
        .flat_map(|(mode, parts)| parts.iter().filter(|(victim, _)| wanted(*mode, *victim)))
        .count();
    for (mode, parts) in PARTS {
        let parts: Vec<_> = parts.iter().filter(|(victim, _)| wanted(mode, *victim)).collect();
        if parts.is_empty() {
            continue;
        }
        let folder = Folder::new(args.dir.as_deref(), mode)?;
        let bench = Bench::start(folder.path(), mode).await?;
        for (victim, most) in parts {
            let share = args.seconds.map_or(Duration::MAX, |all| {
                all.saturating_sub(began.elapsed()) / u32::try_from(left).unwrap_or(1).max(1)
            });
            let (row, complaints) = bench.kill(*victim, *most, share).await?;
            left -= 1;
            kills += row.kills;
            say(&row.to_string())?;
            for complaint in &complaints {
                say(&format!("  {complaint}"))?;
            }
            good &= is_good(mode, *victim, &row);
        }
        bench.end().await?;
    }
    let verdict = if good { "no read failed" } else { "READS FAILED" };
    say(&format!("{kills} kills in {} s: {verdict}", began.elapsed().as_secs()))?;
    Ok(good)
}

/// What an old kernel cannot give: a request that a killed server had taken is lost, and its reader
/// is freed by the watchdog, with an error. That must then be counted and said.
fn is_good(mode: Mode, victim: Victim, row: &Row) -> bool {
    match (mode, victim) {
        (Mode::OldKernel, Victim::Server) => row.failed == 0 || row.aborts > 0,
        _ => row.failed == 0,
    }
}

fn kernel() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    release.trim_end().to_owned()
}

fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout();
    out.write_all(line.as_bytes())?;
    out.write_all(b"\n")?;
    out.flush()
}

/// Where a playground is.
enum Folder {
    Kept(std::path::PathBuf),
    Gone(TempDir),
}

impl Folder {
    fn new(dir: Option<&Path>, mode: Mode) -> io::Result<Self> {
        match dir {
            Some(dir) => Ok(Self::Kept(dir.join(mode.folder()))),
            None => tempfile::Builder::new().prefix("vsecm-").tempdir().map(Self::Gone),
        }
    }

    fn path(&self) -> &Path {
        match self {
            Self::Kept(path) => path,
            Self::Gone(dir) => dir.path(),
        }
    }
}
