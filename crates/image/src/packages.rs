//! Debian packages: which ones a recipe needs, fetching them, and taking single files out of them.
//!
//! Uses the machine's own apt sources and trust, but nothing of the machine's own state: every path that apt
//! would write to is redirected into the image store, and nothing is installed or run on the host.

use crate::command::Tool;
use crate::error::IoContext;
use crate::{ImageError, Progress};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Where apt keeps what it fetched: survives builds, so that the second build needs no network.
pub struct PackageCache<'a> {
    dir: PathBuf,
    progress: &'a dyn Progress,
}

/// Exactly the packages, in exactly the versions, that a recipe is built from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    wanted: Vec<String>,
    /// Name to (version, architecture).
    packages: BTreeMap<String, (String, String)>,
}

impl Selection {
    /// `name=version`, sorted: part of the image's key and of its description.
    pub fn versions(&self) -> Vec<String> {
        self.packages.iter().map(|(name, (version, _))| format!("{name}={version}")).collect()
    }
}

impl<'a> PackageCache<'a> {
    pub fn open(dir: &Path, progress: &'a dyn Progress) -> Result<Self, ImageError> {
        let partial = dir.join("archives/partial");
        fs::create_dir_all(&partial).at("create", &partial)?;
        let status = dir.join("status");
        fs::write(&status, b"").at("write", &status)?;
        Ok(Self { dir: dir.to_owned(), progress })
    }

    pub fn archives(&self) -> PathBuf {
        self.dir.join("archives")
    }

    fn apt(&self, doing: &str) -> Tool<'a> {
        let option = |name: &str, path: &str| format!("-o{name}={}", self.dir.join(path).display());
        Tool::new("apt-get", doing, self.progress).args(["-y", "-q", "--no-install-recommends"]).args([
            // An empty status file: nothing counts as installed, so every dependency is listed.
            option("Dir::State::status", "status"),
            option("Dir::State::extended_states", "extended_states"),
            option("Dir::Cache::archives", "archives/"),
            "-oDir::Cache::pkgcache=".to_owned(),
            "-oDir::Cache::srcpkgcache=".to_owned(),
            "-oDebug::NoLocking=1".to_owned(),
            "-oAPT::Sandbox::User=".to_owned(),
            "-oAcquire::Retries=3".to_owned(),
            "-oAPT::Get::List-Cleanup=0".to_owned(),
        ])
    }

    /// Asks apt what `wanted` and all their dependencies are today. No network.
    pub fn resolve(&self, wanted: &[&str]) -> Result<Selection, ImageError> {
        let doing = "finding the packages (if a package is unknown, run `apt-get update` first)";
        let output = self.apt(doing).args(["--simulate", "install"]).args(wanted).run()?;
        let text = String::from_utf8_lossy(&output);
        let packages: BTreeMap<_, _> = text.lines().filter_map(parse_inst).collect();
        if packages.is_empty() {
            let reason = "no package to install was listed".to_owned();
            return Err(ImageError::Output { doing: doing.into(), program: "apt-get".into(), reason });
        }
        Ok(Selection { wanted: wanted.iter().map(|name| (*name).to_owned()).collect(), packages })
    }

    /// Fetches what is not here yet; apt checks every signature and hash.
    pub fn download(&self, selection: &Selection) -> Result<Vec<PathBuf>, ImageError> {
        let pinned = selection.wanted.iter().map(|name| match selection.packages.get(name) {
            Some((version, _)) => format!("{name}={version}"),
            None => name.clone(),
        });
        let doing = "downloading packages (if files are not found, run `apt-get update` first)";
        self.apt(doing).args(["--download-only", "install"]).args(pinned).run()?;
        let archives = self.archives();
        let file = |(name, (version, architecture)): (&String, &(String, String))| {
            let path = archives.join(format!("{name}_{}_{architecture}.deb", version.replace(':', "%3a")));
            if path.is_file() { Ok(path) } else { Err(missing(name, &path.display().to_string())) }
        };
        selection.packages.iter().map(file).collect()
    }
}

const DEBIAN_KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The release that this machine runs on, and its own Debian sources as a sources.list.
pub fn debian_sources(progress: &dyn Progress) -> Result<(String, String), ImageError> {
    let doing = "reading the machine's package sources";
    let signed_by = if Path::new(DEBIAN_KEYRING).exists() {
        format!("[signed-by={DEBIAN_KEYRING}] ")
    } else {
        String::new()
    };
    let format = format!("deb {signed_by}$(REPO_URI) $(RELEASE) $(COMPONENT)");
    let output = Tool::new("apt-get", doing, progress)
        .args(["indextargets", "--format", &format, "Identifier: Packages", "Origin: Debian"])
        .run()?;
    let text = String::from_utf8_lossy(&output);
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines.dedup();
    // The base suite is the one whose updates are listed as SUITE-updates; it has the shortest name.
    let suites = lines.iter().filter_map(|line| line.rsplit(' ').nth(1));
    let suite = suites.filter(|suite| !suite.contains(['/', '-'])).min_by_key(|suite| suite.len());
    let Some(suite) = suite else {
        let reason = "no Debian source is configured, or `apt-get update` was never run".to_owned();
        return Err(ImageError::Output { doing: doing.into(), program: "apt-get".into(), reason });
    };
    Ok((suite.to_owned(), lines.join("\n") + "\n"))
}

/// `Inst libc6 (2.36-9+deb12u14 Debian:12.12/oldstable [amd64]) []`
fn parse_inst(line: &str) -> Option<(String, (String, String))> {
    let (name, rest) = line.strip_prefix("Inst ")?.split_once(' ')?;
    let (_, inside) = rest.split_once('(')?;
    let (inside, _) = inside.split_once(')')?;
    let version = inside.split_whitespace().next()?;
    let architecture = inside.rsplit_once('[')?.1.strip_suffix(']')?;
    Some((name.to_owned(), (version.to_owned(), architecture.to_owned())))
}

pub fn missing(package: &str, file: &str) -> ImageError {
    ImageError::MissingInPackage { package: package.to_owned(), file: file.to_owned() }
}

/// The content of the packages, unpacked beside each other: a quarry, not a system.
pub struct Quarry<'a> {
    root: PathBuf,
    progress: &'a dyn Progress,
}

impl<'a> Quarry<'a> {
    pub fn unpack(debs: &[PathBuf], root: &Path, progress: &'a dyn Progress) -> Result<Self, ImageError> {
        merged_usr(root)?;
        for deb in debs {
            let script = r#"set -e; exec 3>&1; dpkg-deb --fsys-tarfile "$1" | tar -x --keep-directory-symlink -C "$2""#;
            let name = deb.file_name().unwrap_or_default().to_string_lossy();
            Tool::new("sh", format!("unpacking {name}"), progress)
                .args(["-c", script, "sh"])
                .arg(deb)
                .arg(root)
                .run()?;
        }
        Ok(Self { root: root.to_owned(), progress })
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    pub fn read(&self, package: &str, path: &str) -> Result<Vec<u8>, ImageError> {
        let full = self.path(path);
        if !full.is_file() {
            return Err(missing(package, path));
        }
        fs::read(&full).at("read", full)
    }

    /// The only entry of a directory that the package manager fills with one versioned name.
    pub fn only_entry(&self, package: &str, dir: &str) -> Result<String, ImageError> {
        let full = self.path(dir);
        let mut names = Vec::new();
        for entry in fs::read_dir(&full).at("list", &full)? {
            names.push(entry.at("list", &full)?.file_name().to_string_lossy().into_owned());
        }
        match (names.pop(), names.is_empty()) {
            (Some(name), true) => Ok(name),
            _ => Err(missing(package, &format!("exactly one entry in {dir}"))),
        }
    }

    /// A program of the packages, run here with the libraries of the packages.
    pub fn tool(&self, program: &str, argv0: &str, doing: &str) -> Tool<'a> {
        Tool::new(&self.loader().to_string_lossy(), doing, self.progress)
            .args(["--argv0", argv0, "--library-path"])
            .arg(self.library_path())
            .arg(self.path(program))
    }

    fn loader(&self) -> PathBuf {
        self.path("lib64/ld-linux-x86-64.so.2")
    }

    fn library_path(&self) -> String {
        self.path("usr/lib/x86_64-linux-gnu").display().to_string()
    }

    /// The shared libraries that `programs` load: path in the image, and the file here.
    pub fn libraries(&self, programs: &[PathBuf]) -> Result<BTreeMap<String, PathBuf>, ImageError> {
        let mut found = BTreeMap::new();
        found.insert("usr/lib64/ld-linux-x86-64.so.2".to_owned(), self.loader());
        for program in programs {
            let doing = format!("finding the libraries of {}", program.display());
            let output = Tool::new(&self.loader().to_string_lossy(), &doing, self.progress)
                .arg("--library-path")
                .arg(self.library_path())
                .arg("--list")
                .arg(program)
                .run()?;
            for line in String::from_utf8_lossy(&output).lines() {
                let Some((name, target)) = line.trim().split_once(" => ") else { continue };
                let target = target.split_once(" (").map_or(target, |(path, _)| path);
                if !Path::new(target).starts_with(&self.root) {
                    if name.contains('/') {
                        continue; // The loader itself, under the name that the program asks for.
                    }
                    let reason = format!("it needs {name}, which is not in the packages");
                    return Err(ImageError::Output { doing, program: "ld.so".into(), reason });
                }
                found.insert(format!("usr/lib/x86_64-linux-gnu/{name}"), PathBuf::from(target));
            }
        }
        Ok(found)
    }
}

/// The directories of a merged `/usr`, as every Debian since 12 has them.
pub fn merged_usr(root: &Path) -> Result<(), ImageError> {
    for name in ["bin", "sbin", "lib", "lib64"] {
        let dir = root.join("usr").join(name);
        fs::create_dir_all(&dir).at("create", &dir)?;
        let link = root.join(name);
        std::os::unix::fs::symlink(format!("usr/{name}"), &link).at("link", &link)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apt_lines_are_understood() {
        let line = "Inst libc6 (2.36-9+deb12u14 Debian:12.12/oldstable, Debian-Security:12 [amd64]) []";
        let expected = ("libc6".to_owned(), ("2.36-9+deb12u14".to_owned(), "amd64".to_owned()));
        assert_eq!(parse_inst(line), Some(expected));
        for line in ["Conf libc6 (2.36 Debian [amd64])", "Inst", "Inst x", "Inst x y", "Inst x )(", ""] {
            assert_eq!(parse_inst(line), None, "{line}");
        }
    }
}
