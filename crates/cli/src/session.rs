//! What every command stands on: the home, the path given with `--in`, the printer and the node's client.

use std::path::{Path, PathBuf};

use nestling_api::{Client, ClientError, v1::ErrorCode};
use nestling_model::{VmName, VmPath};
use serde::Serialize;

use crate::{
    failure::{Failure, Result, body_of, status},
    printer::Printer,
    start,
};

pub struct Session {
    pub home: PathBuf,
    /// Machines to pass through, outermost first.
    pub inside: Vec<VmName>,
    pub printer: Printer,
}

impl Session {
    /// The node that the command is for. Starts this host's when none runs.
    pub async fn client(&self) -> Result<Client> {
        Ok(start::connect_or_start(&self.home).await?.inside(&self.inside))
    }

    /// The node whose machine the last part of a path names, and that machine's name.
    pub async fn at<'a>(&self, path: &'a VmPath) -> Result<(Client, &'a str)> {
        let (hosts, vm) = path.split();
        Ok((self.client().await?.inside(hosts), vm.as_str()))
    }

    /// A path in the file system of the host that `hosts` (after `--in`) lead to. Only on this host does a
    /// relative one mean anything.
    pub fn file(&self, hosts: &[VmName], path: &str) -> Result<String> {
        if !self.inside.is_empty() || !hosts.is_empty() || path.starts_with('/') {
            return Ok(path.to_owned());
        }
        let absolute =
            std::path::absolute(path).map_err(|e| Failure::file("find the way to", Path::new(path), &e))?;
        absolute.into_os_string().into_string().map_err(|path| {
            Failure::new(ErrorCode::Invalid, format!("the path {} is not UTF-8", path.to_string_lossy()))
        })
    }

    /// Does the same to several machines. Goes on after a failure; some done and some not is a status of its own.
    pub async fn each<T: Serialize>(
        &self,
        paths: &[VmPath],
        action: impl AsyncFn(&Client, &str) -> std::result::Result<T, ClientError>,
    ) -> Result {
        let client = self.client().await?;
        let mut failed = 0;
        for path in paths {
            let (hosts, vm) = path.split();
            match action(&client.inside(hosts), vm.as_str()).await {
                Ok(after) => self.printer.changed(&after)?,
                Err(error) => {
                    failed += 1;
                    self.printer.error(&body_of(error));
                }
            }
        }
        match failed {
            0 => Ok(()),
            all if all == paths.len() => Err(Failure::Told(status::FAILED)),
            some => {
                self.printer.talk(&format!("{} of {} done", paths.len() - some, paths.len()));
                Err(Failure::Told(status::PARTLY))
            }
        }
    }
}
