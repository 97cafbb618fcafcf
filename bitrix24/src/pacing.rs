//! Waiting for the request budget.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

use crate::bucket::{Lane, LeakyBucket, Take};

/// A future on the heap.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A budget kept elsewhere, awaited before every request.
pub(crate) type ForeignBudget = Arc<dyn Fn(Lane) -> BoxFuture<'static, ()> + Send + Sync>;

/// Whoever keeps that budget, told that the portal found it overdrawn.
pub(crate) type RefusalListener = Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;

/// Somebody who is told of every answer whether the portal took the webhook.
pub(crate) type Listener = Arc<dyn Fn(bool) -> BoxFuture<'static, ()> + Send + Sync>;

/// Who keeps the request budget.
pub(crate) enum Pacing {
    /// This process alone.
    Own(OwnBucket),
    /// Somebody who knows of other processes, too.
    Foreign {
        /// Awaited before every request.
        budget: ForeignBudget,
        /// Told of refused requests.
        refused: Option<RefusalListener>,
    },
}

impl Pacing {
    /// Waits until a request may go out; the permit is dropped when it has ended.
    pub(crate) async fn permit(&self, lane: Lane) -> Permit<'_> {
        match self {
            Self::Own(bucket) => bucket.permit(lane).await,
            Self::Foreign { budget, .. } => {
                budget(lane).await;
                Permit { bucket: None }
            }
        }
    }

    /// Notes that the portal refused a request, as its bucket is full.
    pub(crate) async fn note_refusal(&self) {
        match self {
            Self::Own(bucket) => bucket.lock().fill(bucket.now()),
            Self::Foreign { refused: Some(refused), .. } => refused().await,
            Self::Foreign { refused: None, .. } => {}
        }
    }
}

/// The bucket of this process, with a queue for each lane so that nobody is overtaken within it.
pub(crate) struct OwnBucket {
    bucket: Mutex<LeakyBucket>,
    started: Instant,
    clock_speed: f64,
    live: tokio::sync::Mutex<()>,
    backfill: tokio::sync::Mutex<()>,
}

impl OwnBucket {
    pub(crate) fn new(bucket: LeakyBucket, clock_speed: f64) -> Self {
        Self {
            bucket: Mutex::new(bucket),
            started: Instant::now(),
            clock_speed,
            live: tokio::sync::Mutex::default(),
            backfill: tokio::sync::Mutex::default(),
        }
    }

    async fn permit(&self, lane: Lane) -> Permit<'_> {
        let queue = match lane {
            Lane::Live => &self.live,
            Lane::Backfill => &self.backfill,
        };
        let _turn = queue.lock().await;
        loop {
            let take = self.lock().take(self.now(), lane);
            match take {
                Take::Ready => return Permit { bucket: Some(self) },
                Take::Wait(wait) => tokio::time::sleep(wait.div_f64(self.clock_speed)).await,
            }
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed().mul_f64(self.clock_speed)
    }

    fn lock(&self) -> MutexGuard<'_, LeakyBucket> {
        self.bucket.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// A request that has been counted. Dropping it, even unfinished, lets the count begin to leak.
pub(crate) struct Permit<'a> {
    bucket: Option<&'a OwnBucket>,
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if let Some(bucket) = self.bucket {
            bucket.lock().settle(bucket.now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_hundred_requests_take_the_time_the_bucket_needs() {
        let pacing = Pacing::Own(OwnBucket::new(LeakyBucket::new(50.0, 2.0), 10.0));
        let start = Instant::now();
        for _ in 0..100 {
            drop(pacing.permit(Lane::Live).await);
        }
        let portal_seconds = start.elapsed().as_secs_f64() * 10.0;
        assert!((25.9..27.0).contains(&portal_seconds), "{portal_seconds}");
    }

    #[tokio::test(start_paused = true)]
    async fn live_requests_pass_waiting_backfill() {
        let pacing = Pacing::Own(OwnBucket::new(LeakyBucket::new(50.0, 2.0), 1.0));
        for _ in 0..40 {
            drop(pacing.permit(Lane::Backfill).await);
        }
        let start = Instant::now();
        drop(pacing.permit(Lane::Live).await);
        assert_eq!(start.elapsed(), Duration::ZERO);
        drop(pacing.permit(Lane::Backfill).await);
        assert!(start.elapsed() >= Duration::from_millis(900));
    }
}
