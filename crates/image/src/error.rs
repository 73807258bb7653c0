//! What can go wrong while an image is built, read or imported.
//!
//! Every variant says what failed, on which object, and what to do next. It must never swallow the output of
//! the program that failed: without it nobody can mend the machine.

use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("image '{0}' was not found; `nestling image list` shows the images of this node")]
    NotFound(String),
    #[error(
        "'{0}' is not a usable image name: use 1 to 64 letters, digits, '.', '-' or '_', starting with a letter or digit"
    )]
    BadName(String),
    #[error("image '{name}' has a damaged description ({reason}); build or import it again")]
    BadManifest { name: String, reason: String },
    #[error("cannot {action} '{}'", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the program '{program}' is missing; install it with `apt-get install {package}`")]
    MissingTool { program: String, package: &'static str },
    #[error("{doing} failed: '{program}' {status}: {output}")]
    Command { doing: String, program: String, status: String, output: String },
    #[error("{doing} failed: '{program}' printed something unexpected: {reason}")]
    Output { doing: String, program: String, reason: String },
    #[error(
        "the package '{package}' does not contain '{file}' as expected; this Debian release is not supported by the recipe"
    )]
    MissingInPackage { package: String, file: String },
    #[error("'{}' cannot be imported: {reason}", path.display())]
    Import { path: PathBuf, reason: String },
    #[error("the image 'host' needs the nestling program that it is to contain, but '{}' {reason}", path.display())]
    Binary { path: PathBuf, reason: String },
    #[error("another build is running in '{}'; wait for it to end or cancel it", .0.display())]
    Busy(PathBuf),
    #[error("cannot make the cloud-init seed: {0}")]
    Seed(String),
    #[error("building the image '{0}' needs root: packages are installed into it")]
    NeedsRoot(&'static str),
    #[error("the build was cancelled")]
    Cancelled,
}

/// Attaches the action and the path to an I/O error: without them "No such file or directory" helps nobody.
pub(crate) trait IoContext<T> {
    fn at(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T, ImageError>;
}

impl<T> IoContext<T> for std::io::Result<T> {
    fn at(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T, ImageError> {
        self.map_err(|source| ImageError::Io { action, path: path.into(), source })
    }
}
