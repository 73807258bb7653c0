use nestling_model as model;
use nestling_node as node;
use node::NodeError;

use super::{host::ipv4, read, same_names};
use crate::v1;

/// How long a lease lasts when nobody says.
const LEASE_SECONDS: u32 = 3600;

same_names!(v1::SwitchKind, node::SwitchKindName: Private, Internal, External);
same_names!(v1::Protocol, model::Protocol: Tcp, Udp);

impl From<node::SwitchView> for v1::Switch {
    fn from(view: node::SwitchView) -> Self {
        let node::SwitchView { switch, bridge } = view;
        let (kind, uplink, allow_management_os) = match switch.kind {
            model::SwitchKind::Private => (v1::SwitchKind::Private, None, false),
            model::SwitchKind::Internal => (v1::SwitchKind::Internal, None, true),
            model::SwitchKind::External { uplink, allow_management_os } => {
                (v1::SwitchKind::External, Some(uplink), allow_management_os)
            }
        };
        Self {
            id: switch.id.0,
            name: switch.name.into(),
            kind,
            notes: switch.notes,
            uplink,
            allow_management_os,
            bridge,
        }
    }
}

fn switch_kind(
    kind: v1::SwitchKind,
    uplink: Option<String>,
    allow_management_os: Option<bool>,
) -> Result<model::SwitchKind, NodeError> {
    match (kind, uplink) {
        (v1::SwitchKind::Private, None) => Ok(model::SwitchKind::Private),
        (v1::SwitchKind::Internal, None) => Ok(model::SwitchKind::Internal),
        (v1::SwitchKind::External, Some(uplink)) => {
            let allow_management_os = allow_management_os.unwrap_or(true);
            Ok(model::SwitchKind::External { uplink, allow_management_os })
        }
        (v1::SwitchKind::External, None) => {
            Err(NodeError::invalid("an External switch needs a network adapter of the host"))
        }
        (_, Some(_)) => Err(NodeError::invalid("only an External switch has a network adapter of the host")),
    }
}

impl TryFrom<v1::NewSwitch> for node::NewSwitch {
    type Error = NodeError;

    fn try_from(new: v1::NewSwitch) -> Result<Self, NodeError> {
        let kind = switch_kind(new.kind, new.uplink, new.allow_management_os)?;
        Ok(Self { name: new.name.parse()?, kind, notes: new.notes })
    }
}

impl TryFrom<v1::SwitchChange> for node::SwitchChange {
    type Error = NodeError;

    fn try_from(change: v1::SwitchChange) -> Result<Self, NodeError> {
        let v1::SwitchChange { name, notes, kind, uplink, allow_management_os } = change;
        let kind = kind.map(Into::into);
        Ok(Self { name: name.map(|n| n.parse()).transpose()?, notes, kind, uplink, allow_management_os })
    }
}

impl From<model::Nat> for v1::Nat {
    fn from(nat: model::Nat) -> Self {
        Self {
            name: nat.name.into(),
            internal_prefix: nat.internal_prefix.to_string(),
            dhcp: nat.dhcp.map(Into::into),
            mappings: nat.mappings.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<model::Dhcp> for v1::Dhcp {
    fn from(dhcp: model::Dhcp) -> Self {
        Self {
            first: dhcp.first.to_string(),
            last: dhcp.last.to_string(),
            lease_seconds: Some(dhcp.lease_seconds),
            dns_servers: dhcp.dns_servers.iter().map(ToString::to_string).collect(),
        }
    }
}

fn dhcp(dhcp: &v1::Dhcp) -> Result<model::Dhcp, NodeError> {
    Ok(model::Dhcp {
        first: ipv4(&dhcp.first)?,
        last: ipv4(&dhcp.last)?,
        lease_seconds: dhcp.lease_seconds.unwrap_or(LEASE_SECONDS),
        dns_servers: dhcp.dns_servers.iter().map(|s| ipv4(s)).collect::<Result<_, _>>()?,
    })
}

impl TryFrom<v1::NewNat> for node::NewNat {
    type Error = NodeError;

    fn try_from(new: v1::NewNat) -> Result<Self, NodeError> {
        Ok(Self {
            name: new.name.parse()?,
            internal_prefix: read("IPv4 network, such as 192.168.100.0/24", &new.internal_prefix)?,
            dhcp: new.dhcp.as_ref().map(dhcp).transpose()?,
        })
    }
}

impl TryFrom<v1::NatChange> for node::NatChange {
    type Error = NodeError;

    fn try_from(change: v1::NatChange) -> Result<Self, NodeError> {
        let dhcp = match (change.dhcp, change.dhcp_off) {
            (Some(_), true) => {
                return Err(NodeError::invalid("leases can't be offered and no longer offered at once"));
            }
            (Some(settings), false) => Some(Some(dhcp(&settings)?)),
            (None, true) => Some(None),
            (None, false) => None,
        };
        Ok(Self { dhcp })
    }
}

impl From<model::StaticMapping> for v1::StaticMapping {
    fn from(mapping: model::StaticMapping) -> Self {
        Self {
            id: mapping.id,
            protocol: mapping.protocol.into(),
            external_address: mapping.external_address.to_string(),
            external_port: mapping.external_port,
            internal_address: mapping.internal_address.to_string(),
            internal_port: mapping.internal_port,
        }
    }
}

impl TryFrom<v1::NewMapping> for node::NewMapping {
    type Error = NodeError;

    fn try_from(new: v1::NewMapping) -> Result<Self, NodeError> {
        Ok(Self {
            protocol: new.protocol.into(),
            external_address: ipv4(&new.external_address)?,
            external_port: new.external_port,
            internal_address: ipv4(&new.internal_address)?,
            internal_port: new.internal_port.unwrap_or(new.external_port),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn switch(kind: v1::SwitchKind, uplink: Option<&str>) -> Result<model::SwitchKind, NodeError> {
        let new = v1::NewSwitch {
            name: "s".into(),
            kind,
            notes: String::new(),
            uplink: uplink.map(Into::into),
            allow_management_os: None,
        };
        node::NewSwitch::try_from(new).map(|n| n.kind)
    }

    #[test]
    fn an_uplink_belongs_to_an_external_switch() {
        let external = model::SwitchKind::External { uplink: "eth0".into(), allow_management_os: true };
        assert_eq!(switch(v1::SwitchKind::External, Some("eth0")).unwrap(), external);
        assert!(switch(v1::SwitchKind::External, None).is_err());
        assert!(switch(v1::SwitchKind::Private, Some("eth0")).is_err());
    }

    #[test]
    fn a_change_of_leases_is_on_off_or_none() {
        let change = |on: bool, dhcp_off| {
            let settings = v1::Dhcp {
                first: "10.0.0.2".into(),
                last: "10.0.0.9".into(),
                lease_seconds: None,
                dns_servers: vec![],
            };
            node::NatChange::try_from(v1::NatChange { dhcp: on.then_some(settings), dhcp_off })
                .map(|c| c.dhcp)
        };
        assert_eq!(change(false, false).unwrap(), None);
        assert_eq!(change(false, true).unwrap(), Some(None));
        assert_eq!(change(true, false).unwrap().flatten().unwrap().lease_seconds, 3600);
        assert!(change(true, true).is_err());
    }

    #[test]
    fn a_bad_prefix_is_refused_with_an_example() {
        let new = v1::NewNat { name: "n".into(), internal_prefix: "10.0.0.0/33".into(), dhcp: None };
        let error = node::NewNat::try_from(new).unwrap_err().to_string();
        assert!(error.contains("\"10.0.0.0/33\" is no IPv4 network, such as"), "{error}");
    }
}
