//! A real S3 server process for the tests of a run, and plain requests to it beside our own client.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Sender},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// Ends with the last test that uses it.
pub struct Server {
    /// Whoever holds it keeps the server.
    keeper: Option<(Sender<()>, JoinHandle<()>)>,
    pub address: SocketAddr,
    buckets: AtomicU64,
}

/// The server; nothing, with a line that says so, if it cannot be installed here.
pub fn server(test: &str) -> Option<Arc<Server>> {
    static RUNNING: Mutex<Weak<Server>> = Mutex::new(Weak::new());
    let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(server) = running.upgrade() {
        return Some(server);
    }
    match Server::start() {
        Ok(server) => {
            let server = Arc::new(server);
            *running = Arc::downgrade(&server);
            Some(server)
        }
        Err(why) => {
            // Not captured, so that a run says what it did not look at.
            let _ = writeln!(io::stderr(), "skipped: {test}: no S3 server: {why}");
            None
        }
    }
}

impl Server {
    fn start() -> Result<Self, String> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/s3-server.sh");
        // Beside the other things that cargo builds.
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target directory");
        let installed =
            Command::new(script).env("CARGO_TARGET_DIR", target).output().map_err(|e| e.to_string())?;
        if !installed.status.success() {
            return Err(String::from_utf8_lossy(&installed.stderr)
                .lines()
                .last()
                .unwrap_or_default()
                .to_owned());
        }
        let command = String::from_utf8(installed.stdout).map_err(|e| e.to_string())?;
        let (answer, answered) = mpsc::channel();
        let (keep, kept) = mpsc::channel::<()>();
        // The server ends with the thread that started it, so that thread is none of a test that ends before others.
        let keeper = thread::spawn(move || {
            let mut process = match spawn(&command) {
                Ok((process, line)) => {
                    let _ = answer.send(Ok(line));
                    process
                }
                Err(error) => {
                    let _ = answer.send(Err(error.to_string()));
                    return;
                }
            };
            // Until the other end is dropped.
            let _ = kept.recv();
            let _ = process.kill();
            let _ = process.wait();
        });
        let line = answered.recv_timeout(Duration::from_secs(60)).map_err(|e| e.to_string())??;
        let address = line.trim().parse().map_err(|_| format!("it said {line:?} in place of its address"))?;
        Ok(Self { keeper: Some((keep, keeper)), address, buckets: AtomicU64::new(0) })
    }

    /// A new bucket, made with these headers.
    pub fn bucket(&self, headers: &str) -> String {
        let name = format!("bucket-{}", self.buckets.fetch_add(1, Ordering::Relaxed));
        let (status, answer) = self.request("PUT", &format!("/{name}"), headers, "");
        assert_eq!(status, 200, "{answer}");
        name
    }

    /// A request as the owner of everything.
    pub fn request(&self, method: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let signed = "Authorization: AWS4-HMAC-SHA256 Credential=owner/20260101/us-east-1/s3/aws4_request, \
                      SignedHeaders=host, Signature=00";
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: {}\r\n{signed}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            self.address,
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
        (status, answer)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some((keep, keeper)) = self.keeper.take() {
            drop(keep);
            let _ = keeper.join();
        }
    }
}

/// The process and the first line that it says.
fn spawn(command: &str) -> io::Result<(Child, String)> {
    let mut process = Command::new("setpriv")
        .args(["--pdeathsig", "KILL"])
        .args(command.split_whitespace())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut line = String::new();
    BufReader::new(process.stdout.take().expect("its output")).read_line(&mut line)?;
    Ok((process, line))
}
