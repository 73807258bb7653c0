//! The host's own interfaces: Get-NetAdapter, Get-, New- and Remove-NetIPAddress.

use nestling_api::{Client, ClientError, v1, v1::ErrorCode};

use super::common::{Call, change_each, ends, fits, is_pattern, message};
use super::vm_object::int;
use crate::format::{Column, View};
use crate::frame::{
    Category, Cmdlet, CmdletResult, EnumType, ErrorRecord, Example, FromPipeline, Impact, Input, Kind,
    Parameter,
};
use crate::value::{Object, Value};

const ADAPTER: &str = "MSFT_NetAdapter";
const ADDRESS: &str = "MSFT_NetIPAddress";

const FAMILY: EnumType = EnumType {
    name: "Microsoft.PowerShell.Cmdletization.GeneratedTypes.AddressFamily",
    members: &[("IPv4", 2), ("IPv6", 23)],
};

/// What this host gives to its switches' interfaces.
const FAMILY_GIVEN: EnumType = EnumType { name: FAMILY.name, members: &[("IPv4", 2)] };

static ADAPTER_VIEW: View = View {
    type_name: ADAPTER,
    columns: &[
        Column::property("Name"),
        Column::property("InterfaceDescription"),
        Column::property("ifIndex"),
        Column::property("Status"),
        Column::property("MacAddress"),
        Column::property("LinkSpeed").right(),
    ],
    list: &[],
};

static ADDRESS_VIEW: View = View {
    type_name: ADDRESS,
    columns: &[],
    list: &[
        "IPAddress",
        "InterfaceIndex",
        "InterfaceAlias",
        "AddressFamily",
        "Type",
        "PrefixLength",
        "PrefixOrigin",
        "SuffixOrigin",
        "AddressState",
        "ValidLifetime",
        "PreferredLifetime",
        "SkipAsSource",
        "PolicyStore",
    ],
};

const ALIAS: Parameter =
    Parameter::new("InterfaceAlias", Kind::String, "The adapter's name, such as vEthernet (NAT-Switch).")
        .alias(&["ifAlias"])
        .from_pipeline(FromPipeline::PropertyName);

const INDEX: Parameter =
    Parameter::new("InterfaceIndex", Kind::Int { min: 1, max: u32::MAX as i64 }, "The adapter's index.")
        .alias(&["ifIndex"])
        .from_pipeline(FromPipeline::PropertyName);

pub fn cmdlets() -> Vec<Cmdlet<Client>> {
    vec![adapter_cmdlet(), get_cmdlet(), new_cmdlet(), remove_cmdlet()]
}

fn adapter_cmdlet() -> Cmdlet<Client> {
    Cmdlet {
        name: "Get-NetAdapter",
        aliases: &[],
        class: "Get-NetAdapter",
        summary: "Gets the network adapters of this host, those of its switches among them.",
        parameters: const {
            &[
                Parameter::new("Name", Kind::Strings, "Names; wildcards are taken. All when absent.")
                    .alias(&["ifAlias", "InterfaceAlias"])
                    .at(0),
                Parameter::switch("Physical", "Only those that no switch of ours made."),
            ]
        },
        input: Input::EachRecord,
        impact: Impact::None,
        views: const { &[&ADAPTER_VIEW] },
        examples: &[Example {
            code: "Get-NetAdapter | ft -Autosize",
            says: "All of them, in as little space as they need.",
        }],
        run: |call| Box::pin(adapters(call)),
    }
}

fn get_cmdlet() -> Cmdlet<Client> {
    Cmdlet {
        name: "Get-NetIPAddress",
        aliases: &[],
        class: "Get-NetIPAddress",
        summary: "Gets the addresses of this host.",
        parameters: const {
            &[
                Parameter::new(
                    "IPAddress",
                    Kind::Strings,
                    "Addresses; wildcards are taken. All when absent.",
                )
                .at(0),
                ALIAS,
                Parameter::new("AddressFamily", Kind::Enum(&FAMILY), "IPv4 or IPv6; both when absent."),
            ]
        },
        input: Input::EachRecord,
        impact: Impact::None,
        views: const { &[&ADDRESS_VIEW] },
        examples: &[Example {
            code: "Get-NetIPAddress | ft IPAddress, InterfaceAlias",
            says: "Which adapter has which.",
        }],
        run: |call| Box::pin(get(call)),
    }
}

fn new_cmdlet() -> Cmdlet<Client> {
    Cmdlet {
        name: "New-NetIPAddress",
        aliases: &[],
        class: "New-NetIPAddress",
        summary: "Gives an IPv4 address to the host's interface of a switch.",
        parameters: const {
            &[
                Parameter::new("IPAddress", Kind::String, "The address.")
                    .alias(&["LocalAddress"])
                    .at(0)
                    .mandatory(),
                ALIAS,
                INDEX,
                Parameter::new(
                    "PrefixLength",
                    Kind::Int { min: 1, max: 32 },
                    "The length of the network's prefix; 32 when absent.",
                ),
                Parameter::new("DefaultGateway", Kind::String, "The router for everything else."),
                Parameter::new("AddressFamily", Kind::Enum(&FAMILY_GIVEN), "IPv4."),
            ]
        },
        input: Input::EachRecord,
        impact: Impact::Changes,
        views: const { &[&ADDRESS_VIEW] },
        examples: &[],
        run: |call| Box::pin(new(call)),
    }
}

fn remove_cmdlet() -> Cmdlet<Client> {
    Cmdlet {
        name: "Remove-NetIPAddress",
        aliases: &[],
        class: "Remove-NetIPAddress",
        summary: "Takes an IPv4 address away from the host's interface of a switch.",
        parameters: const {
            &[Parameter::new("IPAddress", Kind::Strings, "The addresses.")
                .at(0)
                .mandatory()
                .from_pipeline(FromPipeline::PropertyName)]
        },
        input: Input::EachRecord,
        impact: Impact::Destroys,
        views: &[],
        examples: &[],
        run: |call| Box::pin(remove(call)),
    }
}

/// An error as cmdlets made from CIM classes report it.
pub fn cim(error: &ClientError, class: &'static str) -> ErrorRecord {
    let (category, id, text) = match error.code {
        ErrorCode::NotFound => (Category::ObjectNotFound, "CmdletizationQuery_NotFound", message(error)),
        ErrorCode::Exists => (Category::ResourceExists, "Windows System Error 5010", message(error)),
        ErrorCode::Denied => (Category::PermissionDenied, "Windows System Error 5", message(error)),
        ErrorCode::Invalid | ErrorCode::InUse | ErrorCode::InvalidState => {
            let text = format!("The parameter is incorrect.\n{}", message(error));
            (Category::InvalidArgument, "Windows System Error 87", text)
        }
        _ => (Category::NotSpecified, "Windows System Error 1", message(error)),
    };
    ErrorRecord::new(category, "CimException", id, text)
        .with_target(class, format!("root/StandardCimv2/{class}"))
}

/// No object of a CIM class has such a property.
pub fn no_such(class: &'static str, property: &str, value: &str) -> ErrorRecord {
    let message = format!(
        "No {class} objects found with property '{property}' equal to '{value}'.  Verify the value of the property and retry."
    );
    ErrorRecord::new(
        Category::ObjectNotFound,
        "CimJobException",
        format!("CmdletizationQuery_NotFound_{property}"),
        message,
    )
    .with_target(value, "String")
}

fn speed(mbps: u64) -> String {
    if mbps >= 1000 && mbps.is_multiple_of(1000) {
        format!("{} Gbps", mbps / 1000)
    } else {
        format!("{mbps} Mbps")
    }
}

fn adapter(adapter: &v1::HostAdapter) -> Value {
    Value::Object(
        Object::new(ADAPTER)
            .with("Name", adapter.name.as_str())
            .with("InterfaceDescription", adapter.description.as_str())
            .with("ifIndex", int(adapter.index))
            .with("Status", adapter.status.as_str())
            .with("MacAddress", adapter.mac.to_uppercase().replace(':', "-"))
            .with("LinkSpeed", adapter.link_speed_mbps.map(speed).unwrap_or_default())
            .with("Virtual", adapter.is_virtual)
            .with("InterfaceAlias", adapter.name.as_str())
            .with("InterfaceIndex", int(adapter.index))
            .with("LinuxName", adapter.interface.as_str()),
    )
}

async fn adapters(call: &mut Call<'_>) -> CmdletResult {
    let all = call.context().clone().host_adapters().await.map_err(|e| ends(&e))?;
    let physical = call.switch("Physical");
    let mut names = call.texts("Name");
    if names.is_empty() {
        names.push("*".to_owned());
    }
    for name in names {
        let found: Vec<_> = all
            .iter()
            // A name such as "vEthernet (A[1])" is meant as it stands before it is a pattern.
            .filter(|a| a.name.eq_ignore_ascii_case(&name) || fits(&name, &a.name))
            .filter(|a| !(physical && a.is_virtual))
            .collect();
        if found.is_empty() && !is_pattern(&name) {
            call.write_error(no_such(ADAPTER, "Name", &name))?;
        }
        for found in found {
            call.emit(adapter(found));
        }
    }
    Ok(())
}

fn family(address: &str) -> Value {
    if address.contains(':') { Value::member("IPv6", 23) } else { Value::member("IPv4", 2) }
}

/// One of the two copies that Windows tells of: what holds now, and what is kept for the next start.
fn address(address: &v1::HostAddress, persistent: bool) -> Value {
    const FOR_EVER: &str = "Infinite ([TimeSpan]::MaxValue)";
    let (store, state) =
        if persistent { ("PersistentStore", "Invalid") } else { ("ActiveStore", "Preferred") };
    Value::Object(
        Object::new(ADDRESS)
            .with("IPAddress", address.address.as_str())
            .with("InterfaceIndex", int(address.adapter_index))
            .with("InterfaceAlias", address.adapter.as_str())
            .with("AddressFamily", family(&address.address))
            .with("Type", Value::member("Unicast", 1))
            .with("PrefixLength", i64::from(address.prefix_len))
            .with("PrefixOrigin", "Manual")
            .with("SuffixOrigin", "Manual")
            .with("AddressState", state)
            .with("ValidLifetime", FOR_EVER)
            .with("PreferredLifetime", FOR_EVER)
            .with("SkipAsSource", false)
            .with("PolicyStore", store),
    )
}

async fn get(call: &mut Call<'_>) -> CmdletResult {
    let all = call.context().clone().host_addresses().await.map_err(|e| ends(&e))?;
    let alias = call.text("InterfaceAlias");
    let wanted_family = call.text("AddressFamily");
    let of_adapter = |a: &&v1::HostAddress| {
        alias.as_ref().is_none_or(|name| fits(name, &a.adapter))
            && wanted_family.as_ref().is_none_or(|f| *f == family(&a.address).to_text())
    };
    let mut wanted = call.texts("IPAddress");
    if wanted.is_empty() {
        wanted.push("*".to_owned());
    }
    for text in wanted {
        let found: Vec<_> = all.iter().filter(|a| fits(&text, &a.address)).filter(of_adapter).collect();
        if found.is_empty() && !is_pattern(&text) {
            call.write_error(no_such(ADDRESS, "IPAddress", &text))?;
        }
        for found in found {
            call.emit(address(found, false));
        }
    }
    Ok(())
}

async fn new(call: &mut Call<'_>) -> CmdletResult {
    let client = call.context().clone();
    let name = match (call.text("InterfaceAlias"), call.int("InterfaceIndex")) {
        (Some(name), _) => name,
        (None, Some(index)) => {
            let all = client.host_adapters().await.map_err(|e| ends(&e))?;
            let found = all.into_iter().find(|a| i64::from(a.index) == index);
            found.ok_or_else(|| no_such(ADAPTER, "InterfaceIndex", &index.to_string()))?.name
        }
        (None, None) => {
            return Err(call
                .invalid_argument(
                    "InterfaceAlias",
                    "Name the adapter with -InterfaceAlias or -InterfaceIndex.",
                )
                .into());
        }
    };
    let new = v1::NewAddress {
        adapter: name,
        address: call.text("IPAddress").unwrap_or_default(),
        prefix_len: call.int("PrefixLength").and_then(|n| n.try_into().ok()).unwrap_or(32),
        gateway: call.text("DefaultGateway"),
    };
    if !call.should_process(&new.adapter, None)? {
        return Ok(());
    }
    let added = client.add_address(&new).await.map_err(|e| cim(&e, ADDRESS))?;
    call.emit(address(&added, false));
    call.emit(address(&added, true));
    Ok(())
}

async fn remove(call: &mut Call<'_>) -> CmdletResult {
    let deed = |client: Client, address: String| async move {
        client.remove_address(&address).await.map_err(|e| cim(&e, ADDRESS))
    };
    let asked = |text: &String| format!("NetIPAddress -IPv4Address {text} -Store Active").into();
    let addresses = call.texts("IPAddress");
    change_each(call, addresses, asked, deed, |_, ()| Value::Null).await
}
