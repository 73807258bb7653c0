//! A line to a server that can be cut after so many bytes.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
};

/// Where and after how many bytes the next connection that carries so many is cut.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    Up(u64),
    Down(u64),
}

pub struct Proxy {
    pub address: SocketAddr,
    cut: Arc<Mutex<Option<Cut>>>,
    cuts: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl Proxy {
    pub fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (cut, cuts, ended) = (Arc::<Mutex<Option<Cut>>>::default(), Arc::default(), Arc::default());
        let acceptor = {
            let (cut, cuts, ended) = (Arc::clone(&cut), Arc::clone(&cuts), Arc::clone(&ended));
            thread::spawn(move || {
                for client in listener.incoming().map_while(Result::ok) {
                    if AtomicBool::load(&ended, Ordering::SeqCst) {
                        return;
                    }
                    let Ok(upstream) = TcpStream::connect(server) else { continue };
                    for (up, from, to) in [(true, &client, &upstream), (false, &upstream, &client)] {
                        let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                        let (cut, cuts) = (Arc::clone(&cut), Arc::clone(&cuts));
                        thread::spawn(move || carry(up, from, to, &cut, &cuts));
                    }
                }
            })
        };
        Self { address, cut, cuts, ended, acceptor: Some(acceptor) }
    }

    pub fn cut_next(&self, cut: Cut) {
        *self.cut.lock().unwrap() = Some(cut);
    }

    /// How often the line was cut so far.
    pub fn cuts(&self) -> u64 {
        self.cuts.load(Ordering::SeqCst)
    }
}

fn carry(up: bool, mut from: TcpStream, mut to: TcpStream, cut: &Mutex<Option<Cut>>, cuts: &AtomicU64) {
    let (mut carried, mut buffer) = (0u64, [0; 4096]);
    while let Ok(length) = from.read(&mut buffer) {
        if length == 0 {
            let _ = to.shutdown(Shutdown::Write);
            return;
        }
        carried += length as u64;
        let is_cut = {
            let mut cut = cut.lock().unwrap();
            let reached = match *cut {
                Some(Cut::Up(after)) => up && carried > after,
                Some(Cut::Down(after)) => !up && carried > after,
                None => false,
            };
            reached && cut.take().is_some()
        };
        if is_cut {
            cuts.fetch_add(1, Ordering::SeqCst);
            break;
        }
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}
