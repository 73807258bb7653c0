//! `nestling host`: the host itself.

use std::net::IpAddr;

use clap::{Args, Subcommand};
use nestling_api::v1;

use crate::{
    failure::Result,
    session::Session,
    text::{self, Table, fields},
};

/// The host itself: its processors, memory, network interfaces and roles
#[derive(Debug, Args)]
pub struct Host {
    /// [default: show]
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the host
    Show,
    /// List its network interfaces
    Adapters,
    Address(Address),
    Feature(Feature),
}

/// Addresses of its network interfaces
#[derive(Debug, Args)]
struct Address {
    #[command(subcommand)]
    command: AddressCommand,
}

#[derive(Debug, Subcommand)]
enum AddressCommand {
    /// List the addresses
    List,
    /// Give an address to a switch's interface
    Add {
        /// Such as "vEthernet (NAT-Switch)"
        #[arg(value_name = "INTERFACE")]
        adapter: String,
        #[arg(value_name = "ADDRESS/PREFIX", value_parser = with_prefix, help = "Such as 192.168.100.1/24")]
        address: (IpAddr, u8),
        /// The router behind it
        #[arg(long, value_name = "ADDRESS")]
        gateway: Option<IpAddr>,
    },
    /// Take an address away
    Remove {
        #[arg(value_name = "ADDRESS", help = "The address")]
        address: IpAddr,
    },
}

/// Roles of the host
#[derive(Debug, Args)]
struct Feature {
    #[command(subcommand)]
    command: FeatureCommand,
}

#[derive(Debug, Subcommand)]
enum FeatureCommand {
    /// List the roles
    List,
    /// Make the host fit for a role, such as Hyper-V
    Install {
        #[arg(value_name = "ROLE", help = "The role's name")]
        name: String,
    },
}

impl Host {
    pub async fn run(self, session: &Session) -> Result {
        let client = session.client().await?;
        let printer = session.printer;
        match self.command.unwrap_or(Command::Show) {
            Command::Show => printer.show(&client.host().await?, details),
            Command::Adapters => printer.list(&client.host_adapters().await?, adapters),
            Command::Address(Address { command }) => match command {
                AddressCommand::List => printer.list(&client.host_addresses().await?, addresses),
                AddressCommand::Add { adapter, address: (address, prefix_len), gateway } => {
                    let address = address.to_string();
                    let gateway = gateway.map(|g| g.to_string());
                    let new = v1::NewAddress { adapter, address, prefix_len, gateway };
                    printer.changed(&client.add_address(&new).await?)
                }
                AddressCommand::Remove { address } => Ok(client.remove_address(&address.to_string()).await?),
            },
            Command::Feature(Feature { command }) => match command {
                FeatureCommand::List => printer.list(&client.features().await?, features),
                FeatureCommand::Install { name } => {
                    printer.show(&client.install_feature(&name).await?, installed)
                }
            },
        }
    }
}

fn with_prefix(text: &str) -> std::result::Result<(IpAddr, u8), String> {
    let parsed = text.split_once('/').and_then(|(a, p)| Some((a.parse().ok()?, p.parse().ok()?)));
    parsed.ok_or_else(|| "an address has its prefix behind it, such as 192.168.100.1/24".to_owned())
}

fn details(host: &v1::Host) -> String {
    let engine = match (&host.engine, &host.engine_reason) {
        (Some(engine), Some(reason)) => format!("{} ({reason})", engine.to_uppercase()),
        (Some(engine), None) => engine.to_uppercase(),
        (None, _) => "not yet proved".to_owned(),
    };
    fields(&[
        ("Name", host.name.clone()),
        ("Engine", engine),
        ("Processors", host.logical_processors.to_string()),
        (
            "Memory",
            format!(
                "{}, {} available",
                text::size(host.memory_bytes),
                text::size(host.memory_available_bytes)
            ),
        ),
        ("Versions", host.supported_versions.join(", ")),
        ("Machines in", host.vm_directory.clone()),
        ("Disks in", host.disk_directory.clone()),
    ])
}

fn adapters(adapters: &[v1::HostAdapter]) -> String {
    let mut table = Table::new(&["INDEX", "NAME", "STATUS", "MAC", "SPEED", "INTERFACE"]).right(&[0]);
    for adapter in adapters {
        table.row([
            adapter.index.to_string(),
            adapter.name.clone(),
            adapter.status.clone(),
            adapter.mac.clone(),
            adapter.link_speed_mbps.map_or_else(|| "-".to_owned(), |mbps| format!("{mbps} Mbps")),
            adapter.interface.clone(),
        ]);
    }
    table.text()
}

fn addresses(addresses: &[v1::HostAddress]) -> String {
    let mut table = Table::new(&["ADDRESS", "NAME", "GATEWAY", "KEPT BY"]);
    for address in addresses {
        table.row([
            format!("{}/{}", address.address, address.prefix_len),
            address.adapter.clone(),
            address.gateway.clone().unwrap_or_else(|| "-".to_owned()),
            if address.managed { "nestling" } else { "the system" }.to_owned(),
        ]);
    }
    table.text()
}

fn features(features: &[v1::Feature]) -> String {
    let mut table = Table::new(&["ROLE", "INSTALLED", "DESCRIPTION"]);
    for feature in features {
        table.row([
            feature.name.clone(),
            if feature.installed { "yes" } else { "no" }.to_owned(),
            feature.display_name.clone(),
        ]);
    }
    table.text()
}

fn installed(done: &v1::FeatureInstalled) -> String {
    let mut out = String::new();
    for step in &done.steps {
        out.push_str(&format!("{}\n", text::clean(step)));
    }
    let so = if done.changed { "installed" } else { "installed already" };
    out.push_str(&format!("{} is {so}\n", text::clean(&done.feature.name)));
    out
}
