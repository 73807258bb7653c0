//! `nestling nat`.

use std::net::Ipv4Addr;

use clap::{Args, Subcommand, ValueEnum};
use nestling_api::v1;

use crate::{
    failure::Result,
    session::Session,
    text::{Table, fields},
};

/// NAT networks
#[derive(Debug, Args)]
pub struct Nat {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the NAT networks
    List,
    /// Show a NAT network and its port mappings
    Show {
        #[arg(value_name = "NAT", help = "The NAT network's name")]
        name: String,
    },
    Create(Create),
    Set(Set),
    /// Remove a NAT network and its port mappings
    Remove {
        #[arg(value_name = "NAT", help = "The NAT network's name")]
        name: String,
    },
    Map(Map),
    /// Remove a port mapping
    Unmap {
        #[arg(value_name = "NAT", help = "The NAT network's name")]
        name: String,
        /// The mapping's number, as `nat show` tells it
        #[arg(value_name = "NUMBER")]
        id: u32,
    },
}

/// Create a NAT network
#[derive(Debug, Args)]
struct Create {
    #[arg(value_name = "NAT", help = "The NAT network's name")]
    name: String,
    /// The addresses inside, such as 192.168.100.0/24
    #[arg(value_name = "PREFIX")]
    prefix: String,
    #[command(flatten)]
    dhcp: Dhcp,
}

/// Change what a NAT network offers
#[derive(Debug, Args)]
struct Set {
    #[arg(value_name = "NAT", help = "The NAT network's name")]
    name: String,
    #[command(flatten)]
    dhcp: Dhcp,
    /// Offer no leases any more
    #[arg(long, conflicts_with = "dhcp", required_unless_present = "dhcp")]
    no_dhcp: bool,
}

#[derive(Debug, Args)]
struct Dhcp {
    /// Offer leases of these addresses (and names)
    #[arg(long, value_name = "FIRST-LAST", value_parser = range)]
    dhcp: Option<(Ipv4Addr, Ipv4Addr)>,
    /// How long a lease lasts [default: 3600]
    #[arg(long, value_name = "SECONDS", requires = "dhcp")]
    lease: Option<u32>,
    /// A name server for those with leases; can be given again [default: those of the host]
    #[arg(long, value_name = "ADDRESS", requires = "dhcp")]
    dns: Vec<Ipv4Addr>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Protocol {
    Tcp,
    Udp,
}

/// Pass a port of the host on to a machine
#[derive(Debug, Args)]
struct Map {
    #[arg(value_name = "NAT", help = "The NAT network's name")]
    name: String,
    #[arg(value_enum, help = "What is passed on")]
    protocol: Protocol,
    /// The host's port, for one address only if one stands before it
    #[arg(value_name = "[ADDRESS:]PORT", value_parser = external)]
    external: (Ipv4Addr, u16),
    /// The machine's address and port [default: the same port]
    #[arg(value_name = "ADDRESS[:PORT]", value_parser = internal)]
    internal: (Ipv4Addr, Option<u16>),
}

impl Nat {
    pub async fn run(self, session: &Session) -> Result {
        let client = session.client().await?;
        match self.command {
            Command::List => session.printer.list(&client.nats().await?, table),
            Command::Show { name } => session.printer.show(&client.nat(&name).await?, details),
            Command::Create(create) => {
                let Create { name, prefix, dhcp } = create;
                let new = v1::NewNat { name, internal_prefix: prefix, dhcp: dhcp.into_wire() };
                session.printer.changed(&client.create_nat(&new).await?)
            }
            Command::Set(set) => {
                let change = v1::NatChange { dhcp: set.dhcp.into_wire(), dhcp_off: set.no_dhcp };
                session.printer.changed(&client.change_nat(&set.name, &change).await?)
            }
            Command::Remove { name } => Ok(client.remove_nat(&name).await?),
            Command::Map(map) => {
                let (name, new) = map.into_wire();
                session.printer.changed(&client.add_mapping(&name, &new).await?)
            }
            Command::Unmap { name, id } => Ok(client.remove_mapping(&name, id).await?),
        }
    }
}

impl Dhcp {
    fn into_wire(self) -> Option<v1::Dhcp> {
        let (first, last) = self.dhcp?;
        Some(v1::Dhcp {
            first: first.to_string(),
            last: last.to_string(),
            lease_seconds: self.lease,
            dns_servers: self.dns.iter().map(Ipv4Addr::to_string).collect(),
        })
    }
}

impl Map {
    fn into_wire(self) -> (String, v1::NewMapping) {
        let protocol = match self.protocol {
            Protocol::Tcp => v1::Protocol::Tcp,
            Protocol::Udp => v1::Protocol::Udp,
        };
        let mapping = v1::NewMapping {
            protocol,
            external_address: self.external.0.to_string(),
            external_port: self.external.1,
            internal_address: self.internal.0.to_string(),
            internal_port: self.internal.1,
        };
        (self.name, mapping)
    }
}

fn address(text: &str) -> std::result::Result<Ipv4Addr, String> {
    text.trim().parse().map_err(|_| format!("\"{text}\" is no IPv4 address"))
}

fn port(text: &str) -> std::result::Result<u16, String> {
    text.parse().ok().filter(|port| *port != 0).ok_or_else(|| format!("\"{text}\" is no port"))
}

fn range(text: &str) -> std::result::Result<(Ipv4Addr, Ipv4Addr), String> {
    let (first, last) =
        text.split_once('-').ok_or("give the first and the last address with - between them")?;
    Ok((address(first)?, address(last)?))
}

fn external(text: &str) -> std::result::Result<(Ipv4Addr, u16), String> {
    match text.split_once(':') {
        Some((before, after)) => Ok((address(before)?, port(after)?)),
        None => Ok((Ipv4Addr::UNSPECIFIED, port(text)?)),
    }
}

fn internal(text: &str) -> std::result::Result<(Ipv4Addr, Option<u16>), String> {
    match text.split_once(':') {
        Some((before, after)) => Ok((address(before)?, Some(port(after)?))),
        None => Ok((address(text)?, None)),
    }
}

fn leases(nat: &v1::Nat) -> String {
    nat.dhcp.as_ref().map_or_else(|| "-".to_owned(), |dhcp| format!("{} - {}", dhcp.first, dhcp.last))
}

fn table(nats: &[v1::Nat]) -> String {
    let mut table = Table::new(&["NAT", "PREFIX", "LEASES", "MAPPINGS"]).right(&[3]);
    for nat in nats {
        table.row([
            nat.name.clone(),
            nat.internal_prefix.clone(),
            leases(nat),
            nat.mappings.len().to_string(),
        ]);
    }
    table.text()
}

fn details(nat: &v1::Nat) -> String {
    let mut out = fields(&[
        ("Name", nat.name.clone()),
        ("Prefix", nat.internal_prefix.clone()),
        ("Leases", leases(nat)),
        ("Name servers", nat.dhcp.as_ref().map(|d| d.dns_servers.join(", ")).unwrap_or_default()),
    ]);
    if !nat.mappings.is_empty() {
        let mut table = Table::new(&["NUMBER", "PROTOCOL", "OUTSIDE", "INSIDE"]).right(&[0]);
        for m in &nat.mappings {
            table.row([
                m.id.to_string(),
                format!("{:?}", m.protocol).to_uppercase(),
                format!("{}:{}", m.external_address, m.external_port),
                format!("{}:{}", m.internal_address, m.internal_port),
            ]);
        }
        out.push('\n');
        out.push_str(&table.text());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_ranges_are_read() {
        assert_eq!(external("8080"), Ok((Ipv4Addr::UNSPECIFIED, 8080)));
        assert_eq!(external("10.0.0.1:80"), Ok((Ipv4Addr::new(10, 0, 0, 1), 80)));
        assert_eq!(internal("10.0.0.1"), Ok((Ipv4Addr::new(10, 0, 0, 1), None)));
        assert_eq!(range("10.0.0.5-10.0.0.9"), Ok((Ipv4Addr::new(10, 0, 0, 5), Ipv4Addr::new(10, 0, 0, 9))));
        for bad in ["", "0", "70000", "a:80", "10.0.0.1:", ":80"] {
            assert!(external(bad).is_err(), "{bad}");
        }
        for bad in ["", "10.0.0.1", "10.0.0.1-", "-", "10.0.0.1-x"] {
            assert!(range(bad).is_err(), "{bad}");
        }
    }
}
