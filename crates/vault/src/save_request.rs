//! What a save is asked for, checked as a whole.

use crate::{SaveRequest, VaultError, check_disk_name, point::DESCRIPTION_BYTES_MAX, retag::check_tag};

impl SaveRequest<'_> {
    /// Refuses what could not be named or read again, before anything is stored.
    pub(crate) fn check(&self) -> Result<(), VaultError> {
        let invalid = |why: String| Err(VaultError::Invalid(why));
        if self.disks.is_empty() {
            return invalid("a point without a disk is none; give at least one".into());
        }
        for (number, disk) in self.disks.iter().enumerate() {
            check_disk_name(disk.name)?;
            if self.disks[..number].iter().any(|other| other.name == disk.name) {
                return invalid(format!("two disks are called {}; a name is given once", disk.name));
            }
        }
        for tag in self.tags {
            check_tag(tag)?;
        }
        if self.description.is_some_and(|text| text.len() as u64 > DESCRIPTION_BYTES_MAX) {
            return invalid("the description is larger than 16 MiB".into());
        }
        Ok(())
    }
}
