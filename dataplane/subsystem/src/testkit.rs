//! What the tests of this crate run on: a one-thread executor, a fake link, a fake device.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future to its end, sleeping while it waits for another thread.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = Box::pin(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut cx = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut cx) {
            return value;
        }
        thread::park();
    }
}

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

struct Task {
    future: Pin<Box<dyn Future<Output = ()>>>,
    flag: Arc<Flag>,
}

/// Tasks of one thread, run when told to.
#[derive(Default)]
pub struct Tasks {
    tasks: RefCell<VecDeque<Task>>,
    spawned: RefCell<Vec<Task>>,
}

impl Tasks {
    /// Adds a task.
    pub fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        let flag = Arc::new(Flag(AtomicBool::new(true)));
        self.spawned.borrow_mut().push(Task {
            future: Box::pin(future),
            flag,
        });
    }

    /// Polls every task that was woken, until none is.
    pub fn run(&self) {
        loop {
            let mut tasks = self.tasks.take();
            tasks.extend(self.spawned.take());
            let mut progress = false;
            tasks.retain_mut(|task| {
                if !task.flag.0.swap(false, Ordering::Acquire) {
                    return true;
                }
                progress = true;
                let waker = Waker::from(Arc::clone(&task.flag));
                task.future
                    .as_mut()
                    .poll(&mut Context::from_waker(&waker))
                    .is_pending()
            });
            tasks.extend(self.tasks.take());
            self.tasks.replace(tasks);
            if !progress && self.spawned.borrow().is_empty() {
                return;
            }
        }
    }
}
