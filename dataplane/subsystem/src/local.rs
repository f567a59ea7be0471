//! Reaching a session from another thread.
//!
//! A [`Session`] lives on its connection's reactor and is no `Send`. Whoever must act on it from
//! elsewhere (a controller reset on another reactor, keep-alive expiry, Abort) holds a [`Remote`],
//! which finds the session by its number on its own thread.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::thread::{self, ThreadId};

use crate::session::Session;

/// Work for another thread.
pub type Job = Box<dyn FnOnce() + Send>;

/// Runs a job soon on the thread it was made for; false where that thread's mailbox is full.
pub type Runner = Arc<dyn Fn(Job) -> bool + Send + Sync>;

thread_local! {
    static SESSIONS: RefCell<HashMap<u64, Weak<Session>>> = RefCell::new(HashMap::new());
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// A number nobody in this process has had.
pub fn unique_id() -> u64 {
    NEXT_ID.fetch_add(1, Ordering::Relaxed)
}

/// Locks a mutex; a panic of another holder does not spread (the data are plain values).
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes a session known on its thread.
pub fn register(id: u64, session: &Rc<Session>) {
    SESSIONS.with_borrow_mut(|map| map.insert(id, Rc::downgrade(session)));
}

/// Forgets a session of this thread.
pub fn forget(id: u64) {
    // A session may be dropped while its thread ends.
    let _ = SESSIONS.try_with(|map| map.borrow_mut().remove(&id));
}

fn find(id: u64) -> Option<Rc<Session>> {
    SESSIONS.with_borrow(|map| map.get(&id).and_then(Weak::upgrade))
}

/// The way to a thread that has sessions.
#[derive(Clone)]
pub struct Home {
    thread: ThreadId,
    runner: Runner,
}

impl Home {
    /// The calling thread, reached through `runner`.
    pub fn here(runner: Runner) -> Home {
        Home {
            thread: thread::current().id(),
            runner,
        }
    }

    /// Runs `job` on that thread: at once when it is the calling one, soon otherwise. False where
    /// its mailbox is full; the job is dropped then.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) -> bool {
        if thread::current().id() == self.thread {
            job();
            return true;
        }
        (self.runner)(Box::new(job))
    }

    /// Runs `job` soon on that thread, never before the caller returns. False where its mailbox is
    /// full; the job is dropped then.
    pub fn run_later(&self, job: impl FnOnce() + Send + 'static) -> bool {
        (self.runner)(Box::new(job))
    }
}

/// The way to one session.
#[derive(Clone)]
pub struct Remote {
    id: u64,
    home: Home,
}

impl Remote {
    /// The session `id` on the thread `home`.
    pub fn new(id: u64, home: Home) -> Remote {
        Remote { id, home }
    }

    /// Number of the session.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Runs `f` on the session's thread, where the session still lives. False where the mailbox of
    /// that thread is full.
    pub fn run(&self, f: impl FnOnce(&Rc<Session>) + Send + 'static) -> bool {
        let id = self.id;
        self.home.run(move || {
            if let Some(session) = find(id) {
                f(&session);
            }
        })
    }

    /// Like [`Remote::run`], but never before the caller returns, not even on the same thread.
    pub fn run_later(&self, f: impl FnOnce(&Rc<Session>) + Send + 'static) -> bool {
        let id = self.id;
        self.home.run_later(move || {
            if let Some(session) = find(id) {
                f(&session);
            }
        })
    }

    /// Asks the session something and waits for the answer; `None` where it is gone.
    pub async fn ask<T: Send + 'static>(
        &self,
        f: impl FnOnce(&Rc<Session>) -> T + Send + 'static,
    ) -> Option<T> {
        let (answer, waiting) = oneshot();
        self.run(move |session| answer.send(f(session)));
        waiting.await
    }
}

struct Shot<T> {
    value: Option<T>,
    closed: bool,
    waker: Option<Waker>,
}

/// The end of a [`oneshot`] that answers. Dropped without an answer it tells that there is none.
pub struct Answer<T>(Arc<Mutex<Shot<T>>>);

impl<T> Answer<T> {
    /// Gives the answer.
    pub fn send(self, value: T) {
        lock(&self.0).value = Some(value);
    }
}

impl<T> Drop for Answer<T> {
    fn drop(&mut self) {
        let waker = {
            let mut shot = lock(&self.0);
            shot.closed = true;
            shot.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// A value handed from one thread to a future on another.
pub fn oneshot<T>() -> (Answer<T>, impl Future<Output = Option<T>>) {
    let shot = Arc::new(Mutex::new(Shot {
        value: None,
        closed: false,
        waker: None,
    }));
    let answer = Answer(Arc::clone(&shot));
    let waiting = std::future::poll_fn(move |cx| {
        let mut shot = lock(&shot);
        if shot.closed {
            return Poll::Ready(shot.value.take());
        }
        shot.waker = Some(cx.waker().clone());
        Poll::Pending
    });
    (answer, waiting)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fakes::block_on;

    #[test]
    fn oneshot_hands_over_a_value_and_tells_when_there_is_none() {
        let (answer, waiting) = oneshot();
        let thread = thread::spawn(move || answer.send(5));
        assert_eq!(block_on(waiting), Some(5));
        thread.join().unwrap();
        let (answer, waiting) = oneshot::<u8>();
        drop(answer);
        assert_eq!(block_on(waiting), None);
    }

    #[test]
    fn jobs_for_the_own_thread_run_at_once_and_others_go_through_the_runner() {
        let sent = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&sent);
        let runner: Runner = Arc::new(move |job| {
            counter.fetch_add(1, Ordering::Relaxed);
            job();
            true
        });
        let home = Home::here(runner);
        assert!(home.run(|| {}));
        assert_eq!(sent.load(Ordering::Relaxed), 0);
        let other = home.clone();
        thread::spawn(move || assert!(other.run(|| {})))
            .join()
            .unwrap();
        assert_eq!(sent.load(Ordering::Relaxed), 1);
    }
}
