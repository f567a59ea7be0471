//! Limits on futures, and ticks.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use penstock_reactor::{Ticks, sleep, ticks_per_second};

/// The output of `future`, or `None` where `limit` passes first.
pub(crate) async fn within<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut alarm = pin!(sleep(limit));
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => alarm.as_mut().poll(cx).map(|()| None),
    })
    .await
}

/// A duration in ticks.
pub(crate) fn ticks_of(duration: Duration) -> Ticks {
    let ticks = duration.as_nanos() * u128::from(ticks_per_second()) / 1_000_000_000;
    Ticks::try_from(ticks).unwrap_or(Ticks::MAX)
}
