//! The Hyper-V and network cmdlets, on the API's client.
//!
//! One value per cmdlet, gathered here by subject. They must never do what the API cannot, and never
//! know where they run: their context is the client of a node, this one's or one inside a machine.

mod adapter;
mod adapter_object;
mod address;
mod backup_guest;
mod backup_job;
mod backup_object;
mod backup_proof;
mod backup_run;
mod common;
mod disk;
mod exchange;
mod feature;
mod host;
mod instant_boot;
mod life;
mod memory;
mod nat;
mod processor;
mod recovery_point;
mod remote;
mod switch;
mod vm;
mod vm_object;

use nestling_api::Client;

use crate::frame::{Cmdlet, Registry};

/// All cmdlets: the language's own and those for machines and networks.
pub fn registry() -> Registry<Client> {
    let mut registry = Registry::with_core();
    registry.add(all());
    registry
}

fn all() -> Vec<Cmdlet<Client>> {
    [
        vm::cmdlets(),
        life::cmdlets(),
        processor::cmdlets(),
        memory::cmdlets(),
        adapter::cmdlets(),
        switch::cmdlets(),
        disk::cmdlets(),
        address::cmdlets(),
        nat::cmdlets(),
        host::cmdlets(),
        feature::cmdlets(),
        backup_job::cmdlets(),
        backup_run::cmdlets(),
        backup_proof::cmdlets(),
        recovery_point::cmdlets(),
        instant_boot::cmdlets(),
        exchange::cmdlets(),
        remote::cmdlets(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
