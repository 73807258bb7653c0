//! `nestling vm adapter`: the network adapters of a machine.

use clap::{Args, Subcommand};
use nestling_api::{
    Client,
    v1::{self, ErrorCode},
};
use nestling_model::VmPath;

use crate::{
    args::{OnOff, VM, vm_path},
    failure::{Failure, Result},
    session::Session,
    text::{self, Table},
};

/// Network adapters of a machine
#[derive(Debug, Args)]
pub struct Adapters {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the adapters
    List {
        #[arg(value_name = "VM", value_parser = vm_path, help = VM)]
        vm: VmPath,
    },
    Add(Add),
    Set(Set),
    /// Plug the adapter into a switch
    Connect {
        #[arg(value_name = "VM", value_parser = vm_path, help = VM)]
        vm: VmPath,
        #[arg(value_name = "SWITCH", help = "The switch's name")]
        switch: String,
        /// Its name, MAC address or id [default: the only one]
        #[arg(value_name = "ADAPTER")]
        adapter: Option<String>,
    },
    /// Pull the adapter's cable
    Disconnect {
        #[command(flatten)]
        which: Which,
    },
    /// Remove the adapter
    Remove {
        #[command(flatten)]
        which: Which,
    },
}

#[derive(Debug, Args)]
struct Which {
    #[arg(value_name = "VM", value_parser = vm_path, help = VM)]
    vm: VmPath,
    /// Its name, MAC address or id [default: the only one]
    #[arg(value_name = "ADAPTER")]
    adapter: Option<String>,
}

/// Add an adapter; a machine that runs sees it at once
#[derive(Debug, Args)]
struct Add {
    #[arg(value_name = "VM", value_parser = vm_path, help = VM)]
    vm: VmPath,
    /// Its name [default: Network Adapter]
    #[arg(long)]
    name: Option<String>,
    /// The switch to plug it into
    #[arg(long)]
    switch: Option<String>,
    /// Its MAC address [default: one that the host chooses]
    #[arg(long, value_name = "ADDRESS")]
    mac: Option<String>,
}

/// Change an adapter; what is not named stays
#[derive(Debug, Args)]
#[command(override_usage = "nestling vm adapter set <VM> [ADAPTER] <OPTION>...")]
struct Set {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    change: Change,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct Change {
    /// Give it another name
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// An address, or `dynamic`
    #[arg(long, value_name = "ADDRESS")]
    mac: Option<String>,
    /// Whether it may send from addresses that are not its own
    #[arg(long, value_name = "ON|OFF", value_enum, hide_possible_values = true)]
    mac_spoofing: Option<OnOff>,
    /// Whether the guest is kept from answering as a DHCP server
    #[arg(long, value_name = "ON|OFF", value_enum, hide_possible_values = true)]
    dhcp_guard: Option<OnOff>,
    /// Whether the guest is kept from announcing itself as a router
    #[arg(long, value_name = "ON|OFF", value_enum, hide_possible_values = true)]
    router_guard: Option<OnOff>,
}

impl Adapters {
    pub async fn run(self, session: &Session) -> Result {
        match self.command {
            Command::List { vm } => {
                let (client, vm) = session.at(&vm).await?;
                session.printer.list(&client.vm(vm).await?.adapters, table)
            }
            Command::Add(add) => add.run(session).await,
            Command::Set(Set { which, change }) => which.change(session, &change.into_wire()).await,
            Command::Connect { vm, switch, adapter } => {
                let change = v1::AdapterChange { switch: Some(switch), ..Default::default() };
                Which { vm, adapter }.change(session, &change).await
            }
            Command::Disconnect { which } => {
                let change = v1::AdapterChange { switch: Some(String::new()), ..Default::default() };
                which.change(session, &change).await
            }
            Command::Remove { which } => {
                let (client, vm, adapter) = which.find(session).await?;
                client.remove_adapter(&vm, adapter.id).await?;
                session.printer.changed(&adapter)
            }
        }
    }
}

impl Add {
    async fn run(self, session: &Session) -> Result {
        let (client, vm) = session.at(&self.vm).await?;
        let new = v1::NewAdapter { name: self.name, switch: self.switch, mac: self.mac };
        session.printer.changed(&client.add_adapter(vm, &new).await?)
    }
}

impl Change {
    fn into_wire(self) -> v1::AdapterChange {
        v1::AdapterChange {
            name: self.name,
            switch: None,
            mac: self.mac,
            mac_spoofing: self.mac_spoofing.map(OnOff::is_on),
            dhcp_guard: self.dhcp_guard.map(OnOff::is_on),
            router_guard: self.router_guard.map(OnOff::is_on),
        }
    }
}

impl Which {
    async fn change(self, session: &Session, change: &v1::AdapterChange) -> Result {
        let (client, vm, adapter) = self.find(session).await?;
        session.printer.changed(&client.change_adapter(&vm, adapter.id, change).await?)
    }

    /// The node, the machine's id and the adapter meant.
    async fn find(&self, session: &Session) -> Result<(Client, String, v1::Adapter)> {
        let (client, vm) = session.at(&self.vm).await?;
        let vm = client.vm(vm).await?;
        let adapter = choose(&vm, self.adapter.as_deref())?.clone();
        Ok((client, vm.id.to_string(), adapter))
    }
}

fn choose<'a>(vm: &'a v1::Vm, wanted: Option<&str>) -> Result<&'a v1::Adapter> {
    let fits = |adapter: &&v1::Adapter| {
        wanted.is_none_or(|wanted| {
            adapter.name.to_lowercase() == wanted.to_lowercase()
                || mac_digits(&adapter.mac) == mac_digits(wanted)
                || adapter.id.to_string() == wanted
        })
    };
    let found: Vec<&v1::Adapter> = vm.adapters.iter().filter(fits).collect();
    match (found.as_slice(), wanted) {
        ([adapter], _) => Ok(adapter),
        ([], Some(wanted)) => {
            Err(Failure::new(ErrorCode::NotFound, format!("{} has no network adapter \"{wanted}\"", vm.name))
                .object(vm.name.clone()))
        }
        ([], None) => Err(Failure::new(ErrorCode::NotFound, format!("{} has no network adapter", vm.name))
            .object(vm.name.clone())),
        (several, _) => Err(Failure::new(
            ErrorCode::Invalid,
            format!("{} has {} network adapters that fit", vm.name, several.len()),
        )
        .hint(format!("name one by its MAC address: nestling vm adapter list {}", vm.name))
        .object(vm.name.clone())),
    }
}

/// A MAC address however it is written.
fn mac_digits(mac: &str) -> String {
    mac.chars().filter(char::is_ascii_hexdigit).collect::<String>().to_ascii_lowercase()
}

pub fn table(adapters: &[v1::Adapter]) -> String {
    let header = ["ADAPTER", "MAC", "SWITCH", "STATUS", "SPOOFING", "GUARDS", "DROPPED", "ADDRESSES"];
    let mut table = Table::new(&header).right(&[6]);
    for adapter in adapters {
        let guards: Vec<&str> = [(adapter.dhcp_guard, "DHCP"), (adapter.router_guard, "router")]
            .into_iter()
            .filter_map(|(on, name)| on.then_some(name))
            .collect();
        table.row([
            adapter.name.clone(),
            format!("{}{}", adapter.mac, if adapter.mac_dynamic { "" } else { " (static)" }),
            adapter.switch.clone().unwrap_or_else(|| "-".to_owned()),
            match adapter.status {
                v1::AdapterStatus::None => "-".to_owned(),
                other => format!("{other:?}"),
            },
            text::on_off(adapter.mac_spoofing).to_owned(),
            if guards.is_empty() { "-".to_owned() } else { guards.join(", ") },
            adapter.spoofed_frames_dropped.to_string(),
            adapter.addresses.join(", "),
        ]);
    }
    table.text()
}
