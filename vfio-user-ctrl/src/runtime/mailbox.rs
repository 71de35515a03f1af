//! Messages to a thread, of which none is lost.
//!
//! SPDK's messages come out of a pool that may be empty. So ours wait in a list of their own, and SPDK carries only the
//! word that there are some: one such word at a time, which is tried again if SPDK cannot take it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::Duration;

use spdk::Errno;

/// The most messages that are acted on in a row: a reactor has other things to do.
const BURST: usize = 32;
/// How long to wait before SPDK is tried again.
const PAUSE: Duration = Duration::from_millis(1);

/// What is to be called on the thread.
pub(super) type Call = Box<dyn FnOnce() + Send>;

/// The way to a thread: calls what it is given there, later.
type ThreadSender = Box<dyn Fn(Call) -> Result<(), Errno> + Send + Sync>;

/// Messages to one thread. Those of one sender come in the order in which it sent them.
pub(super) struct Mailbox<M> {
    waiting: Mutex<Messages<M>>,
    act: fn(M),
    way: ThreadSender,
}

struct Messages<M> {
    messages: VecDeque<M>,
    /// The thread has been told that there are some, or is being told.
    told: bool,
}

impl<M: Send + 'static> Mailbox<M> {
    /// Messages to be acted on by `act`, on the thread that `way` leads to.
    pub(super) fn new(act: fn(M), way: impl Fn(Call) -> Result<(), Errno> + Send + Sync + 'static) -> Arc<Self> {
        let waiting = Mutex::new(Messages { messages: VecDeque::new(), told: false });
        Arc::new(Self { waiting, act, way: Box::new(way) })
    }

    /// Sends a message, from any thread.
    pub(super) fn send(self: &Arc<Self>, message: M) {
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
        if let Err(error) = spdk::thread::spawn_unpinned("courier_post", again) {
            log::error!("messages wait for the next one: a thread cannot be started: {error}");
            self.lock().told = false;
        }
    }

    /// Returns whether there is nothing more to try.
    fn try_to_tell(self: &Arc<Self>) -> bool {
        let me = Arc::clone(self);
        match (self.way)(Box::new(move || me.deliver())) {
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

    fn deliver(self: &Arc<Self>) {
        for _ in 0..BURST {
            match self.next() {
                Some(message) => (self.act)(message),
                None => return,
            }
        }
        self.tell();
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

impl<M> Default for Messages<M> {
    fn default() -> Self {
        Self { messages: VecDeque::new(), told: false }
    }
}

impl<M> std::fmt::Debug for Mailbox<M> {
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

    /// Returns a thread that is out of room the first `failures` times; its calls come out at the other end.
    fn thread(failures: usize, errno: Errno) -> (Arc<Mailbox<Told>>, Receiver<Call>, Arc<AtomicUsize>) {
        let (calls, at_thread) = mpsc::channel();
        let tried = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&tried);
        let mailbox = Mailbox::new(pass_on, move |call| {
            if count.fetch_add(1, Ordering::SeqCst) < failures {
                return Err(errno);
            }
            calls.send(call).map_err(|_| Errno::NXIO)
        });
        (mailbox, at_thread, tried)
    }

    /// Does what comes to the thread, until it has been quiet for a while. Returns how many calls that were.
    fn run(at_thread: &Receiver<Call>) -> usize {
        let mut count = 0;
        while let Ok(call) = at_thread.recv_timeout(Duration::from_millis(100)) {
            call();
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
        at_thread.recv_timeout(Duration::from_secs(30)).expect("the thread is told at last")();
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
        struct Guard(Option<Arc<Mailbox<Guard>>>);
        impl Drop for Guard {
            fn drop(&mut self) {
                if let Some(mailbox) = self.0.take() {
                    mailbox.send(Self(None));
                }
            }
        }
        let (done, is_done) = mpsc::channel();
        std::thread::spawn(move || {
            let mailbox = Mailbox::new(drop, |_| Err(Errno::NXIO));
            mailbox.send(Guard(Some(Arc::clone(&mailbox))));
            done.send(())
        });
        assert_eq!(is_done.recv_timeout(Duration::from_secs(30)), Ok(()), "the sender goes on");
    }
}
