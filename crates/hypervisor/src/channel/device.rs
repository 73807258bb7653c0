//! The end inside a machine: the port's device, and the sessions that a host begins on it.

use std::{
    fs::File,
    io,
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt},
    path::Path,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use rustix::fs::OFlags;
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, Interest, ReadBuf, unix::AsyncFd},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    port::{Ended, Port, SESSION_BYTES},
    wire::{Kind, Mark},
};

/// The kernel does not tell when a host connects or a device appears, so that has to be looked for.
const HOST_LOOK: Duration = Duration::from_millis(250);
const DEVICE_LOOK: Duration = Duration::from_secs(2);
const READY_TIMEOUT: Duration = Duration::from_secs(2);

/// Serves every session that the host begins on the port at `path`, one at a time, until `stop`. A new session ends the
/// old one: its future is dropped. Without such a device it waits for one.
pub async fn serve_device<F, S>(path: &Path, stop: CancellationToken, serve: F)
where
    F: Fn(DuplexStream) -> S,
    S: Future<Output = ()>,
{
    let serving = async {
        let mut told = None;
        loop {
            match open(path) {
                Ok(device) => {
                    told = None;
                    serve_opened(device, &serve).await;
                }
                Err(error) => {
                    if told != Some(error.kind()) {
                        tracing::debug!(path = %path.display(), %error, "no guest channel");
                        told = Some(error.kind());
                    }
                }
            }
            sleep(DEVICE_LOOK).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = serving => {}
    }
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::NONBLOCK.bits() as i32;
    Ok(File::options().read(true).write(true).custom_flags(flags).open(path)?.into())
}

/// Until the device is broken.
async fn serve_opened<S: Future<Output = ()>>(device: OwnedFd, serve: &impl Fn(DuplexStream) -> S) {
    let mut device = Some(device);
    let mut fresh = true;
    while let Some(fd) = device.take() {
        let Ok(opened) = Device::new(fd) else { return };
        let mut port = Port::new(opened);
        if std::mem::take(&mut fresh) {
            let ready = Mark::new(Kind::Ready, [0; 16]);
            // With no host connected there is nobody to tell, and its HELLO will come.
            timeout(READY_TIMEOUT, port.send(&ready)).await.ok();
        }
        serve_port(&mut port, serve).await;
        // Watched anew: once a host has gone away, this watch says so for ever.
        device = port.into_inner().close();
        sleep(HOST_LOOK).await;
    }
}

/// Until the port is gone.
pub(super) async fn serve_port<IO, S>(port: &mut Port<IO>, serve: &impl Fn(DuplexStream) -> S)
where
    IO: AsyncRead + AsyncWrite,
    S: Future<Output = ()>,
{
    let Ok(mut mark) = port.mark().await else { return };
    loop {
        if mark.kind == Kind::Hello {
            if port.send(&Mark::new(Kind::Ack, mark.nonce)).await.is_err() {
                return;
            }
            let (ours, theirs) = tokio::io::duplex(SESSION_BYTES);
            match port.carry(theirs, serve(ours)).await {
                Ended::Mark(next) => {
                    mark = next;
                    continue;
                }
                Ended::Gone => return,
                Ended::Local => {}
            }
        }
        match port.mark().await {
            Ok(next) => mark = next,
            Err(_) => return,
        }
    }
}

/// The port's device. The kernel says "hung up" while no host is connected.
struct Device {
    watched: AsyncFd<OwnedFd>,
    broken: bool,
}

impl Device {
    fn new(fd: OwnedFd) -> io::Result<Self> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        #[expect(unsafe_code, reason = "the safe way to register a descriptor is deprecated")]
        // SAFETY: an owned descriptor is always the same and stays open until it is dropped.
        let watched = unsafe { AsyncFd::register_with_interest(fd, interest) }?;
        Ok(Self { watched, broken: false })
    }

    /// The descriptor for a new watch, unless the device itself is broken.
    fn close(self) -> Option<OwnedFd> {
        (!self.broken).then(|| self.watched.into_inner())
    }
}

impl AsyncRead for Device {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.watched.poll_read_ready(cx))?;
            let hung_up = guard.ready().is_read_closed();
            let unfilled = buffer.initialize_unfilled();
            match guard.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), unfilled)?)) {
                Ok(Ok(n)) => {
                    buffer.advance(n);
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => {
                    self.broken = true;
                    return Poll::Ready(Err(error));
                }
                // A watch that has seen the host go never waits again; end it before it spins.
                Err(_would_block) if hung_up => return Poll::Ready(Ok(())),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Device {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.watched.poll_write_ready(cx))?;
            let hung_up = guard.ready().is_write_closed();
            match guard.try_io(|fd| Ok(rustix::io::write(fd.get_ref(), bytes)?)) {
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => {
                    self.broken = error.kind() != io::ErrorKind::BrokenPipe;
                    return Poll::Ready(Err(error));
                }
                Ok(written) => return Poll::Ready(written),
                Err(_would_block) if hung_up => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
