//! `nestling image`: bootable images that machines are made from.

use clap::{Args, Subcommand};
use nestling_api::v1::{self, ErrorCode};

use super::vm_drive::Format;
use crate::{
    failure::{Failure, Result},
    session::Session,
    text::{self, Table},
};

/// Images that machines are made from
#[derive(Debug, Args)]
pub struct Image {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the images, and those that can be built
    List,
    Build(Build),
    Import(Import),
}

/// Build images from the distribution's packages; what is built already is kept
#[derive(Debug, Args)]
struct Build {
    #[arg(value_name = "IMAGE", required = true, help = "pebble, host, debian, database, reader")]
    names: Vec<String>,
    /// Build them even when nothing that they are made of has changed
    #[arg(long)]
    force: bool,
}

/// Take over a disk image, or a kernel with its initial RAM disk
#[derive(Debug, Args)]
struct Import {
    #[arg(value_name = "IMAGE", help = "Its name from now on")]
    name: String,
    /// A qcow2 or raw disk image, or a directory with vmlinuz and initrd.img
    #[arg(value_name = "PATH")]
    path: String,
    /// What it is [default: qcow2 if it starts like one, else raw]
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// The only generation that it boots with [default: either, 1 unless a machine says 2]
    #[arg(long, value_name = "1|2", value_parser = clap::value_parser!(u8).range(1..=2))]
    generation: Option<u8>,
}

impl Image {
    pub async fn run(self, session: &Session) -> Result {
        match self.command {
            Command::List => session.printer.list(&session.client().await?.images().await?, table),
            Command::Build(build) => build.run(session).await,
            Command::Import(import) => {
                let new = v1::ImportImage {
                    path: session.file(&[], &import.path)?,
                    name: import.name,
                    format: import.format.map(Format::into_wire),
                    generation: import.generation,
                };
                session.printer.changed(&session.client().await?.import_image(&new).await?)
            }
        }
    }
}

impl Build {
    async fn run(self, session: &Session) -> Result {
        let client = session.client().await?;
        for name in &self.names {
            let mut lines = client.build_image(name, &v1::BuildImage { force: self.force }).await?;
            let mut progress = session.printer.progress();
            let mut image = None;
            while let Some(line) = lines.next().await {
                let line = line?;
                session.printer.changed(&line)?;
                if let Some(error) = line.error {
                    return Err(Failure::Error(error));
                }
                match line.image {
                    None => progress.step(line.done, line.total, &line.message),
                    done => image = done,
                }
            }
            drop(progress);
            let image = image.ok_or_else(|| {
                Failure::new(ErrorCode::Failed, format!("the build of \"{name}\" ended without a result"))
                    .object(name.as_str())
            })?;
            session.printer.talk(&format!(
                "{} is ready ({})",
                text::clean(&image.name),
                text::size(image.size_bytes)
            ));
        }
        Ok(())
    }
}

fn table(images: &[v1::Image]) -> String {
    let mut table = Table::new(&["IMAGE", "BUILT", "SIZE", "MEMORY", "BOOTS", "DESCRIPTION"]).right(&[2, 3]);
    // Of what is not there nothing is known yet.
    let known = |image: &v1::Image, text: String| if image.built { text } else { "-".to_owned() };
    for image in images {
        let firmware = |number: &u8| if *number == 2 { "UEFI" } else { "BIOS" };
        let boots = match image.direct_kernel {
            true => "kernel".to_owned(),
            false => image.generations.iter().map(firmware).collect::<Vec<_>>().join(", "),
        };
        table.row([
            image.name.clone(),
            if image.built { "yes" } else { "no" }.to_owned(),
            known(image, text::size(image.size_bytes)),
            known(image, text::size(image.memory_bytes)),
            known(image, boots),
            image.description.clone(),
        ]);
    }
    table.text()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_an_image_that_is_not_built_nothing_is_made_up() {
        let image = v1::Image {
            name: "host".into(),
            description: "a host".into(),
            built: false,
            size_bytes: 0,
            generations: vec![1],
            memory_bytes: 0,
            has_disk: false,
            direct_kernel: false,
        };
        let shown = table(std::slice::from_ref(&image));
        assert!(!shown.contains("0 B") && !shown.contains("BIOS"), "{shown}");
        let built = v1::Image { built: true, memory_bytes: 1 << 20, ..image };
        assert!(table(&[built]).contains("BIOS"));
    }
}
