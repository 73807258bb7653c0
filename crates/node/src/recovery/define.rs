//! A machine's definition out of what a point says of it. Pure: what is free here is looked up by others.
//!
//! What a point says may have been written by anybody who has the repository's password. So nothing in it names a file of
//! this host (its kernel is found by `kernel`), and no text of it is shown as it is.

use nestling_model::{
    Adapter, Switch, SwitchId, SwitchName,
    adapter::{ADAPTERS_MAX, DEFAULT_NAME},
};

use super::values::SwitchMapping;
use crate::{NodeError, error::Result, protection::description::SwitchThen};

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
}
