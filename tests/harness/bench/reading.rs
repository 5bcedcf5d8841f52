//! Reads of cached files, against the same files on a tmpfs: plain, and laid out as the kubelet
//! lays a Secret volume out.

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::Instant,
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::fs::{Mode, OFlags};

use super::{
    BenchError, PATIENCE, io_error,
    stats::median,
    table::{Bar, Table},
};
use crate::{Playground, PodSpec, kubelet::volume::unhurried};

/// File, bytes, and the bar for opening, reading and closing it against the same layout on a tmpfs.
const FILES: [(&str, usize, Bar); 3] =
    [("small", 200, Bar::AtMost(1.6)), ("page", 4096, Bar::None), ("large", 65_536, Bar::None)];

/// Rounds; in each all have their turn, so that a disturbance meets all.
const ROUNDS: usize = 15;
/// Operations in a turn.
const TURN: u32 = 4_000;

pub(super) async fn measure(playground: &Playground, table: &mut Table) -> Result<(), BenchError> {
    let contents = FILES.map(|(name, size, _bar)| (name, "x".repeat(size)));
    let members = contents.iter().map(|(name, text)| ((*name).to_owned(), text.as_str().into()));
    let document = serde_json::to_vec(&members.collect::<serde_json::Map<_, _>>());
    let document = document.map_err(io_error("write JSON"))?;
    playground.register("reads", "default", &document).await?;
    let pod = playground.create_pod(PodSpec::new("reads"))?;
    pod.ready(PATIENCE).await?;
    let tmpfs = Tmpfs::mount(&playground.layout().root().join("tmpfs"))?;
    tmpfs.fill(&contents)?;

    table.section(
        "Reading cached files, time of the volume / time of a tmpfs (as a Secret volume; plain)",
    )?;
    for (name, size, bar) in FILES {
        let places = [
            pod.path().join(name),
            tmpfs.0.join("secret").join(name),
            tmpfs.0.join("plain").join(name),
        ];
        let rounds = unhurried(move || rounds(&places)).await.map_err(io_error("read a file"))?;
        let [whole, held] = rounds;
        table.line(
            &format!("open, read, close of {size} B: as a Secret"),
            whole.to_secret,
            "x",
            bar,
        )?;
        table.line(
            &format!("open, read, close of {size} B: plain"),
            whole.to_plain,
            "x",
            Bar::None,
        )?;
        let bar = Bar::AtMost(1.1);
        table.line(&format!("pread of {size} B, held descriptor"), held.to_secret, "x", bar)?;
    }
    playground.delete_pod(&pod, PATIENCE).await?;
    Ok(())
}

/// How often the time of a tmpfs goes into ours.
struct Ratios {
    to_secret: f64,
    to_plain: f64,
}

fn rounds(places: &[PathBuf; 3]) -> io::Result<[Ratios; 2]> {
    let mut taken = [Vec::new(), Vec::new()];
    let mut buffer = vec![0; 128 * 1024];
    for path in places {
        open_read_close(path, &mut buffer)?;
    }
    for _round in 0..ROUNDS {
        let mut whole = [0.0; 3];
        let mut held = [0.0; 3];
        for ((path, whole), held) in places.iter().zip(&mut whole).zip(&mut held) {
            *whole = turn(|| open_read_close(path, &mut buffer))?;
            let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
            *held = turn(|| Ok(rustix::io::pread(&file, &mut *buffer, 0).map(|_length| ())?))?;
        }
        for (all, [ours, secret, plain]) in taken.iter_mut().zip([whole, held]) {
            all.push((ours / secret, ours / plain));
        }
    }
    Ok(taken.map(|all| Ratios {
        to_secret: median(all.iter().map(|ratios| ratios.0).collect()),
        to_plain: median(all.iter().map(|ratios| ratios.1).collect()),
    }))
}

/// Seconds of one operation.
fn turn(mut operation: impl FnMut() -> io::Result<()>) -> io::Result<f64> {
    let begun = Instant::now();
    for _time in 0..TURN {
        operation()?;
    }
    Ok(begun.elapsed().as_secs_f64() / f64::from(TURN))
}

fn open_read_close(path: &Path, buffer: &mut [u8]) -> io::Result<()> {
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    while rustix::io::read(&file, &mut *buffer)? > 0 {}
    Ok(())
}

/// A tmpfs that goes with this value.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(at: &Path) -> Result<Self, BenchError> {
        fs::create_dir(at).map_err(io_error("make a folder"))?;
        let none: Option<&str> = None;
        mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), none)
            .map_err(io_error("mount a tmpfs"))?;
        Ok(Self(at.to_owned()))
    }

    fn fill(&self, contents: &[(&str, String); 3]) -> Result<(), BenchError> {
        let fill = || {
            let (plain, secret) = (self.0.join("plain"), self.0.join("secret"));
            fs::create_dir(&plain)?;
            fs::create_dir_all(secret.join("..1"))?;
            symlink("..1", secret.join("..data"))?;
            for (name, text) in contents {
                fs::write(plain.join(name), text)?;
                fs::write(secret.join("..1").join(name), text)?;
                symlink(Path::new("..data").join(name), secret.join(name))?;
            }
            Ok::<_, io::Error>(())
        };
        fill().map_err(io_error("fill a tmpfs"))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        if let Err(error) = umount2(&self.0, MntFlags::MNT_DETACH) {
            tracing::warn!(%error, "a tmpfs of the bench stays mounted");
        }
    }
}
