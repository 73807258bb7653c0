//! The NoCloud seed: a small FAT disk that tells cloud-init in a guest its name, users, keys and network.
//!
//! All values end up in YAML. They are written as JSON, which YAML contains, so no value can break out of its
//! place. Passwords are taken as hashes only: a seed stays readable for every user of the guest's host.

use crate::ImageError;
use crate::command::EPOCH_SECS;
use crate::error::IoContext;
use fatfs::{FatType, FileSystem, FormatVolumeOptions, FsOptions};
use serde_json::{Value, json};
use std::fs::{self, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::Path;

const VOLUME_LABEL: [u8; 11] = *b"CIDATA     ";
const VOLUME_ID: u32 = 0x6e65_7374;
const SEED_BYTES: u64 = 1 << 20;
/// Of one file in the seed; far more than any configuration needs.
const FILE_LIMIT_BYTES: usize = 256 << 10;

/// What a guest shall be at its first start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seed {
    /// cloud-init does its first-start work again when this changes.
    pub instance_id: String,
    pub hostname: String,
    pub user: Option<SeedUser>,
    /// None: the image's own default, usually DHCP.
    pub network: Option<SeedNetwork>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SeedUser {
    pub name: String,
    pub ssh_authorized_keys: Vec<String>,
    /// As in /etc/shadow (`$6$...`, `$y$...`), made for instance by `mkpasswd` or `openssl passwd -6`.
    pub password_hash: Option<String>,
}

/// The guest's first adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeedNetwork {
    /// The adapter is found by this; without it the first Ethernet adapter is meant.
    pub mac_address: Option<String>,
    pub addressing: Addressing,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Addressing {
    Dhcp,
    Static {
        /// With prefix length: `192.168.100.20/24`.
        addresses: Vec<String>,
        gateway: Option<String>,
        nameservers: Vec<String>,
    },
}

impl Seed {
    /// Writes the seed as a disk image; the file appears complete or not at all.
    pub fn write(&self, path: &Path) -> Result<(), ImageError> {
        let temporary = path.with_extension("seed-tmp");
        let result = self.write_to(&temporary).and_then(|()| fs::rename(&temporary, path).at("rename", path));
        if result.is_err() {
            // The error that counts is the first one.
            fs::remove_file(&temporary).ok();
        }
        result
    }

    fn write_to(&self, path: &Path) -> Result<(), ImageError> {
        self.check()?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)
            .at("create", path)?;
        file.set_len(SEED_BYTES).at("resize", path)?;
        self.fill(&mut file)?;
        file.sync_all().at("sync", path)
    }

    fn fill(&self, disk: &mut (impl Read + Write + Seek)) -> Result<(), ImageError> {
        let failed = |error: std::io::Error| ImageError::Seed(error.to_string());
        let options = FormatVolumeOptions::new()
            .fat_type(FatType::Fat12)
            .volume_label(VOLUME_LABEL)
            .volume_id(VOLUME_ID);
        fatfs::format_volume(&mut *disk, options).map_err(failed)?;
        let options = FsOptions::new().time_provider(&FIXED_TIME);
        let file_system = FileSystem::new(&mut *disk, options).map_err(failed)?;
        for (name, text) in self.files() {
            if text.len() > FILE_LIMIT_BYTES {
                return Err(ImageError::Seed(format!("{name} is longer than {FILE_LIMIT_BYTES} bytes")));
            }
            let mut file = file_system.root_dir().create_file(name).map_err(failed)?;
            file.write_all(text.as_bytes()).map_err(failed)?;
        }
        file_system.unmount().map_err(failed)
    }

    fn check(&self) -> Result<(), ImageError> {
        let bad = |what: &str, value: &str| {
            Err(ImageError::Seed(format!("'{}' is not {what}", value.escape_debug())))
        };
        let word = |text: &str, limit: usize| {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            !text.is_empty()
                && text.len() <= limit
                && text.chars().all(plain)
                && !text.starts_with(['-', '.'])
        };
        if !word(&self.hostname, 253) || self.hostname.contains('_') {
            return bad("a host name", &self.hostname);
        }
        if let Some(user) = &self.user {
            if !word(&user.name, 32) {
                return bad("a user name", &user.name);
            }
            if let Some(hash) = &user.password_hash
                && (!hash.starts_with('$') || hash.contains([':', '\n']))
            {
                return Err(ImageError::Seed(
                    "the password is not a hash such as `openssl passwd -6` prints".into(),
                ));
            }
            if let Some(key) = user.ssh_authorized_keys.iter().find(|key| key.contains(['\n', '\r'])) {
                return bad("one SSH public key", key);
            }
        }
        Ok(())
    }

    fn files(&self) -> Vec<(&'static str, String)> {
        let instance_id = if self.instance_id.is_empty() { &self.hostname } else { &self.instance_id };
        let mut files = vec![
            (
                "meta-data",
                json!({"instance-id": instance_id, "local-hostname": self.hostname}).to_string() + "\n",
            ),
            ("user-data", format!("#cloud-config\n{}\n", self.user_data())),
        ];
        if let Some(network) = &self.network {
            files.push(("network-config", network.config().to_string() + "\n"));
        }
        files
    }

    fn user_data(&self) -> Value {
        let mut data = json!({"hostname": self.hostname, "manage_etc_hosts": true});
        if let Some(user) = &self.user {
            let mut entry = json!({
                "name": user.name,
                "shell": "/bin/bash",
                "sudo": "ALL=(ALL) NOPASSWD:ALL",
                "ssh_authorized_keys": user.ssh_authorized_keys,
                "lock_passwd": user.password_hash.is_none(),
            });
            if let Some(hash) = &user.password_hash {
                entry["passwd"] = json!(hash);
            }
            data["users"] = json!([entry]);
            data["ssh_pwauth"] = json!(user.password_hash.is_some());
        }
        data
    }
}

impl SeedNetwork {
    fn config(&self) -> Value {
        let mut adapter = match &self.mac_address {
            Some(mac) => json!({"match": {"macaddress": mac.to_ascii_lowercase()}}),
            None => json!({"match": {"name": "e*"}}),
        };
        match &self.addressing {
            Addressing::Dhcp => adapter["dhcp4"] = json!(true),
            Addressing::Static { addresses, gateway, nameservers } => {
                adapter["dhcp4"] = json!(false);
                adapter["addresses"] = json!(addresses);
                if let Some(gateway) = gateway {
                    adapter["routes"] = json!([{"to": "0.0.0.0/0", "via": gateway}]);
                }
                if !nameservers.is_empty() {
                    adapter["nameservers"] = json!({"addresses": nameservers});
                }
            }
        }
        // cloud-init's renderer for networkd takes the key for the interface's name where there is no address to match.
        json!({"version": 2, "ethernets": {"eth0": adapter}})
    }
}

/// FAT stamps every file; the same seed must be the same bytes.
#[derive(Debug)]
struct FixedTime;
static FIXED_TIME: FixedTime = FixedTime;

impl fatfs::TimeProvider for FixedTime {
    fn get_current_date(&self) -> fatfs::Date {
        // EPOCH_SECS is the first of January 2024.
        const { assert!(EPOCH_SECS == 1_704_067_200) };
        fatfs::Date { year: 2024, month: 1, day: 1 }
    }

    fn get_current_date_time(&self) -> fatfs::DateTime {
        fatfs::DateTime {
            date: self.get_current_date(),
            time: fatfs::Time { hour: 0, min: 0, sec: 0, millis: 0 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    fn seed() -> Seed {
        Seed {
            instance_id: "i-1".into(),
            hostname: "web01".into(),
            user: Some(SeedUser {
                name: "ada".into(),
                ssh_authorized_keys: vec!["ssh-ed25519 AAAA \"quoted\": yes #".into()],
                password_hash: Some("$6$salt$hash".into()),
            }),
            network: Some(SeedNetwork {
                mac_address: Some("52:54:00:AA:00:01".into()),
                addressing: Addressing::Static {
                    addresses: vec!["192.168.100.20/24".into()],
                    gateway: Some("192.168.100.1".into()),
                    nameservers: vec!["192.168.100.1".into()],
                },
            }),
        }
    }

    fn read(path: &Path, name: &str) -> String {
        let file_system = FileSystem::new(File::open(path).map(ReadOnly).unwrap(), FsOptions::new()).unwrap();
        assert_eq!(file_system.volume_label(), "CIDATA");
        let mut text = String::new();
        file_system.root_dir().open_file(name).unwrap().read_to_string(&mut text).unwrap();
        text
    }

    struct ReadOnly(File);
    impl Read for ReadOnly {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            self.0.read(buffer)
        }
    }
    impl Seek for ReadOnly {
        fn seek(&mut self, position: std::io::SeekFrom) -> std::io::Result<u64> {
            self.0.seek(position)
        }
    }
    impl Write for ReadOnly {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::ReadOnlyFilesystem.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_seed_says_what_it_was_told_and_is_the_same_every_time() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        seed().write(&one).unwrap();
        seed().write(&two).unwrap();
        assert_eq!(fs::read(&one).unwrap(), fs::read(&two).unwrap());
        let user_data = read(&one, "user-data");
        let (header, body) = user_data.split_once('\n').unwrap();
        assert_eq!(header, "#cloud-config");
        let body: Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["users"][0]["ssh_authorized_keys"][0], "ssh-ed25519 AAAA \"quoted\": yes #");
        assert_eq!(body["users"][0]["lock_passwd"], false);
        let meta: Value = serde_json::from_str(&read(&one, "meta-data")).unwrap();
        assert_eq!(meta, json!({"instance-id": "i-1", "local-hostname": "web01"}));
        let network: Value = serde_json::from_str(&read(&one, "network-config")).unwrap();
        let adapter = &network["ethernets"]["eth0"];
        assert_eq!(adapter["match"]["macaddress"], "52:54:00:aa:00:01");
        assert_eq!(adapter["routes"][0]["via"], "192.168.100.1");
    }

    #[test]
    fn bad_values_are_refused_and_leave_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seed");
        let with_user = |change: fn(&mut SeedUser)| {
            let mut seed = seed();
            change(seed.user.as_mut().unwrap());
            seed
        };
        let bad = [
            Seed { hostname: "a b".into(), ..seed() },
            Seed { hostname: String::new(), ..seed() },
            with_user(|user| user.name = "-x".into()),
            with_user(|user| user.password_hash = Some("secret".into())),
            with_user(|user| user.ssh_authorized_keys = vec!["a\nb".into()]),
            with_user(|user| user.ssh_authorized_keys = vec!["x".repeat(300 << 10)]),
        ];
        for seed in bad {
            assert!(matches!(seed.write(&path), Err(ImageError::Seed(_))), "{seed:?}");
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        }
    }
}
