//! `nestling switch`.

use clap::{Args, Subcommand, ValueEnum};
use nestling_api::v1;

use crate::{args::OnOff, failure::Result, session::Session, text::Table};

/// Virtual switches
#[derive(Debug, Args)]
pub struct Switch {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the switches
    List,
    Create(Create),
    Set(Set),
    /// Remove switches that nothing is plugged into
    Remove {
        #[arg(value_name = "SWITCH", help = "The switch's name")]
        name: String,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    /// Machines reach each other
    Private,
    /// Machines and the host reach each other
    Internal,
    /// Machines are on the network of one of the host's interfaces
    External,
}

impl Kind {
    fn into_wire(self) -> v1::SwitchKind {
        match self {
            Self::Private => v1::SwitchKind::Private,
            Self::Internal => v1::SwitchKind::Internal,
            Self::External => v1::SwitchKind::External,
        }
    }
}

/// Create a switch
#[derive(Debug, Args)]
struct Create {
    #[arg(value_name = "SWITCH", help = "The switch's name")]
    name: String,
    /// What it connects [default: external, when an uplink is given]
    #[arg(long, value_enum, required_unless_present = "uplink")]
    kind: Option<Kind>,
    /// The host's interface that joins an external switch
    #[arg(long, value_name = "INTERFACE")]
    uplink: Option<String>,
    /// Whether the host goes on using the uplink's network [default: on]
    #[arg(long, value_name = "ON|OFF", value_enum, hide_possible_values = true, requires = "uplink")]
    management: Option<OnOff>,
    /// Words for people
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    notes: String,
}

/// Change a switch; what is not named stays
#[derive(Debug, Args)]
#[command(override_usage = "nestling switch set <SWITCH> <OPTION>...")]
struct Set {
    #[arg(value_name = "SWITCH", help = "The switch's name")]
    switch: String,
    #[command(flatten)]
    change: Change,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct Change {
    /// Give it another name
    #[arg(long)]
    name: Option<String>,
    /// What it connects
    #[arg(long, value_enum)]
    kind: Option<Kind>,
    /// The host's interface that joins an external switch
    #[arg(long, value_name = "INTERFACE")]
    uplink: Option<String>,
    /// Whether the host goes on using the uplink's network
    #[arg(long, value_name = "ON|OFF", value_enum, hide_possible_values = true)]
    management: Option<OnOff>,
    /// Words for people
    #[arg(long, value_name = "TEXT")]
    notes: Option<String>,
}

impl Switch {
    pub async fn run(self, session: &Session) -> Result {
        let client = session.client().await?;
        match self.command {
            Command::List => session.printer.list(&client.switches().await?, table),
            Command::Create(create) => {
                session.printer.changed(&client.create_switch(&create.into_wire()).await?)
            }
            Command::Set(Set { switch, change }) => {
                session.printer.changed(&client.change_switch(&switch, &change.into_wire()).await?)
            }
            Command::Remove { name } => Ok(client.remove_switch(&name).await?),
        }
    }
}

impl Create {
    fn into_wire(self) -> v1::NewSwitch {
        v1::NewSwitch {
            name: self.name,
            kind: self.kind.map_or(v1::SwitchKind::External, Kind::into_wire),
            notes: self.notes,
            uplink: self.uplink,
            allow_management_os: self.management.map(OnOff::is_on),
        }
    }
}

impl Change {
    fn into_wire(self) -> v1::SwitchChange {
        v1::SwitchChange {
            name: self.name,
            notes: self.notes,
            kind: self.kind.map(Kind::into_wire),
            uplink: self.uplink,
            allow_management_os: self.management.map(OnOff::is_on),
        }
    }
}

fn table(switches: &[v1::Switch]) -> String {
    let mut table = Table::new(&["SWITCH", "KIND", "UPLINK", "BRIDGE", "NOTES"]);
    for switch in switches {
        table.row([
            switch.name.clone(),
            format!("{:?}", switch.kind),
            switch.uplink.clone().unwrap_or_else(|| "-".to_owned()),
            switch.bridge.clone(),
            switch.notes.clone(),
        ]);
    }
    table.text()
}
