//! The rules in the kernel: loaded by the program `nft`, watched without it.
//!
//! Starting a program costs 50 to 100 ms in an emulated guest, and comparing what `nft` prints with
//! what it was given depends on its version. So the kernel's own count of rule set changes (its
//! generation) tells whether anything changed since our last load: if not, exactly our text is in
//! force and nothing is started; if so, whoever changed what, it is loaded again.

use std::{io, process::Stdio, sync::Arc, time::Duration};

use rtnetlink::sys::{Socket, SocketAddr};
use tokio::{io::AsyncWriteExt, process::Command, time::timeout};

use crate::{names::Tag, rules, state::Rules, tool};

const NETLINK_NETFILTER: isize = 12;
const SUBSYSTEM_NFTABLES: u16 = 10;
const GET_TABLE: u16 = 1;
const NEW_GENERATION: u16 = 15;
const GET_GENERATION: u16 = 16;
const FAMILY_INET: u8 = 1;
const FAMILY_BRIDGE: u8 = 7;

/// Emulated guests are slow; a kernel that never answers must not hold the node.
const DEADLINE: Duration = Duration::from_secs(60);
/// More than any counters of ours print.
const OUTPUT_BYTES_MAX: usize = 16 << 20;

#[derive(Debug, thiserror::Error)]
pub(crate) enum NftError {
    #[error(transparent)]
    Tool(#[from] tool::ToolError),
    #[error("nft: {0}")]
    Failed(String),
}

/// What was loaded last, and the generation that this made.
#[derive(Debug)]
pub(crate) struct Nft {
    tag: Tag,
    loaded: Option<(Rules, u32)>,
}

impl Nft {
    pub fn new(tag: Tag) -> Self {
        Self { tag, loaded: None }
    }

    /// What is in force now.
    pub fn read(&self) -> Rules {
        let generation = generation();
        if let Some((rules, at)) = &self.loaded
            && generation == Some(*at)
        {
            return rules.clone();
        }
        let table = self.tag.table();
        if table_exists(FAMILY_BRIDGE, &table) || table_exists(FAMILY_INET, &table) {
            Rules::Unknown
        } else {
            Rules::Absent
        }
    }

    /// A text that loads what is in force although it is not known what that is.
    pub async fn saved(&self) -> Result<Rules, NftError> {
        if let Some((rules @ Rules::Loaded(_), _)) = &self.loaded {
            return Ok(rules.clone());
        }
        let table = self.tag.table();
        let mut listing = rules::remove(self.tag);
        // One run each: nft 1.0.6 finds no second table of the same name in one run.
        for (family, name) in [(FAMILY_BRIDGE, "bridge"), (FAMILY_INET, "inet")] {
            if table_exists(family, &table) {
                listing += &run(&["--numeric", "list", "table", name, &table], "").await?;
            }
        }
        Ok(Rules::Loaded(listing.into()))
    }

    /// Puts `rules` into force, in one transaction.
    pub async fn load(&mut self, rules: &Rules) -> Result<(), NftError> {
        let text: Arc<str> = match rules {
            Rules::Loaded(text) => text.clone(),
            Rules::Absent | Rules::Unknown => rules::remove(self.tag).into(),
        };
        let before = generation();
        self.loaded = None;
        run(&["-f", "-"], &text).await?;
        // One load is one generation. If there were more, someone else changed something meanwhile.
        if let (Some(before), Some(after)) = (before, generation())
            && after == before.wrapping_add(1)
        {
            self.loaded = Some((rules.clone(), after));
        }
        Ok(())
    }
}

/// The named counters of the `bridge` table: name and packets.
pub(crate) async fn counters(tag: Tag) -> Result<Vec<(String, u64)>, NftError> {
    if !table_exists(FAMILY_BRIDGE, &tag.table()) {
        return Ok(Vec::new());
    }
    let json = run(&["-j", "list", "counters", "table", "bridge", &tag.table()], "").await?;
    parse_counters(&json).ok_or_else(|| NftError::Failed("its list of counters can't be understood".into()))
}

/// Every chain of every program, as JSON.
pub(crate) async fn list_chains() -> Result<String, NftError> {
    run(&["-j", "list", "chains"], "").await
}

fn parse_counters(json: &str) -> Option<Vec<(String, u64)>> {
    let value: serde_json::Value = serde_json::from_str(json).ok()?;
    let list = value.get("nftables")?.as_array()?;
    let one = |item: &serde_json::Value| {
        let counter = item.get("counter")?;
        Some((counter.get("name")?.as_str()?.to_owned(), counter.get("packets")?.as_u64()?))
    };
    Some(list.iter().filter_map(one).collect())
}

/// Runs `nft` with `input` and gives what it prints.
async fn run(args: &[&str], input: &str) -> Result<String, NftError> {
    let program = tool::find("nft", "nftables")?;
    let failed = |e: io::Error| NftError::Failed(e.to_string());
    let mut child = Command::new(program)
        .args(args)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let stdin = child.stdin.take();
    let feed = async {
        if let Some(mut stdin) = stdin {
            // An `nft` that ends early says why on its own; a broken pipe does not.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
    };
    let both = async { tokio::join!(feed, child.wait_with_output()).1 };
    let output = timeout(DEADLINE, both)
        .await
        .map_err(|_| NftError::Failed(format!("no answer within {} seconds", DEADLINE.as_secs())))?
        .map_err(failed)?;
    if !output.status.success() {
        return Err(NftError::Failed(first_lines(&output.stderr)));
    }
    if output.stdout.len() > OUTPUT_BYTES_MAX {
        return Err(NftError::Failed("it printed too much".into()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn first_lines(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(&stderr[..stderr.len().min(2000)]);
    let text = text.trim();
    if text.contains("Unable to initialize Netlink socket") || text.contains("not supported") {
        return format!("{text} (is the kernel's module nf_tables loaded?)");
    }
    text.lines().take(6).collect::<Vec<_>>().join(" / ")
}

/// The kernel's count of rule set changes; none without nf_tables or the right to ask.
fn generation() -> Option<u32> {
    let reply = ask(GET_GENERATION, 0, &[])?;
    if reply.0 != NEW_GENERATION {
        return None;
    }
    // The first attribute is NFTA_GEN_ID: length, type, then a number in network order.
    let id: [u8; 4] = reply.1.get(8..12)?.try_into().ok()?;
    Some(u32::from_be_bytes(id))
}

fn table_exists(family: u8, name: &str) -> bool {
    let mut attribute = Vec::new();
    let len = u16::try_from(4 + name.len() + 1).unwrap_or(u16::MAX);
    attribute.extend(len.to_ne_bytes());
    attribute.extend(1_u16.to_ne_bytes());
    attribute.extend(name.as_bytes());
    attribute.push(0);
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    ask(GET_TABLE, family, &attribute).is_some_and(|(kind, _)| kind == 0)
}

/// One question to nf_tables: the kind of the answer and its content from the family header on.
/// The kernel answers within the call that asks.
fn ask(kind: u16, family: u8, attributes: &[u8]) -> Option<(u16, Vec<u8>)> {
    const HEADER: usize = 16;
    const REQUEST: u16 = 1;
    const ERROR: u16 = 2;
    let mut message = Vec::with_capacity(HEADER + 4 + attributes.len());
    let len = u32::try_from(HEADER + 4 + attributes.len()).ok()?;
    message.extend(len.to_ne_bytes());
    message.extend((SUBSYSTEM_NFTABLES << 8 | kind).to_ne_bytes());
    message.extend(REQUEST.to_ne_bytes());
    message.extend([0; 8]);
    message.extend([family, 0, 0, 0]);
    message.extend(attributes);
    let socket = Socket::new(NETLINK_NETFILTER).ok()?;
    socket.set_non_blocking(true).ok()?;
    socket.send_to(&message, &SocketAddr::new(0, 0), 0).ok()?;
    let (reply, _) = socket.recv_from_full().ok()?;
    let kind = u16::from_ne_bytes(reply.get(4..6)?.try_into().ok()?);
    if kind == ERROR || kind >> 8 != SUBSYSTEM_NFTABLES {
        return None;
    }
    Some((kind & 0xff, reply.get(HEADER..)?.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_from_what_nft_prints() {
        let json = r#"{"nftables": [{"metainfo": {"version": "1.0.6", "json_schema_version": 1}},
            {"counter": {"family": "bridge", "name": "spoofed_01020304", "table": "nestling_0001", "handle": 1,
             "packets": 13, "bytes": 1092}}]}"#;
        assert_eq!(parse_counters(json), Some(vec![("spoofed_01020304".into(), 13)]));
        assert_eq!(parse_counters("{}"), None);
        assert_eq!(parse_counters("nonsense"), None);
    }

    #[test]
    fn a_kernel_without_nf_tables_is_named() {
        let said = first_lines(b"Unable to initialize Netlink socket: Protocol not supported\n");
        assert!(said.contains("module nf_tables"), "{said}");
    }
}
