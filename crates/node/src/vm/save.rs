//! Saving a machine to disk, and forgetting what was saved.
//!
//! The order keeps one truth: the file is complete before the definition says Saved, and the definition says Running
//! before the file goes. A node that dies in between leaves a machine that still runs (its engine is asked to go on), or
//! a saved one.

use nestling_model::{Operation, Vm, VmState, life::Admitted};

use super::owner::Owner;
use crate::{error::Result, home::remove_file};

impl Owner {
    pub async fn save(&mut self) -> Result<()> {
        let Admitted::Change { during, after } = self.admit(Operation::Save)? else { return Ok(()) };
        let before = self.vm.state;
        let machine = self.machine()?.clone();
        let files = self.files();
        files.make()?;
        // An older state that is found beside a new one would be taken for it.
        remove_file(&files.saved())?;
        self.enter(during);
        self.node.steps.reached("saving");
        if let Err(error) = machine.save_to(&files.saved()).await {
            return Err(self.failed(before, error).await);
        }
        self.node.steps.reached("saved");
        if let Err(error) = self.settle(after, None).await {
            remove_file(&files.saved())?;
            if before == VmState::Running {
                machine.cont().await.map_err(|e| self.refused(e))?;
            }
            self.enter(before);
            return Err(error);
        }
        self.node.steps.reached("noted as saved");
        self.clear_engine().await;
        self.seal_disks().await;
        self.show();
        Ok(())
    }

    pub async fn remove_saved_state(&mut self) -> Result<()> {
        self.admit(Operation::RemoveSavedState)?;
        let vm = Vm { state: VmState::Off, state_reason: None, ..self.vm.clone() };
        self.commit(vm).await?;
        remove_file(&self.files().saved())
    }
}
