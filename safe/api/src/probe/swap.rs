//! Whether the kernel may write this process's memory to a disk ([I7]).

use std::{fs, path::Path};

/// Whether memory of this process may be swapped out: the machine has swap, and the process's
/// group may use it. What cannot be read counts as possible.
pub fn swap_is_possible() -> bool {
    let swaps = fs::read_to_string("/proc/swaps").ok();
    let group = fs::read_to_string("/proc/self/cgroup").ok();
    possible(swaps.as_deref(), group.as_deref(), |limit| fs::read_to_string(limit).ok())
}

fn possible(
    swaps: Option<&str>,
    group: Option<&str>,
    read: impl Fn(&Path) -> Option<String>,
) -> bool {
    // the first line is the head of a table
    if swaps.is_some_and(|table| table.lines().count() <= 1) {
        return false;
    }
    // of the second version only: the first counts swap together with memory
    let own = group.and_then(|groups| groups.lines().find_map(|line| line.strip_prefix("0::/")));
    let limits = own.map(|own| Path::new("/sys/fs/cgroup").join(own));
    let of_group = limits.iter().flat_map(|own| own.ancestors());
    let mut limits = of_group.filter_map(|folder| read(&folder.join("memory.swap.max")));
    // a group above may forbid what its own allows
    !limits.any(|limit| limit.trim() == "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: &str = "Filename\tType\tSize\tUsed\tPriority\n";
    const SOME: &str = "Filename\tType\tSize\tUsed\tPriority\n/dev/sda2 partition 1 0 -2\n";

    #[test]
    fn swap_is_possible_where_it_exists_and_no_group_forbids_it() {
        let by = |limit: &'static str, at: &'static str| {
            move |path: &Path| path.ends_with(at).then(|| limit.to_owned())
        };
        let own = "kubepods/pod1/memory.swap.max";
        let group = Some("0::/kubepods/pod1\n");
        assert!(possible(Some(SOME), group, by("max\n", own)));
        assert!(!possible(Some(NONE), group, by("max\n", own)), "there is no swap");
        assert!(!possible(Some(SOME), group, by("0\n", own)));
        assert!(!possible(Some(SOME), group, by("0\n", "kubepods/memory.swap.max")));
        assert!(!possible(Some(SOME), Some("0::/\n"), by("0\n", "cgroup/memory.swap.max")));
        assert!(possible(Some(SOME), Some("5:memory:/x\n"), by("0\n", own)), "the first version");
        assert!(possible(None, None, |_| None), "what cannot be read");
    }
}
