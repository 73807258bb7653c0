//! NAT networks: New-, Get- and Remove-NetNat, Add-, Get- and Remove-NetNatStaticMapping.

use nestling_api::{Client, v1};

use super::address::{cim, no_such};
use super::common::{Asked, Call, change_each, ends, fits, is_pattern, property};
use super::vm_object::int;
use crate::format::View;
use crate::frame::{
    Cmdlet, CmdletResult, EnumType, Example, Flow, FromPipeline, Impact, Input, Kind, Parameter,
};
use crate::value::{Object, Value};

const NAT: &str = "MSFT_NetNat";
const MAPPING: &str = "MSFT_NetNatStaticMapping";

const PROTOCOL: EnumType = EnumType {
    name: "Microsoft.PowerShell.Cmdletization.GeneratedTypes.NetNat.Protocol",
    members: &[("TCP", 6), ("UDP", 17)],
};

const PORT: Kind = Kind::Int { min: 1, max: 65_535 };

static NAT_VIEW: View = View { type_name: NAT, columns: &[], list: &[] };
static MAPPING_VIEW: View = View { type_name: MAPPING, columns: &[], list: &[] };

const NAMES: Parameter =
    Parameter::new("Name", Kind::Strings, "Names; wildcards are taken. All when absent.").at(0);

pub fn cmdlets() -> Vec<Cmdlet<Client>> {
    vec![
        new_cmdlet(),
        get_cmdlet(),
        remove_cmdlet(),
        add_mapping_cmdlet(),
        get_mapping_cmdlet(),
        remove_mapping_cmdlet(),
    ]
}

fn new_cmdlet() -> Cmdlet<Client> {
    Cmdlet {
        name: "New-NetNat",
        aliases: &[],
        class: "New-NetNat",
        summary: "Creates a NAT network: machines inside reach out by the host's addresses.",
        parameters: const {
            &[
                Parameter::new("Name", Kind::String, "The name.").at(0).mandatory(),
                Parameter::new(
                    "InternalIPInterfaceAddressPrefix",
                    Kind::String,
                    "The addresses inside, such as 192.168.100.0/24.",
                )
                .mandatory(),
            ]
        },
        input: Input::EachRecord,
        impact: Impact::Changes,
        views: const { &[&NAT_VIEW] },
        examples: &[Example {
            code: "New-NetNat -Name “Lab” –InternalIPInterfaceAddressPrefix ‘192.168.100.0/24’ -WhatIf",
            says: "A NAT network; -WhatIf only says so.",
        }],
        run: |call| Box::pin(new(call)),
    }
}

fn get_cmdlet() -> Cmdlet<Client> {
    Cmdlet {
        name: "Get-NetNat",
        aliases: &[],
        class: "Get-NetNat",
        summary: "Gets the NAT networks of this host.",
        parameters: const { &[NAMES] },
        input: Input::EachRecord,
        impact: Impact::None,
        views: const { &[&NAT_VIEW] },
        examples: &[Example { code: "Get-NetNat", says: "All of them." }],
        run: |call| Box::pin(get(call)),
    }
}

fn remove_cmdlet() -> Cmdlet<Client> {
    Cmdlet {
        name: "Remove-NetNat",
        aliases: &[],
        class: "Remove-NetNat",
        summary: "Removes NAT networks.",
        parameters: const { &[NAMES.from_pipeline(FromPipeline::PropertyName)] },
        input: Input::EachRecord,
        impact: Impact::Destroys,
        views: &[],
        examples: &[],
        run: |call| Box::pin(remove(call)),
    }
}

fn add_mapping_cmdlet() -> Cmdlet<Client> {
    Cmdlet {
        name: "Add-NetNatStaticMapping",
        aliases: &[],
        class: "Add-NetNatStaticMapping",
        summary: "Leads a port of the host to a port inside a NAT network.",
        parameters: const {
            &[
                Parameter::new("NatName", Kind::String, "The NAT network.").at(0).mandatory(),
                Parameter::new("Protocol", Kind::Enum(&PROTOCOL), "TCP or UDP.").mandatory(),
                Parameter::new("ExternalIPAddress", Kind::String, "The host's address; 0.0.0.0 for all.")
                    .mandatory(),
                Parameter::new("ExternalPort", PORT, "The host's port.").mandatory(),
                Parameter::new("InternalIPAddress", Kind::String, "The address inside.").mandatory(),
                Parameter::new("InternalPort", PORT, "The port inside; the same when absent."),
            ]
        },
        input: Input::EachRecord,
        impact: Impact::Changes,
        views: const { &[&MAPPING_VIEW] },
        examples: &[],
        run: |call| Box::pin(add_mapping(call)),
    }
}

fn get_mapping_cmdlet() -> Cmdlet<Client> {
    Cmdlet {
        name: "Get-NetNatStaticMapping",
        aliases: &[],
        class: "Get-NetNatStaticMapping",
        summary: "Gets the static mappings of NAT networks.",
        parameters: const {
            &[Parameter::new("NatName", Kind::Strings, "NAT networks; wildcards are taken. All when absent.")
                .at(0)]
        },
        input: Input::EachRecord,
        impact: Impact::None,
        views: const { &[&MAPPING_VIEW] },
        examples: &[Example { code: "Get-NetNatStaticMapping", says: "All of them." }],
        run: |call| Box::pin(get_mappings(call)),
    }
}

fn remove_mapping_cmdlet() -> Cmdlet<Client> {
    Cmdlet {
        name: "Remove-NetNatStaticMapping",
        aliases: &[],
        class: "Remove-NetNatStaticMapping",
        summary: "Removes static mappings of NAT networks.",
        parameters: const {
            &[
                Parameter::new("NatName", Kind::String, "The NAT network.")
                    .at(0)
                    .mandatory()
                    .in_sets(&["Name"]),
                Parameter::new(
                    "StaticMappingID",
                    Kind::Int { min: 0, max: u32::MAX as i64 },
                    "The mapping's number.",
                )
                .mandatory()
                .in_sets(&["Name"]),
                Parameter::new(
                    "InputObject",
                    Kind::Objects(MAPPING),
                    "Mappings, as Get-NetNatStaticMapping gives them.",
                )
                .mandatory()
                .from_pipeline(FromPipeline::Value)
                .in_sets(&["InputObject"]),
            ]
        },
        input: Input::EachRecord,
        impact: Impact::Destroys,
        views: &[],
        examples: &[],
        run: |call| Box::pin(remove_mapping(call)),
    }
}

/// The fixed values are those that connection tracking here really has.
fn object(nat: &v1::Nat) -> Value {
    Value::Object(
        Object::new(NAT)
            .with("Name", nat.name.as_str())
            .with("ExternalIPInterfaceAddressPrefix", "")
            .with("InternalIPInterfaceAddressPrefix", nat.internal_prefix.as_str())
            .with("IcmpQueryTimeout", 30)
            .with("TcpEstablishedConnectionTimeout", 1800)
            .with("TcpTransientConnectionTimeout", 120)
            .with("TcpFilteringBehavior", "AddressDependentFiltering")
            .with("UdpFilteringBehavior", "AddressDependentFiltering")
            .with("UdpIdleSessionTimeout", 120)
            .with("UdpInboundRefresh", false)
            .with("Store", "Local")
            .with("Active", true),
    )
}

fn mapping(nat: &str, mapping: &v1::StaticMapping) -> Value {
    let protocol = match mapping.protocol {
        v1::Protocol::Tcp => Value::member("TCP", 6),
        v1::Protocol::Udp => Value::member("UDP", 17),
    };
    Value::Object(
        Object::new(MAPPING)
            .with("StaticMappingID", int(mapping.id))
            .with("NatName", nat)
            .with("Protocol", protocol)
            .with("RemoteExternalIPAddressPrefix", "0.0.0.0/0")
            .with("ExternalIPAddress", mapping.external_address.as_str())
            .with("ExternalPort", i64::from(mapping.external_port))
            .with("InternalIPAddress", mapping.internal_address.as_str())
            .with("InternalPort", i64::from(mapping.internal_port))
            .with("InternalRoutingDomainId", "{00000000-0000-0000-0000-000000000000}")
            .with("Active", true),
    )
}

async fn new(call: &mut Call<'_>) -> CmdletResult {
    let new = v1::NewNat {
        name: call.text("Name").unwrap_or_default(),
        internal_prefix: call.text("InternalIPInterfaceAddressPrefix").unwrap_or_default(),
        dhcp: None,
    };
    if !call.should_process(&new.name, None)? {
        return Ok(());
    }
    let nat = call.context().clone().create_nat(&new).await.map_err(|e| cim(&e, NAT))?;
    call.emit(object(&nat));
    Ok(())
}

/// The networks that names mean; all when there is none. A name that fits none is reported.
async fn networks(call: &mut Call<'_>, parameter: &'static str) -> Result<Vec<v1::Nat>, Flow> {
    let all = call.context().clone().nats().await.map_err(|e| ends(&e))?;
    let names = call.texts(parameter);
    if names.is_empty() {
        return Ok(all);
    }
    let mut found = Vec::new();
    for name in names {
        let before = found.len();
        found.extend(all.iter().filter(|n| fits(&name, &n.name)).cloned());
        if found.len() == before && !is_pattern(&name) {
            call.write_error(no_such(NAT, "Name", &name))?;
        }
    }
    Ok(found)
}

async fn get(call: &mut Call<'_>) -> CmdletResult {
    for nat in networks(call, "Name").await? {
        call.emit(object(&nat));
    }
    Ok(())
}

async fn remove(call: &mut Call<'_>) -> CmdletResult {
    let asked = |nat: &v1::Nat| {
        Asked::removal(
            &nat.name,
            format!("Performing operation Delete on Target {} PolicyStore Local", nat.name),
        )
    };
    let deed = |client: Client, nat: v1::Nat| async move {
        client.remove_nat(&nat.name).await.map_err(|e| cim(&e, NAT))
    };
    let found = networks(call, "Name").await?;
    change_each(call, found, asked, deed, |nat, ()| object(nat)).await
}

fn port(call: &Call<'_>, parameter: &'static str) -> Option<u16> {
    call.int(parameter).and_then(|n| u16::try_from(n).ok())
}

async fn add_mapping(call: &mut Call<'_>) -> CmdletResult {
    let nat = call.text("NatName").unwrap_or_default();
    let udp = call.text("Protocol").is_some_and(|p| p == "UDP");
    let new = v1::NewMapping {
        protocol: if udp { v1::Protocol::Udp } else { v1::Protocol::Tcp },
        external_address: call.text("ExternalIPAddress").unwrap_or_default(),
        external_port: port(call, "ExternalPort").unwrap_or_default(),
        internal_address: call.text("InternalIPAddress").unwrap_or_default(),
        internal_port: port(call, "InternalPort"),
    };
    if !call.should_process(&nat, None)? {
        return Ok(());
    }
    let added = call.context().clone().add_mapping(&nat, &new).await.map_err(|e| cim(&e, MAPPING))?;
    call.emit(mapping(&nat, &added));
    Ok(())
}

async fn get_mappings(call: &mut Call<'_>) -> CmdletResult {
    for nat in networks(call, "NatName").await? {
        for one in &nat.mappings {
            call.emit(mapping(&nat.name, one));
        }
    }
    Ok(())
}

async fn remove_mapping(call: &mut Call<'_>) -> CmdletResult {
    let mut wanted: Vec<(String, u32)> = call
        .objects("InputObject")
        .iter()
        .filter_map(|o| Some((property(o, "NatName"), property(o, "StaticMappingID").parse().ok()?)))
        .collect();
    if let (Some(nat), Some(id)) = (call.text("NatName"), call.int("StaticMappingID")) {
        wanted.extend(u32::try_from(id).map(|id| (nat, id)));
    }
    let asked = |(nat, id): &(String, u32)| {
        let question = format!("Performing operation Delete on Target {nat} mapping {id} PolicyStore Local");
        Asked::removal(nat, question)
    };
    let deed = |client: Client, (nat, id): (String, u32)| async move {
        client.remove_mapping(&nat, id).await.map_err(|e| cim(&e, MAPPING))
    };
    change_each(call, wanted, asked, deed, |_, ()| Value::Null).await
}
