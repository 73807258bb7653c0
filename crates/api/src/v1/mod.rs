//! Version 1 of what travels between a client and a node.
//!
//! These types are the contract with scripts and with nodes of other versions, one level down in the
//! tree. They must never be domain types: a field is added here with a default, and is never renamed,
//! removed or given another meaning. Times are milliseconds since 1970-01-01T00:00:00Z, sizes are
//! bytes, and names of enumeration values are Hyper-V's.
//!
//! ```text
//! GET    /v1/node                            this node               POST /v1/node/stop
//! GET    /v1/host                            the host                GET  /v1/host/adapters
//! GET    /v1/host/requirements               what doctor finds
//! GET    /v1/host/addresses                  POST (NewAddress)       DELETE ?address=
//! GET    /v1/host/features                   POST /v1/host/features/{name}
//! GET    /v1/vms                             POST (NewVm)
//! GET    /v1/vms/{vm}                        PATCH (VmChange)        DELETE ?disks=true
//! POST   /v1/vms/{vm}/{operation}            start shutdown turn-off reset pause resume save
//!                                            remove-saved-state update-version
//! POST   /v1/vms/{vm}/adapters (NewAdapter)  PATCH, DELETE /v1/vms/{vm}/adapters/{id}
//! POST   /v1/vms/{vm}/disks (NewDrive)       DELETE /v1/vms/{vm}/disks/{controller}/{location}
//! POST   /v1/vms/{vm}/export (ExportVm)      progress, one JSON object a line
//! POST   /v1/vms/{vm}/console                bytes both ways
//! GET    /v1/vms/{vm}/guest                  what the guest agent says
//! POST   /v1/vms/{vm}/guest/exec (Exec)      PUT /v1/vms/{vm}/guest/files?path=
//! GET    /v1/switches                        POST (NewSwitch)        /{switch}: GET PATCH DELETE
//! GET    /v1/nats                            POST (NewNat)           /{nat}: GET PATCH DELETE
//! POST   /v1/nats/{nat}/mappings             DELETE /v1/nats/{nat}/mappings/{id}
//! POST   /v1/disks (NewDisk)                 GET ?path=              PATCH ?path= (ResizeDisk)
//! GET    /v1/images                          POST /v1/images (ImportImage)
//! POST   /v1/images/{name}/build             progress, one JSON object a line
//! GET    /v1/repositories                    POST (NewRepository)    /{repository}: GET PATCH DELETE
//! GET    /v1/runs ?vm=&job=                  POST (NewRun)           /{run}: GET     POST /{run}/cancel
//! GET    /v1/runs/{run}/log                  what it did, for people
//! GET    /v1/jobs                            POST (NewJob)           /{job}: GET PATCH (JobChange) DELETE
//! POST   /v1/jobs/{job}/run                  POST /v1/jobs/{job}/stop
//! GET    /v1/jobs/{job}/plan                 what a run would do
//! GET    /v1/mail-server                     PUT (NewMailServer)     DELETE    POST /v1/mail-server/test (MailTest)
//! GET    /v1/points ?vm=&repository=&skip=&limit=  PATCH (PointChange), DELETE /v1/points/{point} ?repository=
//! GET    /v1/points/{point}/volumes ?place=  /v1/points/{point}/files ?place=  /v1/points/{point}/content ?place=
//! GET    /v1/points/{point}/find ?place=&name=  /v1/points/{point}/compare ?place=&with=
//! POST   /v1/points/{point}/unlock (UnlockVolumes)  its encrypted volumes
//! GET    /v1/recoveries                      POST (NewRecovery)      /{recovery}: GET    POST /{recovery}/cancel
//! GET    /v1/instant-boots                   POST /{vm}/finish       POST /{vm}/discard
//! GET    /v1/proofs                          POST (NewProof)         /{proof}: GET        POST /{proof}/cancel
//! GET    /v1/proofs/{proof}/screens/{id}     a picture; points count from 0
//! POST   /v1/loans (NewLoan)                 GET /v1/loans/{loan} ?wait_ms=  one instant of a machine, for the host above
//! GET    /v1/loans/{loan}/disks/{disk}/data ?offset=&length=   changes ?offset=   content ?offset=&length=
//! POST   /v1/loans/{loan}/confirm            POST /v1/loans/{loan}/return (ReturnLoan)
//! POST   /v1/imports (NewImport)             progress, one JSON object a line
//! GET    /v1/tree ?timeout_ms=               all levels
//! GET    /v1/events ?follow_inside=true      one JSON object a line, without end
//! ANY    /v1/in/{vm}/{rest}                  /v1/{rest} of the node inside that machine
//! GET    /v1/openapi.json                    the document that says all this to programs
//! ```
//!
//! `{vm}` is a name or an id. Everything that fails answers with an [`ErrorBody`].

mod error;
mod exchange;
mod files;
mod guest;
mod host;
mod image;
mod jobs;
mod loan;
mod mail;
mod network;
mod proof;
mod protection;
mod recovery;
mod tree;
mod vm;

pub use error::{ErrorBody, ErrorCode};
pub use exchange::{ExchangeProgress, ExportVm, ImageFormat, NewImport};
pub use files::*;
pub use guest::{Exec, ExecResult, Guest, GuestInterface};
pub use host::{
    CheckResult, Feature, FeatureInstalled, Host, HostAdapter, HostAddress, NewAddress, Node, Requirement,
};
pub use image::{BuildImage, BuildProgress, Image, ImportImage};
pub use jobs::{
    ExcludedMachine, Job, JobAfter, JobChange, JobConsistency, JobCopy, JobEnd, JobKeep, JobMail, JobMissed,
    JobOrder, JobPlan, JobRun, JobScript, JobSettings, JobWebhook, NewJob, PlannedDisk, PlannedMachine,
    RunLog,
};
pub use loan::*;
pub use mail::{MailSecurity, MailServer, MailTest, NewMailServer};
pub use network::{
    Dhcp, Nat, NatChange, NewMapping, NewNat, NewSwitch, Protocol, StaticMapping, Switch, SwitchChange,
    SwitchKind,
};
pub use proof::{JobProof, NewProof, PointProof, PointVerdict, Proof, ProofSigns};
pub use protection::{
    Consistency, DiskRun, GuestApplication, GuestSteps, MachineRun, NewRepository, NewRun, Point,
    PointChange, Points, Program, Reading, Repository, RepositoryChange, RepositoryContents, Retention, Run,
    RunProgress, RunState, Secret,
};
pub use recovery::{InstantBoot, NewRecovery, RecoveredDisk, Recovery, RecoveryProgress, SwitchMapping};
pub use tree::{Event, Tree, TreeVm};
pub use vm::{
    Adapter, AdapterChange, AdapterStatus, Boot, Controller, DiskFormat, DiskInfo, DiskKind, Drive,
    NewAdapter, NewDisk, NewDrive, NewVm, RemovedVm, ResizeDisk, Seed, StartAction, StopAction, Vm, VmChange,
    VmOperation, VmState,
};
