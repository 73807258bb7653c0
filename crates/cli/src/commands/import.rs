//! `nestling import`: a machine of another program comes in.

use clap::Args;
use nestling_api::{
    client::Lines,
    v1::{self, ErrorCode},
};

use super::recover_vm::{IMAGE, Plugs};
use crate::{
    failure::{Failure, Result},
    printer::Printer,
    session::Session,
    text,
};

/// Import a machine of Hyper-V, of OVF, or of libvirt
///
/// PATH is a description (.vmcx, .ovf, .ova, .xml), or a folder with one, such as an export of Hyper-V or of `recover export`.
/// The disks are looked for beside it and are copied into the machine's own folder; differencing disks become whole. What is
/// there stays as it is. The machine keeps its id and its MAC addresses. What it had and does not get here is told.
#[derive(Debug, Args)]
pub struct Import {
    #[arg(value_name = "PATH", help = "The description, or a folder with one")]
    path: String,
    /// Look for disks in this folder, too; can be given again
    #[arg(long, value_name = "FOLDER")]
    disks: Vec<String>,
    /// The machine's name [default: as its description calls it]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    plugs: Plugs,
    /// Give it a new id and new MAC addresses: it is a copy
    #[arg(long)]
    new_identity: bool,
    #[arg(long, value_name = "NAME", help = IMAGE)]
    image: Option<String>,
}

impl Import {
    pub async fn run(self, session: &Session) -> Result {
        let new = v1::NewImport {
            path: session.file(&[], &self.path)?,
            disks: self.disks.iter().map(|folder| session.file(&[], folder)).collect::<Result<_>>()?,
            name: self.name,
            switches: self.plugs.switch,
            no_switch: self.plugs.no_switch,
            new_identity: self.new_identity,
            image: self.image,
        };
        let lines = session.client().await?.import_vm(&new).await?;
        let vm = follow(session.printer, lines).await?;
        session.printer.talk(&format!("{} is imported; it is off", text::clean(&vm.name)));
        Ok(())
    }
}

/// Tells how far it is, what was left out, and gives the machine.
pub async fn follow(printer: Printer, mut lines: Lines<v1::ExchangeProgress>) -> Result<v1::Vm> {
    let (mut shown, mut warnings, mut made) = (printer.progress(), Vec::new(), None);
    while let Some(line) = lines.next().await {
        let line = line?;
        printer.changed(&line)?;
        if let Some(error) = line.error {
            return Err(Failure::Error(error));
        }
        warnings.extend(line.warning);
        made = line.vm;
        if !line.message.is_empty() {
            #[expect(clippy::cast_precision_loss, reason = "a share of a bar")]
            let share = (line.total > 0).then(|| line.done as f64 / line.total as f64);
            shown.show(share, &line.message);
        }
    }
    drop(shown);
    let vm = made.ok_or_else(|| Failure::new(ErrorCode::Failed, "it ended without a result".to_owned()))?;
    for warning in warnings {
        printer.warning(&format!("{}: {warning}", vm.name));
    }
    Ok(vm)
}
