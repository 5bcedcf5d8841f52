//! The acts, in order.

use std::{fs, io, path::Path, sync::Arc, time::Duration};

use tokio::{time::Instant, try_join};

use super::{DemoError, FIRST, SOON, io_error, reader::Reader, telling::Teller};
use crate::{
    Component, Playground, Pod, PodSpec,
    awaiting::{self, Rotations},
    kubelet::{Phase, volume::unhurried},
};

pub(super) async fn all(teller: &mut Teller, playground: &Playground) -> Result<(), DemoError> {
    let pod = a_pod_waits(teller, playground).await?;
    its_secret_comes(teller, playground, &pod).await?;
    its_files(teller, &pod).await?;
    nobody_writes(teller, &pod).await?;
    it_rotates(teller, playground, &pod).await?;
    a_namesake_gets_nothing(teller, playground).await?;
    node_agent_dies(teller, playground, &pod).await?;
    safe_dies(teller, playground, &pod).await?;
    it_is_deleted(teller, playground, &pod).await
}

async fn a_pod_waits(teller: &mut Teller, playground: &Playground) -> Result<Arc<Pod>, DemoError> {
    let pod = playground.create_pod(PodSpec::new("web"))?;
    let event = pod.waits(SOON).await?;
    holds("the event says how to register the secret", event.contains("safe -w web"), &event)?;
    let there = pod.path().exists();
    holds("nothing is mounted while the pod waits", !there, "a mount")?;
    teller.step("Pod default/web waits for its volume, and its events say why:")?;
    Teller::detail(&event)?;
    // the kubelet pauses after the error; a secret is seen at once while a call is held
    let held = |state: &crate::kubelet::PodState| state.phase == Phase::Publishing;
    pod.reaches(SOON, held).await?;
    Ok(pod)
}

async fn its_secret_comes(
    teller: &mut Teller,
    playground: &Playground,
    pod: &Pod,
) -> Result<(), DemoError> {
    let begun = Instant::now();
    let registered = async {
        playground.register("web", "default", FIRST.as_bytes()).await?;
        Ok::<_, DemoError>(begun.elapsed())
    };
    let readable = async {
        pod.ready(SOON).await?;
        let content = pod.read_text("username").await.map_err(io_error("read username"))?;
        Ok((content, begun.elapsed()))
    };
    let (answered, (content, seen)) = try_join!(registered, readable)?;
    holds("the file holds the value", content == "admin", &content)?;
    teller.step("$ safe -w web -s -      (the value comes from stdin)")?;
    Teller::detail(&format!(
        "the pod's file is readable {} ms after the command was started ({})",
        seen.as_millis(),
        beside(seen, answered)
    ))
}

/// The registration ends while the command that made it is still on its way out.
fn beside(seen: Duration, answered: Duration) -> String {
    let apart = seen.abs_diff(answered).as_millis();
    if seen < answered {
        format!("{apart} ms before it ended")
    } else {
        format!("{apart} ms after it ended")
    }
}

async fn its_files(teller: &mut Teller, pod: &Pod) -> Result<(), DemoError> {
    teller.step("$ ls -l /vsecm/ && cat /vsecm/secrets.json")?;
    let listing = run(&["ls", "-l"], pod.path()).await?;
    for name in ["username", "password", "secrets.json"] {
        holds("each key is a file", listing.contains(name), &listing)?;
    }
    Teller::detail(&listing)?;
    let document = run(&["cat", "secrets.json"], pod.path()).await?;
    holds("the document is there byte for byte", document == FIRST, &document)?;
    Teller::detail(&document)
}

async fn nobody_writes(teller: &mut Teller, pod: &Pod) -> Result<(), DemoError> {
    let file = pod.path().join("username");
    let written = unhurried(move || Ok(fs::write(file, "mallory")))
        .await
        .map_err(io_error("try to write"))?;
    let sentence = match written {
        Ok(()) => "it was written".to_owned(),
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => String::new(),
        Err(error) => error.to_string(),
    };
    holds("a write is refused", sentence.is_empty(), &sentence)?;
    teller.step("$ echo mallory > /vsecm/username")?;
    Teller::detail("refused, also to root: Read-only file system")
}

async fn it_rotates(
    teller: &mut Teller,
    playground: &Playground,
    pod: &Pod,
) -> Result<(), DemoError> {
    let took = rotate(playground, pod, "battery staple").await?;
    teller
        .step("The secret is registered anew, and an application watches its volume by inotify:")?;
    Teller::detail(&format!(
        "it sees ..data move and reads the new password {} ms after the command was started",
        took.as_millis()
    ))
}

async fn rotate(playground: &Playground, pod: &Pod, password: &str) -> Result<Duration, DemoError> {
    let mut rotations = Rotations::watch(pod.path())?;
    let value = format!(r#"{{"username":"admin","password":"{password}"}}"#);
    let begun = Instant::now();
    let registered = async {
        let done = playground.register("web", "default", value.as_bytes());
        Ok::<_, DemoError>(done.await?)
    };
    let seen = async {
        rotations.next(SOON).await?;
        let content = pod.read_text("password").await.map_err(io_error("read password"))?;
        Ok((content, begun.elapsed()))
    };
    let ((), (content, took)) = try_join!(registered, seen)?;
    holds("the new value is read", content == password, &content)?;
    Ok(took)
}

async fn a_namesake_gets_nothing(
    teller: &mut Teller,
    playground: &Playground,
) -> Result<(), DemoError> {
    let pod = playground.create_pod(PodSpec::new("web").namespace("other"))?;
    let event = pod.waits(SOON).await?;
    holds("the event names the namespace to register in", event.contains("-n other"), &event)?;
    let there = pod.path().exists();
    holds("nothing is mounted for it", !there, "a mount")?;
    playground.delete_pod(&pod, SOON).await?;
    teller.step("A pod of the same name in the namespace `other` waits and gets nothing:")?;
    Teller::detail(&event)
}

async fn node_agent_dies(
    teller: &mut Teller,
    playground: &Playground,
    pod: &Pod,
) -> Result<(), DemoError> {
    let passwords = &["battery staple", "tr0ub4dor"];
    let reader = Reader::start(pod.path().join("password"), passwords)?;
    awaiting::until("the reader's first read", SOON, || reader.reads() > 0).await?;
    let begun = Instant::now();
    let killed = playground.crash(Component::NodeAgent).await?;
    let successor = || playground.serving_pid(Component::NodeAgent);
    let successor = awaiting::value("node-agent's successor", SOON, successor).await?;
    // what the successor pushes proves that it serves, and that csi found it
    rotate(playground, pod, "tr0ub4dor").await?;
    let took = begun.elapsed();
    let report = reader.stop().await?;
    let failed = format!("{} failed: {:?}", report.failures.len(), report.failures.first());
    holds("no read fails", report.failures.is_empty(), &failed)?;
    teller.step(&format!(
        "node-agent is killed with -9 while an application reads (pid {killed}, then {successor}):"
    ))?;
    Teller::detail(&format!(
        "{} reads, 0 failed, longest {} ms; {} ms after the kill a rotation arrives",
        report.reads,
        report.longest.as_millis(),
        took.as_millis()
    ))
}

async fn safe_dies(
    teller: &mut Teller,
    playground: &Playground,
    pod: &Pod,
) -> Result<(), DemoError> {
    playground.crash(Component::Safe).await?;
    let content = pod.read_text("password").await.map_err(io_error("read password"))?;
    holds("the files stay while safe is away", content == "tr0ub4dor", &content)?;
    playground.start_component(Component::Safe).await?;
    let list = playground.safe(&["-l"], b"").await?;
    holds(
        "the secret is there after safe's restart",
        list.code == Some(0) && list.stdout.contains("web"),
        &format!("{}{}", list.stdout, list.stderr),
    )?;
    teller
        .step("safe is killed with -9 and started again: the files stayed, the secret is there:")?;
    Teller::detail("$ safe -l")?;
    let lines = list.stdout.lines().take(3);
    Teller::detail(&lines.collect::<Vec<_>>().join("\n"))
}

async fn it_is_deleted(
    teller: &mut Teller,
    playground: &Playground,
    pod: &Pod,
) -> Result<(), DemoError> {
    let mut rotations = Rotations::watch(pod.path())?;
    let begun = Instant::now();
    playground.unregister("web", "default").await?;
    rotations.next(SOON).await?;
    // the links to the files go after `..data` has moved
    let deadline = begun + SOON;
    let left = || async { pod.names().await.map_err(io_error("list the volume")) };
    while !left().await?.is_empty() && Instant::now() < deadline {}
    let left = left().await?;
    holds("the files are gone", left.is_empty(), &left.join(", "))?;
    teller.step("$ safe -w web -d")?;
    Teller::detail(&format!(
        "the pod's files are gone {} ms after the command was started",
        begun.elapsed().as_millis()
    ))
}

fn holds(claim: &'static str, so: bool, found: &str) -> Result<(), DemoError> {
    if so {
        return Ok(());
    }
    let found = found.to_owned();
    Err(DemoError::DoesNotHold { claim, found })
}

/// The stdout of a command that is run in `folder`.
async fn run(words: &[&str], folder: &Path) -> Result<String, DemoError> {
    let failed = io_error(format!("run {}", words.join(" ")));
    let (program, arguments) = words.split_first().unwrap_or((&"true", &[]));
    let mut command = tokio::process::Command::new(program);
    let output =
        command.args(arguments).current_dir(folder).env("LC_ALL", "C").kill_on_drop(true).output();
    let output = match tokio::time::timeout(awaiting::patience(SOON), output).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(failed(error)),
        Err(elapsed) => return Err(failed(elapsed.into())),
    };
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(failed(io::Error::other(said)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
