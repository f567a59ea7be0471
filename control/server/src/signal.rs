//! A value that many tasks can wait on to change.
//!
//! As `tokio::sync::watch`, but who waits is woken in the order of waiting: tokio's wakes in a random
//! order, and a simulation's run could not be repeated.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

struct Shared<T> {
    value: Mutex<T>,
    notify: Notify,
}

/// A value that can be waited on. Clones are of the same value.
pub struct Signal<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Clone for Signal<T> {
    fn clone(&self) -> Signal<T> {
        Signal {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<T: Clone> Signal<T> {
    /// A signal with a first value.
    pub fn new(value: T) -> Signal<T> {
        Signal {
            shared: Arc::new(Shared {
                value: Mutex::new(value),
                notify: Notify::new(),
            }),
        }
    }

    /// The value now.
    pub fn get(&self) -> T {
        self.with(|value| value.clone())
    }

    /// Sets the value.
    pub fn set(&self, value: T) {
        self.change(|old| *old = value);
    }

    /// Changes the value in place.
    pub fn change(&self, how: impl FnOnce(&mut T)) {
        self.with(how);
        self.shared.notify.notify_waiters();
    }

    fn with<R>(&self, look: impl FnOnce(&mut T) -> R) -> R {
        let value = &mut self.shared.value.lock();
        look(value.as_mut().unwrap_or_else(PoisonError::get_mut))
    }

    /// Returns the value as soon as it is as wanted.
    pub async fn wait_for(&self, mut wanted: impl FnMut(&T) -> bool) -> T {
        loop {
            let changed = self.shared.notify.notified();
            tokio::pin!(changed);
            // From here on no change is missed.
            changed.as_mut().enable();
            let found = self.with(|value| wanted(value).then(|| value.clone()));
            if let Some(found) = found {
                return found;
            }
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn wakes_in_the_order_of_waiting() {
        let signal = Signal::new(0);
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..32 {
            let (signal, order) = (signal.clone(), Arc::clone(&order));
            tasks.spawn(async move {
                signal.wait_for(|value| *value == 2).await;
                order.lock().unwrap().push(number);
            });
        }
        tokio::task::yield_now().await;
        signal.set(1);
        tokio::task::yield_now().await;
        assert!(order.lock().unwrap().is_empty());
        signal.set(2);
        while tasks.join_next().await.is_some() {}
        let order = order.lock().unwrap().clone();
        assert_eq!(order, (0..32).collect::<Vec<_>>());
        assert_eq!(signal.get(), 2);
    }
}
