//! `vsecm-playground pod …`

use std::io::{self, Write as _};

use super::{
    Failure,
    args::{Create, Named, Pod},
};
use crate::{
    control::{PodInfo, PodName, Reply, Request, Wait, ask},
    kubelet::spec::PodSpec,
    layout::Layout,
    namespace, shell,
};

pub(super) fn run(command: Pod) -> Result<(), Failure> {
    match command {
        Pod::Create(arguments) => create(arguments),
        Pod::Delete(pod) => {
            let layout = Layout::existing(&pod.folder.dir)?;
            ask(&layout, &Request::Delete(name(pod)), tell)?;
            Ok(())
        }
        Pod::List { folder } => {
            let layout = Layout::existing(&folder.dir)?;
            if let Reply::Pods(pods) = ask(&layout, &Request::List, tell)? {
                io::stdout().write_all(table(&pods).as_bytes())?;
            }
            Ok(())
        }
        Pod::Exec { pod, command } => {
            let layout = Layout::existing(&pod.folder.dir)?;
            let Reply::Pod(pod) = ask(&layout, &Request::Describe(name(pod)), tell)? else {
                return Err("the playground described no pod".into());
            };
            namespace::enter(&layout)?;
            let mut socket = std::ffi::OsString::from("unix://");
            socket.push(&pod.identity_socket);
            let more = [("SPIFFE_ENDPOINT_SOCKET", socket.into()), ("VSECM_VOLUME", pod.volume)];
            match shell::become_command(&layout, &command, &more)? {}
        }
    }
}

fn create(arguments: Create) -> Result<(), Failure> {
    let Create { pod, workload, service_account, attributes, fs_group, no_wait } = arguments;
    let layout = Layout::existing(&pod.folder.dir)?;
    let spec = PodSpec {
        workload: workload.unwrap_or_else(|| pod.pod.clone()),
        name: pod.pod,
        namespace: pod.namespace,
        service_account,
        attributes: attributes.into_iter().collect(),
        fs_group,
        registration: crate::kubelet::spec::Registration::AtCreation,
    };
    let wait = if no_wait { Wait::No } else { Wait::ForVolume };
    if let Reply::Pod(pod) = ask(&layout, &Request::Create { spec, wait }, tell)? {
        writeln!(io::stdout(), "{}", pod.volume.display())?;
    }
    Ok(())
}

fn name(pod: Named) -> PodName {
    PodName { namespace: pod.namespace, name: pod.pod }
}

fn tell(progress: &str) -> io::Result<()> {
    writeln!(io::stderr(), "{progress}")
}

fn table(pods: &[PodInfo]) -> String {
    let mut rows = vec![["NAMESPACE", "POD", "WORKLOAD", "STATE", "VOLUME"].map(str::to_owned)];
    rows.extend(pods.iter().map(|pod| {
        [
            pod.name.namespace.clone(),
            pod.name.name.clone(),
            pod.workload.clone(),
            pod.state.clone(),
            pod.event.clone().unwrap_or_else(|| pod.link.display().to_string()),
        ]
    }));
    let mut widths = [0; 5];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.len().max(*width);
        }
    }
    let mut table = String::new();
    for row in rows {
        let cells = row.iter().zip(widths);
        let padded: Vec<_> = cells.map(|(cell, width)| format!("{cell:width$}")).collect();
        table.push_str(padded.join("  ").trim_end());
        table.push('\n');
    }
    table
}
