//! Messages to a thread, of which none is lost.
//!
//! SPDK's messages come out of a pool that may be empty. So ours wait in a list of their own, and SPDK carries only the
//! word that there are some: one such word at a time, which is tried again if SPDK cannot take it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::Duration;

use crate::Errno;
use crate::thread::{OwnedThread, send_to_app, spawn_unpinned};

/// The most messages that are acted on in a row: a reactor has other things to do.
const BURST: usize = 32;
/// How long to wait before SPDK is tried again.
const PAUSE: Duration = Duration::from_millis(1);

/// A thread that is woken for its messages.
pub trait WakeThread<M>: Send + Sync + Sized + 'static {
    /// Has `wakeup` delivered on the thread, later.
    ///
    /// # Errors
    /// `NOMEM` when there is no room for it now; anything else when the thread has ended.
    fn wake(&self, wakeup: Wakeup<M, Self>) -> Result<(), Errno>;
}

/// The word that there are messages.
#[must_use = "messages wait until it is delivered"]
pub struct Wakeup<M, T>(Arc<Mailbox<M, T>>);

/// The application's thread.
#[derive(Debug, Clone, Copy)]
pub struct AppThread;

impl<M: Send + 'static> WakeThread<M> for AppThread {
    fn wake(&self, wakeup: Wakeup<M, Self>) -> Result<(), Errno> {
        send_to_app(move || wakeup.deliver())
    }
}

impl<M: Send + 'static> WakeThread<M> for Arc<OwnedThread> {
    fn wake(&self, wakeup: Wakeup<M, Self>) -> Result<(), Errno> {
        self.send(move || wakeup.deliver())
    }
}

/// Messages to one thread. Those of one sender come in the order in which it sent them.
pub struct Mailbox<M, T> {
    waiting: Mutex<Messages<M>>,
    act: fn(M),
    thread: T,
}

struct Messages<M> {
    messages: VecDeque<M>,
    /// The thread has been told that there are some, or is being told.
    told: bool,
}

impl<M: Send + 'static, T: WakeThread<M>> Mailbox<M, T> {
    /// Returns one whose messages are acted on by `act`, on that thread.
    pub fn new(act: fn(M), thread: T) -> Arc<Self> {
        let waiting = Mutex::new(Messages { messages: VecDeque::new(), told: false });
        Arc::new(Self { waiting, act, thread })
    }

    /// Sends a message, from any thread.
    pub fn send(self: &Arc<Self>, message: M) {
        let mut waiting = self.lock();
        waiting.messages.push_back(message);
        let is_told = std::mem::replace(&mut waiting.told, true);
        drop(waiting);
        if !is_told {
            self.tell();
        }
    }

    fn tell(self: &Arc<Self>) {
        if self.try_to_tell() {
            return;
        }
        log::warn!("SPDK is out of messages: what is to be told waits");
        let me = Arc::clone(self);
        let again = move || {
            while !me.try_to_tell() {
                sleep(PAUSE);
            }
        };
        if let Err(error) = spawn_unpinned("courier_post", again) {
            log::error!("messages wait for the next one: a thread cannot be started: {error}");
            self.lock().told = false;
        }
    }

    /// Returns whether there is nothing more to try.
    fn try_to_tell(self: &Arc<Self>) -> bool {
        match self.thread.wake(Wakeup(Arc::clone(self))) {
            Ok(()) => true,
            Err(Errno::NOMEM) => false,
            Err(error) => {
                // The thread has ended, and what it had to do with it. What the messages hold is let go.
                log::debug!("messages to a thread that has ended are dropped: {error}");
                // Outside of the lock: what a message holds may send another one when it is let go.
                let lost = std::mem::take(&mut *self.lock());
                drop(lost);
                true
            }
        }
    }

    /// Returns the next message. When there is none, the next sender has to tell.
    fn next(&self) -> Option<M> {
        let mut waiting = self.lock();
        let message = waiting.messages.pop_front();
        waiting.told = message.is_some();
        message
    }

    fn lock(&self) -> MutexGuard<'_, Messages<M>> {
        // A list is whole whatever its last user has met with.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M: Send + 'static, T: WakeThread<M>> Wakeup<M, T> {
    /// Acts on the messages, on the thread that was woken.
    pub fn deliver(self) {
        let Self(mailbox) = self;
        for _ in 0..BURST {
            match mailbox.next() {
                Some(message) => (mailbox.act)(message),
                None => return,
            }
        }
        mailbox.tell();
    }
}

impl<M, T> std::fmt::Debug for Wakeup<M, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wakeup").finish_non_exhaustive()
    }
}

impl<M> Default for Messages<M> {
    fn default() -> Self {
        Self { messages: VecDeque::new(), told: false }
    }
}

impl<M, T> std::fmt::Debug for Mailbox<M, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mailbox").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::{self, Receiver, Sender};

    use super::*;

    /// A message that is passed on to the test.
    type Told = (Sender<u32>, u32);

    fn pass_on((heard, number): Told) {
        heard.send(number).expect("the test listens");
    }

    /// A thread that is out of room at first, and then runs what comes out at the other end.
    struct TestThread {
        failures: usize,
        errno: Errno,
        tried: Arc<AtomicUsize>,
        wakeups: Sender<Wakeup<Told, Self>>,
    }

    impl WakeThread<Told> for TestThread {
        fn wake(&self, wakeup: Wakeup<Told, Self>) -> Result<(), Errno> {
            if self.tried.fetch_add(1, Ordering::SeqCst) < self.failures {
                return Err(self.errno);
            }
            self.wakeups.send(wakeup).map_err(|_| Errno::NXIO)
        }
    }

    type Wakeups = Receiver<Wakeup<Told, TestThread>>;

    /// Returns messages to a thread that is out of room the first `failures` times, its end, and how often it was tried.
    fn thread(failures: usize, errno: Errno) -> (Arc<Mailbox<Told, TestThread>>, Wakeups, Arc<AtomicUsize>) {
        let (wakeups, at_thread) = mpsc::channel();
        let tried = Arc::new(AtomicUsize::new(0));
        let thread = TestThread { failures, errno, tried: Arc::clone(&tried), wakeups };
        (Mailbox::new(pass_on, thread), at_thread, tried)
    }

    /// Does what comes to the thread, until it has been quiet for a while. Returns how often it was woken.
    fn run(at_thread: &Wakeups) -> usize {
        let mut count = 0;
        while let Ok(wakeup) = at_thread.recv_timeout(Duration::from_millis(100)) {
            wakeup.deliver();
            count += 1;
        }
        count
    }

    #[test]
    fn messages_come_in_order_and_one_word_is_enough_for_many() {
        let (mailbox, at_thread, tried) = thread(0, Errno::NOMEM);
        let (heard, ear) = mpsc::channel();
        for number in 0..100 {
            mailbox.send((heard.clone(), number));
        }
        assert_eq!(tried.load(Ordering::SeqCst), 1, "the thread is told once");
        assert_eq!(run(&at_thread), 100_usize.div_ceil(BURST), "a reactor has other things to do in between");
        assert_eq!(ear.try_iter().collect::<Vec<_>>(), (0..100).collect::<Vec<_>>());
        mailbox.send((heard, 100));
        assert_eq!((run(&at_thread), ear.try_iter().collect::<Vec<_>>()), (1, vec![100]));
    }

    #[test]
    fn no_message_is_lost_while_there_is_no_room() {
        let (mailbox, at_thread, tried) = thread(5, Errno::NOMEM);
        let (heard, ear) = mpsc::channel();
        for number in 0..3 {
            mailbox.send((heard.clone(), number));
        }
        at_thread.recv_timeout(Duration::from_secs(30)).expect("the thread is told at last").deliver();
        run(&at_thread);
        assert_eq!(ear.try_iter().collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(tried.load(Ordering::SeqCst), 6, "one thread tries again, not one for each message");
    }

    #[test]
    fn messages_to_a_thread_that_has_ended_are_dropped() {
        let (mailbox, at_thread, _) = thread(1, Errno::NXIO);
        let (heard, ear) = mpsc::channel();
        mailbox.send((heard, 0));
        assert_eq!(run(&at_thread), 0);
        assert!(ear.recv().is_err(), "what the message held is let go");
    }

    #[test]
    fn a_message_that_sends_another_one_when_it_is_dropped_does_not_lock_its_sender_up() {
        /// Tells the thread that it is gone.
        struct Guard(Option<Arc<Mailbox<Guard, Ended>>>);
        struct Ended;
        impl WakeThread<Guard> for Ended {
            fn wake(&self, _: Wakeup<Guard, Self>) -> Result<(), Errno> {
                Err(Errno::NXIO)
            }
        }
        impl Drop for Guard {
            fn drop(&mut self) {
                if let Some(mailbox) = self.0.take() {
                    mailbox.send(Self(None));
                }
            }
        }
        let (done, is_done) = mpsc::channel();
        std::thread::spawn(move || {
            let mailbox = Mailbox::new(drop, Ended);
            mailbox.send(Guard(Some(Arc::clone(&mailbox))));
            done.send(())
        });
        assert_eq!(is_done.recv_timeout(Duration::from_secs(30)), Ok(()), "the sender goes on");
    }
}
