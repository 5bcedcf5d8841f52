//! Memory, threads and idle time of the processes of a node.

use std::{fs, time::Duration};

use nix::unistd::Pid;
use tokio::time::sleep;

use super::{
    BenchError, io_error,
    table::{Bar, Table},
};
use crate::{Component, Playground};

/// Who is on each node, with the bars at 110 volumes in MiB.
const PROCESSES: [(Component, f64); 3] =
    [(Component::NodeAgent, 20.0), (Component::Csi, 8.0), (Component::Keeper, 4.0)];

/// How long the node is left alone.
const IDLE: Duration = Duration::from_secs(10);

pub(super) async fn measure(
    playground: &Playground,
    table: &mut Table,
    volumes: usize,
) -> Result<(), BenchError> {
    table.section(&format!("A node with {volumes} volumes, each of a secret of its own"))?;
    for (component, most) in PROCESSES {
        let bar = if volumes == 110 { Bar::AtMost(most) } else { Bar::None };
        let sum = of(&playground.pids(component))?;
        let name = component.binary();
        table.line(&format!("{name}: memory of its own (Pss)"), sum.pss, "MiB", bar)?;
        table.line(
            &format!("{name}: resident, with its program's text"),
            sum.rss,
            "MiB",
            Bar::None,
        )?;
        table.line(&format!("{name}: threads"), sum.threads, "", Bar::None)?;
    }
    let everything =
        || PROCESSES.iter().flat_map(|(component, _)| playground.pids(*component)).collect();
    let all: Vec<Pid> = everything();
    let before = of(&all)?.ticks;
    // not a wait for something: the figure is what is used while nothing is to be done
    sleep(IDLE).await;
    let ticks = of(&all)?.ticks - before;
    // a tick is 10 ms on every Linux of ours
    let share = ticks * 0.01 / IDLE.as_secs_f64() * 100.0;
    table.line("all three, idle: share of one CPU", share, "%", Bar::None)
}

/// Of several processes together.
#[derive(Debug, Default)]
struct Sum {
    rss: f64,
    pss: f64,
    threads: f64,
    ticks: f64,
}

fn of(pids: &[Pid]) -> Result<Sum, BenchError> {
    let mut sum = Sum::default();
    for pid in pids {
        let read = |file| {
            let path = format!("/proc/{pid}/{file}");
            fs::read_to_string(path).map_err(io_error("read what /proc says of a process"))
        };
        let memory = read("smaps_rollup")?;
        sum.rss += kibibytes(&memory, "Rss:") / 1024.0;
        sum.pss +=
            kibibytes(&memory, "Pss_Anon:") / 1024.0 + kibibytes(&memory, "Pss_Shmem:") / 1024.0;
        sum.threads += kibibytes(&read("status")?, "Threads:");
        sum.ticks += ticks(&read("stat")?);
    }
    Ok(sum)
}

/// The number of a line.
fn kibibytes(text: &str, label: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(label));
    let number = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    number.unwrap_or_default()
}

/// User's and system's time.
fn ticks(stat: &str) -> f64 {
    // pid (name) state …, and the name may hold anything
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let times = fields.split_whitespace().skip(11).take(2);
    times.filter_map(|text| text.parse::<f64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_own_text_is_understood() {
        let own = of(&[Pid::this()]).unwrap();
        assert!(own.rss > 0.5 && own.pss > 0.0 && own.threads >= 1.0, "{own:?}");
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 12 30 0 0 20 0 1 0 5 0 0";
        assert!((ticks(stat) - 42.0).abs() < f64::EPSILON);
    }
}
