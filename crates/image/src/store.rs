//! The directory of images: finding, building, importing, removing.
//!
//! Layout: `NAME` is a symbolic link to `.versions/NAME-KEY`, which holds `image.json` and the files. A rebuild
//! makes a new version and moves the link, because disks of VMs are overlays on the files of the old one: a
//! version that may be in use is never changed, and only `prune` removes it.

use crate::error::IoContext;
use crate::image::{Image, MANIFEST, Manifest, check_name};
use crate::import::ImportOptions;
use crate::origin::{Origin, SHORT_KEY_CHARS};
use crate::packages::{PackageCache, Quarry, Selection};
use crate::progress::Steps;
use crate::recipe::{Recipe, Workshop};
use crate::{ImageError, Progress};
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

pub const VERSIONS: &str = ".versions";
const TEMPORARY: &str = ".tmp";
const CACHE: &str = ".cache";

#[derive(Debug, Clone, Default)]
pub struct BuildOptions {
    /// The program that the host image is to contain; needed for that recipe only.
    pub nestling_binary: Option<PathBuf>,
    /// Build even when nothing has changed.
    pub force: bool,
}

#[derive(Debug, Clone)]
pub struct ImageStore {
    dir: PathBuf,
}

impl ImageStore {
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, ImageError> {
        let dir = dir.into();
        fs::create_dir_all(dir.join(VERSIONS)).at("create", &dir)?;
        Ok(Self { dir: fs::canonicalize(&dir).at("open", &dir)? })
    }

    /// All images that can be read, by name; a damaged one is reported in the log, not as an absent store.
    pub fn list(&self) -> Result<Vec<Image>, ImageError> {
        let mut images = Vec::new();
        for entry in fs::read_dir(&self.dir).at("list", &self.dir)? {
            let entry = entry.at("list", &self.dir)?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            if check_name(&name).is_err() {
                continue;
            }
            match Manifest::load(&name, &entry.path()) {
                Ok(image) => images.push(image),
                Err(error) => tracing::warn!(image = name, %error, "image left out of the list"),
            }
        }
        images.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(images)
    }

    pub fn get(&self, name: &str) -> Result<Image, ImageError> {
        check_name(name)?;
        Manifest::load(name, &self.dir.join(name))
    }

    /// The version that a file was of, if it is here, else the current one of the image of that name; and whether it is the
    /// same.
    pub fn nearest(&self, origin: &Origin) -> Result<(Image, bool), ImageError> {
        let name = origin.name();
        let current = self.get(name);
        if let Ok(image) = &current
            && origin.is_key(&image.key)
        {
            return Ok((image.clone(), true));
        }
        let older = origin.directory().and_then(|directory| {
            let dir = self.dir.join(VERSIONS).join(directory);
            // A version is a directory and no link to one.
            let is_version = fs::symlink_metadata(&dir).is_ok_and(|metadata| metadata.is_dir());
            is_version.then(|| Manifest::load(name, &dir).ok()).flatten()
        });
        match older.filter(|image| origin.is_key(&image.key)) {
            Some(image) => Ok((image, true)),
            None => current.map(|image| (image, false)),
        }
    }

    /// Builds the image, or returns the one that is there when it was built from the same things.
    pub fn build(
        &self,
        recipe: Recipe,
        options: &BuildOptions,
        progress: &dyn Progress,
    ) -> Result<Image, ImageError> {
        let _lock = self.lock()?;
        let mut inner = None;
        if recipe == Recipe::Host {
            inner = Some(self.build_locked(Recipe::Pebble, options, None, progress)?);
        }
        self.build_locked(recipe, options, inner.as_ref(), progress)
    }

    fn build_locked(
        &self,
        recipe: Recipe,
        options: &BuildOptions,
        pebble: Option<&Image>,
        progress: &dyn Progress,
    ) -> Result<Image, ImageError> {
        let steps = Steps::new(progress, recipe.step_count());
        steps.next(&format!("{}: finding the packages", recipe.name()))?;
        let cache = PackageCache::open(&self.dir.join(CACHE), progress)?;
        let selection = cache.resolve(&recipe.packages())?;
        let binary = recipe.binary(options)?;
        let key = key(recipe, &selection, binary.as_deref(), pebble)?;
        if !options.force
            && let Ok(image) = self.get(recipe.name())
            && image.key == key
        {
            return Ok(image);
        }
        steps.next(&format!("{}: downloading {} packages", recipe.name(), selection.versions().len()))?;
        let archives = cache.archives();
        let debs = cache.download(&selection)?;
        let work = self.work_dir()?;
        steps.next(&format!("{}: unpacking the packages", recipe.name()))?;
        let quarried: Vec<PathBuf> = debs.into_iter().filter(|deb| recipe.quarries(deb)).collect();
        let quarry = Quarry::unpack(&quarried, &work.path.join("quarry"), progress)?;
        let out = work.path.join("out");
        fs::create_dir_all(&out).at("create", &out)?;
        let workshop =
            Workshop { quarry: &quarry, steps: &steps, work: &work.path, out: &out, archives: &archives };
        let mut manifest = recipe.build(&workshop, binary.as_deref(), pebble)?;
        manifest.key = key;
        manifest.packages = selection.versions();
        self.publish(recipe.name(), manifest, &out)
    }

    /// Takes a disk file, or a directory with `vmlinux` or `vmlinuz` and `initrd*`, into the store by copying.
    pub fn import(
        &self,
        name: &str,
        source: &Path,
        options: ImportOptions,
        progress: &dyn Progress,
    ) -> Result<Image, ImageError> {
        check_name(name)?;
        let _lock = self.lock()?;
        let steps = Steps::new(progress, 2);
        steps.next(&format!("checking {}", source.display()))?;
        let work = self.work_dir()?;
        let out = work.path.join("out");
        fs::create_dir_all(&out).at("create", &out)?;
        let manifest = crate::import::import(source, options, &out, &steps)?;
        self.publish(name, manifest, &out)
    }

    /// Takes the name away. The files stay until [`Self::prune`] finds them unused.
    pub fn remove(&self, name: &str) -> Result<(), ImageError> {
        check_name(name)?;
        let _lock = self.lock()?;
        let link = self.dir.join(name);
        match fs::remove_file(&link) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(ImageError::NotFound(name.to_owned()));
            }
            other => other.at("remove", &link)?,
        }
        sync_dir(&self.dir)
    }

    /// Deletes versions that no name points to and that hold none of `in_use` (backing files of VMs' disks).
    /// Returns how many were deleted.
    pub fn prune(&self, in_use: &[PathBuf]) -> Result<usize, ImageError> {
        let _lock = self.lock()?;
        let named: Vec<PathBuf> = self.list()?.into_iter().map(|image| image.dir).collect();
        let versions = self.dir.join(VERSIONS);
        let mut count = 0;
        for entry in fs::read_dir(&versions).at("list", &versions)? {
            let path = entry.at("list", &versions)?.path();
            if named.contains(&path) || in_use.iter().any(|file| file.starts_with(&path)) {
                continue;
            }
            fs::remove_dir_all(&path).at("remove", &path)?;
            count += 1;
        }
        Ok(count)
    }

    fn publish(&self, name: &str, mut manifest: Manifest, out: &Path) -> Result<Image, ImageError> {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        manifest.built_at_unix_secs = now.as_secs();
        let path = out.join(MANIFEST);
        let json = manifest.to_json(name)?;
        fs::write(&path, json).at("write", &path)?;
        sync_tree(out)?;
        let short_key: String = manifest.key.chars().take(SHORT_KEY_CHARS).collect();
        let versions = self.dir.join(VERSIONS);
        // A forced rebuild has the same key, and the version that is there may be in use.
        let candidates = (0..1000).map(|n| match n {
            0 => format!("{name}-{short_key}"),
            n => format!("{name}-{short_key}-{n}"),
        });
        let free = candidates.into_iter().find(|version| !versions.join(version).exists());
        let version = free.ok_or_else(|| ImageError::Busy(versions.clone()))?;
        let target = versions.join(&version);
        fs::rename(out, &target).at("rename", &target)?;
        sync_dir(&versions)?;
        let link = self.dir.join(format!("{TEMPORARY}-link"));
        fs::remove_file(&link).ok();
        std::os::unix::fs::symlink(Path::new(VERSIONS).join(&version), &link).at("link", &link)?;
        let final_link = self.dir.join(name);
        fs::rename(&link, &final_link).at("rename", &final_link)?;
        sync_dir(&self.dir)?;
        self.get(name)
    }

    /// One build at a time per store. Also makes it safe to clear what a killed build left.
    fn lock(&self) -> Result<StoreLock, ImageError> {
        let path = self.dir.join(".lock");
        let file = File::create(&path).at("create", &path)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| ImageError::Busy(self.dir.clone()))?;
        Ok(StoreLock(file))
    }

    fn work_dir(&self) -> Result<WorkDir, ImageError> {
        let path = self.dir.join(TEMPORARY);
        if path.exists() {
            fs::remove_dir_all(&path).at("remove", &path)?;
        }
        fs::create_dir(&path).at("create", &path)?;
        Ok(WorkDir { path })
    }
}

struct StoreLock(File);

/// Closing the file is not enough: a program that another thread is just starting has a copy of the handle until it
/// runs, and the lock would live as long as that.
impl Drop for StoreLock {
    fn drop(&mut self) {
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

/// Removed when the build ends, in whatever way.
struct WorkDir {
    path: PathBuf,
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next build.
        fs::remove_dir_all(&self.path).ok();
    }
}

/// Everything that the result depends on. Recipes and their scripts are part of this program's source.
fn key(
    recipe: Recipe,
    selection: &Selection,
    binary: Option<&Path>,
    pebble: Option<&Image>,
) -> Result<String, ImageError> {
    let mut hash = Sha256::new();
    let mut add = |text: &str| {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    };
    add(recipe.name());
    recipe.sources().iter().for_each(|text| add(text));
    selection.versions().iter().for_each(|text| add(text));
    if let Some(image) = pebble {
        add(&image.key);
    }
    if let Some(path) = binary {
        let mut file = File::open(path).at("open", path)?;
        let mut binary_hash = Sha256::new();
        std::io::copy(&mut file, &mut HashWriter(&mut binary_hash)).at("read", path)?;
        add(&hex(&binary_hash.finalize()));
    }
    Ok(hex(&hash.finalize()))
}

struct HashWriter<'a>(&'a mut Sha256);

impl std::io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sync_dir(dir: &Path) -> Result<(), ImageError> {
    File::open(dir).and_then(|file| file.sync_all()).at("sync", dir)
}

fn sync_tree(dir: &Path) -> Result<(), ImageError> {
    for entry in fs::read_dir(dir).at("list", dir)? {
        let path = entry.at("list", dir)?.path();
        File::open(&path).and_then(|file| file.sync_all()).at("sync", &path)?;
    }
    sync_dir(dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Silent;
    use crate::image::ImageKind;

    fn kernel_dir(dir: &Path, content: &str) -> PathBuf {
        let source = dir.join("source");
        fs::create_dir_all(&source).unwrap();
        fs::write(source.join("vmlinuz-6.1"), content).unwrap();
        fs::write(source.join("initrd.img"), "initrd").unwrap();
        source
    }

    #[test]
    fn an_import_is_listed_replaced_and_pruned_only_when_unused() {
        let dir = tempfile::tempdir().unwrap();
        let store = ImageStore::open(dir.path().join("images")).unwrap();
        let first =
            store.import("mine", &kernel_dir(dir.path(), "one"), ImportOptions::default(), &Silent).unwrap();
        assert_eq!((first.kind, first.append.as_str()), (ImageKind::Imported, "console=ttyS0"));
        let second =
            store.import("mine", &kernel_dir(dir.path(), "two"), ImportOptions::default(), &Silent).unwrap();
        assert_ne!(first.key, second.key);
        assert_eq!(store.list().unwrap(), std::slice::from_ref(&second));
        // The first version is still whole: a VM may be using it.
        let old_kernel = first.kernel.unwrap();
        assert_eq!(fs::read_to_string(&old_kernel).unwrap(), "one");
        assert_eq!(store.prune(std::slice::from_ref(&old_kernel)).unwrap(), 0);
        assert_eq!(store.prune(&[]).unwrap(), 1);
        assert!(!old_kernel.exists() && second.kernel.unwrap().exists());
        store.remove("mine").unwrap();
        assert!(matches!(store.get("mine"), Err(ImageError::NotFound(_))));
        assert!(matches!(store.remove("mine"), Err(ImageError::NotFound(_))));
    }

    #[test]
    fn a_file_of_another_store_is_found_by_its_images_name() {
        let dir = tempfile::tempdir().unwrap();
        let there = ImageStore::open(dir.path().join("there")).unwrap();
        let here = ImageStore::open(dir.path().join("here")).unwrap();
        let import = |store: &ImageStore, content: &str| {
            store.import("mine", &kernel_dir(dir.path(), content), ImportOptions::default(), &Silent).unwrap()
        };
        let was = import(&there, "one");
        let origin = Origin::of(was.kernel.as_ref().unwrap(), &here.dir).unwrap();
        assert!(matches!(here.nearest(&origin), Err(ImageError::NotFound(name)) if name == "mine"));
        let same = import(&here, "one");
        assert_eq!(here.nearest(&origin).unwrap(), (same.clone(), true));
        let newer = import(&here, "two");
        assert_eq!(here.nearest(&origin).unwrap(), (same.clone(), true), "an older version is still here");
        fs::remove_dir_all(&same.dir).unwrap();
        std::os::unix::fs::symlink(&was.dir, &same.dir).unwrap();
        assert_eq!(here.nearest(&origin).unwrap(), (newer, false), "no link is followed");
    }

    #[test]
    fn a_failed_import_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = ImageStore::open(dir.path().join("images")).unwrap();
        let empty = dir.path().join("empty");
        fs::create_dir(&empty).unwrap();
        assert!(matches!(
            store.import("mine", &empty, ImportOptions::default(), &Silent),
            Err(ImageError::Import { .. })
        ));
        assert!(store.import("mine", &dir.path().join("absent"), ImportOptions::default(), &Silent).is_err());
        assert!(matches!(
            store.import("../x", &empty, ImportOptions::default(), &Silent),
            Err(ImageError::BadName(_))
        ));
        assert!(store.list().unwrap().is_empty());
        assert!(!store.dir.join(TEMPORARY).exists());
    }

    #[test]
    fn one_damaged_image_does_not_hide_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let store = ImageStore::open(dir.path().join("images")).unwrap();
        store.import("good", &kernel_dir(dir.path(), "one"), ImportOptions::default(), &Silent).unwrap();
        let bad =
            store.import("bad", &kernel_dir(dir.path(), "two"), ImportOptions::default(), &Silent).unwrap();
        fs::write(bad.dir.join(MANIFEST), "{").unwrap();
        let names: Vec<String> = store.list().unwrap().into_iter().map(|image| image.name).collect();
        assert_eq!(names, ["good"]);
        assert!(matches!(store.get("bad"), Err(ImageError::BadManifest { .. })));
    }

    #[test]
    fn two_builds_at_once_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let store = ImageStore::open(dir.path()).unwrap();
        let _lock = store.lock().unwrap();
        assert!(matches!(store.lock(), Err(ImageError::Busy(_))));
    }

    #[test]
    fn a_program_that_is_just_being_started_holds_no_lock() {
        let dir = tempfile::tempdir().unwrap();
        let store = ImageStore::open(dir.path()).unwrap();
        let lock = store.lock().unwrap();
        let _copy = lock.0.try_clone().unwrap();
        drop(lock);
        store.lock().unwrap();
    }
}
