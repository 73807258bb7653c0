//! Mounting: on which directory, and how it ends.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use fuser::{BackgroundSession, Config, MountOption, Session, SessionACL};
use rustix::{
    io::Errno,
    mount::{UnmountFlags, unmount},
};

use crate::{
    filesystem::{FileSystem, THREADS},
    mounts::{MountPoint, mount_points, mounted_on},
    view::View,
};

const DEVICE: &str = "/dev/fuse";
/// What the table of mounts has as the device.
const SOURCE: &str = "nestling";

/// Why nothing is mounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    #[error("{} is not there", .0.display())]
    NotThere(PathBuf),
    #[error("{} is not a directory", .0.display())]
    NotDirectory(PathBuf),
    #[error("{} is not empty, and what is in it would be out of sight", .0.display())]
    NotEmpty(PathBuf),
    #[error("something is mounted on {} already", .0.display())]
    InUse(PathBuf),
    #[error("{} is still mounted by a program that has died", .0.display())]
    Dead(PathBuf),
    #[error("this system has no {DEVICE}, by which a program can be a file system")]
    NoDevice,
    #[error("mounting on {} is not allowed: {why}", .directory.display())]
    NotAllowed { directory: PathBuf, why: String },
    #[error("can't use {}: {source}", .directory.display())]
    Unusable { directory: PathBuf, source: io::Error },
    #[error("can't mount on {}: {why}", .directory.display())]
    Failed { directory: PathBuf, why: String },
    #[error("can't unmount {}: {source}", .directory.display())]
    Unmount { directory: PathBuf, source: io::Error },
}

impl MountError {
    /// What to do next.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NotThere(_) => Some("make it with `mkdir`"),
            Self::NotDirectory(_) | Self::NotEmpty(_) | Self::InUse(_) => Some("give an empty directory"),
            Self::Dead(_) => Some("`umount` as root, or `fusermount3 -u`, takes that away"),
            Self::NoDevice => Some("`modprobe fuse` makes it; a container must be given the device"),
            Self::NotAllowed { .. } => {
                Some("root may; others need the package fuse3 and a directory that is theirs")
            }
            Self::Unusable { .. } | Self::Failed { .. } | Self::Unmount { .. } => None,
        }
    }
}

/// The directory's whole path, if something can be mounted there.
pub fn check_directory(directory: &Path) -> Result<PathBuf, MountError> {
    let given = || directory.to_owned();
    let failed = |error: io::Error| {
        if error.kind() == io::ErrorKind::NotFound {
            return MountError::NotThere(given());
        }
        if Errno::from_io_error(&error) == Some(Errno::NOTCONN) {
            return MountError::Dead(given());
        }
        MountError::Unusable { directory: given(), source: error }
    };
    let whole = fs::canonicalize(directory).map_err(failed)?;
    if !fs::metadata(&whole).map_err(failed)?.is_dir() {
        return Err(MountError::NotDirectory(given()));
    }
    // Before all else: a dead mount still tells what it was asked a moment ago.
    let mut entries = fs::read_dir(&whole).map_err(failed)?;
    if mounted_on(&whole).map_err(failed)?.is_some() {
        return Err(MountError::InUse(given()));
    }
    if entries.next().is_some() {
        return Err(MountError::NotEmpty(given()));
    }
    Ok(whole)
}

/// A view that is mounted, until `end`.
pub struct Mounted {
    background: BackgroundSession,
    mount: MountPoint,
}

impl Mounted {
    /// On a directory that was checked. `others`: all users of the system may read, and not only this one. `ended` is
    /// called when somebody else has unmounted it.
    pub fn new(
        view: &Arc<View>,
        directory: &Path,
        others: bool,
        ended: impl FnOnce() + Send + 'static,
    ) -> Result<Self, MountError> {
        if !Path::new(DEVICE).exists() {
            return Err(MountError::NoDevice);
        }
        let mut config = Config::default();
        config.mount_options = vec![
            MountOption::RO,
            MountOption::NoExec,
            MountOption::NoAtime,
            MountOption::DefaultPermissions,
            MountOption::FSName(SOURCE.to_owned()),
            MountOption::Subtype(SOURCE.to_owned()),
        ];
        config.acl = if others { SessionACL::All } else { SessionACL::Owner };
        config.n_threads = Some(THREADS);
        let session = Session::new(FileSystem::new(view.clone(), ended), directory, &config)
            .map_err(|error| not_mounted(directory, &error))?;
        let unusable = |source| MountError::Unusable { directory: directory.to_owned(), source };
        let mount = mounted_on(directory).map_err(unusable)?;
        // Unmounted again by somebody who is very fast.
        let mount = mount.ok_or_else(|| unusable(io::ErrorKind::NotConnected.into()))?;
        let background = session.spawn().map_err(unusable)?;
        Ok(Self { background, mount })
    }

    /// Unmounts it, whatever is open, unless somebody else did already.
    pub fn end(self) -> Result<(), MountError> {
        let Self { background, mount } = self;
        let failed = |source: io::Error| MountError::Unmount { directory: mount.path.clone(), source };
        let is_mounted = || mount_points().map(|mounts| mounts.contains(&mount)).map_err(failed);
        if !is_mounted()? {
            // When dropped, it would unmount what may be mounted there by now.
            std::mem::forget(background);
            return Ok(());
        }
        // Refused while files are open.
        drop(background);
        if is_mounted()? {
            unmount(&mount.path, UnmountFlags::DETACH).map_err(|error| failed(error.into()))?;
        }
        Ok(())
    }
}

fn not_mounted(directory: &Path, error: &io::Error) -> MountError {
    let directory = directory.to_owned();
    let why = error.to_string().trim().to_owned();
    let is_refused = error.kind() == io::ErrorKind::PermissionDenied
        || ["not permitted", "ermission denied", "not allowed"].iter().any(|words| why.contains(words));
    match error.kind() {
        // The device is there, so it is the program by which users mount.
        io::ErrorKind::NotFound => {
            MountError::NotAllowed { directory, why: "fusermount3 is not installed".to_owned() }
        }
        _ if is_refused => MountError::NotAllowed { directory, why },
        _ => MountError::Failed { directory, why },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_empty_directory_can_be_mounted_on() {
        let place = tempfile::tempdir().expect("a directory");
        let path = |name: &str| place.path().join(name);
        fs::create_dir(path("empty")).expect("made");
        fs::write(path("file"), "").expect("written");
        std::os::unix::fs::symlink("empty", path("link")).expect("made");
        let whole = fs::canonicalize(path("empty")).expect("a path");
        assert_eq!(check_directory(&path("link")).expect("good"), whole);
        assert!(matches!(check_directory(&path("none")), Err(MountError::NotThere(_))));
        assert!(matches!(check_directory(&path("file")), Err(MountError::NotDirectory(_))));
        assert!(matches!(check_directory(place.path()), Err(MountError::NotEmpty(_))));
        assert!(matches!(check_directory(Path::new("/proc")), Err(MountError::InUse(_))));
    }

    #[test]
    fn what_the_system_refuses_is_told_as_that() {
        let told = |error: io::Error| not_mounted(Path::new("/mnt"), &error);
        let refused = io::Error::other("fusermount3: mount failed: Operation not permitted\n");
        assert!(matches!(told(refused), MountError::NotAllowed { why, .. } if why.ends_with("permitted")));
        assert!(matches!(told(io::ErrorKind::NotFound.into()), MountError::NotAllowed { .. }));
        assert!(matches!(told(io::Error::other("a reason")), MountError::Failed { .. }));
    }
}
