//! Use cases on NAT networks and their static port mappings.

use ipnet::Ipv4Net;
use nestling_identity::{Action, Identity};
use nestling_model::{Dhcp, EventKind, Nat, StaticMapping};
use nestling_network::nat_conflict;
use nestling_store::{Batch, Document};

use super::Decided;
use crate::{
    Node, NodeError,
    error::{Object, Result},
    values::{NatChange, NewMapping, NewNat},
};

/// More than any host's ports would need, few enough to bound the rules.
const MAPPINGS_MAX: usize = 1024;

impl Node {
    pub async fn nats(&self, who: &Identity) -> Result<Vec<Nat>> {
        self.authorize(who, Action::ReadNetworks)?;
        let mut nats = self.networks.defined().nats.clone();
        nats.sort_by_key(|n| n.name.key());
        Ok(nats)
    }

    pub async fn nat(&self, who: &Identity, name: &str) -> Result<Nat> {
        self.authorize(who, Action::ReadNetworks)?;
        Ok(self.networks.defined().nat(name)?.clone())
    }

    pub async fn create_nat(&self, who: &Identity, new: NewNat) -> Result<Nat> {
        self.authorize(who, Action::ChangeNetworks)?;
        let NewNat { name, internal_prefix, dhcp } = new;
        if internal_prefix.addr() != internal_prefix.network() {
            let network = internal_prefix.trunc();
            return Err(NodeError::Invalid(format!(
                "{internal_prefix} is an address within {network}; write the network's own"
            )));
        }
        if let Some(dhcp) = &dhcp {
            check_dhcp(dhcp, internal_prefix)?;
        }
        let (addresses, routes) =
            (self.networks.network.addresses().await?, self.networks.network.routes().await?);
        let tag = self.networks.tag();
        let nat = self
            .networks
            .change(move |old, _| {
                if old.nats.iter().any(|n| n.name == name) {
                    return Err(NodeError::Exists { object: Object::Nat, name: name.to_string() });
                }
                let conflict =
                    nat_conflict(tag, internal_prefix, &old.nats, &old.switches, &addresses, &routes);
                if let Some(conflict) = conflict {
                    return Err(NodeError::NatConflict(conflict));
                }
                let nat = Nat { name, internal_prefix, mappings: Vec::new(), dhcp };
                let mut defined = old.clone();
                defined.nats.push(nat.clone());
                let mut batch = Batch::default();
                batch.put(&nat)?;
                Ok(Decided { defined, home: None, batch, answer: nat })
            })
            .await?;
        let message = format!("NAT network {} created", nat.internal_prefix);
        self.events.tell(EventKind::NatCreated, nat.name.as_str(), message);
        Ok(nat)
    }

    pub async fn change_nat(&self, who: &Identity, name: &str, change: NatChange) -> Result<Nat> {
        self.authorize(who, Action::ChangeNetworks)?;
        self.edit_nat(name, move |nat, _| {
            if let Some(dhcp) = change.dhcp {
                if let Some(dhcp) = &dhcp {
                    check_dhcp(dhcp, nat.internal_prefix)?;
                }
                nat.dhcp = dhcp;
            }
            Ok(nat.clone())
        })
        .await
    }

    pub async fn remove_nat(&self, who: &Identity, name: &str) -> Result<()> {
        self.authorize(who, Action::ChangeNetworks)?;
        let name = name.to_owned();
        let nat = self
            .networks
            .change(move |old, _| {
                let nat = old.nat(&name)?.clone();
                let mut defined = old.clone();
                defined.nats.retain(|n| n.name != nat.name);
                let mut batch = Batch::default();
                batch.delete::<Nat>(nat.id());
                Ok(Decided { defined, home: None, batch, answer: nat })
            })
            .await?;
        self.events.tell(EventKind::NatRemoved, nat.name.as_str(), "NAT network removed");
        Ok(())
    }

    pub async fn add_mapping(&self, who: &Identity, nat: &str, new: NewMapping) -> Result<StaticMapping> {
        self.authorize(who, Action::ChangeNetworks)?;
        if new.external_port == 0 || new.internal_port == 0 {
            return Err(NodeError::invalid("a port is a number from 1 to 65535"));
        }
        let others = self.networks.defined();
        let taken = others.nats.iter().flat_map(|n| &n.mappings).any(|m| {
            let everywhere = m.external_address.is_unspecified() || new.external_address.is_unspecified();
            m.protocol == new.protocol
                && m.external_port == new.external_port
                && (everywhere || m.external_address == new.external_address)
        });
        if taken {
            let name = format!("{}/{}", new.external_port, new.protocol.as_str());
            return Err(NodeError::Exists { object: Object::Mapping, name });
        }
        self.edit_nat(nat, move |nat, made| {
            if !nat.internal_prefix.contains(&new.internal_address) {
                return Err(NodeError::Invalid(format!(
                    "{} is not in {}, the addresses of the NAT network \"{}\"",
                    new.internal_address, nat.internal_prefix, nat.name
                )));
            }
            if nat.mappings.len() >= MAPPINGS_MAX {
                return Err(NodeError::Invalid(format!(
                    "a NAT network has at most {MAPPINGS_MAX} static mappings"
                )));
            }
            let mapping = StaticMapping {
                id: *made,
                protocol: new.protocol,
                external_address: new.external_address,
                external_port: new.external_port,
                internal_address: new.internal_address,
                internal_port: new.internal_port,
            };
            *made += 1;
            nat.mappings.push(mapping.clone());
            Ok(mapping)
        })
        .await
    }

    pub async fn remove_mapping(&self, who: &Identity, nat: &str, id: u32) -> Result<()> {
        self.authorize(who, Action::ChangeNetworks)?;
        self.edit_nat(nat, move |nat, _| {
            let before = nat.mappings.len();
            nat.mappings.retain(|m| m.id != id);
            if nat.mappings.len() == before {
                return Err(NodeError::NotFound { object: Object::Mapping, name: id.to_string() });
            }
            Ok(())
        })
        .await
    }

    /// Changes one NAT network; the number counts mappings ever made on this host.
    async fn edit_nat<T: Send + 'static>(
        &self,
        name: &str,
        edit: impl FnOnce(&mut Nat, &mut u32) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let name = name.to_owned();
        self.networks
            .change(move |old, home| {
                let mut nat = old.nat(&name)?.clone();
                let mut home = home.clone();
                let answer = edit(&mut nat, &mut home.mappings_made)?;
                let mut batch = Batch::default();
                batch.put(&nat)?;
                batch.put(&home)?;
                let mut defined = old.clone();
                for old in defined.nats.iter_mut().filter(|n| n.name == nat.name) {
                    *old = nat.clone();
                }
                Ok(Decided { defined, home: Some(home), batch, answer })
            })
            .await
    }
}

fn check_dhcp(dhcp: &Dhcp, prefix: Ipv4Net) -> Result<()> {
    let inside = |a| prefix.contains(&a) && a != prefix.network() && a != prefix.broadcast();
    if !inside(dhcp.first) || !inside(dhcp.last) || dhcp.first > dhcp.last {
        return Err(NodeError::Invalid(format!(
            "leases from {} to {} are no range of addresses in {prefix}",
            dhcp.first, dhcp.last
        )));
    }
    // What dnsmasq accepts, and short enough that a machine that moves is not forgotten for a year.
    if !(120..=31_536_000).contains(&dhcp.lease_seconds) {
        return Err(NodeError::invalid("a lease lasts from 120 seconds to a year (31536000 seconds)"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_lie_within_the_network() {
        let prefix = "10.1.0.0/24".parse().unwrap();
        let check = |first: &str, last: &str, lease_seconds| {
            let (first, last) = (first.parse().unwrap(), last.parse().unwrap());
            check_dhcp(&Dhcp { first, last, lease_seconds, dns_servers: vec![] }, prefix).is_ok()
        };
        assert!(check("10.1.0.2", "10.1.0.254", 3600));
        assert!(!check("10.1.0.0", "10.1.0.9", 3600));
        assert!(!check("10.1.0.9", "10.1.0.255", 3600));
        assert!(!check("10.1.0.9", "10.1.0.2", 3600));
        assert!(!check("10.2.0.2", "10.2.0.9", 3600));
        assert!(!check("10.1.0.2", "10.1.0.9", 1));
    }
}
