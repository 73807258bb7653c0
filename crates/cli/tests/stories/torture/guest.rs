//! What the guest does with its disks, and what it says is on them.

use std::fmt::Write as _;

use super::plan::{DISKS, LOG_BYTES, SECTOR, What, Write, sectors};
use crate::nest::{GUEST_DEADLINE, Nest};

/// Sums of all bytes of the disks, in their order.
pub type Truth = [String; 2];

pub struct Guest<'a>(pub &'a Nest);

impl Guest<'_> {
    fn sh(&self, line: &str) -> String {
        self.0.run(&["vm", "exec", "P", "--", "sh", "-c", line]).ok()
    }

    /// Waits until it is up and sees its disks.
    pub fn is_up(&self) {
        let looks = ["vm", "exec", "P", "--", "test", "-b", "/dev/vda", "-a", "-b", "/dev/vdb"];
        self.0.wait_ok("agent", &looks);
    }

    /// Returns when all of it is on the disks.
    pub fn write(&self, writes: &[Write]) {
        let mut script = String::from("set -e\n");
        for Write { disk, what, from, sectors } in writes {
            let device = format!("/dev/{}", DISKS[*disk].0);
            let line = match what {
                What::Random => format!("dd if=/dev/urandom of={device} bs=512 seek={from} count={sectors}"),
                What::Zeroes => format!("dd if=/dev/zero of={device} bs=512 seek={from} count={sectors}"),
                What::Discarded => {
                    format!("blkdiscard -o {} -l {} {device}", from * SECTOR, sectors * SECTOR)
                }
            };
            let _ = writeln!(script, "{line} 2> /dev/null");
        }
        script.push_str("for disk in vda vdb; do dd if=/dev/null of=/dev/$disk count=0 conv=notrunc,fsync; done 2> /dev/null");
        self.sh(&script);
    }

    /// What its disks hold, read from them and not from memory.
    pub fn truth(&self) -> Truth {
        let said = self.sh("sync; echo 3 > /proc/sys/vm/drop_caches; md5sum /dev/vda /dev/vdb");
        let mut sums = said.lines().map(|line| line.chars().take(32).collect());
        [sums.next().expect("a sum"), sums.next().expect("a sum")]
    }

    /// Writes anywhere, again and again, until it is told to stop. The first disk is written through, the second one when
    /// the guest thinks fit.
    pub fn begin_writing(&self) {
        let write = |disk: usize, sync: &str| {
            format!(
                "dd if=/dev/urandom of=/dev/{} bs=512 seek=$(((RANDOM * 32768 + RANDOM) % {})) count=$((RANDOM % 256 + 1)) {sync}",
                DISKS[disk].0,
                sectors(disk) - 256
            )
        };
        self.begin(&format!("{}; {}", write(0, "conv=fsync"), write(1, "")));
    }

    /// Writes the next sector of the first disk's log, and when that is on the disk, the same into the second one's.
    pub fn begin_writing_in_order(&self, round: u32) {
        let sector = |disk: usize| (DISKS[disk].1 - LOG_BYTES) / SECTOR;
        let write = |disk: usize| {
            format!(
                "dd if=/tmp/entry of=/dev/{} bs=512 seek=$(({} + i)) conv=fsync",
                DISKS[disk].0,
                sector(disk)
            )
        };
        self.begin(&format!(
            "[ $i -lt {} ] || break; printf '%-511s\\n' '{}' > /tmp/entry; {}; {}",
            LOG_BYTES / SECTOR,
            entry(round, "'$i'"),
            write(0),
            write(1)
        ));
    }

    fn begin(&self, turn: &str) {
        self.sh(&format!(
            "touch /tmp/go /tmp/busy; echo 0 > /tmp/turns
             (i=0; while [ -e /tmp/go ]; do {turn}; i=$((i + 1)); echo $i > /tmp/turns; done; rm /tmp/busy) > /dev/null 2>&1 &"
        ));
    }

    /// Waits until it writes.
    pub fn writes(&self) {
        let looks = ["vm", "exec", "P", "--", "sh", "-c", "[ $(cat /tmp/turns) -gt 0 ]"];
        self.0.wait("a write", GUEST_DEADLINE, &looks, |said| said.status == 0);
    }

    /// Returns when it writes no more: how often it had. None after a reset.
    pub fn stop_writing(&self) -> u64 {
        let said = self.sh(
            "rm -f /tmp/go; i=0; while [ -e /tmp/busy ] && [ $i -lt 600 ]; do usleep 50000; i=$((i + 1)); done
             [ ! -e /tmp/busy ] && cat /tmp/turns 2> /dev/null || echo 0",
        );
        said.trim().parse().expect("a number")
    }
}

/// What is in a sector of the log.
fn entry(round: u32, number: &str) -> String {
    format!("round {round} entry {number}")
}

/// How many entries of a round a disk's log has, with none behind the first that is missing.
pub fn logged(disk: &[u8], round: u32) -> Result<u64, String> {
    let log = &disk[disk.len() - usize::try_from(LOG_BYTES).expect("small")..];
    let mut count = 0;
    let mut is_over = false;
    for (number, sector) in log.chunks(usize::try_from(SECTOR).expect("small")).enumerate() {
        let is_there = String::from_utf8_lossy(sector).trim_end() == entry(round, &number.to_string());
        if is_there && is_over {
            return Err(format!("entry {number} is there, and one before it is not"));
        }
        is_over |= !is_there;
        count += u64::from(is_there);
    }
    Ok(count)
}
