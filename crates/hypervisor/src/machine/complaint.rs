//! QEMU's complaints, made into one sentence that an administrator can act on.

use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncSeekExt};

/// Of a long log, only the end is read.
const READ_BYTES_MAX: u64 = 64 << 10;
const SHOWN_CHARS_MAX: usize = 400;

/// The end of QEMU's log; empty if there is none.
pub(super) async fn read(log: &Path) -> String {
    let text = async {
        let mut file = tokio::fs::File::open(log).await?;
        let length = file.metadata().await?.len();
        file.seek(std::io::SeekFrom::Start(length.saturating_sub(READ_BYTES_MAX))).await?;
        let mut bytes = Vec::new();
        file.take(READ_BYTES_MAX).read_to_end(&mut bytes).await?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&bytes).into_owned())
    };
    text.await.unwrap_or_default()
}

/// The last thing that QEMU said, without time and program name.
pub(super) fn last_line(log: &str) -> Option<String> {
    log.lines().rev().map(bare).find(|line| !line.is_empty() && !line.starts_with("warning: ")).map(shown)
}

/// Why QEMU did not start.
pub(super) fn sentence(log: &str) -> String {
    // The first known complaint is the cause; what follows it are its consequences.
    let lines: Vec<&str> = log.lines().map(bare).filter(|line| !line.is_empty()).collect();
    if let Some(known) = lines.iter().find_map(|line| known(line, &lines)) {
        return shown(&known);
    }
    // Warnings often stand before the error, never after it.
    match lines.last() {
        Some(line) => shown(line),
        None => "QEMU ended without a word".to_owned(),
    }
}

fn known(line: &str, all: &[&str]) -> Option<String> {
    let path = quoted(line).or_else(|| all.iter().find_map(|l| quoted(l)));
    let of = |what: &str| match path {
        Some(path) => format!("{what} {path}"),
        None => what.to_owned(),
    };
    let has = |text: &str| line.contains(text);
    Some(if has("lock") && (has("Failed to get") || has("Failed to lock")) {
        format!("{} is in use by another process", of("the disk"))
    } else if has("/dev/net/tun") && has("busy") {
        let interface = line.split_once("/dev/net/tun (").and_then(|(_, rest)| rest.split_once(')'));
        format!(
            "the network interface {} is in use by another process",
            interface.map_or("", |(name, _)| name)
        )
    } else if has("/dev/net/tun") && (has("not permitted") || has("Permission denied")) {
        "this user may not use network interfaces; run the node as root".to_owned()
    } else if has("is not in qcow2 format") || has("Image is corrupt") || has("Could not open backing file") {
        format!("{} is damaged, of another format, or lacks its parent: {line}", of("the disk"))
    } else if has("Cannot allocate memory") || has("cannot set up guest memory") {
        "this host has not enough free memory for the virtual machine".to_owned()
    } else if has("Could not access KVM kernel module") {
        format!("KVM cannot be used: {line}")
    } else if has("No such file or directory") && path.is_some() {
        format!("{} does not exist", of("the file"))
    } else if has("Permission denied") && path.is_some() {
        format!("{} may not be opened by this user", of("the file"))
    } else if has("No space left on device") {
        "the disk of this host is full".to_owned()
    } else {
        return None;
    })
}

/// What stands between single quotes, or between square brackets after a question about an image.
fn quoted(line: &str) -> Option<&str> {
    if let Some((_, rest)) = line.split_once("using the image [") {
        return rest.split_once(']').map(|(path, _)| path);
    }
    let (_, rest) = line.split_once('\'')?;
    let (path, _) = rest.split_once('\'')?;
    path.starts_with('/').then_some(path)
}

/// Without `2026-11-24T17:00:00.000000Z`, `qemu-system-x86_64:` and the option with its value.
fn bare(line: &str) -> &str {
    let line = match line.split_once(' ') {
        Some((time, rest)) if time.ends_with('Z') && time.contains('T') => rest,
        _ => line,
    };
    let line = match line.split_once("qemu-system-x86_64: ") {
        Some((_, rest)) => rest,
        None => line.strip_prefix("qemu: ").unwrap_or(line),
    };
    let line = match (line.starts_with('-'), line.rfind("}: ")) {
        (true, Some(end)) => &line[end + 3..],
        (true, None) => line.split_once(": ").map_or(line, |(_, rest)| rest),
        _ => line,
    };
    line.trim()
}

fn shown(line: impl AsRef<str>) -> String {
    line.as_ref().chars().map(|c| if c.is_control() { '?' } else { c }).take(SHOWN_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_complaints_become_sentences() {
        for (log, expected) in [
            (
                "2026-11-24T17:00:00.000000Z qemu-system-x86_64: -device {\"driver\":\"virtio-blk-pci\"}: Failed to get \"write\" lock\nIs another process using the image [/d/a b.qcow2]?\n",
                "the disk /d/a b.qcow2 is in use by another process",
            ),
            (
                "2026-11-24T17:00:00.000000Z qemu-system-x86_64: -blockdev {\"driver\":\"qcow2\"}: Could not open '/d/a.qcow2': No such file or directory\n",
                "the file /d/a.qcow2 does not exist",
            ),
            (
                "qemu-system-x86_64: -netdev {\"type\":\"tap\"}: could not configure /dev/net/tun (nt0a0b): Device or resource busy\n",
                "the network interface nt0a0b is in use by another process",
            ),
            (
                "qemu-system-x86_64: cannot set up guest memory 'pc.ram': Cannot allocate memory\n",
                "this host has not enough free memory for the virtual machine",
            ),
            (
                "qemu: could not open kernel file '/i/vmlinux': No such file or directory\n",
                "the file /i/vmlinux does not exist",
            ),
            ("qemu-system-x86_64: -smp cpus=999: Invalid SMP CPUs 999\n", "Invalid SMP CPUs 999"),
            ("", "QEMU ended without a word"),
        ] {
            assert_eq!(sentence(log), expected);
        }
    }

    proptest! {
        #[test]
        fn no_log_is_too_strange(log in "(?s).{0,200}") {
            prop_assert!(sentence(&log).chars().all(|c| !c.is_control()));
            last_line(&log);
        }
    }
}
