//! The kernel of a machine that starts from one of the host.
//!
//! A description says where it lay on the host that the machine was on then. That path is never followed: it may come from
//! anybody, and leads nowhere on another host. The name of the image is read out of it, and the kernel is that image's here.

use std::path::{Path, PathBuf};

use nestling_image::{Image, ImageError, ImageKind, ImageStore, Origin, Recipe};
use nestling_model::Boot;

use crate::{Node, blocking::blocking, error::Result};

const PATH_CHARS_SHOWN: usize = 200;
/// Words of a kernel's command line that are the machine's own, whatever image it starts from.
const OWN_WORDS: &str = "nestling.";

/// What a machine starts from here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    pub boot: Boot,
    /// What may surprise whoever starts it.
    pub warning: Option<String>,
}

/// In words why there is none.
pub type Choice = std::result::Result<Chosen, String>;

/// Whether a machine can go without a kernel of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Without {
    /// It started from its own disk.
    OwnDisk,
    /// Its description cannot say what it started from.
    Unsaid,
}

/// What the kernel is chosen by.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub described: Boot,
    /// What the machine of that id starts from here now, which it may go on with.
    pub present: Option<Boot>,
    /// The image that was asked for.
    pub image: Option<String>,
    pub without: Without,
}

impl Node {
    /// What a described machine starts from here, or in words why it cannot.
    pub(crate) async fn kernel_for(&self, wanted: Wanted) -> Result<Choice> {
        let (store, dir) = (self.image_store.clone(), self.home.images());
        blocking(move || choose(&store, &dir, wanted)).await
    }
}

/// Whether a machine of this host starts from a kernel that is not here any more. Blocks.
pub fn is_missing(boot: &Boot) -> bool {
    let Boot::Kernel { kernel, initrd, .. } = boot else { return false };
    [Some(kernel), initrd.as_ref()].into_iter().flatten().any(|file| !file.is_file())
}

/// Blocks.
fn choose(store: &ImageStore, dir: &Path, wanted: Wanted) -> Result<Choice> {
    let Wanted { described, present, image, without } = wanted;
    if let Some(name) = image {
        return asked_for(store, dir, &described, &name, without);
    }
    let is_present = present.as_ref() == Some(&described) && !is_missing(&described);
    let (kernel, initrd, append) = match described {
        Boot::Kernel { kernel, initrd, append } if !is_present => (kernel, initrd, append),
        described => return Ok(Ok(Chosen { boot: described, warning: None })),
    };
    let Some(origin) = origin(&kernel, initrd.as_deref(), dir) else {
        return Ok(Err(format!(
            "it starts from {}, which is no file of an image; choose an image of this host instead: --image NAME",
            shown(&kernel)
        )));
    };
    let name = origin.name();
    let (found, is_same) = match store.nearest(&origin) {
        Err(ImageError::NotFound(_)) => return Ok(Err(absent(name))),
        found => found?,
    };
    let warning = (!is_same).then(|| {
        format!(
            "it started from another version of the image '{name}', which this host does not have, and now starts from the \
             current one; its disk may have modules for another kernel"
        )
    });
    let boot = of(&found, initrd.is_some(), append);
    Ok(boot.map(|boot| Chosen { boot, warning }))
}

/// From the kernel of an image that was named.
fn asked_for(
    store: &ImageStore,
    dir: &Path,
    described: &Boot,
    name: &str,
    without: Without,
) -> Result<Choice> {
    let image = match store.get(name) {
        Err(ImageError::NotFound(_)) => return Ok(Err(not_here(name))),
        found => found?,
    };
    let append = match (described, without) {
        (Boot::Firmware, Without::OwnDisk) => {
            return Ok(Err("it starts from its own disk, and takes no kernel of an image".to_owned()));
        }
        (Boot::Firmware, Without::Unsaid) => image.append.clone(),
        (Boot::Kernel { kernel, append, .. }, _) => {
            let was = Origin::of(kernel, dir);
            if was.is_some_and(|origin| origin.name() == name) { append.clone() } else { own(&image, append) }
        }
    };
    Ok(of(&image, true, append).map(|boot| Chosen { boot, warning: None }))
}

/// The image that both files are of.
fn origin(kernel: &Path, initrd: Option<&Path>, dir: &Path) -> Option<Origin> {
    let origin = Origin::of(kernel, dir)?;
    match initrd.map(|initrd| Origin::of(initrd, dir)) {
        Some(other) if other.as_ref() != Some(&origin) => None,
        _ => Some(origin),
    }
}

/// The image's own command line, with what the other one had for the machine itself.
fn own(image: &Image, append: &str) -> String {
    let words = append.split_ascii_whitespace().filter(|word| word.starts_with(OWN_WORDS));
    let words: Vec<&str> = std::iter::once(image.append.as_str()).chain(words).collect();
    words.join(" ").trim().to_owned()
}

fn of(image: &Image, with_initrd: bool, append: String) -> std::result::Result<Boot, String> {
    let name = &image.name;
    if image.kind == ImageKind::Reader {
        return Err(format!(
            "the image '{name}' is what this node reads recovery points with, and no machine's"
        ));
    }
    let kernel: PathBuf = image.kernel.clone().ok_or_else(|| {
        format!("the image '{name}' starts from its disk, and has no kernel to start it from")
    })?;
    let initrd = image.initrd.clone().filter(|_| with_initrd);
    Ok(Boot::Kernel { kernel, initrd, append })
}

fn absent(name: &str) -> String {
    format!("it starts from the kernel of {}; or choose another image: --image NAME", not_here(name))
}

/// How it gets here.
fn not_here(name: &str) -> String {
    let how = if Recipe::from_name(name).is_some() {
        format!("build it first: nestling image build {name}")
    } else {
        format!("import it first: nestling image import {name} PATH")
    };
    format!("the image '{name}', which this host does not have; {how}")
}

fn shown(path: &Path) -> String {
    nestling_model::shown(&path.to_string_lossy(), PATH_CHARS_SHOWN)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use nestling_image::{ImportOptions, Silent};

    use super::*;

    /// An image `name` with a kernel of this content.
    fn image(store: &ImageStore, name: &str, content: &str) -> Image {
        let dir = tempfile::tempdir().unwrap();
        for (file, content) in
            [("vmlinuz", content), ("initrd.img", "initrd"), ("append", "console=ttyS0 quiet")]
        {
            fs::write(dir.path().join(file), content).unwrap();
        }
        store.import(name, dir.path(), ImportOptions::default(), &Silent).unwrap()
    }

    fn kernel_of(image: &Image, append: &str) -> Boot {
        Boot::Kernel {
            kernel: image.kernel.clone().unwrap(),
            initrd: image.initrd.clone(),
            append: append.into(),
        }
    }

    fn wanted(described: &Boot) -> Wanted {
        Wanted { described: described.clone(), present: None, image: None, without: Without::OwnDisk }
    }

    struct Home {
        _dir: tempfile::TempDir,
        path: PathBuf,
        store: ImageStore,
    }

    impl Home {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().canonicalize().unwrap().join("images");
            Self { store: ImageStore::open(&path).unwrap(), path, _dir: dir }
        }

        fn choose(&self, wanted: Wanted) -> Choice {
            choose(&self.store, &self.path, wanted).unwrap()
        }
    }

    #[test]
    fn a_machine_of_another_host_starts_from_the_image_of_the_same_name() {
        let (there, here) = (Home::new(), Home::new());
        let was = kernel_of(&image(&there.store, "mine", "one"), "console=ttyS0 nestling.hostname=a");
        let none = here.choose(wanted(&was)).unwrap_err();
        assert!(none.contains("nestling image import mine PATH") && none.contains("--image NAME"), "{none}");

        let same = image(&here.store, "mine", "one");
        let chosen = here.choose(wanted(&was)).unwrap();
        assert_eq!(chosen.boot, kernel_of(&same, "console=ttyS0 nestling.hostname=a"));
        assert_eq!(chosen.warning, None, "it is the same version");

        let rebuilt = image(&here.store, "mine", "two");
        assert_eq!(here.choose(wanted(&was)).unwrap(), chosen, "the older version is still here");
        fs::remove_dir_all(&same.dir).unwrap();
        let chosen = here.choose(wanted(&was)).unwrap();
        assert_eq!(chosen.boot, kernel_of(&rebuilt, "console=ttyS0 nestling.hostname=a"));
        assert!(chosen.warning.unwrap().contains("another version of the image 'mine'"));
    }

    #[test]
    fn an_image_that_can_be_built_is_named_with_how() {
        let here = Home::new();
        let kernel = "/elsewhere/images/.versions/host-3e66ce8f35af92dd/vmlinux".into();
        let was = Boot::Kernel { kernel, initrd: None, append: String::new() };
        let none = here.choose(wanted(&was)).unwrap_err();
        assert!(none.contains("nestling image build host"), "{none}");
    }

    #[test]
    fn another_image_is_taken_when_it_is_asked_for() {
        let here = Home::new();
        let was = kernel_of(&image(&here.store, "mine", "one"), "root=/dev/vda nestling.hostname=a");
        let other = image(&here.store, "other", "two");
        let asked =
            |described: &Boot, name: &str| Wanted { image: Some(name.to_owned()), ..wanted(described) };
        let chosen = here.choose(asked(&was, "other")).unwrap();
        assert_eq!(chosen.boot, kernel_of(&other, "console=ttyS0 quiet nestling.hostname=a"));
        assert_eq!(here.choose(asked(&was, "mine")).unwrap().boot, was);
        let none = here.choose(asked(&was, "pebble")).unwrap_err();
        assert!(none.contains("nestling image build pebble"), "{none}");
        let own = here.choose(asked(&Boot::Firmware, "other")).unwrap_err();
        assert!(own.contains("own disk"), "{own}");
        let unsaid = Wanted { without: Without::Unsaid, ..asked(&Boot::Firmware, "other") };
        assert_eq!(here.choose(unsaid).unwrap().boot, kernel_of(&other, "console=ttyS0 quiet"));
        assert!(choose(&here.store, &here.path, asked(&was, "../x")).is_err());
    }

    #[test]
    fn no_file_of_the_host_but_an_image_becomes_a_kernel() {
        let here = Home::new();
        let mine = image(&here.store, "mine", "one");
        let version = mine.dir.file_name().unwrap().to_owned();
        let secret = here.path.join("../shadow");
        fs::write(&secret, "x").unwrap();
        std::os::unix::fs::symlink(&secret, here.path.join("link")).unwrap();
        let kernel =
            |kernel: PathBuf, initrd: Option<PathBuf>| Boot::Kernel { kernel, initrd, append: String::new() };
        assert_eq!(here.choose(wanted(&Boot::Firmware)).unwrap().boot, Boot::Firmware);
        for bad in [secret, here.path.join("link"), here.path.join("../shadow"), "/etc/shadow".into()] {
            for described in
                [kernel(bad.clone(), None), kernel(mine.kernel.clone().unwrap(), Some(bad.clone()))]
            {
                let refused = here.choose(wanted(&described)).unwrap_err();
                assert!(refused.contains("no file of an image"), "{bad:?}: {refused}");
                let present = Wanted { present: Some(described.clone()), ..wanted(&described) };
                if !is_missing(&described) {
                    assert_eq!(here.choose(present).unwrap().boot, described, "it has that already");
                }
            }
        }
        // Whatever the file is called, it is the image's kernel.
        let named = kernel(Path::new("/x/.versions").join(version).join("shadow"), None);
        assert_eq!(here.choose(wanted(&named)).unwrap().boot, kernel(mine.kernel.clone().unwrap(), None));
        assert!(is_missing(&named) && !is_missing(&kernel(mine.kernel.unwrap(), mine.initrd)));
    }
}
