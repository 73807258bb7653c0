use http::Method;

use super::{Client, Lines, Result, json_body, segment};
use crate::v1::{ExchangeProgress, ExportVm, InstantBoot, NewImport, NewRecovery, Recovery, Vm};

const NOTHING: Option<&()> = None;

/// Recoveries of machines.
impl Client {
    pub async fn recoveries(&self) -> Result<Vec<Recovery>> {
        self.json(Method::GET, "recoveries", NOTHING).await
    }

    /// Answers when the recovery is written down; it goes on by itself.
    pub async fn start_recovery(&self, new: &NewRecovery) -> Result<Recovery> {
        self.json(Method::POST, "recoveries", Some(new)).await
    }

    pub async fn recovery(&self, recovery: &str) -> Result<Recovery> {
        self.json(Method::GET, &format!("recoveries/{}", segment(recovery)), NOTHING).await
    }

    pub async fn cancel_recovery(&self, recovery: &str) -> Result<Recovery> {
        self.json(Method::POST, &format!("recoveries/{}/cancel", segment(recovery)), NOTHING).await
    }

    /// Machines that run from a recovery point.
    pub async fn instant_boots(&self) -> Result<Vec<InstantBoot>> {
        self.json(Method::GET, "instant-boots", NOTHING).await
    }

    /// Answers when it has begun.
    pub async fn finish_instant_boot(&self, vm: &str) -> Result<InstantBoot> {
        self.json(Method::POST, &format!("instant-boots/{}/finish", segment(vm)), NOTHING).await
    }

    /// The machine as it was last.
    pub async fn discard_instant_boot(&self, vm: &str) -> Result<Vm> {
        self.json(Method::POST, &format!("instant-boots/{}/discard", segment(vm)), NOTHING).await
    }
}

/// Machines of other programs.
impl Client {
    /// Who drops the answer ends the import.
    pub async fn import_vm(&self, new: &NewImport) -> Result<Lines<ExchangeProgress>> {
        self.stream(Method::POST, "imports", json_body("imports", Some(new))?).await.map(Lines::new)
    }

    /// A machine that is off, into a new folder. Who drops the answer ends the export.
    pub async fn export_vm(&self, vm: &str, export: &ExportVm) -> Result<Lines<ExchangeProgress>> {
        let path = format!("vms/{}/export", segment(vm));
        self.stream(Method::POST, &path, json_body(&path, Some(export))?).await.map(Lines::new)
    }
}
