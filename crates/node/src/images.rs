//! Use cases on bootable images, and the first-boot settings of machines made from them.

use std::{
    net::Ipv4Addr,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use ipnet::Ipv4Net;
use nestling_identity::{Action, Identity};
use nestling_image::{
    Addressing, BuildOptions, Image, ImageError, ImageKind, ImportOptions, Progress, Recipe, SeedNetwork,
    SeedUser, Silent,
};
use nestling_model::{DiskFormat, EventKind, Generation, MacAddress, shown};
use sha_crypt::{PasswordHasher, ShaCrypt};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::{
    Node, NodeError,
    blocking::blocking,
    error::Result,
    values::{BuildStep, ImageView, ImportImage, Seed},
};

/// How many steps of a build may wait for a slow reader before they are left out.
const STEPS_WAITING_MAX: usize = 64;

impl Node {
    /// The images that are there, and the recipes that were not built yet.
    pub async fn images(&self, who: &Identity) -> Result<Vec<ImageView>> {
        self.authorize(who, Action::ReadImages)?;
        let store = self.image_store.clone();
        let images = blocking(move || Ok(store.list()?)).await?;
        let unbuilt = Recipe::ALL.into_iter().filter(|r| !images.iter().any(|i| i.name == r.name()));
        let mut views: Vec<ImageView> = images.iter().map(view).chain(unbuilt.map(recipe_view)).collect();
        views.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(views)
    }

    pub async fn import_image(&self, who: &Identity, new: ImportImage) -> Result<ImageView> {
        self.authorize(who, Action::ChangeImages)?;
        let ImportImage { name, path, format, generation } = new;
        if Recipe::from_name(&name).is_some() {
            return Err(NodeError::Invalid(format!("'{name}' is the name of a recipe; choose another")));
        }
        let store = self.image_store.clone();
        let options = ImportOptions {
            format: format.map(|format| match format {
                DiskFormat::Qcow2 => nestling_image::DiskFormat::Qcow2,
                DiskFormat::Raw => nestling_image::DiskFormat::Raw,
            }),
            generation: generation.map(Generation::number),
        };
        let image = blocking(move || Ok(store.import(&name, &path, options, &Silent)?)).await?;
        self.events.tell(EventKind::ImageBuilt, image.name.as_str(), "image imported");
        Ok(view(&image))
    }

    /// Builds an image by its recipe. Dropping the receiver ends the build.
    pub async fn build_image(
        &self,
        who: &Identity,
        name: &str,
        force: bool,
    ) -> Result<mpsc::Receiver<BuildStep>> {
        self.authorize(who, Action::ChangeImages)?;
        let recipe =
            Recipe::from_name(name).ok_or_else(|| NodeError::Image(ImageError::NotFound(name.to_owned())))?;
        let (steps, receiver) = mpsc::channel(STEPS_WAITING_MAX);
        let store = self.image_store.clone();
        let options = BuildOptions { nestling_binary: self.settings.nestling_binary.clone(), force };
        let node = self.shared();
        tokio::task::spawn_blocking(move || {
            let teller = Teller { steps: steps.clone(), cancelled: AtomicBool::new(false) };
            let last = match store.build(recipe, &options, &teller) {
                Ok(image) => {
                    node.events.tell(EventKind::ImageBuilt, image.name.as_str(), "image built");
                    BuildStep::Done(view(&image))
                }
                Err(error) => BuildStep::Failed(error.into()),
            };
            // Waits for the reader: the last word must not be lost. An error means that nobody reads.
            let _ = steps.blocking_send(last);
        });
        Ok(receiver)
    }

    /// An image for a machine of a user.
    pub(crate) async fn bootable_image(&self, name: &str) -> Result<Image> {
        let image = self.image(name).await?;
        if image.kind == ImageKind::Reader {
            return Err(NodeError::Invalid(format!(
                "'{name}' is what this node reads recovery points with, and of no use to a machine"
            )));
        }
        Ok(image)
    }

    pub(crate) async fn image(&self, name: &str) -> Result<Image> {
        let (store, name) = (self.image_store.clone(), name.to_owned());
        blocking(move || match store.get(&name) {
            Err(ImageError::NotFound(_)) if Recipe::from_name(&name).is_some() => {
                Err(NodeError::ImageNotBuilt(name))
            }
            other => Ok(other?),
        })
        .await
    }
}

struct Teller {
    steps: mpsc::Sender<BuildStep>,
    cancelled: AtomicBool,
}

impl Progress for Teller {
    fn step(&self, done: u32, total: u32, text: &str) {
        let step = BuildStep::Progress { message: text.to_owned(), done, total };
        if let Err(mpsc::error::TrySendError::Closed(_)) = self.steps.try_send(step) {
            self.cancelled.store(true, Ordering::Relaxed);
        }
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed) || self.steps.is_closed()
    }
}

/// What the image boots with, the usual one first.
pub fn generations(image: &Image) -> Vec<Generation> {
    let known = |number: &u8| if *number == 2 { Generation::Two } else { Generation::One };
    image.generations.iter().map(known).collect()
}

fn view(image: &Image) -> ImageView {
    let recipe = Recipe::from_name(&image.name);
    ImageView {
        name: image.name.clone(),
        description: recipe.map_or("imported", Recipe::describe).to_owned(),
        built: true,
        size_bytes: image.size_bytes,
        generations: generations(image),
        memory_bytes: image.default_memory_bytes,
        has_disk: image.disk.is_some(),
        direct_kernel: image.kernel.is_some(),
    }
}

fn recipe_view(recipe: Recipe) -> ImageView {
    ImageView {
        name: recipe.name().to_owned(),
        description: recipe.describe().to_owned(),
        built: false,
        size_bytes: 0,
        generations: match recipe {
            Recipe::Debian | Recipe::Database => vec![Generation::One, Generation::Two],
            _ => vec![Generation::One],
        },
        memory_bytes: 0,
        has_disk: false,
        direct_kernel: false,
    }
}

/// Writes a machine's first-boot settings.
pub fn write_seed(
    seed: &Seed,
    instance_id: &str,
    vm_name: &str,
    adapter: Option<MacAddress>,
    path: &Path,
) -> Result<()> {
    let hostname = match &seed.hostname {
        Some(name) => name.clone(),
        None => host_name_from(vm_name),
    };
    let user = match &seed.user {
        None if seed.password.is_some() || !seed.ssh_keys.is_empty() => {
            return Err(NodeError::invalid("a password or a key needs the name of its user"));
        }
        None => None,
        Some(name) => Some(SeedUser {
            name: name.clone(),
            ssh_authorized_keys: seed.ssh_keys.clone(),
            password_hash: seed.password.as_deref().map(hash).transpose()?,
        }),
    };
    let seed = nestling_image::Seed {
        instance_id: instance_id.to_owned(),
        hostname,
        user,
        network: network(seed, adapter)?,
    };
    Ok(seed.write(path)?)
}

/// A machine's name may hold anything; a host's may not.
fn host_name_from(vm_name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let name: String = vm_name.chars().map(plain).take(63).collect();
    match name.trim_matches('-') {
        "" => "guest".to_owned(),
        name => name.to_owned(),
    }
}

/// As crypt(3) reads it: of a salt it takes 16 characters and no more, which are twelve bytes.
fn hash(password: &str) -> Result<String> {
    let random = Uuid::new_v4().into_bytes();
    let hash = ShaCrypt::default().hash_password_with_salt(password.as_bytes(), &random[..12]);
    hash.map(|h| h.to_string())
        .map_err(|e| NodeError::Internal(format!("the password cannot be hashed: {e}")))
}

fn network(seed: &Seed, adapter: Option<MacAddress>) -> Result<Option<SeedNetwork>> {
    let address = |text: &String| {
        text.parse::<Ipv4Addr>()
            .map(|a| a.to_string())
            .map_err(|_| NodeError::Invalid(format!("\"{}\" is no IPv4 address", shown(text, 80))))
    };
    let gateway = seed.gateway.as_ref().map(address).transpose()?;
    let nameservers = seed.dns_servers.iter().map(address).collect::<Result<Vec<_>>>()?;
    let Some(own) = &seed.address else {
        return match gateway.is_none() && nameservers.is_empty() {
            true => Ok(None),
            false => Err(NodeError::invalid("a gateway or DNS server needs an address (ADDRESS/PREFIX)")),
        };
    };
    let own: Ipv4Net = own.parse().map_err(|_| {
        NodeError::Invalid(format!("\"{}\" is no address with prefix, such as 10.0.0.5/24", shown(own, 80)))
    })?;
    let addressing = Addressing::Static { addresses: vec![own.to_string()], gateway, nameservers };
    let mac_address = adapter.map(|mac| mac.to_string());
    Ok(Some(SeedNetwork { mac_address, addressing }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_name_is_made_from_any_machines_name() {
        for (vm, host) in
            [("Server2016", "server2016"), ("Büro 1", "b-ro-1"), ("---", "guest"), ("日本", "guest")]
        {
            assert_eq!(host_name_from(vm), host);
        }
    }

    #[test]
    fn a_password_is_hashed_before_it_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seed.img");
        let seed = Seed {
            user: Some("ana".into()),
            password: Some("in-the-clear".into()),
            address: Some("10.0.0.5/24".into()),
            gateway: Some("10.0.0.1".into()),
            ..Seed::default()
        };
        let mac = "00:15:5d:01:02:03".parse().unwrap();
        write_seed(&seed, "1", "Web 01", Some(mac), &path).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let holds = |text: &str| bytes.windows(text.len()).any(|w| w == text.as_bytes());
        assert!(holds("web-01") && holds("$6$") && holds("10.0.0.5/24") && !holds("in-the-clear"));
        assert!(holds("00:15:5d:01:02:03"));
    }

    /// Perl's is the system's own.
    #[test]
    fn the_system_knows_the_password_by_its_hash() {
        let hash = hash("secret").unwrap();
        let script = "print crypt($ARGV[0], $ARGV[1])";
        let perl = std::process::Command::new("perl").args(["-e", script, "secret", &hash]).output().unwrap();
        assert_eq!(String::from_utf8(perl.stdout).unwrap(), hash);
    }

    #[test]
    fn settings_that_cannot_be_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for bad in [
            Seed { password: Some("x".into()), ..Seed::default() },
            Seed { gateway: Some("10.0.0.1".into()), ..Seed::default() },
            Seed { address: Some("10.0.0.5".into()), ..Seed::default() },
            Seed { user: Some("a b".into()), ..Seed::default() },
            Seed { hostname: Some("a\nb".into()), ..Seed::default() },
        ] {
            assert!(write_seed(&bad, "1", "vm", None, &dir.path().join("s")).is_err(), "{bad:?}");
        }
    }
}
