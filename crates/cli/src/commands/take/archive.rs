//! Files into one archive, which comes whole or not at all.

use std::path::Path;

use nestling_api::{
    FileContent,
    v1::{ErrorCode, RecoveryFile},
};

use super::{
    Miss, Sink, Taken,
    output::{NewFile, Packed, Packing, Raw},
    tar::TarWriter,
    zip::ZipWriter,
};
use crate::{
    failure::{Failure, Result},
    printer::Printer,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Tar(Packing),
    Zip,
}

/// By the file's ending.
fn form(path: &Path) -> Option<Form> {
    let name = path.file_name()?.to_string_lossy().to_ascii_lowercase();
    let endings = [
        (".tar", Form::Tar(Packing::None)),
        (".tar.gz", Form::Tar(Packing::Gzip)),
        (".tgz", Form::Tar(Packing::Gzip)),
        (".tar.zst", Form::Tar(Packing::Zstd)),
        (".zip", Form::Zip),
    ];
    let mut fitting = endings.into_iter().filter(|(ending, _)| name.ends_with(ending));
    fitting.next().map(|(_, form)| form)
}

enum Writer {
    Tar(Box<TarWriter<Packed>>),
    Zip(Box<ZipWriter>),
}

pub struct Archive {
    writer: Writer,
    /// None: standard output.
    file: Option<NewFile>,
}

impl Archive {
    /// `-` is standard output, and a tar.
    pub fn create(printer: Printer, path: &Path, force: bool) -> Result<Self> {
        if path == Path::new("-") {
            if rustix::termios::isatty(rustix::stdio::stdout()) {
                return Err(Failure::usage("an archive is not written to a terminal"));
            }
            return Self::tar(Packing::None, Raw::standard(printer), None);
        }
        let Some(form) = form(path) else {
            let said = format!("{} ends with no form of an archive", path.display());
            return Err(
                Failure::usage(said).hint("there are .tar, .tar.gz, .tgz, .tar.zst, .zip, and - for a tar")
            );
        };
        let (named, file) = NewFile::create(path, force)?;
        match form {
            Form::Tar(packing) => Self::tar(packing, Raw::file(file), Some(named)),
            Form::Zip => Ok(Self { writer: Writer::Zip(Box::new(ZipWriter::new(file))), file: Some(named) }),
        }
    }

    fn tar(packing: Packing, raw: Raw, file: Option<NewFile>) -> Result<Self> {
        let packed = Packed::new(packing, raw).map_err(|error| Miss::unwritten(&error))?;
        Ok(Self { writer: Writer::Tar(Box::new(TarWriter::new(packed))), file })
    }

    /// The archive is whole, and gets its name.
    pub fn finish(self) -> Result {
        let file = match self.writer {
            Writer::Tar(mut tar) => {
                tar.close()?;
                tar.out.finish().map_err(|error| Miss::unwritten(&error))?
            }
            Writer::Zip(zip) => Some(zip.finish()?),
        };
        match (self.file, file) {
            (Some(named), Some(file)) => named.finish(&file),
            _ => Ok(()),
        }
    }
}

impl Sink for Archive {
    async fn enter(&mut self, folder: &RecoveryFile) -> Taken {
        match &mut self.writer {
            Writer::Tar(tar) => tar.enter(folder),
            Writer::Zip(zip) => zip.enter(folder),
        }
    }

    async fn leave(&mut self, _folder: &RecoveryFile) -> Taken {
        match &mut self.writer {
            Writer::Tar(tar) => drop(tar.leave()),
            Writer::Zip(zip) => zip.leave(),
        }
        Ok(())
    }

    async fn special(&mut self, file: &RecoveryFile) -> Taken {
        match &mut self.writer {
            Writer::Tar(tar) => tar.special(file),
            Writer::Zip(zip) => zip.special(file),
        }
    }

    async fn begin(&mut self, file: &RecoveryFile, is_read: bool) -> Taken {
        match &mut self.writer {
            Writer::Tar(tar) => {
                if !is_read {
                    tar.out.mark().map_err(|error| Miss::unwritten(&error))?;
                }
                tar.begin(file).map(drop)
            }
            Writer::Zip(zip) => zip.begin(file),
        }
    }

    async fn write(&mut self, piece: &FileContent) -> Taken {
        match &mut self.writer {
            Writer::Tar(tar) => tar.write(piece),
            Writer::Zip(zip) => zip.write(piece),
        }
    }

    async fn end(&mut self, _file: &RecoveryFile) -> Taken {
        match &mut self.writer {
            Writer::Tar(tar) => tar.end(),
            Writer::Zip(zip) => zip.end(),
        }
    }

    /// What came of it is taken back. What was given to others cannot be: they get an archive that ends too early, and see it.
    async fn give_up(&mut self) -> Taken {
        match &mut self.writer {
            Writer::Tar(tar) => {
                if tar.out.take_back().map_err(|error| Miss::unwritten(&error))? {
                    return Ok(());
                }
                let why = "a file cannot be read to its end, and the archive ends in it";
                Err(Miss::All(
                    Failure::new(ErrorCode::Failed, why)
                        .hint("into a file of this host the archive comes without that one"),
                ))
            }
            Writer::Zip(zip) => zip.give_up(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::PermissionsExt,
        path::PathBuf,
        process::{Command, Stdio},
    };

    use nestling_api::v1::{RecoveryFileAttribute, RecoveryFileKind, RecoveryFileTime};

    use super::*;
    use crate::commands::take::tests::{about, link};

    const ENDINGS: [&str; 5] = ["a.tar", "a.tar.gz", "a.tgz", "a.tar.zst", "a.zip"];

    fn bytes(text: &str) -> FileContent {
        FileContent::Bytes(text.as_bytes().to_vec().into())
    }

    async fn file(archive: &mut Archive, name: &str, content: &str) {
        let about = about(name, RecoveryFileKind::File, content.len() as u64);
        archive.begin(&about, true).await.expect("begun");
        archive.write(&bytes(content)).await.expect("written");
        archive.end(&about).await.expect("ended");
    }

    /// A tree with a damaged file in it, whose rest does not come.
    async fn fill(archive: &mut Archive) {
        let folder = RecoveryFile { mode: Some(0o750), ..about("tree", RecoveryFileKind::Directory, 0) };
        archive.enter(&folder).await.expect("entered");
        file(archive, "a", "first\n").await;
        let large = about("damaged", RecoveryFileKind::File, 9 << 20);
        archive.begin(&large, false).await.expect("begun");
        archive.write(&bytes("half of it")).await.expect("written");
        archive.give_up().await.expect("given up");
        let hole = about("hole", RecoveryFileKind::File, 200_001);
        archive.begin(&hole, false).await.expect("begun");
        archive.write(&FileContent::Zeroes(200_000)).await.expect("written");
        archive.write(&bytes("x")).await.expect("written");
        archive.end(&hole).await.expect("ended");
        archive.special(&link("link", "../a//./b")).await.expect("a link");
        file(archive, &"n".repeat(200), "long\n").await;
        archive.enter(&about("empty", RecoveryFileKind::Directory, 0)).await.expect("entered");
        archive.leave(&folder).await.expect("left");
        archive.leave(&folder).await.expect("left");
        // Neither where it would lead, nor what is there already.
        for bad in ["\\x2e\\x2e", "..", "a\\x2fb", "\\x2fa", "a\\x00", "tree"] {
            let bad = about(bad, RecoveryFileKind::File, 0);
            assert!(matches!(archive.begin(&bad, true).await, Err(Miss::One(_))), "{bad:?}");
        }
        let socket = about("socket", RecoveryFileKind::Socket, 0);
        assert!(matches!(archive.special(&socket).await, Err(Miss::One(_))));
        file(archive, "last", "last\n").await;
    }

    fn run(dir: &Path, line: &str) -> String {
        let said = Command::new("sh").current_dir(dir).args(["-ec", line]).output().expect("a shell");
        assert!(said.status.success(), "{line}: {}", String::from_utf8_lossy(&said.stderr));
        String::from_utf8_lossy(&said.stdout).into_owned()
    }

    fn is_there(program: &str) -> bool {
        let mut command = Command::new(program);
        command.arg("--help").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok()
    }

    /// What another program makes of the archive is what was put in.
    fn is_whole(out: &Path) {
        let read = |name: &str| fs::read(out.join(name)).expect(name);
        assert_eq!(read("tree/a"), b"first\n");
        assert_eq!(read(&format!("tree/{}", "n".repeat(200))), b"long\n");
        let hole = read("tree/hole");
        assert_eq!((hole.len(), hole.last()), (200_001, Some(&b'x')));
        assert!(hole[..200_000].iter().all(|byte| *byte == 0));
        assert_eq!(fs::read_link(out.join("tree/link")).expect("a link"), PathBuf::from("../a//./b"));
        assert!(out.join("tree/empty").is_dir() && !out.join("tree/damaged").exists());
        assert_eq!(read("last"), b"last\n");
        let meta = fs::metadata(out.join("tree/a")).expect("there");
        assert_eq!(meta.permissions().mode() & 0o7777, 0o640);
        let since = meta.modified().expect("a time").duration_since(std::time::UNIX_EPOCH);
        assert_eq!(since.expect("a time").as_secs(), 1_000_000_000);
        let tree = fs::metadata(out.join("tree")).expect("there");
        assert_eq!(tree.permissions().mode() & 0o7777, 0o750);
    }

    #[tokio::test]
    async fn other_programs_read_what_was_written() {
        let dir = tempfile::tempdir().expect("a directory");
        for ending in ENDINGS {
            let path = dir.path().join(ending);
            let mut archive = Archive::create(Printer::new(true), &path, false).expect("made");
            fill(&mut archive).await;
            assert!(!path.exists(), "it has its name when it is whole");
            archive.finish().expect("finished");
            assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
            assert!(Archive::create(Printer::new(true), &path, false).is_err(), "what is there stays");
            let readers: &[(&str, &str)] = match form(&path).expect("a form") {
                Form::Zip => &[("unzip", "unzip -q"), ("python3", "python3 -m zipfile -t")],
                Form::Tar(Packing::Zstd) => &[("zstd", "zstd -dc < {} | tar -xpf -")],
                Form::Tar(Packing::Gzip) => &[
                    ("tar", "gzip -dc < {} | tar -xpf -"),
                    ("busybox", "gzip -dc < {} | busybox tar -xpf -"),
                    ("python3", "python3 -c 'import sys, tarfile; tarfile.open(sys.argv[1]).getmembers()'"),
                ],
                Form::Tar(Packing::None) => &[("tar", "tar -xpf"), ("busybox", "busybox tar -xpf")],
            };
            for (number, (_, line)) in readers.iter().enumerate().filter(|(_, (tool, _))| is_there(tool)) {
                let out = dir.path().join(format!("{ending}-{number}"));
                fs::create_dir(&out).expect("a directory");
                let given = path.display().to_string();
                match line.contains("{}") {
                    true => run(&out, &line.replace("{}", &given)),
                    false => run(&out, &format!("{line} {given}")),
                };
                if !line.starts_with("python3") {
                    is_whole(&out);
                }
            }
        }
        let parts = fs::read_dir(dir.path()).expect("a list").flatten();
        assert_eq!(parts.filter(|e| e.file_name().to_string_lossy().starts_with(".nestling")).count(), 0);
    }

    #[tokio::test]
    async fn a_tar_has_any_name_and_attributes() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a.tar");
        let mut archive = Archive::create(Printer::new(true), &path, false).expect("made");
        let attribute =
            |name: &str, value: &str| RecoveryFileAttribute { name: name.into(), value: value.into() };
        let odd = RecoveryFile {
            uid: Some(3_000_000_000),
            gid: Some(1234),
            mode: Some(0o4755),
            modified: Some(RecoveryFileTime { seconds: -5, nanoseconds: 250_000_000 }),
            attributes: vec![
                attribute("user.a=b%", "00ff0b"),
                attribute("security.capability", "0100000200200000000000000000000000000000"),
                attribute("system.ntfs_ea", "00"),
            ],
            ..about("caf\\xe9\\x0a", RecoveryFileKind::File, 0)
        };
        archive.begin(&odd, true).await.expect("begun");
        archive.end(&odd).await.expect("ended");
        let target = format!("{}\\xff", "t/".repeat(90));
        archive.special(&link("l", &target)).await.expect("a link");
        archive.special(&about("pipe", RecoveryFileKind::Fifo, 0)).await.expect("a fifo");
        archive.finish().expect("finished");
        // What reads it knows nothing of how it was written.
        let mut read = tar::Archive::new(fs::File::open(&path).expect("opened"));
        let mut entries = read.entries().expect("entries");
        let mut first = entries.next().expect("an entry").expect("read");
        assert_eq!(&*first.path_bytes(), b"caf\xe9\n");
        let header = first.header();
        assert_eq!((header.uid().ok(), header.gid().ok()), (Some(3_000_000_000), Some(1234)));
        assert_eq!((header.mode().ok(), header.mtime().ok()), (Some(0o4755), Some(0)));
        let records = first.pax_extensions().expect("records").expect("records");
        let records: Vec<(String, Vec<u8>)> = records
            .map(|record| record.expect("a record"))
            .map(|record| (record.key().expect("a key").to_owned(), record.value_bytes().to_vec()))
            .collect();
        assert_eq!(records[0], ("mtime".to_owned(), b"-4.750000000".to_vec()));
        assert_eq!(records[1], ("SCHILY.xattr.user.a%3Db%25".to_owned(), vec![0, 0xff, 0x0b]));
        assert_eq!((records.len(), &*records[2].0), (3, "SCHILY.xattr.security.capability"));
        let second = entries.next().expect("an entry").expect("read");
        assert_eq!(second.link_name_bytes().as_deref(), Some(&[&*b"t/".repeat(90), b"\xff"].concat()[..]));
        let third = entries.next().expect("an entry").expect("read");
        assert_eq!(third.header().entry_type(), tar::EntryType::Fifo);
        assert!(entries.next().is_none());
    }

    #[tokio::test]
    async fn what_is_not_finished_leaves_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        for ending in ENDINGS {
            let path = dir.path().join(ending);
            let mut archive = Archive::create(Printer::new(true), &path, false).expect("made");
            file(&mut archive, "a", "text").await;
            drop(archive);
        }
        assert_eq!(fs::read_dir(dir.path()).expect("a list").count(), 0);
        // What comes meanwhile is not replaced, unless it is wanted.
        let path = dir.path().join("a.tar");
        for (force, left) in [(false, &b"mine"[..]), (true, b"")] {
            fs::write(&path, "mine").expect("written");
            let archive = if force {
                Archive::create(Printer::new(true), &path, true).expect("made")
            } else {
                fs::remove_file(&path).expect("removed");
                let archive = Archive::create(Printer::new(true), &path, false).expect("made");
                fs::write(&path, "mine").expect("written");
                archive
            };
            assert_eq!(archive.finish().is_ok(), force);
            let is = fs::read(&path).expect("read");
            assert!(if force { is.len() == 1024 } else { is == left });
        }
    }

    #[test]
    fn the_form_is_in_the_ending() {
        let is = |name: &str| form(Path::new(name));
        assert_eq!(is("/x/a.TAR"), Some(Form::Tar(Packing::None)));
        assert_eq!(is("a.tar.gz"), is("a.tgz"));
        assert_eq!(is("a.tar.zst"), Some(Form::Tar(Packing::Zstd)));
        assert_eq!(is("a.zip"), Some(Form::Zip));
        for none in ["a", "a.gz", "a.tar.bz2", "tar", "/"] {
            assert_eq!(is(none), None, "{none}");
        }
    }
}
