//! A container that reads a file all the time and counts.

use super::{
    awaiting::{self, SOON},
    container::{Container, STATE},
    created::Created,
};

/// What a reader has met since its pod began, whatever became of its container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) good: u64,
    pub(crate) failures: Vec<String>,
}

/// A container that opens, reads and closes `path` a hundred times a second. A read that fails,
/// is empty, or that the shell code `check` does not like (`$v` is what was read) is a failure.
pub(crate) fn container(name: &str, path: &str, check: &str) -> Container {
    let good = format!("{STATE}/{name}.good");
    let failed = format!("{STATE}/{name}.failed");
    let script = format!(
        r#"n=$(cat {good} 2>/dev/null || echo 0)
        while :; do
            if v=$(cat {path} 2>>{failed}); then
                if [ -n "$v" ] && {{ {check}; }}; then
                    n=$((n + 1))
                    echo $n > {good}
                else
                    echo "bad: $v" >> {failed}
                fi
            fi
            usleep 10000
        done"#
    );
    Container::shell(name, &script)
}

/// What the reader `name` of a pod has met so far; some `good` more than `since`.
#[track_caller]
pub(crate) fn tally(pod: &Created, name: &str, since: u64) -> Tally {
    let script = format!("cat {STATE}/{name}.good; cat {STATE}/{name}.failed");
    awaiting::value(&format!("more reads by {name} than {since}"), SOON, || {
        let output = pod.exec(name, &["sh", "-c", &script]);
        let mut lines = output.stdout.lines();
        // the file is empty for a moment while it is written
        let good = lines.next().unwrap_or_default().parse().ok().filter(|good| *good > since);
        let good = good.ok_or_else(|| output.tell())?;
        Ok(Tally { good, failures: lines.map(str::to_owned).collect() })
    })
}
