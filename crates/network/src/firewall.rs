//! Other programs' packet filters that may block what passes through ours.
//!
//! A packet must be accepted by every filter of a host; what one drops, another can't save. So a
//! machine without network is often the work of a filter that knows nothing of its switch. This only
//! tells which ones drop by default; their rules may still let ours through.

use std::fmt;

use crate::{names::Tag, nft};

/// A chain that drops what its own rules do not accept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignFilter {
    /// nftables' family: `ip`, `ip6`, `inet` or `bridge`.
    pub family: String,
    pub table: String,
    pub chain: String,
    pub blocks: Blocks,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blocks {
    /// What machines send through the host: NAT networks and static mappings. On a host where
    /// bridge-nf-call-iptables is 1, what machines of one switch send each other, too.
    Forwarded,
    /// What machines send to the host: its address as their gateway, DHCP and names.
    ToHost,
}

impl fmt::Display for ForeignFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, remedy) = match self.blocks {
            Blocks::Forwarded => ("between machines and other networks", "from and to the switches' bridges"),
            Blocks::ToHost => ("from machines to this host", "DHCP (67/udp), names (53) and ping"),
        };
        write!(
            f,
            "a firewall of this host (nftables {} table \"{}\", chain \"{}\") drops what it has no rule for, \
             so traffic {what} may be blocked; if it is, accept {remedy} there",
            self.family, self.table, self.chain
        )
    }
}

/// All chains of others that drop by default where our traffic passes.
pub(crate) async fn foreign_filters(tag: Tag) -> Result<Vec<ForeignFilter>, nft::NftError> {
    let json = nft::list_chains().await?;
    parse(&json, &tag.table())
        .ok_or_else(|| nft::NftError::Failed("its list of chains can't be understood".into()))
}

fn parse(json: &str, own_table: &str) -> Option<Vec<ForeignFilter>> {
    let value: serde_json::Value = serde_json::from_str(json).ok()?;
    let one = |item: &serde_json::Value| {
        let chain = item.get("chain")?;
        let text = |key: &str| Some(chain.get(key)?.as_str()?.to_owned());
        let blocks = match text("hook")?.as_str() {
            "forward" => Blocks::Forwarded,
            "input" => Blocks::ToHost,
            _ => return None,
        };
        let (family, table, chain) = (text("family")?, text("table")?, text("name")?);
        let drops = item.get("chain")?.get("policy")?.as_str()? == "drop";
        (drops && table != own_table).then_some(ForeignFilter { family, table, chain, blocks })
    };
    Some(value.get("nftables")?.as_array()?.iter().filter_map(one).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_others_chains_that_drop_are_told() {
        let json = r#"{"nftables": [{"metainfo": {"version": "1.0.6"}},
            {"chain": {"family": "ip", "table": "filter", "name": "FORWARD", "handle": 1, "type": "filter",
             "hook": "forward", "prio": 0, "policy": "drop"}},
            {"chain": {"family": "inet", "table": "ufw", "name": "in", "hook": "input", "policy": "drop"}},
            {"chain": {"family": "inet", "table": "t", "name": "ok", "hook": "input", "policy": "accept"}},
            {"chain": {"family": "inet", "table": "t", "name": "out", "hook": "output", "policy": "drop"}},
            {"chain": {"family": "inet", "table": "t", "name": "plain"}},
            {"chain": {"family": "inet", "table": "nestling_0001", "name": "f", "hook": "forward", "policy": "drop"}}]}"#;
        let found = parse(json, "nestling_0001").unwrap();
        let shown: Vec<_> = found.iter().map(|f| (f.chain.as_str(), f.blocks)).collect();
        assert_eq!(shown, [("FORWARD", Blocks::Forwarded), ("in", Blocks::ToHost)]);
        assert!(found[0].to_string().contains("ip table \"filter\", chain \"FORWARD\""));
        assert_eq!(parse("[]", "x"), None);
    }
}
