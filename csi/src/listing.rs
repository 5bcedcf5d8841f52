//! `vsecm-csi volumes`: what node-agent knows of this node's volumes, as a table.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::anyhow;
use vsecm_node_agent_api::{
    client::{Door, chain},
    listing::Listed,
    peer::PeerRule,
};

/// Prints the volumes of this node. Exit code 0 if node-agent told them.
#[derive(Debug, clap::Parser)]
#[command(bin_name = "vsecm-csi volumes")]
pub struct VolumesCommand {
    /// As what they are printed
    #[arg(long, short, default_value = "table")]
    output: Output,
    /// node-agent's socket
    #[arg(long, env = "VSECM_NODE_AGENT_SOCKET")]
    node_agent_socket: PathBuf,
    /// Who node-agent is: uid:NUMBER or exe:NAME
    #[arg(long, env = "VSECM_NODE_AGENT_PEER")]
    node_agent_peer: PeerRule,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Output {
    /// For people
    Table,
    /// For programs: one array
    Json,
}

impl VolumesCommand {
    /// Prints them.
    ///
    /// # Errors
    /// node-agent does not tell, in words.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let agent =
            Door { name: "node-agent", socket: self.node_agent_socket, rule: self.node_agent_peer };
        let volumes = runtime.block_on(agent.volumes()).map_err(|error| anyhow!(chain(&error)))?;
        let text = match self.output {
            Output::Table => table(&volumes, SystemTime::now()),
            Output::Json => serde_json::to_string_pretty(&volumes)? + "\n",
        };
        io::stdout().write_all(text.as_bytes())?;
        Ok(ExitCode::SUCCESS)
    }
}

const HEAD: [&str; 7] = ["NAMESPACE", "POD", "VOLUME", "STATE", "REVISION", "SINCE", "REASON"];

fn table(volumes: &[Listed], now: SystemTime) -> String {
    let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let mut rows = vec![HEAD.map(str::to_owned)];
    rows.extend(volumes.iter().map(|volume| row(volume, now)));
    // by pod, as people look for them
    if let Some(body) = rows.get_mut(1..) {
        body.sort();
    }
    let mut widths = [0; HEAD.len()];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            // a String takes everything
            let _written = write!(line, "{cell:width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn row(volume: &Listed, now: u64) -> [String; HEAD.len()] {
    let reason = match &volume.condition {
        Some(words) => format!("{}: {}", volume.reasons.join(","), words.escape_debug()),
        None => String::new(),
    };
    [
        volume.namespace.to_string(),
        volume.pod.to_string(),
        short(volume.volume.as_str()),
        volume.stage.word().to_owned(),
        volume.revision.map_or_else(|| "-".to_owned(), |revision| revision.to_string()),
        age(now.saturating_sub(volume.since)),
        reason,
    ]
}

/// The kubelet's ids have 64 digits after `csi-`; a dozen tell them apart.
fn short(volume: &str) -> String {
    volume.chars().take(16).collect()
}

/// As kubectl shows ages.
fn age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use vsecm_node_agent_api::listing::Stage;

    use super::*;

    fn listed(pod: &str, stage: Stage) -> Listed {
        Listed {
            volume: format!("csi-{}", "0123456789abcdef".repeat(4)).parse().unwrap(),
            namespace: "default".parse().unwrap(),
            pod: pod.parse().unwrap(),
            pod_uid: "u".parse().unwrap(),
            stage,
            since: 1000,
            revision: None,
            reasons: Vec::new(),
            condition: None,
        }
    }

    #[test]
    fn the_table_has_a_line_per_volume_in_the_order_of_pods() {
        let waiting = Listed {
            reasons: vec!["not_registered".to_owned()],
            condition: Some("no secret named web\nin namespace default yet".to_owned()),
            ..listed("web", Stage::Waiting)
        };
        let served = Listed { revision: Some(7), ..listed("db", Stage::Serving) };
        let now = UNIX_EPOCH + Duration::from_secs(1000 + 125);
        let lines = table(&[waiting, served], now);
        let lines: Vec<_> = lines.lines().collect();
        assert_eq!(
            lines,
            [
                "NAMESPACE  POD  VOLUME            STATE    REVISION  SINCE  REASON",
                "default    db   csi-0123456789ab  serving  7         2m",
                r"default    web  csi-0123456789ab  waiting  -         2m     not_registered: no secret named web\nin namespace default yet",
            ]
        );
    }

    #[test]
    fn a_node_without_volumes_has_an_empty_table() {
        assert_eq!(table(&[], SystemTime::now()).lines().count(), 1);
    }

    #[test]
    fn ages_are_short() {
        let ages = [0, 119, 120, 7199, 7200, 172_799, 172_800].map(age);
        assert_eq!(ages, ["0s", "119s", "2m", "119m", "2h", "47h", "2d"]);
    }

    #[test]
    fn without_a_node_agent_there_is_a_sentence() {
        let command = VolumesCommand {
            output: Output::Json,
            node_agent_socket: "/nowhere/s".into(),
            node_agent_peer: PeerRule::Uid(0),
        };
        let said = command.run().unwrap_err().to_string();
        assert!(said.starts_with("node-agent cannot be reached: "), "{said}");
    }
}
