use http::Method;
use tokio::io::AsyncRead;
use uuid::Uuid;

use super::{Client, Console, Lines, Result, json_body, segment, streams};
use crate::v1::{
    Adapter, AdapterChange, BuildImage, BuildProgress, Controller, DiskInfo, Drive, Event, Exec, ExecResult,
    Feature, FeatureInstalled, Guest, Host, HostAdapter, HostAddress, Image, ImportImage, Job, JobChange,
    JobPlan, MailServer, MailTest, Nat, NatChange, NewAdapter, NewAddress, NewDisk, NewDrive, NewJob,
    NewMailServer, NewMapping, NewNat, NewRepository, NewRun, NewSwitch, NewVm, Node, Point, PointChange,
    Points, RemovedVm, Repository, RepositoryChange, Requirement, ResizeDisk, Run, RunLog, StaticMapping,
    Switch, SwitchChange, Tree, Vm, VmChange, VmOperation,
};

const NOTHING: Option<&()> = None;
const MAIL_SERVER: &str = "mail-server";

/// What the time that a program may run in a guest is when nobody says.
const EXEC_SECONDS: u32 = 60;

/// This node and its host.
impl Client {
    pub async fn node(&self) -> Result<Node> {
        self.json(Method::GET, "node", NOTHING).await
    }

    /// Ends the node. Its machines go on.
    pub async fn stop_node(&self) -> Result<()> {
        self.done(Method::POST, "node/stop", NOTHING).await
    }

    pub async fn host(&self) -> Result<Host> {
        self.json(Method::GET, "host", NOTHING).await
    }

    /// What doctor finds.
    pub async fn requirements(&self) -> Result<Vec<Requirement>> {
        self.json(Method::GET, "host/requirements", NOTHING).await
    }

    pub async fn host_adapters(&self) -> Result<Vec<HostAdapter>> {
        self.json(Method::GET, "host/adapters", NOTHING).await
    }

    pub async fn host_addresses(&self) -> Result<Vec<HostAddress>> {
        self.json(Method::GET, "host/addresses", NOTHING).await
    }

    pub async fn add_address(&self, new: &NewAddress) -> Result<HostAddress> {
        self.json(Method::POST, "host/addresses", Some(new)).await
    }

    pub async fn remove_address(&self, address: &str) -> Result<()> {
        let path = format!("host/addresses?address={}", segment(address));
        self.done(Method::DELETE, &path, NOTHING).await
    }

    pub async fn features(&self) -> Result<Vec<Feature>> {
        self.json(Method::GET, "host/features", NOTHING).await
    }

    pub async fn install_feature(&self, name: &str) -> Result<FeatureInstalled> {
        self.json(Method::POST, &format!("host/features/{}", segment(name)), NOTHING).await
    }

    /// All levels, from this node's host inwards.
    pub async fn tree(&self) -> Result<Tree> {
        self.json(Method::GET, "tree", NOTHING).await
    }

    /// What happens from now on; with `follow_inside` also inside the machines that answer.
    pub async fn events(&self, follow_inside: bool) -> Result<Lines<Event>> {
        let path = format!("events?follow_inside={follow_inside}");
        self.stream(Method::GET, &path, json_body(&path, NOTHING)?).await.map(Lines::new)
    }
}

/// Machines. `vm` is a name or an id everywhere.
impl Client {
    pub async fn vms(&self) -> Result<Vec<Vm>> {
        self.json(Method::GET, "vms", NOTHING).await
    }

    pub async fn vm(&self, vm: &str) -> Result<Vm> {
        self.json(Method::GET, &of_vm(vm, ""), NOTHING).await
    }

    pub async fn create_vm(&self, new: &NewVm) -> Result<Vm> {
        self.json(Method::POST, "vms", Some(new)).await
    }

    pub async fn change_vm(&self, vm: &str, change: &VmChange) -> Result<Vm> {
        self.json(Method::PATCH, &of_vm(vm, ""), Some(change)).await
    }

    /// Removes a machine; its disks stay unless `disks`.
    pub async fn remove_vm(&self, vm: &str, disks: bool) -> Result<RemovedVm> {
        let path = of_vm(vm, &format!("?disks={disks}"));
        let limits = self.limits(&Method::DELETE, &path);
        let answer = self.whole(Method::DELETE, &path, json_body(&path, NOTHING)?, limits).await?;
        // A host inside may be of a version that tells nothing of it.
        if answer.is_empty() {
            return Ok(RemovedVm::default());
        }
        serde_json::from_slice(&answer).map_err(|e| super::ClientError::unreadable(&path, &e))
    }

    /// Does something to a machine as a whole and answers how it is then.
    pub async fn operate(&self, vm: &str, operation: VmOperation) -> Result<Vm> {
        self.json(Method::POST, &of_vm(vm, &format!("/{}", operation.as_str())), NOTHING).await
    }

    pub async fn add_adapter(&self, vm: &str, new: &NewAdapter) -> Result<Adapter> {
        self.json(Method::POST, &of_vm(vm, "/adapters"), Some(new)).await
    }

    pub async fn change_adapter(&self, vm: &str, adapter: Uuid, change: &AdapterChange) -> Result<Adapter> {
        self.json(Method::PATCH, &of_vm(vm, &format!("/adapters/{adapter}")), Some(change)).await
    }

    pub async fn remove_adapter(&self, vm: &str, adapter: Uuid) -> Result<()> {
        self.done(Method::DELETE, &of_vm(vm, &format!("/adapters/{adapter}")), NOTHING).await
    }

    pub async fn add_drive(&self, vm: &str, new: &NewDrive) -> Result<Drive> {
        self.json(Method::POST, &of_vm(vm, "/disks"), Some(new)).await
    }

    /// Detaches a disk; its file stays.
    pub async fn remove_drive(&self, vm: &str, controller: Controller, location: u8) -> Result<()> {
        let controller = match controller {
            Controller::Ide => "IDE",
            Controller::Scsi => "SCSI",
        };
        self.done(Method::DELETE, &of_vm(vm, &format!("/disks/{controller}/{location}")), NOTHING).await
    }

    /// The serial console: recent output first, then what comes.
    pub async fn console(&self, vm: &str) -> Result<Console> {
        let (writer, body) = streams::writable_body();
        let response = self.stream(Method::POST, &of_vm(vm, "/console"), body).await?;
        Ok(Console::new(response, writer))
    }

    /// What the guest agent says.
    pub async fn guest(&self, vm: &str) -> Result<Guest> {
        self.json(Method::GET, &of_vm(vm, "/guest"), NOTHING).await
    }

    /// Runs a program in the guest through its agent.
    pub async fn exec(&self, vm: &str, exec: &Exec) -> Result<ExecResult> {
        let path = of_vm(vm, "/guest/exec");
        let mut limits = self.limits(&Method::POST, &path);
        let seconds = exec.timeout_seconds.unwrap_or(EXEC_SECONDS);
        let own = std::time::Duration::from_secs(u64::from(seconds) + 60);
        limits.head_timeout = limits.head_timeout.min(own);
        let answer = self.whole(Method::POST, &path, json_body(&path, Some(exec))?, limits).await?;
        serde_json::from_slice(&answer).map_err(|e| super::ClientError::unreadable(&path, &e))
    }

    /// Writes a file in the guest through its agent.
    pub async fn copy_file(
        &self,
        vm: &str,
        guest_path: &str,
        content: impl AsyncRead + Send + 'static,
    ) -> Result<()> {
        let path = of_vm(vm, &format!("/guest/files?path={}", segment(guest_path)));
        let limits = self.limits(&Method::PUT, &path);
        self.whole(Method::PUT, &path, streams::readable_body(content), limits).await.map(drop)
    }
}

/// Switches and NAT networks.
impl Client {
    pub async fn switches(&self) -> Result<Vec<Switch>> {
        self.json(Method::GET, "switches", NOTHING).await
    }

    pub async fn switch(&self, name: &str) -> Result<Switch> {
        self.json(Method::GET, &of("switches", name), NOTHING).await
    }

    pub async fn create_switch(&self, new: &NewSwitch) -> Result<Switch> {
        self.json(Method::POST, "switches", Some(new)).await
    }

    pub async fn change_switch(&self, name: &str, change: &SwitchChange) -> Result<Switch> {
        self.json(Method::PATCH, &of("switches", name), Some(change)).await
    }

    pub async fn remove_switch(&self, name: &str) -> Result<()> {
        self.done(Method::DELETE, &of("switches", name), NOTHING).await
    }

    pub async fn nats(&self) -> Result<Vec<Nat>> {
        self.json(Method::GET, "nats", NOTHING).await
    }

    pub async fn nat(&self, name: &str) -> Result<Nat> {
        self.json(Method::GET, &of("nats", name), NOTHING).await
    }

    pub async fn create_nat(&self, new: &NewNat) -> Result<Nat> {
        self.json(Method::POST, "nats", Some(new)).await
    }

    pub async fn change_nat(&self, name: &str, change: &NatChange) -> Result<Nat> {
        self.json(Method::PATCH, &of("nats", name), Some(change)).await
    }

    pub async fn remove_nat(&self, name: &str) -> Result<()> {
        self.done(Method::DELETE, &of("nats", name), NOTHING).await
    }

    pub async fn add_mapping(&self, nat: &str, new: &NewMapping) -> Result<StaticMapping> {
        self.json(Method::POST, &format!("{}/mappings", of("nats", nat)), Some(new)).await
    }

    pub async fn remove_mapping(&self, nat: &str, id: u32) -> Result<()> {
        self.done(Method::DELETE, &format!("{}/mappings/{id}", of("nats", nat)), NOTHING).await
    }
}

/// Disk images and images of systems.
impl Client {
    pub async fn create_disk(&self, new: &NewDisk) -> Result<DiskInfo> {
        self.json(Method::POST, "disks", Some(new)).await
    }

    pub async fn disk(&self, path: &str) -> Result<DiskInfo> {
        self.json(Method::GET, &disk_at(path), NOTHING).await
    }

    pub async fn resize_disk(&self, path: &str, size_bytes: u64) -> Result<DiskInfo> {
        self.json(Method::PATCH, &disk_at(path), Some(&ResizeDisk { size_bytes })).await
    }

    pub async fn images(&self) -> Result<Vec<Image>> {
        self.json(Method::GET, "images", NOTHING).await
    }

    pub async fn import_image(&self, new: &ImportImage) -> Result<Image> {
        self.json(Method::POST, "images", Some(new)).await
    }

    /// Builds an image. The last line has `image` or `error`; dropping the lines ends the build.
    pub async fn build_image(&self, name: &str, build: &BuildImage) -> Result<Lines<BuildProgress>> {
        let path = format!("{}/build", of("images", name));
        self.stream(Method::POST, &path, json_body(&path, Some(build))?).await.map(Lines::new)
    }
}

/// Repositories, backups and recovery points.
impl Client {
    pub async fn repositories(&self) -> Result<Vec<Repository>> {
        self.json(Method::GET, "repositories", NOTHING).await
    }

    /// With a look into it.
    pub async fn repository(&self, name: &str) -> Result<Repository> {
        self.json(Method::GET, &of("repositories", name), NOTHING).await
    }

    pub async fn add_repository(&self, new: &NewRepository) -> Result<Repository> {
        self.json(Method::POST, "repositories", Some(new)).await
    }

    pub async fn change_repository(&self, name: &str, change: &RepositoryChange) -> Result<Repository> {
        self.json(Method::PATCH, &of("repositories", name), Some(change)).await
    }

    /// What lies there stays.
    pub async fn forget_repository(&self, name: &str) -> Result<()> {
        self.done(Method::DELETE, &of("repositories", name), NOTHING).await
    }

    pub async fn runs(&self, vm: Option<&str>, job: Option<&str>) -> Result<Vec<Run>> {
        self.json(Method::GET, &asking("runs", &[("vm", vm), ("job", job)]), NOTHING).await
    }

    /// Answers when the run is written down; it goes on by itself.
    pub async fn start_run(&self, new: &NewRun) -> Result<Run> {
        self.json(Method::POST, "runs", Some(new)).await
    }

    pub async fn run(&self, run: &str) -> Result<Run> {
        self.json(Method::GET, &of("runs", run), NOTHING).await
    }

    pub async fn cancel_run(&self, run: &str) -> Result<Run> {
        self.json(Method::POST, &format!("{}/cancel", of("runs", run)), NOTHING).await
    }

    pub async fn points(
        &self,
        vm: Option<&str>,
        repository: Option<&str>,
        skip: u32,
        limit: Option<u32>,
    ) -> Result<Points> {
        self.points_of(vm, None, repository, skip, limit).await
    }

    /// Those of earlier machines of the name of one that is there.
    pub async fn earlier_points(
        &self,
        vm: &str,
        repository: Option<&str>,
        skip: u32,
        limit: Option<u32>,
    ) -> Result<Points> {
        self.points_of(Some(vm), Some("true"), repository, skip, limit).await
    }

    async fn points_of(
        &self,
        vm: Option<&str>,
        earlier: Option<&str>,
        repository: Option<&str>,
        skip: u32,
        limit: Option<u32>,
    ) -> Result<Points> {
        let (skip, limit) = (skip.to_string(), limit.map(|limit| limit.to_string()));
        let asked = [
            ("vm", vm),
            ("earlier", earlier),
            ("repository", repository),
            ("skip", Some(skip.as_str())),
            ("limit", limit.as_deref()),
        ];
        self.json(Method::GET, &asking("points", &asked), NOTHING).await
    }

    pub async fn change_point(
        &self,
        point: &str,
        repository: Option<&str>,
        change: &PointChange,
    ) -> Result<Point> {
        let path = asking(&of("points", point), &[("repository", repository)]);
        self.json(Method::PATCH, &path, Some(change)).await
    }

    pub async fn remove_point(&self, point: &str, repository: Option<&str>) -> Result<()> {
        self.done(Method::DELETE, &asking(&of("points", point), &[("repository", repository)]), NOTHING).await
    }
}

/// Backup jobs. `job` is a name or an id everywhere.
impl Client {
    pub async fn jobs(&self) -> Result<Vec<Job>> {
        self.json(Method::GET, "jobs", NOTHING).await
    }

    pub async fn job(&self, job: &str) -> Result<Job> {
        self.json(Method::GET, &of("jobs", job), NOTHING).await
    }

    pub async fn create_job(&self, new: &NewJob) -> Result<Job> {
        self.json(Method::POST, "jobs", Some(new)).await
    }

    pub async fn change_job(&self, job: &str, change: &JobChange) -> Result<Job> {
        self.json(Method::PATCH, &of("jobs", job), Some(change)).await
    }

    /// What it saved stays.
    pub async fn remove_job(&self, job: &str) -> Result<()> {
        self.done(Method::DELETE, &of("jobs", job), NOTHING).await
    }

    /// Answers when the run is written down; it goes on by itself.
    pub async fn run_job(&self, job: &str) -> Result<Run> {
        self.json(Method::POST, &format!("{}/run", of("jobs", job)), NOTHING).await
    }

    /// Asks the run that is under way to end.
    pub async fn stop_job(&self, job: &str) -> Result<Run> {
        self.json(Method::POST, &format!("{}/stop", of("jobs", job)), NOTHING).await
    }

    /// What a run would do; nothing is done.
    pub async fn plan_job(&self, job: &str) -> Result<JobPlan> {
        self.json(Method::GET, &format!("{}/plan", of("jobs", job)), NOTHING).await
    }

    pub async fn run_log(&self, run: &str) -> Result<RunLog> {
        self.json(Method::GET, &format!("{}/log", of("runs", run)), NOTHING).await
    }
}

/// The server that the host gives its mail to.
impl Client {
    pub async fn mail_server(&self) -> Result<MailServer> {
        self.json(Method::GET, MAIL_SERVER, NOTHING).await
    }

    /// In place of the one before, if there was any.
    pub async fn set_mail_server(&self, new: &NewMailServer) -> Result<MailServer> {
        self.json(Method::PUT, MAIL_SERVER, Some(new)).await
    }

    pub async fn remove_mail_server(&self) -> Result<()> {
        self.done(Method::DELETE, MAIL_SERVER, NOTHING).await
    }

    /// Answers when the server has taken the mail.
    pub async fn test_mail(&self, test: &MailTest) -> Result<()> {
        self.done(Method::POST, "mail-server/test", Some(test)).await
    }
}

/// A path with those of the parameters that are given.
fn asking(path: &str, parameters: &[(&str, Option<&str>)]) -> String {
    let given = parameters.iter().filter_map(|(name, value)| Some(format!("{name}={}", segment((*value)?))));
    let query = given.collect::<Vec<_>>().join("&");
    if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") }
}

fn of(collection: &str, name: &str) -> String {
    format!("{collection}/{}", segment(name))
}

fn of_vm(vm: &str, rest: &str) -> String {
    format!("vms/{}{rest}", segment(vm))
}

fn disk_at(path: &str) -> String {
    format!("disks?path={}", segment(path))
}
