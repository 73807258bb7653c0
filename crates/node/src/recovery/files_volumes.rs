//! Which volumes there are in a point, also those that are put together from several or behind a key.

use std::sync::Arc;

use nestling_block::nbd::NbdServer;
use nestling_explore::{
    Composed, ErrorKind, ExploreError, Place, Volume, Volumes,
    client::{Mount, Worker},
    machine::Key,
};
use nestling_identity::Identity;

use super::{
    files::{ANSWER_TIMEOUT, start, take_apart, unreadable},
    files_open::{context, disk_number, look_at_disk},
    files_values::{FilesAt, UnlockView, VolumeView},
    source::Source,
};
use crate::{Node, NodeError, blocking::blocking, error::Result};

/// Volumes of disks of a point, and what could not be looked at.
#[derive(Default)]
struct Rows {
    /// With the disk, of those that are on one.
    volumes: Vec<(Option<String>, Volume)>,
    problems: Vec<VolumeView>,
}

impl Rows {
    /// What a process says of the disk that it has gone to; it ends.
    fn told((worker, server): (Worker, NbdServer), source: &Source, disk: &str, at: &Place) -> Result<Self> {
        let told = worker.volumes().map_err(|error| unreadable(&source.point, error));
        drop(worker);
        server.stop();
        Ok(Self::of(told?, Some(disk), at))
    }

    fn of(Volumes { volumes, problems }: Volumes, disk: Option<&str>, at: &Place) -> Self {
        Self {
            volumes: volumes.into_iter().map(|volume| (disk.map(str::to_owned), volume)).collect(),
            problems: problems.into_iter().map(|what| VolumeView::of_disk(disk, at, what)).collect(),
        }
    }

    fn views(self, place: &Place) -> Vec<VolumeView> {
        let volumes = self.volumes.into_iter();
        let views = volumes.map(|(disk, volume)| VolumeView::new(disk.as_deref(), place, volume));
        views.chain(self.problems).collect()
    }

    fn has_parts(&self) -> bool {
        self.volumes.iter().any(|(_, volume)| volume.kind().is_some_and(|kind| kind.is_part()))
    }

    /// What a machine made of the disks. `disks` are those that it has; one alone may be inside the point's.
    fn add(&mut self, composed: Composed, disks: &[String], on: Option<&str>) {
        for found in composed.volumes {
            let Some(number) = found.disk else {
                self.volumes.push((on.map(str::to_owned), found.volume));
                continue;
            };
            let disk = disks.get(number as usize);
            let is = |(of, volume): &&mut (Option<String>, Volume)| {
                of.as_ref() == disk && volume.id == found.volume.id
            };
            // It is open now: what was encrypted is shown instead of that it was.
            if let Some((_, volume)) = self.volumes.iter_mut().find(is) {
                volume.content = found.volume.content;
                volume.problem = found.volume.problem;
            }
        }
        self.problems
            .extend(composed.problems.into_iter().map(|problem| VolumeView::unreadable(None, problem)));
    }
}

impl Node {
    /// The volumes of a point's disks, of one of them, or of a disk inside it.
    pub async fn point_volumes(&self, who: &Identity, at: FilesAt) -> Result<Vec<VolumeView>> {
        self.authorize_files(who)?;
        let (disk, place) = take_apart(&at.place)?;
        if place.last().is_some() {
            return Err(NodeError::invalid("this is a place in a volume, and no disk"));
        }
        let (known, point) = self.choose_point(&at.point, at.repository.as_deref()).await?;
        let source = self.open_source(&known, &point, disk.as_deref()).await?;
        // One after the other, so that one place is enough for all.
        let _seat = self.recovery.files.seat(ANSWER_TIMEOUT).await?;
        let mut rows = match (&disk, place.images().is_empty()) {
            (None, true) => self.all_disks(&source).await?,
            (None, false) => self.inside(&source, None, &place).await?,
            (Some(disk), _) => self.one_disk(&source, disk, &place).await?,
        };
        self.add_composed(&source, disk.as_deref(), &place, &mut rows).await;
        Ok(rows.views(&place))
    }

    /// Opens with a key what is encrypted on the disks that a place is on, for as long as somebody looks at them.
    pub async fn point_unlock(&self, who: &Identity, at: FilesAt, key: Vec<u8>) -> Result<UnlockView> {
        self.authorize_files(who)?;
        let key = Key::new(key).map_err(|error| NodeError::Invalid(error.to_string()))?;
        let (disk, place) = take_apart(&at.place)?;
        let (known, point) = self.choose_point(&at.point, at.repository.as_deref()).await?;
        let source = self.open_source(&known, &point, disk.as_deref()).await?;
        let _seat = self.recovery.files.seat(ANSWER_TIMEOUT).await?;
        let reading = self.reader_for(&source, disk.as_deref(), &place).await?;
        let machine = Arc::clone(&reading.machine);
        let tried = blocking(move || machine.compose(Some(&key)).map_err(|error| unreadable(&point, error)));
        let Composed { opened, locked, problems, .. } =
            tried.await.inspect_err(|error| self.end_if_dead(&reading, error))?;
        if opened > 0 {
            return Ok(UnlockView { opened, locked });
        }
        let what = match (locked, problems.first()) {
            (0, _) => "nothing on these disks is encrypted with LUKS".to_owned(),
            (_, Some(problem)) => format!("the key opens nothing: {problem}"),
            (_, None) => "the key opens nothing".to_owned(),
        };
        Err(unreadable(&source.point, ExploreError::Told { kind: ErrorKind::Invalid, what }))
    }

    /// One that cannot be looked at does not hide the others.
    async fn all_disks(&self, source: &Arc<Source>) -> Result<Rows> {
        let (socket, program, source) = (self.read_socket(), self.program()?, Arc::clone(source));
        blocking(move || {
            let mut rows = Rows::default();
            for disk in source.disks.iter().map(|disk| disk.name.clone()) {
                let whole = Place::default();
                let told = start(&source, &disk, &whole, &program, &socket)
                    .and_then(|process| Rows::told(process, &source, &disk, &whole));
                match told {
                    Ok(told) => {
                        rows.volumes.extend(told.volumes);
                        rows.problems.extend(told.problems);
                    }
                    Err(error) => rows.problems.push(VolumeView::unreadable(Some(&disk), error.message())),
                }
            }
            Ok(rows)
        })
        .await
    }

    async fn one_disk(&self, source: &Arc<Source>, disk: &str, place: &Place) -> Result<Rows> {
        let (socket, program) = (self.read_socket(), self.program()?);
        let (of, name, inside) = (Arc::clone(source), disk.to_owned(), place.clone());
        let found = blocking(move || {
            let process = look_at_disk(&of, &name, &inside, &program, &socket)?;
            process.map(|process| Rows::told(process, &of, &name, &inside)).transpose()
        });
        match found.await? {
            Some(rows) => Ok(rows),
            None => self.inside(source, Some(disk), place).await,
        }
    }

    /// A disk inside a volume that a machine mounts.
    async fn inside(&self, source: &Arc<Source>, disk: Option<&str>, place: &Place) -> Result<Rows> {
        let reading = self.reader_of_point(source).await?;
        let (machine, of) = (Arc::clone(&reading.machine), Arc::clone(source));
        let mount = Mount { disk: disk_number(source, disk)?, place: place.clone() };
        let listed =
            blocking(move || machine.volumes_in(&mount).map_err(|error| unreadable(&of.point, error)));
        let listed = listed.await.inspect_err(|error| self.end_if_dead(&reading, error))?;
        Ok(Rows::of(listed, disk, place))
    }

    /// What a machine puts together, where there is something to be put together, or one has opened something. What goes
    /// wrong here is told, and hides nothing of the rest.
    async fn add_composed(&self, source: &Arc<Source>, disk: Option<&str>, place: &Place, rows: &mut Rows) {
        let is_part_of_point = disk.is_some() && place.images().is_empty();
        let running = self.recovery.machines.get(&source.point.id.to_string(), &context(disk, place));
        if is_part_of_point || running.is_none() && !rows.has_parts() {
            return;
        }
        let composed = async {
            let reading = match running {
                Some(reading) => reading,
                None => self.reader_for(source, disk, place).await?,
            };
            let (machine, of) = (Arc::clone(&reading.machine), Arc::clone(source));
            let composed =
                blocking(move || machine.compose(None).map_err(|error| unreadable(&of.point, error)));
            composed.await.inspect_err(|error| self.end_if_dead(&reading, error))
        };
        match composed.await {
            Ok(composed) if place.images().is_empty() => {
                let disks: Vec<String> = source.disks.iter().map(|disk| disk.name.clone()).collect();
                rows.add(composed, &disks, None);
            }
            Ok(composed) => {
                let disks: Vec<String> = disk.map(str::to_owned).into_iter().collect();
                rows.add(composed, &disks, disk);
            }
            Err(error) => {
                let told = error.message();
                let told = error.hint().map_or(told.clone(), |hint| format!("{told}; {hint}"));
                rows.problems.push(VolumeView::unreadable(None, told));
            }
        }
    }
}
