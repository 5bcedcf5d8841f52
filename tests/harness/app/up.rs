//! `vsecm-playground up`

use std::{
    io::{self, Write as _},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Failure, args};
use crate::{
    Component, Options, Playground,
    control::{self, Control},
    layout::Layout,
    namespace::Home,
    shell,
    users::Users,
};

pub(super) async fn run(arguments: args::Up, home: Home) -> Result<(), Failure> {
    let mut ends = Ends::listen()?;
    let options = Options {
        hold: Duration::from_secs(arguments.hold),
        svid_lifetime: Duration::from_secs(arguments.svid_lifetime),
        ..Options::default()
    };
    let started = tokio::select! {
        started = Playground::start(&arguments.dir, options) => started?,
        () = ends.came() => return Ok(()),
    };
    let playground = Arc::new(started);
    let layout = playground.layout().clone();
    let outcome = serve(&playground, &layout, home, &mut ends).await;
    let ended = playground.shutdown().await;
    let cleared = layout.clear_running();
    outcome?;
    ended?;
    Ok(cleared?)
}

async fn serve(
    playground: &Arc<Playground>,
    layout: &Layout,
    home: Home,
    ends: &mut Ends,
) -> Result<(), Failure> {
    let control = Control::listen(&layout.control_socket())?;
    shell::publish(&layout.pid_file(), &format!("{}\n", std::process::id()))?;
    shell::write_environment(playground)?;
    shell::publish(&layout.ready_file(), "")?;
    greet(playground, layout, home)?;
    tokio::select! {
        () = ends.came() => Ok(()),
        () = control::serve(&control, playground) => Ok(()),
        failed = keep_running(playground) => failed,
    }
}

fn greet(playground: &Playground, layout: &Layout, home: Home) -> io::Result<()> {
    let dir = layout.root().display();
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "The playground runs in {dir}; Ctrl-C ends it. DEVELOPMENT IDENTITIES: for trying things out only."
    )?;
    if playground.users() == Users::Single {
        writeln!(
            out,
            "There is one user id only, so the components know each other by executable and not by user."
        )?;
    }
    if home == Home::OwnNamespace {
        writeln!(
            out,
            "It lives in a user namespace of its own: its volumes are seen from inside only."
        )?;
    }
    writeln!(out, "Enter it from any terminal:  vsecm-playground shell {dir}")?;
    writeln!(
        out,
        "Inside:                      vsecm-playground pod create web --no-wait; safe -w web -s -"
    )
}

/// Stands for the kubelet's restarts of containers: a component that ends is started again.
async fn keep_running(playground: &Playground) -> Result<(), Failure> {
    let watch = |component: Component| async move {
        match playground.end_of(component) {
            Some(end) => drop(end.wait().await),
            None => std::future::pending().await,
        }
        component
    };
    let mut watched: FuturesUnordered<_> = Component::RUNNING.into_iter().map(watch).collect();
    while let Some(component) = watched.next().await {
        tracing::warn!(%component, "ended; it is started again");
        playground.start_component(component).await?;
        watched.push(watch(component));
    }
    Ok(())
}

/// The signals that end us.
struct Ends {
    terminate: Signal,
    interrupt: Signal,
}

impl Ends {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn came(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
