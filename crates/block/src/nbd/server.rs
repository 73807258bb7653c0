//! The serving end: listens, counts connections, ends them.
//!
//! Each connection has threads of its own ([`session`](super::session)); there is no work between connections that a
//! slow one could hold up. It must never end while a request is half answered, unless that takes too long.

use std::{
    collections::HashMap,
    io,
    net::Shutdown,
    os::fd::OwnedFd,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use super::{
    NbdAddress,
    server_handshake::negotiate,
    session::Session,
    socket::{Listener, Reader, Stream},
};
use crate::{BlockError, BlockSource, BlockTarget};

/// A disk as clients see it.
#[derive(Clone)]
pub struct Export {
    pub name: String,
    /// For people.
    pub description: String,
    pub source: Arc<dyn BlockSource>,
    /// The same disk, where it may be written.
    pub target: Option<Arc<dyn BlockTarget>>,
    /// What a read should be a multiple of to be cheap; a power of two.
    pub preferred_bytes: u32,
}

impl Export {
    #[must_use]
    pub fn read_only(name: &str, source: Arc<dyn BlockSource>) -> Self {
        Self {
            name: name.to_owned(),
            description: String::new(),
            source,
            target: None,
            preferred_bytes: 4096,
        }
    }

    #[must_use]
    pub fn writable<D: BlockSource + BlockTarget + 'static>(name: &str, disk: Arc<D>) -> Self {
        Self { target: Some(Arc::clone(&disk) as Arc<dyn BlockTarget>), ..Self::read_only(name, disk) }
    }
}

#[derive(Debug, Clone, Copy)]
pub struct ServerLimits {
    /// At once; more are closed at once.
    pub connections: usize,
    /// Requests of one connection that are worked on at once.
    pub workers: usize,
    /// For a client to say what it wants.
    pub handshake: Duration,
    /// For a client to take what it asked for.
    pub send: Duration,
    /// For what is being answered when the server stops.
    pub stop: Duration,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            connections: 64,
            workers: 8,
            handshake: Duration::from_secs(10),
            send: Duration::from_secs(60),
            stop: Duration::from_secs(10),
        }
    }
}

/// Serves until it is dropped.
pub struct NbdServer {
    shared: Arc<Shared>,
    address: NbdAddress,
    wake: Arc<OwnedFd>,
    acceptor: Option<thread::JoinHandle<()>>,
}

struct Shared {
    exports: Vec<Export>,
    limits: ServerLimits,
    connections: Mutex<Connections>,
    ended: Condvar,
}

#[derive(Default)]
struct Connections {
    open: HashMap<u64, Arc<Stream>>,
    next: u64,
    stopping: bool,
}

impl NbdServer {
    /// Listens on a unix socket that must not be there yet, or on loopback. Who may connect is the directory's to say.
    pub fn start(
        address: &NbdAddress,
        exports: Vec<Export>,
        limits: ServerLimits,
    ) -> Result<Self, BlockError> {
        let name = address.to_string();
        let error = |action| move |e: io::Error| BlockError::io(&name, action, 0, e);
        let listener = Listener::bind(address).map_err(error.clone()("listen"))?;
        let address = listener.address().map_err(error.clone()("listen"))?;
        let wake =
            Arc::new(eventfd(0, EventfdFlags::CLOEXEC).map_err(|e| error.clone()("listen")(e.into()))?);
        let shared =
            Arc::new(Shared { exports, limits, connections: Mutex::default(), ended: Condvar::new() });
        let (for_thread, wake_thread) = (Arc::clone(&shared), Arc::clone(&wake));
        let acceptor = thread::Builder::new()
            .name("nbd-accept".into())
            .spawn(move || for_thread.accept(&listener, &wake_thread))
            .map_err(error("listen"))?;
        Ok(Self { shared, address, wake, acceptor: Some(acceptor) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> &NbdAddress {
        &self.address
    }

    /// How many clients there are.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.connections().open.len()
    }

    /// Takes no new connection and no new request, lets what is being answered end, and closes.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let Some(acceptor) = self.acceptor.take() else { return };
        self.shared.connections().stopping = true;
        if rustix::io::write(&*self.wake, &1_u64.to_ne_bytes()).is_ok() {
            // It cannot have panicked with anything that matters after it.
            let _ = acceptor.join();
        }
        self.shared.end_connections();
    }
}

impl Drop for NbdServer {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn connections(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accept(self: &Arc<Self>, listener: &Listener, wake: &OwnedFd) {
        loop {
            let mut sockets = [PollFd::new(listener, PollFlags::IN), PollFd::new(wake, PollFlags::IN)];
            match poll(&mut sockets, None) {
                Ok(_) if !sockets[1].revents().is_empty() => return,
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(_) => return,
            }
            match listener.accept() {
                Ok(stream) => self.admit(stream),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // Out of descriptors, mostly: the queue stays readable, and a loop would burn a processor.
                Err(_) => thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    fn admit(self: &Arc<Self>, stream: Stream) {
        let stream = Arc::new(stream);
        let number = {
            let mut connections = self.connections();
            if connections.stopping || connections.open.len() >= self.limits.connections {
                return;
            }
            connections.next += 1;
            let number = connections.next;
            connections.open.insert(number, Arc::clone(&stream));
            number
        };
        let shared = Arc::clone(self);
        let serve = move || {
            // Whatever happens in it, the connection is counted off.
            let _leave = Leave { shared: &shared, number };
            shared.serve(&stream);
        };
        if thread::Builder::new().name("nbd-serve".into()).spawn(serve).is_err() {
            self.leave(number);
        }
    }

    /// One client, from its first byte to its last. Its errors are its own: there is nobody else to tell.
    fn serve(&self, stream: &Arc<Stream>) {
        let prepared = stream
            .set_read_timeout(Some(self.limits.handshake))
            .and_then(|()| stream.set_write_timeout(Some(self.limits.send)));
        if prepared.is_err() {
            return;
        }
        let mut reader = Reader::new(Arc::clone(stream));
        let deadline = Instant::now() + self.limits.handshake;
        if let Ok(Some(agreed)) = negotiate(&mut reader, stream, &self.exports, deadline)
            && stream.set_read_timeout(None).is_ok()
        {
            Session::new(agreed, Arc::clone(stream), reader, self.limits).serve();
        }
    }

    fn leave(&self, number: u64) {
        if let Some(stream) = self.connections().open.remove(&number) {
            stream.shutdown(Shutdown::Both);
        }
        self.ended.notify_all();
    }

    fn end_connections(&self) {
        let mut connections = self.connections();
        for stream in connections.open.values() {
            stream.shutdown(Shutdown::Read);
        }
        let deadline = Instant::now() + self.limits.stop;
        while !connections.open.is_empty() {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { break };
            connections =
                self.ended.wait_timeout(connections, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        for stream in connections.open.values() {
            stream.shutdown(Shutdown::Both);
        }
    }
}

struct Leave<'a> {
    shared: &'a Shared,
    number: u64,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.shared.leave(self.number);
    }
}
