//! One file per group of commands, each thin: parse, ask, print.

pub mod backup;
pub mod backup_points;
pub mod backup_run;
pub mod console;
pub mod disk;
pub mod doctor;
pub mod events;
pub mod explore_worker;
pub mod guest;
pub mod host;
pub mod image;
pub mod nat;
pub mod node;
pub mod node_serve;
pub mod password;
pub mod prompt;
pub mod repository;
pub mod shell;
pub mod switch;
pub mod tree;
pub mod vault;
pub mod vm;
pub mod vm_adapter;
pub mod vm_create;
pub mod vm_drive;
pub mod vm_set;
