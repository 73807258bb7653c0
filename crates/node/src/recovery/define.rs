//! A machine's definition out of what a point says of it. Pure: what is free here is looked up by others.
//!
//! What a point says may have been written by anybody who has the repository's password. So nothing in it names a file of
//! this host unless that is an image of this host's store, and no text of it is shown as it is.

use std::path::{Path, PathBuf};

use nestling_model::{
    Adapter, Boot, Switch, SwitchId, SwitchName,
    adapter::{ADAPTERS_MAX, DEFAULT_NAME},
};

use super::values::SwitchMapping;
use crate::{NodeError, error::Result, protection::description::SwitchThen};

/// What each host calls its store of images.
const IMAGES: &str = "images";

/// Where an adapter is plugged in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plug {
    To(SwitchName),
    /// It was not plugged in, or is not to be.
    None,
    /// It was, into one that is not here.
    Missing(String),
}

/// Which switch an adapter gets: the one that was mapped, the same one, one of the same name; in this order.
pub fn plug(was: Option<SwitchId>, then: &[SwitchThen], here: &[Switch], mapped: &[SwitchMapping]) -> Plug {
    let Some(was) = was else { return Plug::None };
    let name = name_of(was, then);
    let named = |name: &str| here.iter().find(|switch| switch.name.key() == name.to_lowercase());
    let chosen = match mapped.iter().find(|mapping| is_meant(was, then, mapping)) {
        Some(mapping) => named(&mapping.to),
        None => here.iter().find(|switch| switch.id == was).or_else(|| name.and_then(named)),
    };
    match chosen {
        Some(switch) => Plug::To(switch.name.clone()),
        None => Plug::Missing(name.map_or_else(|| was.0.to_string(), str::to_owned)),
    }
}

/// Whether a mapping is about this switch.
pub fn is_meant(was: SwitchId, then: &[SwitchThen], mapping: &SwitchMapping) -> bool {
    let from = mapping.from.to_lowercase();
    name_of(was, then).is_some_and(|name| name.to_lowercase() == from) || was.0.to_string() == from
}

fn name_of(was: SwitchId, then: &[SwitchThen]) -> Option<&str> {
    then.iter().find(|switch| switch.id == was).map(|switch| switch.name.as_str())
}

/// What starts the guest. A kernel is a file of the host, so only images of its own store are taken, and what the machine
/// of that id has now.
pub fn boot(described: &Boot, images: &Path, present: Option<&Boot>) -> std::result::Result<Boot, PathBuf> {
    match described {
        Boot::Firmware => Ok(Boot::Firmware),
        known if present == Some(known) => Ok(known.clone()),
        Boot::Kernel { kernel, initrd, append } => Ok(Boot::Kernel {
            kernel: here(kernel, images)?,
            initrd: initrd.as_ref().map(|initrd| here(initrd, images)).transpose()?,
            append: append.clone(),
        }),
    }
}

/// A file of an image as it lies in this host's store: the point may come from a host whose home is elsewhere, a machine of
/// this one for instance. Blocks.
fn here(file: &Path, images: &Path) -> std::result::Result<PathBuf, PathBuf> {
    if is_below(file, images) {
        return Ok(file.to_owned());
    }
    let parts: Vec<_> = file.components().collect();
    let store = parts.iter().rposition(|part| part.as_os_str() == IMAGES);
    let same = store.map(|at| images.join(parts[at + 1..].iter().collect::<PathBuf>()));
    same.filter(|same| is_below(same, images)).ok_or_else(|| file.to_owned())
}

/// By where its links lead. Blocks.
fn is_below(file: &Path, dir: &Path) -> bool {
    let real = file.canonicalize().ok().zip(dir.canonicalize().ok());
    file.is_absolute() && real.is_some_and(|(file, dir)| file.starts_with(dir) && file.is_file())
}

/// The adapters as they were, with names that are names.
pub fn adapters(described: &[Adapter]) -> Result<Vec<Adapter>> {
    if described.len() > ADAPTERS_MAX {
        return Err(NodeError::invalid("the point gives its machine more network adapters than any has"));
    }
    let named = |adapter: &Adapter| {
        let is_name = crate::vm::check_adapter_name(&adapter.name).is_ok();
        let name = if is_name { adapter.name.clone() } else { DEFAULT_NAME.to_owned() };
        Adapter { name, ..adapter.clone() }
    };
    Ok(described.iter().map(named).collect())
}

#[cfg(test)]
mod tests {
    use nestling_model::SwitchKind;
    use uuid::Uuid;

    use super::*;

    fn switch(id: u128, name: &str) -> Switch {
        Switch {
            id: SwitchId(Uuid::from_u128(id)),
            name: name.parse().unwrap(),
            kind: SwitchKind::Private,
            notes: String::new(),
            addresses: Vec::new(),
        }
    }

    fn mapping(from: &str, to: &str) -> SwitchMapping {
        SwitchMapping { from: from.into(), to: to.into() }
    }

    #[test]
    fn a_mapping_counts_before_the_same_switch_and_that_before_the_same_name() {
        let then = [SwitchThen { id: SwitchId(Uuid::from_u128(1)), name: "LAN".into() }];
        let was = Some(SwitchId(Uuid::from_u128(1)));
        let to = |name: &str| Plug::To(name.parse().unwrap());
        let here = [switch(1, "Renamed"), switch(2, "Lan"), switch(3, "Lab")];
        assert_eq!(plug(None, &then, &here, &[]), Plug::None);
        assert_eq!(plug(was, &then, &here, &[mapping("lan", "lab")]), to("Lab"));
        assert_eq!(plug(was, &then, &here, &[mapping(&Uuid::from_u128(1).to_string(), "LAB")]), to("Lab"));
        assert_eq!(plug(was, &then, &here, &[mapping("other", "Lab")]), to("Renamed"));
        assert_eq!(plug(was, &then, &here[1..], &[]), to("Lan"));
        assert_eq!(plug(was, &then, &here[2..], &[]), Plug::Missing("LAN".into()));
        assert_eq!(plug(was, &[], &here[1..], &[]), Plug::Missing(Uuid::from_u128(1).to_string()));
    }

    #[test]
    fn no_file_of_the_host_but_an_image_becomes_a_kernel() {
        let dir = tempfile::tempdir().unwrap();
        let images = dir.path().join("images");
        std::fs::create_dir(&images).unwrap();
        for file in [images.join("vmlinuz"), dir.path().join("shadow")] {
            std::fs::write(file, "x").unwrap();
        }
        std::os::unix::fs::symlink(dir.path().join("shadow"), images.join("link")).unwrap();
        let kernel = |path: PathBuf, initrd: Option<PathBuf>| Boot::Kernel {
            kernel: path,
            initrd,
            append: String::new(),
        };
        let own = kernel(images.join("vmlinuz"), None);
        assert_eq!(boot(&Boot::Firmware, &images, None), Ok(Boot::Firmware));
        assert_eq!(boot(&own, &images, None), Ok(own.clone()));
        for bad in
            [dir.path().join("shadow"), images.join("../shadow"), images.join("link"), images.join("none")]
        {
            assert_eq!(boot(&kernel(bad.clone(), None), &images, None), Err(bad.clone()));
            assert_eq!(boot(&kernel(images.join("vmlinuz"), Some(bad.clone())), &images, None), Err(bad));
        }
        // Of the same image on another host.
        let away = kernel("/var/lib/other/images/vmlinuz".into(), None);
        assert_eq!(boot(&away, &images, None), Ok(own.clone()));
        for bad in ["/other/images/../shadow", "/other/images/none", "/other/images/link", "/other/images"] {
            assert!(boot(&kernel(bad.into(), None), &images, None).is_err(), "{bad}");
        }
        let present = kernel(dir.path().join("shadow"), None);
        assert_eq!(boot(&present, &images, Some(&present)), Ok(present.clone()), "it has that already");
    }
}
