//! The test guest: its image, and how its end is to be read.
//!
//! `probe/probe.bin` is assembled from `probe/probe.S` and committed, so that building needs no assembler; a test
//! assembles it again and compares.

use super::{Nesting, ProbeOutcome};

const CODE: &[u8] = include_bytes!("../../probe/probe.bin");
/// QEMU takes firmware in multiples of this.
const ROM_BYTES: usize = 64 * 1024;

/// What the guest does after it has proven the processor itself; the number is the request byte of `probe.S`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Exercise {
    Plain = 0,
    Svm = 1,
    Vmx = 2,
    /// Never ends: proves the deadline.
    #[cfg(test)]
    Spin = 255,
}

impl From<Option<Nesting>> for Exercise {
    fn from(nesting: Option<Nesting>) -> Self {
        match nesting {
            None => Self::Plain,
            Some(Nesting::Svm) => Self::Svm,
            Some(Nesting::Vmx) => Self::Vmx,
        }
    }
}

/// The firmware image QEMU starts; it ends at 4 GiB, where the processor begins.
pub(super) fn rom(exercise: Exercise) -> Vec<u8> {
    let mut rom = vec![0; ROM_BYTES];
    rom[ROM_BYTES - CODE.len()..].copy_from_slice(CODE);
    rom[ROM_BYTES - 1] = exercise as u8;
    rom
}

/// Changes whenever the guest does: a proof by another guest is another proof.
pub(super) fn version() -> u64 {
    // FNV-1a: told apart are versions of one file, not forgeries.
    CODE.iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// How QEMU ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Exit(i32),
    Signal(i32),
    /// We ended it, because KVM had given up on the guest.
    InternalError,
}

/// What a finished guest proved, from its report, QEMU's complaints and the way QEMU ended.
pub(super) fn judge(end: End, report: &str, complaints: &str) -> ProbeOutcome {
    let Some(stage) = last_stage(report) else {
        let how = match end {
            End::Exit(status) => format!("exit status {status}"),
            End::Signal(signal) => format!("killed by signal {signal}"),
            End::InternalError => "KVM internal error".to_owned(),
        };
        let reason = complaint(complaints).map_or_else(|| how.clone(), |line| format!("{line} ({how})"));
        return ProbeOutcome::Refused { reason };
    };
    // isa-debug-exit turns the guest's value v into the exit status 2v + 1.
    let detail = match end {
        End::Exit(0x21) if stage == "ok" => return ProbeOutcome::Proven,
        End::Exit(0x25) => return ProbeOutcome::NoNesting,
        End::Exit(0x23) => format!("a wrong result in stage \"{stage}\""),
        End::Exit(0x27) => "its instructions are emulated, slower than QEMU would".to_owned(),
        End::Exit(0) => format!("its processor was reset in stage \"{stage}\""),
        End::Exit(status) => format!("QEMU ended with status {status} in stage \"{stage}\""),
        End::Signal(signal) => format!("QEMU was killed by signal {signal} in stage \"{stage}\""),
        End::InternalError => format!("KVM internal error in stage \"{stage}\""),
    };
    ProbeOutcome::Wrong { detail }
}

/// The last stage a guest says it began.
pub(super) fn last_stage(report: &str) -> Option<&str> {
    report.lines().map(str::trim).rfind(|line| !line.is_empty())
}

/// The line that says why: the first that is not merely a warning.
fn complaint(complaints: &str) -> Option<String> {
    const MOST_CHARS: usize = 300;
    let line = complaints.lines().find(|line| !line.trim().is_empty() && !line.contains("warning:"))?;
    Some(line.trim().chars().take(MOST_CHARS).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use std::process::Command;

    #[test]
    fn the_image_is_what_the_source_says() {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("probe/probe.S");
        let dir = tempfile::tempdir().unwrap();
        let (object, binary) = (dir.path().join("probe.o"), dir.path().join("probe.bin"));
        let assembled = Command::new("as").arg("--64").arg(&source).arg("-o").arg(&object).status();
        let Ok(status) = assembled else {
            eprintln!("skipped: no assembler");
            return;
        };
        assert!(status.success());
        let linked = Command::new("ld")
            .args(["-m", "elf_x86_64", "-e", "0", "-Ttext=0x8000", "--oformat", "binary", "-o"])
            .args([&binary, &object])
            .status()
            .unwrap();
        assert!(linked.success());
        assert!(std::fs::read(&binary).unwrap() == CODE, "assemble probe/probe.bin again");
    }

    #[test]
    fn a_rom_starts_with_a_jump_and_ends_with_the_request() {
        let rom = rom(Exercise::Vmx);
        assert_eq!(rom.len(), ROM_BYTES);
        assert_eq!(rom[ROM_BYTES - 16], 0xe9);
        assert_eq!(rom[ROM_BYTES - 1], 2);
    }

    #[test]
    fn every_end_is_read() {
        let wrong = |detail: &str| ProbeOutcome::Wrong { detail: detail.to_owned() };
        let refused = |reason: &str| ProbeOutcome::Refused { reason: reason.to_owned() };
        for (end, report, complaints, expected) in [
            (End::Exit(0x21), "real mode\nok\n", "", ProbeOutcome::Proven),
            (End::Exit(0x25), "real mode\nsvm\n", "", ProbeOutcome::NoNesting),
            (End::Exit(0x21), "memory\n", "", wrong("QEMU ended with status 33 in stage \"memory\"")),
            (End::Exit(0x23), "memory\n", "", wrong("a wrong result in stage \"memory\"")),
            (End::Exit(0x27), "speed\n", "", wrong("its instructions are emulated, slower than QEMU would")),
            (End::Exit(0), "long mode\n", "", wrong("its processor was reset in stage \"long mode\"")),
            (End::Signal(6), "speed\n", "", wrong("QEMU was killed by signal 6 in stage \"speed\"")),
            (End::InternalError, "speed\n", "", wrong("KVM internal error in stage \"speed\"")),
            (End::Exit(0x21), "", "", refused("exit status 33")),
            (
                End::Exit(1),
                "",
                "qemu: warning: host lacks x\nqemu: unable to find CPU model 'x'\nmore\n",
                refused("qemu: unable to find CPU model 'x' (exit status 1)"),
            ),
            (
                End::Signal(6),
                "\n",
                "qemu: error: failed to set MSR 0x10a\n",
                refused("qemu: error: failed to set MSR 0x10a (killed by signal 6)"),
            ),
        ] {
            assert_eq!(judge(end, report, complaints), expected, "{end:?} {report:?}");
        }
    }
}
