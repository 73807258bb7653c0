//! `nestling vm create`.

use std::net::IpAddr;

use clap::Args;
use nestling_api::v1::{self, VmOperation};
use nestling_model::{VmName, VmPath};

use super::vm_set::AtStart;
use crate::{args::vm_path, failure::Result, session::Session, text::parse_size};

/// Create a machine
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("kernels").args(["image", "kernel"]).multiple(true))]
pub struct Create {
    /// Its path: `L2`, or `L1/L2` to create it inside L1
    #[arg(value_name = "VM", value_parser = vm_path)]
    vm: VmPath,

    /// An image of the host's store to run: pebble, host, debian, database, or an imported one
    #[arg(long)]
    image: Option<String>,
    /// 1 (BIOS) or 2 (UEFI) [default: the image's, or 1]
    #[arg(long, value_name = "1|2", value_parser = clap::value_parser!(u8).range(1..=2))]
    generation: Option<u8>,
    /// Configuration version, such as 12.0 [default: the latest]
    #[arg(long, value_name = "VERSION")]
    vm_version: Option<String>,
    /// Memory [default: the image's, or 512MB]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    memory: Option<u64>,
    /// Processors [default: 1]
    #[arg(long, value_name = "COUNT")]
    processors: Option<u32>,
    /// Show the guest the processor's virtualization extensions
    #[arg(long)]
    expose_extensions: bool,
    /// The switch to plug its adapter into
    #[arg(long)]
    switch: Option<String>,

    /// Attach this disk image: to IDE, or to SCSI of generation 2 and beside the disk of --image
    #[arg(long, value_name = "PATH", conflicts_with = "new_disk")]
    disk: Option<String>,
    /// Create a disk of this size and attach it, as --disk does; more disks are added with `vm drive add`
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    new_disk: Option<u64>,
    /// Where the new disk goes [default: beside the machine's files]
    #[arg(long, value_name = "PATH", requires = "new_disk")]
    new_disk_path: Option<String>,

    /// Start this kernel instead of firmware
    #[arg(long, value_name = "PATH", conflicts_with = "image")]
    kernel: Option<String>,
    /// The kernel's initial RAM disk
    #[arg(long, value_name = "PATH", requires = "kernel")]
    initrd: Option<String>,
    /// Add this to the kernel's command line
    #[arg(long, value_name = "TEXT", requires = "kernels", allow_hyphen_values = true)]
    append: Option<String>,

    /// What to do with it when the host starts
    #[arg(long, value_name = "ACTION", value_enum)]
    start_action: Option<AtStart>,
    /// Words for people
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    notes: String,
    /// Put a tag on it, by which jobs choose it; can be given again
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
    /// Start it
    #[arg(long)]
    start: bool,

    #[command(flatten)]
    seed: Seed,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "First boot, for images with cloud-init")]
struct Seed {
    /// The guest's name
    #[arg(long, value_name = "NAME")]
    seed_hostname: Option<String>,
    /// A user who may become root
    #[arg(long, value_name = "NAME")]
    seed_user: Option<String>,
    /// The user's password
    #[arg(long, value_name = "TEXT", requires = "seed_user")]
    seed_password: Option<String>,
    /// A public key that may log in; can be given again
    #[arg(long, value_name = "KEY")]
    ssh_key: Vec<String>,
    /// The guest's address [default: DHCP]
    #[arg(long, value_name = "ADDRESS/PREFIX")]
    address: Option<String>,
    /// The router
    #[arg(long, value_name = "ADDRESS", requires = "address")]
    gateway: Option<IpAddr>,
    /// A name server; can be given again
    #[arg(long, value_name = "ADDRESS")]
    dns: Vec<IpAddr>,
}

impl Seed {
    fn into_wire(self) -> Option<v1::Seed> {
        let seed = v1::Seed {
            hostname: self.seed_hostname,
            user: self.seed_user,
            password: self.seed_password,
            ssh_keys: self.ssh_key,
            address: self.address,
            gateway: self.gateway.map(|g| g.to_string()),
            dns_servers: self.dns.iter().map(IpAddr::to_string).collect(),
        };
        (seed != v1::Seed::default()).then_some(seed)
    }
}

impl Create {
    pub async fn run(self: Box<Self>, session: &Session) -> Result {
        let path = self.vm.clone();
        let (client, name) = session.at(&path).await?;
        let start = self.start;
        let mut vm = client.create_vm(&self.into_wire(session, path.split().0, name)?).await?;
        if start {
            vm = client.operate(&vm.id.to_string(), VmOperation::Start).await?;
        }
        session.printer.changed(&vm)
    }

    fn into_wire(self, session: &Session, hosts: &[VmName], name: &str) -> Result<v1::NewVm> {
        let file = |path: Option<String>| path.map(|p| session.file(hosts, &p)).transpose();
        let kernel = file(self.kernel)?;
        let initrd = file(self.initrd)?;
        let (boot, append) = match kernel {
            Some(kernel) => {
                let append = self.append.unwrap_or_default();
                (Some(v1::Boot::Kernel { kernel, initrd, append }), None)
            }
            None => (None, self.append),
        };
        Ok(v1::NewVm {
            name: name.to_owned(),
            generation: self.generation,
            version: self.vm_version,
            processor_count: self.processors,
            expose_virtualization_extensions: self.expose_extensions,
            memory_startup_bytes: self.memory,
            image: self.image,
            append,
            disk_path: file(self.disk)?,
            new_disk_bytes: self.new_disk,
            new_disk_path: file(self.new_disk_path)?,
            boot,
            switch: self.switch,
            seed: self.seed.into_wire(),
            start_action: self.start_action.map(AtStart::into_wire),
            notes: self.notes,
            tags: self.tag,
        })
    }
}
