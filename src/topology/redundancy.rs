//! Decides if a device stays reachable when one part breaks, and counts the ports that lead to it.

use std::collections::BTreeSet;

use super::{Adapter, Adapters, Path, PathState, Transport};

/// A part whose failure takes away all paths that use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SharedPart<'a> {
    InitiatorPort(&'a str),
    TargetPort(&'a str),
    Fabric(&'a str),
}

/// Returns true if a valid or standby path remains when any single initiator port, target port or
/// FC fabric fails. A device without a valid path is not redundant.
///
/// An unknown port counts as a port that only this path uses. The same holds for a port that a
/// hypervisor made, and for a bond with no port up.
pub(crate) fn is_redundant(paths: &[Path], adapters: &Adapters) -> bool {
    let usable: Vec<&Path> = usable(paths).collect();
    let [first, others @ ..] = usable.as_slice() else { return false };
    if others.is_empty() || !paths.iter().any(|path| path.state == PathState::Valid) {
        return false;
    }
    let fails_all = |part: &SharedPart| others.iter().all(|path| parts(path, adapters).any(|other| other == *part));
    !parts(first, adapters).any(|part| fails_all(&part))
}

/// Returns the number of host ports that valid and standby paths use, by the paths' names for them.
/// An unknown port counts as a port that only this path uses.
pub(crate) fn initiator_ports(paths: &[Path]) -> usize {
    count(usable(paths).map(|path| &*path.ports.initiator_port))
}

/// Returns the number of target ports that valid and standby paths use, counted in the same way.
pub(crate) fn target_ports(paths: &[Path]) -> usize {
    count(usable(paths).map(|path| &*path.ports.target_port))
}

fn usable(paths: &[Path]) -> impl Iterator<Item = &Path> {
    paths.iter().filter(|path| path.state != PathState::Failed)
}

fn count<'a>(names: impl Iterator<Item = &'a str>) -> usize {
    let (unknown, known): (Vec<&str>, Vec<&str>) = names.partition(|name| name.is_empty());
    unknown.len() + known.into_iter().collect::<BTreeSet<_>>().len()
}

/// Returns the parts whose failure takes this path away and may take others. A port that only this
/// path uses is left out.
fn parts<'a>(path: &'a Path, adapters: &'a Adapters) -> impl Iterator<Item = SharedPart<'a>> {
    let adapter = adapters.get(&path.ports.initiator_port);
    let initiator = match adapter {
        _ if path.transport == Transport::VirtioScsi => None,
        Some(Adapter { is_virtual: true, .. }) => None,
        Some(Adapter { ports, .. }) => match ports.as_slice() {
            [port] => Some(&**port),
            // One of several ports may fail.
            _ => None,
        },
        None => Some(&*path.ports.initiator_port),
    };
    let fabric = adapter.map(|adapter| &*adapter.fabric);
    let parts = [
        initiator.map(SharedPart::InitiatorPort),
        Some(SharedPart::TargetPort(&path.ports.target_port)),
        fabric.map(SharedPart::Fabric),
    ];
    parts.into_iter().flatten().filter(|part| !part.name().is_empty())
}

impl<'a> SharedPart<'a> {
    fn name(self) -> &'a str {
        match self {
            SharedPart::InitiatorPort(name) | SharedPart::TargetPort(name) | SharedPart::Fabric(name) => name,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::super::{Ports, sample};
    use super::*;

    fn path(state: PathState, initiator_port: &str, target_port: &str) -> Path {
        let ports =
            Ports { initiator_port: initiator_port.into(), target_port: target_port.into(), ..Ports::default() };
        Path { state, ports, transport: Transport::Iscsi, ..sample::path() }
    }

    /// Parses paths: `v eth1 a` is a valid path from `eth1` to `a`. `s` stands for standby, `f` for
    /// failed, `-` for an unknown port.
    fn paths(text: &str) -> Vec<Path> {
        let words: Vec<&str> = text.split_whitespace().map(|word| if word == "-" { "" } else { word }).collect();
        let state = |letter| match letter {
            "v" => PathState::Valid,
            "s" => PathState::Standby,
            "f" => PathState::Failed,
            letter => panic!("{letter}"),
        };
        words.chunks(3).map(|words| path(state(words[0]), words[1], words[2])).collect()
    }

    fn adapter(ports: &[&str], is_virtual: bool, fabric: &str) -> Adapter {
        Adapter { ports: ports.iter().map(|port| Arc::from(*port)).collect(), is_virtual, fabric: fabric.into() }
    }

    fn adapters() -> Adapters {
        let adapters = [
            ("eth1", adapter(&["eth1"], false, "")),
            ("eth1.10", adapter(&["eth1"], false, "")),
            ("bond0", adapter(&["eth1", "eth2"], false, "")),
            ("bond1", adapter(&["eth1"], false, "")),
            ("bond2", adapter(&[], false, "")),
            ("vm0", adapter(&["vm0"], true, "")),
            ("fc1", adapter(&["fc1"], false, "red")),
            ("fc2", adapter(&["fc2"], false, "red")),
            ("fc3", adapter(&["fc3"], false, "blue")),
            ("fc4", adapter(&["fc4"], false, "")),
        ];
        adapters.into_iter().map(|(name, adapter)| (name.into(), adapter)).collect()
    }

    #[test]
    fn a_device_is_redundant_if_no_single_part_takes_its_last_path() {
        for (text, redundant) in [
            // No path, and too few paths.
            ("", false),
            ("v eth1 a", false),
            ("v - -", false),
            ("v bond0 a", false),
            ("v bond0 -", false),
            ("f eth1 a f eth2 b", false),
            ("v eth1 a f eth2 b", false),
            // At least one path must be valid. A standby path may take its place.
            ("s eth1 a s eth2 b", false),
            ("v eth1 a s eth2 b", true),
            ("v eth1 a s eth1 b", false),
            // Ports of the host and of the target.
            ("v eth1 a v eth2 b", true),
            ("v eth1 a v eth1 b", false),
            ("v eth1 a v eth2 a", false),
            ("v eth1 a v eth1 b v eth2 a", true),
            ("v eth1 a v eth1 b v eth2 a f eth2 b", true),
            ("v eth1 a v eth1 b f eth2 a f eth2 b", false),
            // A target port may have the name of a host port.
            ("v eth3 eth4 v eth4 eth3", true),
            // An unknown port counts as a port that only this path uses.
            ("v - a v - b", true),
            ("v - - v - -", true),
            ("v eth1 - v eth1 -", false),
            ("v - a v - a", false),
            ("v eth1 a v - b", true),
            // VLANs, bonds and bridges.
            ("v eth1 a v eth1.10 b", false),
            ("v eth1.10 a v eth1.20 b", true),
            ("v bond0 a v bond0 b", true),
            ("v bond0 a v bond0 a", false),
            ("v bond1 a v bond1 b", false),
            ("v bond1 a v eth1 b", false),
            ("v bond0 a v eth1 b", true),
            ("v bond2 a v bond2 b", true),
            ("v bond2 a v bond2 a", false),
            // Adapters of virtual machines.
            ("v vm0 a v vm0 b", true),
            ("v vm0 a v vm0 a", false),
            ("v vm0 a", false),
            // Fabrics.
            ("v fc1 a v fc2 b", false),
            ("v fc1 a v fc3 b", true),
            ("v fc1 a v fc2 b v fc3 c", true),
            ("v fc1 a v fc2 b f fc3 c", false),
            ("v fc1 a v fc4 b", true),
            ("v fc4 a v fc4 b", false),
        ] {
            assert_eq!(is_redundant(&paths(text), &adapters()), redundant, "{text}");
        }
    }

    #[test]
    fn a_virtio_scsi_controller_is_an_adapter_of_a_virtual_machine() {
        let mut paths = paths("v 0000:00:05.0 - v 0000:00:05.0 -");
        assert!(!is_redundant(&paths, &Adapters::new()));
        paths.iter_mut().for_each(|path| path.transport = Transport::VirtioScsi);
        assert!(is_redundant(&paths, &Adapters::new()));
        assert_eq!((initiator_ports(&paths), target_ports(&paths)), (1, 2));
    }

    #[test]
    fn ports_are_counted_by_the_names_that_paths_have_for_them() {
        for (text, initiator, target) in [
            ("", 0, 0),
            ("f eth1 a", 0, 0),
            ("v eth1 a", 1, 1),
            ("v bond0 a s bond0 b f eth1 c", 1, 2),
            ("v eth1 a v eth2 a v eth1 b v eth2 b", 2, 2),
            ("v vm0 a v vm0 b", 1, 2),
            ("v - a v - a v eth1 -", 3, 2),
        ] {
            let paths = paths(text);
            assert_eq!((initiator_ports(&paths), target_ports(&paths)), (initiator, target), "{text}");
        }
    }

    /// The definition, word by word: each part fails in turn.
    fn survives_every_failure(paths: &[Path], adapters: &Adapters) -> bool {
        let own = |index: usize, side: &str| format!("{side} of path {index}");
        let physical = |index: usize, path: &Path| -> Vec<String> {
            let name = &path.ports.initiator_port;
            match adapters.get(name) {
                Some(adapter) if adapter.is_virtual || adapter.ports.is_empty() => vec![own(index, "port")],
                Some(adapter) => adapter.ports.iter().map(|port| format!("port {port}")).collect(),
                None if name.is_empty() => vec![own(index, "port")],
                None => vec![format!("port {name}")],
            }
        };
        let target = |index: usize, path: &Path| match &*path.ports.target_port {
            "" => own(index, "target"),
            name => format!("target {name}"),
        };
        let fabric = |path: &Path| {
            let adapter = adapters.get(&path.ports.initiator_port).filter(|adapter| !adapter.fabric.is_empty());
            adapter.map(|adapter| format!("fabric {}", adapter.fabric))
        };
        let usable: Vec<_> = paths.iter().enumerate().filter(|(_, path)| path.state != PathState::Failed).collect();
        let parts = usable.iter().flat_map(|(index, path)| {
            physical(*index, path).into_iter().chain([target(*index, path)]).chain(fabric(path))
        });
        let survives = |part: &String| {
            usable.iter().any(|(index, path)| {
                physical(*index, path).iter().any(|port| port != part)
                    && target(*index, path) != *part
                    && fabric(path).as_ref() != Some(part)
            })
        };
        paths.iter().any(|path| path.state == PathState::Valid) && parts.collect::<BTreeSet<_>>().iter().all(survives)
    }

    proptest! {
        #[test]
        fn it_is_what_the_definition_says(
            drawn in proptest::collection::vec((0usize..3, 0usize..12, 0usize..4), 0..6),
        ) {
            let states = [PathState::Valid, PathState::Standby, PathState::Failed];
            let adapters = adapters();
            let initiators: Vec<&str> = adapters.keys().map(|name| &**name).chain(["eth2", ""]).collect();
            let targets = ["a", "b", "c", ""];
            let paths: Vec<Path> = drawn
                .iter()
                .map(|(state, initiator, target)| path(states[*state], initiators[*initiator], targets[*target]))
                .collect();
            prop_assert_eq!(is_redundant(&paths, &adapters), survives_every_failure(&paths, &adapters));
        }
    }
}
