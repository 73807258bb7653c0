use std::net::Ipv4Addr;

use nestling_model as model;
use nestling_node as node;

use super::{path_text, read, same_names};
use crate::v1;

same_names!(v1::CheckResult, node::CheckResult: Pass, Warn, Fail);

impl From<node::NodeInfo> for v1::Node {
    fn from(info: node::NodeInfo) -> Self {
        Self {
            version: info.version.to_owned(),
            pid: info.pid,
            home: path_text(&info.home),
            started_at_ms: info.started_at_ms,
        }
    }
}

impl From<node::HostView> for v1::Host {
    fn from(host: node::HostView) -> Self {
        let (engine, engine_reason) = match host.engine {
            None => (None, None),
            Some(engine) => (Some(engine.kind.as_str().to_owned()), Some(engine.reason)),
        };
        Self {
            name: host.name,
            logical_processors: host.logical_processors,
            memory_bytes: host.memory_bytes,
            memory_available_bytes: host.memory_available_bytes,
            disk_directory: path_text(&host.disk_directory),
            vm_directory: path_text(&host.vm_directory),
            supported_versions: host.supported_versions.iter().map(ToString::to_string).collect(),
            engine,
            engine_reason,
        }
    }
}

impl From<node::Requirement> for v1::Requirement {
    fn from(requirement: node::Requirement) -> Self {
        let node::Requirement { id, title, result, finding, remedy } = requirement;
        Self { id: id.to_owned(), title: title.to_owned(), result: result.into(), finding, remedy }
    }
}

impl From<node::Feature> for v1::Feature {
    fn from(feature: node::Feature) -> Self {
        let node::Feature { name, display_name, installed } = feature;
        Self { name: name.to_owned(), display_name: display_name.to_owned(), installed }
    }
}

impl From<node::FeatureInstalled> for v1::FeatureInstalled {
    fn from(done: node::FeatureInstalled) -> Self {
        let node::FeatureInstalled { feature, changed, steps } = done;
        Self { feature: feature.into(), changed, steps }
    }
}

impl From<node::HostAdapterView> for v1::HostAdapter {
    fn from(adapter: node::HostAdapterView) -> Self {
        Self {
            name: adapter.name,
            description: adapter.description,
            index: adapter.index,
            status: adapter.status.to_owned(),
            mac: adapter.mac.map(|m| m.to_string()).unwrap_or_default(),
            link_speed_mbps: adapter.link_speed_mbps,
            is_virtual: adapter.is_virtual,
            interface: adapter.interface,
        }
    }
}

impl From<node::HostAddressView> for v1::HostAddress {
    fn from(address: node::HostAddressView) -> Self {
        Self {
            address: address.address.to_string(),
            prefix_len: address.prefix_len,
            adapter: address.adapter,
            adapter_index: address.adapter_index,
            gateway: address.gateway.map(|g| g.to_string()),
            managed: address.managed,
        }
    }
}

impl TryFrom<v1::NewAddress> for node::NewAddress {
    type Error = node::NodeError;

    fn try_from(new: v1::NewAddress) -> Result<Self, node::NodeError> {
        Ok(Self {
            adapter: new.adapter,
            address: ipv4(&new.address)?,
            prefix_len: new.prefix_len,
            gateway: new.gateway.as_deref().map(ipv4).transpose()?,
        })
    }
}

pub(crate) fn ipv4(text: &str) -> Result<Ipv4Addr, node::NodeError> {
    read("IPv4 address", text)
}

impl From<model::Event> for v1::Event {
    fn from(event: model::Event) -> Self {
        let model::Event { sequence, at_ms, kind, object, message } = event;
        // The word is the one that the kind has in JSON; the test below tells when it is not a text.
        let kind = serde_json::to_value(kind).ok().and_then(|v| v.as_str().map(str::to_owned));
        Self { sequence, at_ms, kind: kind.unwrap_or_default(), object, message, path: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_keeps_its_word() {
        let event = model::Event {
            sequence: 1,
            at_ms: 2,
            kind: model::EventKind::VmState,
            object: "a".into(),
            message: "m".into(),
        };
        assert_eq!(v1::Event::from(event).kind, "vm-state");
    }

    #[test]
    fn an_address_is_refused_with_the_text_and_the_reason() {
        let error = ipv4("192.168.1\n.x").unwrap_err().to_string();
        assert_eq!(error, "\"192.168.1\\n.x\" is no IPv4 address: invalid IPv4 address syntax");
    }
}
