//! What runs first: a kernel by way of the quickest firmware there is, SeaBIOS, or UEFI.

use nestling_model::{Boot, Generation};
use serde_json::json;

use super::{Line, SpecError, text};
use crate::{Firmware, LaunchSpec};

pub(super) fn boot(line: &mut Line, spec: &LaunchSpec, firmware: &Firmware) -> Result<(), SpecError> {
    match (&spec.vm.boot, spec.vm.generation) {
        (Boot::Kernel { kernel, initrd, append }, _) => {
            // The quick one knows no display: it would stay dark.
            if let (Some(qboot), false) = (&firmware.qboot, spec.screen) {
                line.words(["-bios", text(qboot)?]);
            }
            line.words(["-kernel", text(kernel)?]);
            if let Some(initrd) = initrd {
                line.words(["-initrd", text(initrd)?]);
            }
            // The last console that is named stays the one that programs write to. A quiet kernel would show nothing.
            let (first, last) = if spec.screen { ("console=tty0", "loglevel=6") } else { ("", "") };
            let parts = [first, append.trim(), spec.kernel_append.trim(), last];
            let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
            line.words(["-append", &parts.join(" ")]);
        }
        (Boot::Firmware, Generation::One) => line.words(["-boot", "strict=on"]),
        (Boot::Firmware, Generation::Two) => {
            if let Some((code, _)) = &firmware.uefi {
                line.json(
                    "-blockdev",
                    &json!({"driver": "file", "node-name": "uefi-code", "read-only": true,
                                               "filename": text(code)?}),
                );
            }
            line.json(
                "-blockdev",
                &json!({"driver": "file", "node-name": "uefi-vars", "filename": text(&spec.nvram)?}),
            );
            line.words(["-boot", "strict=on"]);
        }
    }
    Ok(())
}
