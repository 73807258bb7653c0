//! A real guest that starts from a point, and how long it takes beside the same image from a local file.

use std::{
    io::Read,
    path::Path,
    process::{Child, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use crate::{
    nbd::Served,
    place::{Place, note, runs, setting, skip},
};

const WAIT: Duration = Duration::from_secs(240);

/// A guest without a network, which ends with it.
struct Guest(Child);

impl Drop for Guest {
    fn drop(&mut self) {
        // It is ours, and not yet waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// When the first line of the guest's own programs came, and the login prompt.
#[derive(Debug, Clone, Copy)]
struct Started {
    userland: Duration,
    login: Duration,
}

/// Boots a local overlay over an image.
fn boot(place: &Place, backing: &str, format: &str) -> Started {
    let _ = std::fs::remove_file(place.path("overlay"));
    place.run_other("qemu-img", &format!("create -q -f qcow2 -F {format} -b {backing} overlay")).ok();
    // Emulation is there on every machine, and a device for KVM on some where no guest gets far.
    let accel = std::env::var("NESTLING_VAULT_ACCEL").unwrap_or_else(|_| "tcg".into());
    let words = format!(
        "-machine q35 -accel {accel} -smp 2 -m 1024 -no-user-config -nodefaults -display none -no-reboot -nic none \
         -serial stdio -drive file=overlay,format=qcow2,if=virtio"
    );
    let begun = Instant::now();
    let mut command = place.other("qemu-system-x86_64", &words);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("QEMU runs");
    let mut guest = Guest(child);
    let mut out = guest.0.stdout.take().expect("its console");
    let (said, heard) = mpsc::channel();
    let reader = thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(read @ 1..) = out.read(&mut bytes) {
            if said.send((Instant::now(), bytes[..read].to_vec())).is_err() {
                return;
            }
        }
    });
    let (mut text, mut userland) = (String::new(), None);
    let login = loop {
        let left = WAIT.saturating_sub(begun.elapsed());
        let Ok((at, bytes)) = heard.recv_timeout(left) else {
            panic!("no login from {backing} within {WAIT:?}: {}", &text[text.len().saturating_sub(2000)..]);
        };
        text.push_str(&String::from_utf8_lossy(&bytes).replace(|c: char| !c.is_ascii(), "?"));
        if userland.is_none() && (text.contains("systemd[1]:") || text.contains("Welcome to")) {
            userland = Some(at - begun);
        }
        if text.contains("login:") {
            break at - begun;
        }
    };
    drop(guest);
    drop(heard);
    reader.join().expect("it ends");
    Started { userland: userland.unwrap_or(login), login }
}

#[test]
fn a_guest_starts_from_a_point_almost_as_soon_as_from_a_file() {
    let test = "a_guest_starts_from_a_point_almost_as_soon_as_from_a_file";
    let Some(image) = std::env::var_os("NESTLING_VAULT_BOOT").filter(|path| Path::new(path).is_file()) else {
        return skip(test, "NESTLING_VAULT_BOOT names no Debian image");
    };
    if !runs("qemu-system-x86_64".as_ref(), "--version") {
        return skip(test, "QEMU is not installed");
    }
    let place = Place::new();
    let image = Path::new(&image).to_str().expect("UTF-8").to_owned();
    place.run(&format!("save repo Web01 {image}")).ok();
    let (mut local, mut served) = (Vec::new(), Vec::new());
    for _ in 0..setting("NESTLING_VAULT_BOOTS", 1) {
        local.push(boot(&place, &image, "qcow2"));
        let server = Served::new(&place, "Web01", "");
        served.push(boot(&place, &server.uri, "raw"));
        note(&format!("from a file {:?}, from a point {:?}", local.last(), served.last()));
    }
    let best = |all: &[Started], of: fn(&Started) -> Duration| all.iter().map(of).min().expect("one");
    for of in [|s: &Started| s.userland, |s: &Started| s.login] {
        let (local, served) = (best(&local, of), best(&served, of));
        assert!(served <= local.mul_f64(1.3), "{served:?} from a point, {local:?} from a file");
    }
}
