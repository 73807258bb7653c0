//! What a guest tells of itself.

use std::net::IpAddr;

use serde::Deserialize;
use serde_json::json;

use super::{Agent, AgentError};

/// Texts from a guest are shown to people; none of these is longer in good faith.
const TEXT_CHARS_MAX: usize = 256;
const INTERFACES_MAX: usize = 64;
const ADDRESSES_MAX: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentInfo {
    pub version: String,
    /// The commands that it has and is allowed to carry out.
    pub commands: Vec<String>,
}

/// Absent fields are those that the guest does not tell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OsInfo {
    /// `Debian GNU/Linux 12 (bookworm)`
    pub pretty_name: Option<String>,
    /// `debian`
    pub id: Option<String>,
    pub version_id: Option<String>,
    pub kernel_release: Option<String>,
    /// `x86_64`
    pub machine: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestInterface {
    pub name: String,
    pub mac: Option<String>,
    /// With the length of the prefix.
    pub addresses: Vec<(IpAddr, u8)>,
}

#[derive(Deserialize)]
struct RawInfo {
    version: String,
    #[serde(default)]
    supported_commands: Vec<RawCommand>,
}

#[derive(Deserialize)]
struct RawCommand {
    name: String,
    #[serde(default)]
    enabled: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RawOs {
    pretty_name: Option<String>,
    id: Option<String>,
    version_id: Option<String>,
    kernel_release: Option<String>,
    machine: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RawInterface {
    name: String,
    hardware_address: Option<String>,
    #[serde(default)]
    ip_addresses: Vec<RawAddress>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RawAddress {
    ip_address: String,
    #[serde(default)]
    prefix: u8,
}

impl Agent {
    pub async fn ping(&self) -> Result<(), AgentError> {
        self.ask::<serde_json::Value>("guest-ping", json!({})).await.map(drop)
    }

    pub async fn info(&self) -> Result<AgentInfo, AgentError> {
        let raw: RawInfo = self.ask("guest-info", json!({})).await?;
        let commands = raw.supported_commands.into_iter().filter(|c| c.enabled).map(|c| text(&c.name));
        Ok(AgentInfo { version: text(&raw.version), commands: commands.collect() })
    }

    pub async fn hostname(&self) -> Result<String, AgentError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "kebab-case")]
        struct RawName {
            host_name: String,
        }
        let raw: RawName = self.ask("guest-get-host-name", json!({})).await?;
        Ok(text(&raw.host_name))
    }

    pub async fn os_info(&self) -> Result<OsInfo, AgentError> {
        let raw: RawOs = self.ask("guest-get-osinfo", json!({})).await?;
        let text = |value: Option<String>| value.map(|v| text(&v));
        Ok(OsInfo {
            pretty_name: text(raw.pretty_name),
            id: text(raw.id),
            version_id: text(raw.version_id),
            kernel_release: text(raw.kernel_release),
            machine: text(raw.machine),
        })
    }

    pub async fn interfaces(&self) -> Result<Vec<GuestInterface>, AgentError> {
        let raw: Vec<RawInterface> = self.ask("guest-network-get-interfaces", json!({})).await?;
        let interface = |raw: RawInterface| GuestInterface {
            name: text(&raw.name),
            mac: raw.hardware_address.map(|m| text(&m)),
            addresses: raw
                .ip_addresses
                .into_iter()
                .filter_map(|a| Some((a.ip_address.parse().ok()?, a.prefix)))
                .take(ADDRESSES_MAX)
                .collect(),
        };
        Ok(raw.into_iter().take(INTERFACES_MAX).map(interface).collect())
    }
}

fn text(raw: &str) -> String {
    raw.chars().filter(|c| !c.is_control()).take(TEXT_CHARS_MAX).collect()
}

#[cfg(feature = "fuzzing")]
pub(super) fn read_any(value: &serde_json::Value) {
    let _ = RawInfo::deserialize(value).map(|raw| text(&raw.version));
    let _ = RawOs::deserialize(value).map(|raw| raw.pretty_name.map(|name| text(&name)));
    let _ = Vec::<RawInterface>::deserialize(value);
    crate::base64::decode(value.as_str().unwrap_or_default());
}
