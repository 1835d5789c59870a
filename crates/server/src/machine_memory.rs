//! The memory that this process may use: the limit of its control group, else that of the machine.

use std::path::Path;

/// Where the system says what a control group may use, in version 2 and 1, relative to the group.
const GROUP_LIMITS: [(&str, &str); 2] =
    [("/sys/fs/cgroup", "memory.max"), ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")];

/// Bytes that this process may use; `None` where the system does not tell.
pub(crate) fn bytes() -> Option<u64> {
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| total(&text));
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limits = GROUP_LIMITS.iter().flat_map(|(root, file)| group_limits(Path::new(root), file, &groups));
    limits.chain(machine).min()
}

/// What `/proc/meminfo` says of the whole machine.
fn total(meminfo: &str) -> Option<u64> {
    let kilobytes = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")?.strip_suffix("kB"));
    kilobytes?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The limits of the process's groups and of those around them. A group that cannot be seen from here, as in a
/// container, is the one at the root.
fn group_limits(root: &Path, file: &str, groups: &str) -> Vec<u64> {
    let mut limits = Vec::new();
    for group in groups.lines().filter_map(|line| line.splitn(3, ':').nth(2)).chain(["/"]) {
        for folder in Path::new(group.trim_start_matches('/')).ancestors() {
            let text = std::fs::read_to_string(root.join(folder).join(file)).unwrap_or_default();
            // "max" is no limit.
            limits.extend(text.trim().parse::<u64>().ok().filter(|limit| *limit > 0));
        }
    }
    limits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_total_is_read_from_meminfo() {
        assert_eq!(total("MemFree: 1 kB\nMemTotal:       24689764 kB\n"), Some(24_689_764 * 1024));
        for text in ["", "MemTotal: many kB", "MemTotal: 99999999999999999999 kB"] {
            assert_eq!(total(text), None);
        }
    }

    #[test]
    fn smallest_limit_of_group_and_its_parents_counts() {
        let root = tempfile::tempdir().expect("a directory");
        let group = root.path().join("a/b");
        std::fs::create_dir_all(&group).expect("made");
        let limits = || {
            let mut limits = group_limits(root.path(), "memory.max", "1:cpu:/other\n0::/a/b\n");
            limits.sort_unstable();
            limits
        };
        assert!(limits().is_empty());
        std::fs::write(group.join("memory.max"), "max\n").expect("written");
        std::fs::write(root.path().join("a/memory.max"), "500\n").expect("written");
        assert_eq!(limits(), [500]);
        std::fs::write(root.path().join("memory.max"), "400\n").expect("written");
        assert_eq!(limits().first(), Some(&400));
    }
}
