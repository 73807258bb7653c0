//! What may pass at the ports and between the networks, as text for `nft -f`.
//!
//! The text is made of numbers, ids and names that the kernel knows; nothing that a person typed
//! gets into it. It replaces both tables in one transaction.
//!
//! - Table `bridge`: at prerouting, before a switch learns the source address of a frame, what a port
//!   must not send is dropped and counted. A tap that no rule knows sends nothing at all.
//! - Table `inet`: translation for NAT networks, their static mappings, and a guard that keeps the
//!   host from routing between its switches once it forwards packets at all. `same_switch` is for
//!   hosts whose `bridge-nf-call-iptables` is 1: frames within one switch come through here then.

use std::fmt::Write;

use nestling_model::{AdapterId, Nat, Protocol, SwitchKind};

use crate::{
    desired::{Desired, Port},
    names::{Tag, short},
    state::State,
};

/// The rules for a wish; none when nothing needs a rule.
pub(crate) fn text(tag: Tag, desired: &Desired, want: &State) -> Option<String> {
    if desired.ports.is_empty() && desired.nats.is_empty() {
        return None;
    }
    let mut out = remove(tag);
    bridge_table(&mut out, tag, desired, want);
    // Without a host interface on a switch there is nothing to route, and the kernel need not load connection tracking.
    if !desired.nats.is_empty() || desired.switches.iter().any(|s| s.kind == SwitchKind::Internal) {
        inet_table(&mut out, tag, desired);
    }
    Some(out)
}

/// Removes both tables, whether they exist or not.
pub(crate) fn remove(tag: Tag) -> String {
    let table = tag.table();
    ["bridge", "inet"]
        .map(|family| format!("add table {family} {table}\ndelete table {family} {table}\n"))
        .concat()
}

/// The kinds of drops that are counted at a port.
pub(crate) const COUNTERS: [&str; 3] = ["spoofed", "dhcp", "router"];

pub(crate) fn counter(kind: &str, adapter: AdapterId) -> String {
    format!("{kind}_{}", short(adapter.0))
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String can't fail.
    let _ = out.write_fmt(text);
    out.push('\n');
}

fn quoted(names: impl IntoIterator<Item = String>) -> String {
    names.into_iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ")
}

fn set(out: &mut String, name: &str, kind: &str, elements: &str) {
    // An empty `elements = { }` is a syntax error.
    let elements = if elements.is_empty() { String::new() } else { format!("; elements = {{ {elements} }}") };
    line(out, format_args!("set {name} {{ typeof {kind}{elements}; }}"));
}

fn bridge_table(out: &mut String, tag: Tag, desired: &Desired, want: &State) {
    let mut ports: Vec<&Port> = desired.ports.iter().collect();
    ports.sort_by_key(|port| port.adapter);
    line(out, format_args!("table bridge {} {{", tag.table()));
    for port in &ports {
        for kind in COUNTERS {
            line(out, format_args!("counter {} {{ }}", counter(kind, port.adapter)));
        }
    }
    set(out, "isolated", "meta iifname", &quoted(isolated(tag, desired, want)));
    for port in &ports {
        port_chain(out, port);
    }
    line(out, format_args!("chain prerouting {{ type filter hook prerouting priority -300; policy accept;"));
    if !ports.is_empty() {
        let jumps: Vec<_> =
            ports.iter().map(|p| format!("\"{}\" : goto {}", tag.tap(p.adapter), chain(p))).collect();
        line(out, format_args!("iifname vmap {{ {} }}", jumps.join(", ")));
    }
    line(out, format_args!("iifname \"{}*\" drop", tag.tap_prefix()));
    line(out, format_args!("}}"));
    // Nothing passes between the host itself and a switch that the host is no part of.
    line(out, format_args!("chain input {{ type filter hook input priority 0; iifname @isolated drop; }}"));
    line(out, format_args!("chain output {{ type filter hook output priority 0; oifname @isolated drop; }}"));
    line(out, format_args!("}}"));
}

/// The ports and uplinks of switches without a host interface.
fn isolated(tag: Tag, desired: &Desired, want: &State) -> Vec<String> {
    let bridges: Vec<String> =
        desired.switches.iter().filter(|s| s.host_interface().is_none()).map(|s| tag.bridge(s.id)).collect();
    let on_isolated = |master: &Option<String>| master.as_ref().is_some_and(|m| bridges.contains(m));
    want.links.iter().filter(|(_, link)| on_isolated(&link.master)).map(|(name, _)| name.clone()).collect()
}

fn chain(port: &Port) -> String {
    format!("port_{}", short(port.adapter.0))
}

fn port_chain(out: &mut String, port: &Port) {
    line(out, format_args!("chain {} {{", chain(port)));
    if !port.mac_spoofing {
        let mac = port.mac;
        let hex = port.mac.hyperv().to_lowercase();
        let drop = format!("counter name {} drop", counter("spoofed", port.adapter));
        line(out, format_args!("ether saddr != {mac} {drop}"));
        line(out, format_args!("meta protocol arp arp saddr ether != {mac} {drop}"));
        // Neighbour discovery carries the sender's address as an option: the first one, or none.
        line(
            out,
            format_args!(
                "icmpv6 type nd-neighbor-advert ip6 length != 24 @th,192,64 != 0x0201{hex} {drop}\n\
                 icmpv6 type nd-neighbor-solicit ip6 saddr != :: ip6 length != 24 @th,192,64 != 0x0101{hex} {drop}\n\
                 icmpv6 type nd-router-solicit ip6 saddr != :: ip6 length != 8 @th,64,64 != 0x0101{hex} {drop}"
            ),
        );
    }
    if port.dhcp_guard {
        let drop = format!("counter name {} drop", counter("dhcp", port.adapter));
        line(out, format_args!("udp sport {{ 67, 547 }} {drop}"));
    }
    if port.router_guard {
        let drop = format!("counter name {} drop", counter("router", port.adapter));
        line(out, format_args!("icmpv6 type {{ nd-router-advert, nd-redirect }} {drop}"));
        line(out, format_args!("icmp type {{ router-advertisement, redirect }} {drop}"));
    }
    line(out, format_args!("accept"));
    line(out, format_args!("}}"));
}

fn inet_table(out: &mut String, tag: Tag, desired: &Desired) {
    let mut bridges: Vec<_> = desired
        .switches
        .iter()
        .filter(|s| s.kind == SwitchKind::Internal)
        .map(|s| tag.bridge(s.id))
        .collect();
    bridges.sort();
    let mut nats: Vec<&Nat> = desired.nats.iter().collect();
    nats.sort_by_key(|nat| nat.internal_prefix);
    line(out, format_args!("table inet {} {{", tag.table()));
    set(out, "internal", "meta iifname", &quoted(bridges.iter().cloned()));
    let pairs: Vec<_> = bridges.iter().map(|b| format!("\"{b}\" . \"{b}\"")).collect();
    set(out, "same_switch", "meta iifname . meta oifname", &pairs.join(", "));
    forward_chains(out, &nats);
    if !nats.is_empty() {
        nat_chains(out, &nats);
    }
    line(out, format_args!("}}"));
}

fn forward_chains(out: &mut String, nats: &[&Nat]) {
    line(out, format_args!("chain from_internal {{"));
    line(out, format_args!("ct state established,related accept"));
    line(out, format_args!("ct status dnat accept"));
    for nat in nats {
        line(out, format_args!("ip saddr {} oifname != @internal accept", nat.internal_prefix.trunc()));
    }
    line(out, format_args!("counter drop\n}}"));
    line(out, format_args!("chain to_internal {{"));
    line(out, format_args!("ct state established,related accept"));
    line(out, format_args!("ct status dnat accept"));
    line(out, format_args!("counter drop\n}}"));
    line(out, format_args!("chain forward {{ type filter hook forward priority filter; policy accept;"));
    line(out, format_args!("iifname . oifname @same_switch accept"));
    line(out, format_args!("iifname @internal goto from_internal"));
    line(out, format_args!("oifname @internal goto to_internal"));
    line(out, format_args!("}}"));
}

fn nat_chains(out: &mut String, nats: &[&Nat]) {
    line(out, format_args!("chain mappings {{"));
    let mut mappings: Vec<_> = nats.iter().flat_map(|nat| &nat.mappings).collect();
    // A mapping of one address comes before one of every address.
    mappings.sort_by_key(|m| {
        (m.external_address.is_unspecified(), m.external_address, m.external_port, m.protocol.as_str())
    });
    for m in mappings {
        let protocol = match m.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        let external = if m.external_address.is_unspecified() {
            // Not the loopback: the answer of a machine could not come back from there.
            "ip daddr != 127.0.0.0/8 fib daddr type local".to_owned()
        } else {
            format!("ip daddr {}", m.external_address)
        };
        let (port, to, to_port) = (m.external_port, m.internal_address, m.internal_port);
        line(out, format_args!("{external} {protocol} dport {port} dnat ip to {to}:{to_port}"));
    }
    line(out, format_args!("}}"));
    line(
        out,
        format_args!("chain prerouting {{ type nat hook prerouting priority dstnat; jump mappings; }}"),
    );
    line(out, format_args!("chain output {{ type nat hook output priority -100; jump mappings; }}"));
    line(out, format_args!("chain postrouting {{ type nat hook postrouting priority srcnat;"));
    for nat in nats {
        let p = nat.internal_prefix.trunc();
        line(out, format_args!("ip saddr {p} ip daddr != {p} oifname != @internal masquerade"));
        // A machine that uses the mapping of another one in its own network: the answer must come back here.
        line(out, format_args!("ip saddr {p} ip daddr {p} ct status dnat masquerade"));
    }
    line(out, format_args!("}}"));
}
