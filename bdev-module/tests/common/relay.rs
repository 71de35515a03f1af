//! A relay before the target, which can refuse connections as a target may.

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

/// Passes connections on to a port of this machine, for as long as this process lives.
pub(crate) struct Relay {
    port: u16,
    to_refuse: Arc<AtomicU32>,
}

impl Relay {
    /// One that passes every connection on to `target`.
    pub(crate) fn to(target: u16) -> Self {
        Self::at(0, target)
    }

    /// One that listens on a port, 0 for any, and passes every connection on to `target`.
    pub(crate) fn at(port: u16, target: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let to_refuse = Arc::new(AtomicU32::new(0));
        let left = Arc::clone(&to_refuse);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err() {
                    let server = TcpStream::connect(("127.0.0.1", target)).expect("the target listens");
                    pass_on(&client, &server);
                    pass_on(&server, &client);
                }
            }
        });
        Self { port, to_refuse }
    }

    /// Where it listens.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Closes the next `count` connections at once, instead of what an earlier call said.
    pub(crate) fn refuse(&self, count: u32) {
        self.to_refuse.store(count, Ordering::Relaxed);
    }

    /// How many of these have not come yet.
    pub(crate) fn left_to_refuse(&self) -> u32 {
        self.to_refuse.load(Ordering::Relaxed)
    }
}

fn pass_on(from: &TcpStream, to: &TcpStream) {
    let mut ends = [from, to].map(|end| end.try_clone().expect("the same connection"));
    thread::spawn(move || {
        let [from, to] = &mut ends;
        let _ = io::copy(from, to);
        let _ = to.shutdown(Shutdown::Both);
    });
}
