//! The kernel's names of controllers, heads and paths (`nvme_mpath_set_disk_name` in
//! `drivers/nvme/host/multipath.c`).

use crate::source::is_number;

/// Returns true for a controller, `nvme3`, and false for its namespace `nvme3n1`.
pub(crate) fn is_controller(name: &str) -> bool {
    name.strip_prefix("nvme").is_some_and(is_number)
}

/// Returns true for a head, `nvme0n1`, and false for a path `nvme0c3n1`, a generic device `ng0n1`
/// or a controller.
pub(crate) fn is_head(name: &str) -> bool {
    let numbers = name.strip_prefix("nvme").and_then(|numbers| numbers.split_once('n'));
    numbers.is_some_and(|(subsystem, namespace)| is_number(subsystem) && is_number(namespace))
}

/// Returns true for a partition of that head, `nvme0n1p2`.
pub(crate) fn is_partition(name: &str, head: &str) -> bool {
    name.strip_prefix(head).and_then(|rest| rest.strip_prefix('p')).is_some_and(is_number)
}

/// Returns the head of a path: `nvme0n1` for `nvme0c3n1`. `None` if the name is not that of a path.
pub(crate) fn head_of(path: &str) -> Option<String> {
    let (subsystem, rest) = path.strip_prefix("nvme")?.split_once('c')?;
    let (controller, namespace) = rest.split_once('n')?;
    let are_numbers = [subsystem, controller, namespace].into_iter().all(is_number);
    are_numbers.then(|| format!("nvme{subsystem}n{namespace}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_heads_and_paths() {
        for (name, head) in [
            ("nvme0n1", true),
            ("nvme12n34", true),
            ("nvme0c3n1", false),
            ("ng0n1", false),
            ("nvme0", false),
            ("n1", false),
        ] {
            assert_eq!(is_head(name), head, "{name}");
        }
        for (name, partition) in [("nvme0n1p2", true), ("nvme0n1", false), ("nvme0n12p1", false), ("nvme0n1px", false)]
        {
            assert_eq!(is_partition(name, "nvme0n1"), partition, "{name}");
        }
        for (path, head) in [
            ("nvme0c3n1", Some("nvme0n1")),
            ("nvme12c56n34", Some("nvme12n34")),
            ("nvme0n1", None),
            ("nvme0c3n1p1", None),
            ("nvme0c3", None),
        ] {
            assert_eq!(head_of(path).as_deref(), head, "{path}");
        }
    }
}
