//! A machine's earlier points in a repository, and what they say of its disks. All of it blocks.

use std::sync::Arc;

use nestling_model::VmId;
use nestling_vault::{Job, Point, Repository, VaultError};

use super::{basis::DiskThen, description::Description, marks::vm_of};

/// So many of the newest are looked at. An older one is of use only if all newer ones were removed meanwhile.
const LOOKED_AT: usize = 4;

/// Newest first.
pub struct Earlier {
    pub points: Vec<Point>,
    descriptions: Vec<Option<Description>>,
}

impl Earlier {
    /// What a choice among them needs to know.
    pub fn then(&self) -> Vec<Vec<DiskThen>> {
        let then = |description: &Option<Description>| {
            description.as_ref().map(Description::disks_then).unwrap_or_default()
        };
        self.descriptions.iter().map(then).collect()
    }
}

/// A point whose description can't be read counts for nothing; one that can't be read at all may be anybody's.
pub fn earlier(vault: &Arc<Repository>, vm: VmId) -> Result<Earlier, VaultError> {
    let job = Job::default();
    let mut points = vault.list_points(None, &job)?.points;
    points.retain(|point| vm_of(point) == Some(vm));
    points.reverse();
    points.truncate(LOOKED_AT);
    if points.is_empty() {
        return Ok(Earlier { points, descriptions: Vec::new() });
    }
    let index = vault.load_index(&job)?;
    let describe = |point: &Point| match vault.description(&index, point) {
        Ok(json) => json.and_then(|json| Description::read(&json)).filter(|read| read.vm.id == vm),
        Err(error) => {
            tracing::warn!(point = %point.id, %error, "what a point says of its machine cannot be read");
            None
        }
    };
    let descriptions = points.iter().map(describe).collect();
    Ok(Earlier { points, descriptions })
}
