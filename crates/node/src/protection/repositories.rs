//! The vaults that this host knows by name.
//!
//! A repository is a document; what opens it is a file of its own (`secrets`), written before the document and removed
//! after it. Nothing of a vault is ever removed here: to forget a repository leaves all that lies there.

use std::{
    collections::BTreeMap,
    num::NonZeroU64,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use nestling_identity::{Action, Identity};
use nestling_model::{
    EventKind, RepositoryName,
    protection::{Location, Repository, RepositoryId},
};
use nestling_vault::{
    Catalogue, Repository as Vault, Summary, VaultError,
    format::key::KdfCost,
    storage::{Access, Limits, Location as Place, StorageErrorKind, Throttle},
};
use tokio::{sync::Mutex, time::timeout};
use uuid::Uuid;

use super::{
    catalogues::Catalogues,
    job_error::JobError,
    secrets::{SecretFiles, Secrets},
    values::{NewRepository, RepositoryAdded, RepositoryChange, RepositoryContents, RepositoryView},
};
use crate::{
    Node, NodeError,
    blocking::blocking,
    clock::now_ms,
    error::{Object, Result},
    networks::to_the_end,
    node::Shared,
};

/// For a repository to be opened or listed. One on a dead network file system never answers.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);

/// A repository as it is known, and the bandwidth that all who use it share.
#[derive(Clone)]
pub struct Known {
    pub repository: Repository,
    throttle: Option<Arc<Throttle>>,
}

impl Known {
    fn new(repository: Repository) -> Self {
        let up_bytes_per_second = repository.upload_bytes_per_second_max.and_then(NonZeroU64::new);
        let limits = Limits { up_bytes_per_second, down_bytes_per_second: None };
        Self { throttle: up_bytes_per_second.map(|_| Arc::new(Throttle::new(limits))), repository }
    }

    pub fn failed(&self, source: VaultError) -> NodeError {
        NodeError::Vault { repository: self.repository.name.clone(), source: Box::new(source) }
    }

    fn access(&self, secrets: &Secrets) -> Access {
        Access {
            settings: secrets.settings.clone(),
            throttle: self.throttle.clone(),
            append_only: self.repository.append_only,
        }
    }

    /// Blocks.
    fn open(&self, secrets: &Secrets) -> Result<Arc<Vault>> {
        let opened = self.access(secrets).open(self.repository.location.as_str()).map_err(VaultError::from);
        let opened = opened.and_then(|storage| Vault::open(storage, secrets.password.as_bytes()));
        opened.map(Arc::new).map_err(|e| self.failed(e))
    }

    /// Opens what is there, or makes a new one. Whether it was made. Blocks.
    fn open_or_make(&self, secrets: &Secrets) -> Result<bool> {
        let nothing = match self.open(secrets) {
            Ok(_) => return Ok(false),
            Err(NodeError::Vault { source, .. }) if is_nothing_there(&source) => source,
            Err(other) => return Err(other),
        };
        tracing::debug!(error = %nothing, "a new vault is made");
        let storage = self.access(secrets).create(self.repository.location.as_str());
        let made = storage.map_err(VaultError::from).and_then(|storage| {
            let who = nestling_vault::Identity::current();
            Vault::init(storage, secrets.password.as_bytes(), &who, KdfCost::Standard)
        });
        made.map(|_| true).map_err(|e| self.failed(e))
    }
}

fn is_nothing_there(error: &VaultError) -> bool {
    match error {
        VaultError::NoRepository { .. } => true,
        VaultError::Storage(error) => error.kind == StorageErrorKind::NotFound,
        _ => false,
    }
}

/// All that this host knows.
pub struct Repositories {
    known: RwLock<BTreeMap<RepositoryId, Known>>,
    secrets: SecretFiles,
    catalogues: Catalogues,
    /// Held by whoever changes them.
    turn: Mutex<()>,
}

impl Repositories {
    pub fn new(secrets: SecretFiles, stored: Vec<Repository>) -> Self {
        let known = stored.into_iter().map(|repository| (repository.id, Known::new(repository))).collect();
        Self { known: RwLock::new(known), secrets, catalogues: Catalogues::default(), turn: Mutex::new(()) }
    }

    pub fn all(&self) -> Vec<Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub fn get(&self, id: RepositoryId) -> Option<Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    fn set(&self, known: Known) {
        self.known.write().unwrap_or_else(PoisonError::into_inner).insert(known.repository.id, known);
    }

    fn forget(&self, id: RepositoryId) {
        self.catalogues.forget(id);
        self.known.write().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    /// By name, or by the text of its id.
    pub fn find(&self, name: &str) -> Result<Known> {
        let by_id = Uuid::parse_str(name).ok();
        let parsed: Option<RepositoryName> = name.parse().ok();
        let is = |known: &Known| {
            parsed.as_ref() == Some(&known.repository.name) || by_id == Some(known.repository.id.0)
        };
        let missing = || NodeError::NotFound { object: Object::Repository, name: name.to_owned() };
        self.all().into_iter().find(is).ok_or_else(missing)
    }

    /// The one of that name; without a name, the only one.
    pub fn chosen(&self, name: Option<&str>) -> Result<Known> {
        if let Some(name) = name {
            return self.find(name);
        }
        let mut all = self.all();
        match (all.pop(), all.len()) {
            (Some(only), 0) => Ok(only),
            (None, _) => Err(NodeError::invalid(
                "there is no repository yet; add one: nestling repository add NAME LOCATION",
            )),
            (Some(_), others) => Err(NodeError::Invalid(format!(
                "there are {} repositories; say which one is meant (--repository NAME)",
                others + 1
            ))),
        }
    }

    /// As `open`, for a thread that can wait. Blocks.
    pub fn open_now(&self, known: &Known) -> Result<Arc<Vault>> {
        known.open(&self.secrets.get(known.repository.id)?)
    }

    /// Sees what points there are. Blocks.
    pub fn look<T>(
        &self,
        known: &Known,
        see: impl FnOnce(&Vault, &Catalogue<Summary>) -> std::result::Result<T, VaultError>,
    ) -> Result<T> {
        self.catalogues.look(known, || self.open_now(known), see)
    }

    /// Opens the vault anew: what was true of it before may not be any more.
    pub async fn open(&self, known: &Known) -> Result<Arc<Vault>> {
        let (files, of) = (self.secrets.clone(), known.clone());
        answered(known, move || of.open(&files.get(of.repository.id)?)).await
    }
}

/// Waits for a vault, but not for ever.
pub async fn answered<T: Send + 'static>(
    known: &Known,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let silent = |_| NodeError::VaultSilent {
        repository: known.repository.name.clone(),
        seconds: ANSWER_TIMEOUT.as_secs(),
    };
    timeout(ANSWER_TIMEOUT, blocking(work)).await.map_err(silent)?
}

/// Refuses what the vault would take for something else.
fn check_location(location: &Location) -> Result<()> {
    let place: std::result::Result<Place, _> = location.as_str().parse();
    match place {
        Ok(Place::Local(_)) if !location.is_local() => Err(NodeError::Invalid(format!(
            "{location}: repositories over SFTP are not supported; mount the server's directory, or use an object store"
        ))),
        Ok(_) => Ok(()),
        Err(error) => Err(NodeError::Invalid(error.to_string())),
    }
}

impl Node {
    pub async fn repositories(&self, who: &Identity) -> Result<Vec<Repository>> {
        self.authorize(who, Action::ReadBackups)?;
        let mut all: Vec<Repository> =
            self.protection.repositories.all().into_iter().map(|known| known.repository).collect();
        all.sort_by_cached_key(|repository| repository.name.key());
        Ok(all)
    }

    /// With a look into it. That it cannot be reached is part of the answer.
    pub async fn repository(&self, who: &Identity, name: &str) -> Result<RepositoryView> {
        self.authorize(who, Action::ReadBackups)?;
        let known = self.protection.repositories.find(name)?;
        let contents = self.contents(&known).await.map_err(|error| error.message());
        Ok(RepositoryView { repository: known.repository, contents })
    }

    async fn contents(&self, known: &Known) -> Result<RepositoryContents> {
        let (repositories, of) = (Arc::clone(&self.protection.repositories), known.clone());
        answered(known, move || {
            repositories.look(&of, |vault, catalogue| {
                let machines: std::collections::BTreeSet<&str> =
                    catalogue.newest_first().map(|entry| entry.name().as_str()).collect();
                Ok(RepositoryContents {
                    points: catalogue.newest_first().count() as u64,
                    machines: machines.len() as u64,
                    unreadable: catalogue.unreadable() as u64,
                    stored_bytes: vault.file_stats()?.iter().map(|kind| kind.bytes).sum(),
                })
            })
        })
        .await
    }

    /// Takes over the vault that lies there, once the password has opened it, or makes a new one.
    pub async fn add_repository(&self, who: &Identity, new: NewRepository) -> Result<RepositoryAdded> {
        self.authorize(who, Action::ChangeVaults)?;
        let node = self.shared();
        to_the_end(async move { node.add_repository(new).await }).await
    }

    pub async fn change_repository(
        &self,
        who: &Identity,
        name: &str,
        change: RepositoryChange,
    ) -> Result<Repository> {
        self.authorize(who, Action::ChangeVaults)?;
        let (node, name) = (self.shared(), name.to_owned());
        to_the_end(async move { node.change_repository(&name, change).await }).await
    }

    /// Forgets a repository, with what opens it. The vault stays as it is.
    pub async fn forget_repository(&self, who: &Identity, name: &str) -> Result<()> {
        self.authorize(who, Action::ChangeVaults)?;
        let (node, name) = (self.shared(), name.to_owned());
        to_the_end(async move { node.forget_repository(&name).await }).await
    }
}

impl Shared {
    async fn add_repository(&self, new: NewRepository) -> Result<RepositoryAdded> {
        let repositories = &self.protection.repositories;
        let NewRepository { name, location, secrets, upload_bytes_per_second_max, append_only } = new;
        let repository = Repository {
            id: RepositoryId(Uuid::new_v4()),
            name,
            location,
            upload_bytes_per_second_max,
            append_only,
            created_at_ms: now_ms(),
        };
        check_location(&repository.location)?;
        secrets.check()?;
        let _turn = repositories.turn.lock().await;
        self.check_repository(&repository)?;
        let known = Known::new(repository.clone());
        let (of, with) = (known.clone(), secrets.clone());
        let created = answered(&known, move || of.open_or_make(&with)).await?;
        let (files, id) = (repositories.secrets.clone(), repository.id);
        blocking(move || files.put(id, &secrets)).await?;
        self.steps.reached("secrets written");
        self.keeper.put(&repository).await?;
        repositories.set(known);
        let what = if created { "a new vault was made" } else { "the vault that lies there was taken over" };
        self.events.tell(EventKind::RepositoryAdded, repository.name.as_str(), what);
        Ok(RepositoryAdded { repository, created })
    }

    fn check_repository(&self, repository: &Repository) -> Result<()> {
        let others: Vec<Repository> =
            self.protection.repositories.all().into_iter().map(|known| known.repository).collect();
        Ok(repository.validate(&others)?)
    }

    /// What would open it no longer is refused, so that a slip shows now and not at night.
    async fn change_repository(&self, name: &str, change: RepositoryChange) -> Result<Repository> {
        let repositories = &self.protection.repositories;
        let _turn = repositories.turn.lock().await;
        let mut repository = repositories.find(name)?.repository;
        let RepositoryChange { name, location, upload_bytes_per_second_max, append_only, password, settings } =
            change;
        let opens_otherwise = location.is_some() || password.is_some() || settings.is_some();
        repository.name = name.unwrap_or(repository.name);
        repository.location = location.unwrap_or(repository.location);
        repository.append_only = append_only.unwrap_or(repository.append_only);
        if let Some(limit) = upload_bytes_per_second_max {
            repository.upload_bytes_per_second_max = limit;
        }
        check_location(&repository.location)?;
        self.check_repository(&repository)?;
        let known = Known::new(repository.clone());
        if opens_otherwise {
            let (files, id) = (repositories.secrets.clone(), repository.id);
            let mut secrets = match (&password, &settings) {
                // Both are given, so what was kept before need not be readable any more.
                (Some(password), Some(_)) => {
                    Secrets { password: password.clone(), settings: BTreeMap::new() }
                }
                _ => blocking(move || files.get(id)).await?,
            };
            if let Some(password) = password {
                secrets.password = password;
            }
            if let Some(settings) = settings {
                secrets.settings = settings;
            }
            secrets.check()?;
            let (of, with) = (known.clone(), secrets.clone());
            answered(&known, move || of.open(&with).map(drop)).await?;
            let files = repositories.secrets.clone();
            blocking(move || files.put(id, &secrets)).await?;
        }
        self.keeper.put(&repository).await?;
        repositories.set(known);
        self.events.tell(EventKind::RepositoryChanged, repository.name.as_str(), "repository changed");
        Ok(repository)
    }

    async fn forget_repository(&self, name: &str) -> Result<()> {
        let repositories = &self.protection.repositories;
        let _turn = repositories.turn.lock().await;
        let Repository { id, name, .. } = repositories.find(name)?.repository;
        if let Some(run) = self.protection.runs.using(id) {
            return Err(NodeError::RepositoryBusy { repository: name, run });
        }
        if let Some(recovery) = self.recovery.recoveries.using(id) {
            return Err(NodeError::RepositoryRead { repository: name, recovery });
        }
        if let Some(vm) = self.recovery.instant.using_repository(id) {
            return Err(self.runs_from_vault(vm));
        }
        if let Some(job) = self.protection.jobs.using(id) {
            return Err(JobError::NeedsRepository { job: job.name, repository: name }.into());
        }
        self.keeper.delete::<Repository>(id.0.to_string()).await?;
        repositories.forget(id);
        let files = repositories.secrets.clone();
        if let Err(error) = blocking(move || files.remove(id)).await {
            // The next start sweeps it away.
            tracing::warn!(error = error.message(), "a forgotten repository's password is left");
        }
        self.events.tell(
            EventKind::RepositoryRemoved,
            name.as_str(),
            "repository forgotten; its points stay",
        );
        Ok(())
    }
}
