//! The host's links, addresses and routes, read over netlink.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use futures_util::TryStreamExt;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use nestling_model::MacAddress;
use rtnetlink::{
    Handle, RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope},
        link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
        route::{RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteType},
    },
};

use crate::{
    host::{AdapterKind, HostAdapter, InterfaceAddress, InterfaceRoute},
    names::{Ours, Tag},
    state::{Address, Link, LinkKind, PROTOCOL_OURS, Route, Rules, State},
};

const PROTOCOL_KERNEL: u8 = 2;
/// Routes learned from router advertisements: the kernel learns them again.
const PROTOCOL_RA: u8 = 9;
const FOREVER: u32 = u32::MAX;

pub(crate) fn io_error(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other.to_string()),
    }
}

pub(crate) async fn adapters(handle: &Handle, tag: Tag) -> io::Result<Vec<HostAdapter>> {
    let messages: Vec<LinkMessage> = handle.link().get().execute().try_collect().await.map_err(io_error)?;
    let names: HashMap<u32, String> =
        messages.iter().filter_map(|m| Some((m.header.index, link_name(m)?))).collect();
    Ok(messages.iter().filter_map(|m| adapter(m, &names, tag)).collect())
}

fn link_name(message: &LinkMessage) -> Option<String> {
    message.attributes.iter().find_map(|a| match a {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    })
}

fn adapter(message: &LinkMessage, names: &HashMap<u32, String>, tag: Tag) -> Option<HostAdapter> {
    let interface = link_name(message)?;
    let flags = message.header.flags;
    let mut adapter = HostAdapter {
        index: message.header.index,
        mac: None,
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::LowerUp),
        mtu: 0,
        kind: AdapterKind::Physical,
        master: None,
        ours: None,
        received_bytes: 0,
        sent_bytes: 0,
        interface,
    };
    if flags.contains(LinkFlags::Loopback) {
        adapter.kind = AdapterKind::Loopback;
    }
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Address(bytes) => {
                let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
                adapter.mac = hex.parse::<MacAddress>().ok();
            }
            LinkAttribute::Mtu(mtu) => adapter.mtu = *mtu,
            LinkAttribute::Controller(index) => adapter.master = names.get(index).cloned(),
            LinkAttribute::Stats64(stats) => {
                (adapter.received_bytes, adapter.sent_bytes) = (stats.rx_bytes, stats.tx_bytes);
            }
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    if let LinkInfo::Kind(kind) = info {
                        adapter.kind = match kind {
                            InfoKind::Bridge => AdapterKind::Bridge,
                            InfoKind::Tun => AdapterKind::Tap,
                            other => AdapterKind::Other(other.to_string()),
                        };
                    }
                }
            }
            _ => {}
        }
    }
    adapter.ours = tag.owns(&adapter.interface).filter(|ours| {
        matches!((ours, &adapter.kind), (Ours::Bridge, AdapterKind::Bridge) | (Ours::Tap, AdapterKind::Tap))
    });
    Some(adapter)
}

/// An address with the index of its interface.
async fn raw_addresses(handle: &Handle) -> io::Result<Vec<(u32, Address, AddressMessage)>> {
    let messages: Vec<AddressMessage> =
        handle.address().get().execute().try_collect().await.map_err(io_error)?;
    Ok(messages.into_iter().filter_map(|m| Some((m.header.index, address(&m)?, m))).collect())
}

fn address(message: &AddressMessage) -> Option<Address> {
    let (mut near, mut far, mut broadcast, mut ours, mut valid) = (None, None, None, false, FOREVER);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => near = Some(*ip),
            AddressAttribute::Address(ip) => far = Some(*ip),
            AddressAttribute::Broadcast(ip) => broadcast = Some(*ip),
            AddressAttribute::Protocol(protocol) => ours = u8::from(*protocol) == PROTOCOL_OURS,
            AddressAttribute::CacheInfo(info) => valid = info.ifa_valid,
            _ => {}
        }
    }
    Some(Address {
        ip: near.or(far)?,
        prefix_len: message.header.prefix_len,
        broadcast,
        ours,
        valid_seconds: Some(valid).filter(|seconds| *seconds != FOREVER),
    })
}

/// Whether an address is one that moves with the host: not one that the kernel makes by itself.
fn is_hosts_own(address: &Address, message: &AddressMessage) -> bool {
    match address.ip {
        IpAddr::V4(_) => true,
        IpAddr::V6(_) => {
            let flags = message.attributes.iter().find_map(|a| match a {
                AddressAttribute::Flags(flags) => Some(*flags),
                _ => None,
            });
            message.header.scope == AddressScope::Universe
                && flags.is_some_and(|f| f.contains(AddressFlags::Permanent))
        }
    }
}

pub(crate) async fn addresses(handle: &Handle, tag: Tag) -> io::Result<Vec<InterfaceAddress>> {
    let names: HashMap<u32, String> =
        adapters(handle, tag).await?.into_iter().map(|a| (a.index, a.interface)).collect();
    let raw = raw_addresses(handle).await?;
    let one = |(index, a, _): (u32, Address, AddressMessage)| {
        let interface = names.get(&index)?.clone();
        Some(InterfaceAddress { interface, index, address: a.ip, prefix_len: a.prefix_len, managed: a.ours })
    };
    Ok(raw.into_iter().filter_map(one).collect())
}

/// The main table's routes to somewhere, with the index of their interface.
async fn raw_routes(handle: &Handle) -> io::Result<Vec<(Option<u32>, Route)>> {
    let mut routes = Vec::new();
    for message in
        [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()]
    {
        let v6 = message.header.address_family == AddressFamily::Inet6;
        let got: Result<Vec<RouteMessage>, _> = handle.route().get(message).execute().try_collect().await;
        match got {
            Ok(got) => routes.extend(got.iter().filter_map(route)),
            // A kernel without IPv6 has no such routes.
            Err(_) if v6 => {}
            Err(error) => return Err(io_error(error)),
        }
    }
    Ok(routes)
}

fn route(message: &RouteMessage) -> Option<(Option<u32>, Route)> {
    let header = &message.header;
    let v6 = header.address_family == AddressFamily::Inet6;
    if header.table != RouteHeader::RT_TABLE_MAIN || header.kind != RouteType::Unicast {
        return None;
    }
    let ip = |address: &RouteAddress| match address {
        RouteAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    };
    let (mut destination, mut gateway, mut source, mut metric, mut index) = (None, None, None, 0, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip(address),
            RouteAttribute::Gateway(address) => gateway = ip(address),
            RouteAttribute::PrefSource(address) => source = ip(address),
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::Oif(oif) => index = Some(*oif),
            _ => {}
        }
    }
    let len = header.destination_prefix_length;
    let destination = match (destination, v6) {
        (Some(IpAddr::V4(ip)), _) => IpNet::V4(Ipv4Net::new(ip, len).ok()?),
        (Some(IpAddr::V6(ip)), _) => IpNet::V6(Ipv6Net::new(ip, len).ok()?),
        (None, false) => IpNet::V4(Ipv4Net::default()),
        (None, true) => IpNet::V6(Ipv6Net::default()),
    };
    let (protocol, scope) = (header.protocol.into(), header.scope.into());
    let onlink = header.flags.contains(RouteFlags::Onlink);
    Some((index, Route { destination, gateway, source, metric, protocol, scope, onlink }))
}

pub(crate) async fn routes(handle: &Handle, tag: Tag) -> io::Result<Vec<InterfaceRoute>> {
    let names: HashMap<u32, String> =
        adapters(handle, tag).await?.into_iter().map(|a| (a.index, a.interface)).collect();
    let one = |(index, r): (Option<u32>, Route)| InterfaceRoute {
        destination: r.destination,
        gateway: r.gateway,
        interface: index.and_then(|i| names.get(&i).cloned()),
        metric: r.metric,
        managed: r.protocol == PROTOCOL_OURS,
    };
    Ok(raw_routes(handle).await?.into_iter().map(one).collect())
}

/// All that a plan needs to know of the host.
pub(crate) async fn state(handle: &Handle, tag: Tag, rules: Rules) -> io::Result<State> {
    let mut by_index = HashMap::new();
    let mut links = BTreeMap::new();
    for adapter in adapters(handle, tag).await? {
        by_index.insert(adapter.index, adapter.interface.clone());
        links.insert(adapter.interface.clone(), link(&adapter));
    }
    for (index, address, message) in raw_addresses(handle).await? {
        let link = by_index.get(&index).and_then(|name| links.get_mut(name));
        if let Some(link) = link.filter(|_| is_hosts_own(&address, &message)) {
            link.addresses.push(address);
        }
    }
    for (index, route) in raw_routes(handle).await? {
        let link = index.and_then(|i| by_index.get(&i)).and_then(|name| links.get_mut(name));
        if let Some(link) = link.filter(|_| !matches!(route.protocol, PROTOCOL_KERNEL | PROTOCOL_RA)) {
            link.routes.push(route);
        }
    }
    Ok(State { links, rules, forwarding: forwarding() })
}

fn link(adapter: &HostAdapter) -> Link {
    let kind = match (adapter.ours, &adapter.kind) {
        (Some(Ours::Bridge), _) => LinkKind::Bridge,
        (Some(Ours::Tap), _) => LinkKind::Tap,
        (None, AdapterKind::Loopback) => LinkKind::Foreign { unfit: Some("is the loopback interface") },
        (None, AdapterKind::Bridge) => LinkKind::Foreign { unfit: Some("is a bridge itself") },
        (None, _) if adapter.mac.is_none() => LinkKind::Foreign { unfit: Some("is no Ethernet interface") },
        (None, _) => LinkKind::Foreign { unfit: None },
    };
    let ours = adapter.ours.is_some();
    Link {
        mac: adapter.mac.map(MacAddress::octets).filter(|_| kind != LinkKind::Tap),
        up: adapter.up,
        master: adapter.master.clone(),
        ipv6: ours.then(|| ipv6(&adapter.interface)).flatten(),
        ..Link::new(kind)
    }
}

pub(crate) fn ipv6_path(link: &str) -> String {
    format!("/proc/sys/net/ipv6/conf/{link}/disable_ipv6")
}

fn ipv6(link: &str) -> Option<bool> {
    Some(std::fs::read(ipv6_path(link)).ok()?.first()? == &b'0')
}

pub(crate) const FORWARDING_PATH: &str = "/proc/sys/net/ipv4/ip_forward";

fn forwarding() -> bool {
    std::fs::read(FORWARDING_PATH).is_ok_and(|text| text.first() == Some(&b'1'))
}
