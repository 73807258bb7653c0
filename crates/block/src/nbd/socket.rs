//! A stream that is a unix socket or TCP, with deadlines.

use std::{
    fmt,
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs},
    ops::Range,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NbdAddress {
    Unix(PathBuf),
    /// Host and port.
    Tcp(String, u16),
}

impl fmt::Display for NbdAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
        }
    }
}

#[derive(Debug)]
pub(super) enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

macro_rules! on_either {
    ($self:expr, $stream:ident => $call:expr) => {
        match $self {
            Stream::Unix($stream) => $call,
            Stream::Tcp($stream) => $call,
        }
    };
}

impl Stream {
    pub(super) fn connect(address: &NbdAddress, within: Duration) -> io::Result<Self> {
        match address {
            NbdAddress::Unix(path) => connect_unix(path, within).map(Self::Unix),
            NbdAddress::Tcp(host, port) => {
                let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
                for place in (host.as_str(), *port).to_socket_addrs()? {
                    match TcpStream::connect_timeout(&place, within) {
                        Ok(stream) => return Self::tcp(stream),
                        Err(error) => last = error,
                    }
                }
                Err(last)
            }
        }
    }

    fn tcp(stream: TcpStream) -> io::Result<Self> {
        // Requests are small and each is waited for.
        stream.set_nodelay(true)?;
        Ok(Self::Tcp(stream))
    }

    /// None waits without end.
    pub(super) fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        on_either!(self, s => s.set_read_timeout(timeout))
    }

    pub(super) fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        on_either!(self, s => s.set_write_timeout(timeout))
    }

    /// Sends all, or fails at the latest at twice of the time, however slowly the peer takes it. The timeout for
    /// writing must be set, and as short.
    pub(super) fn send(&self, mut bytes: &[u8], within: Duration) -> io::Result<()> {
        let deadline = Instant::now() + within;
        let mut stream = self;
        while !bytes.is_empty() {
            match stream.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if !bytes.is_empty() && Instant::now() > deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        Ok(())
    }

    /// Wakes whoever waits on it. It may be closed already.
    pub(super) fn shutdown(&self, how: Shutdown) {
        let _ = on_either!(self, s => s.shutdown(how));
    }
}

/// Connecting waits while the server's queue is full. The timeout for sending bounds that too.
fn connect_unix(path: &Path, within: Duration) -> io::Result<UnixStream> {
    let socket = net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    net::sockopt::set_socket_timeout(&socket, net::sockopt::Timeout::Send, Some(within))?;
    net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(UnixStream::from(socket))
}

/// Reads messages of known lengths, with few calls for small ones.
#[derive(Debug)]
pub(super) struct Reader {
    stream: Arc<Stream>,
    buffer: Box<[u8]>,
    /// What is in the buffer and not yet taken.
    held: Range<usize>,
}

const BUFFER_BYTES: usize = 32 << 10;

impl Reader {
    pub(super) fn new(stream: Arc<Stream>) -> Self {
        Self { stream, buffer: vec![0; BUFFER_BYTES].into_boxed_slice(), held: 0..0 }
    }

    /// Fills all of `out`. With a deadline, the stream's own timeout must be as short; together they bound the wait to
    /// twice of it, however slowly bytes come.
    pub(super) fn read(&mut self, out: &mut [u8], deadline: Option<Instant>) -> io::Result<()> {
        let mut done = 0;
        while done < out.len() {
            let rest = &mut out[done..];
            if !self.held.is_empty() {
                let count = rest.len().min(self.held.len());
                rest[..count].copy_from_slice(&self.buffer[self.held.start..self.held.start + count]);
                self.held.start += count;
                done += count;
                continue;
            }
            if deadline.is_some_and(|deadline| Instant::now() > deadline) {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let large = rest.len() >= BUFFER_BYTES;
            let count = match (&*self.stream).read(if large { rest } else { &mut self.buffer }) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
                Err(error) => return Err(error),
            };
            if large {
                done += count;
            } else {
                self.held = 0..count;
            }
        }
        Ok(())
    }

    pub(super) fn array<const N: usize>(&mut self, deadline: Option<Instant>) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.read(&mut bytes, deadline)?;
        Ok(bytes)
    }

    /// The length must have been checked.
    pub(super) fn vec(&mut self, length: usize, deadline: Option<Instant>) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.read(&mut bytes, deadline)?;
        Ok(bytes)
    }
}

impl Read for &Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        on_either!(self, s => (&mut &*s).read(buf))
    }
}

impl Write for &Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        on_either!(self, s => (&mut &*s).write(buf))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
pub(super) enum Listener {
    Unix(UnixListener, PathBuf),
    Tcp(TcpListener),
}

impl Listener {
    /// Only for this host: a port is opened on loopback alone, for nothing here is encrypted.
    pub(super) fn bind(address: &NbdAddress) -> io::Result<Self> {
        let listener = match address {
            NbdAddress::Unix(path) => Self::unix(path)?,
            NbdAddress::Tcp(host, port) => {
                let places: Vec<SocketAddr> = (host.as_str(), *port).to_socket_addrs()?.collect();
                if places.iter().any(|place| !place.ip().is_loopback()) {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidInput,
                        "only loopback may be listened on",
                    ));
                }
                Self::Tcp(TcpListener::bind(&*places)?)
            }
        };
        match &listener {
            Self::Unix(socket, _) => socket.set_nonblocking(true)?,
            Self::Tcp(socket) => socket.set_nonblocking(true)?,
        }
        Ok(listener)
    }

    fn unix(path: &Path) -> io::Result<Self> {
        Ok(Self::Unix(UnixListener::bind(path)?, path.to_owned()))
    }

    pub(super) fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Unix(socket, _) => socket.accept().map(|(stream, _)| Stream::Unix(stream)),
            Self::Tcp(socket) => socket.accept().and_then(|(stream, _)| Stream::tcp(stream)),
        }
    }

    /// Where it really listens: port 0 becomes a free one.
    pub(super) fn address(&self) -> io::Result<NbdAddress> {
        match self {
            Self::Unix(_, path) => Ok(NbdAddress::Unix(path.clone())),
            Self::Tcp(socket) => {
                let place = socket.local_addr()?;
                Ok(NbdAddress::Tcp(place.ip().to_string(), place.port()))
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(socket, _) => socket.as_fd(),
            Self::Tcp(socket) => socket.as_fd(),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            // Nobody can connect to it any more.
            let _ = std::fs::remove_file(path);
        }
    }
}
