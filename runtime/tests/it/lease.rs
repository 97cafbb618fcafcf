//! One replica at work, on a real nats-server.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use runtime::budget::{BucketSize, Lane, SharedBudget};
use runtime::lease::{Lease, TERM, lead};
use runtime::{Broker, CancellationToken, Leadership};

use crate::{Bench, eventually};

const STAGE: &str = "producer";

async fn lease(bench: &Bench, folder: &Path) -> Lease {
    Lease::open(&bench.broker, STAGE, folder).await.unwrap()
}

/// Waits for a lease in a task of its own.
fn wait_for(mut lease: Lease) -> tokio::task::JoinHandle<Leadership> {
    tokio::spawn(async move { lease.acquire().await.unwrap() })
}

#[tokio::test(flavor = "multi_thread")]
async fn one_has_it_until_it_gives_it_up() {
    let bench = Bench::bootstrapped().await;
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let held = lease(&bench, one.path()).await.acquire().await.unwrap();
    let waiting = wait_for(lease(&bench, other.path()).await);
    // Longer than a term: it is renewed.
    tokio::time::sleep(TERM * 2).await;
    assert!(held.is_held() && !waiting.is_finished());
    held.release().await;
    assert!(!held.is_held());
    assert!(waiting.await.unwrap().is_held());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_taken_from_the_dead_is_held_by_one() {
    let bench = Bench::bootstrapped().await;
    let folders: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
    drop(lease(&bench, folders[0].path()).await.acquire().await.unwrap());
    let died = Instant::now();
    let waiting: Vec<_> =
        [wait_for(lease(&bench, folders[1].path()).await), wait_for(lease(&bench, folders[2].path()).await)]
            .into();
    eventually("a successor", || async { waiting.iter().any(|task| task.is_finished()) }).await;
    assert!(died.elapsed() > TERM - Duration::from_secs(1), "it may have been alive elsewhere");
    tokio::time::sleep(TERM).await;
    assert_eq!(waiting.iter().filter(|task| task.is_finished()).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn work_ends_while_nats_is_away_and_goes_on_afterwards() {
    let mut bench = Bench::bootstrapped().await;
    let folder = tempfile::tempdir().unwrap();
    let log = Mutex::new(Vec::new());
    let note = |word: &'static str| log.lock().unwrap().push(word);
    let broker = bench.broker.clone();
    let work = lead(&broker, STAGE, folder.path(), |leadership| {
        note("begun");
        async move {
            leadership.lost().await;
            std::future::pending().await
        }
    });
    let watch = async {
        eventually("the work", || async { log.lock().unwrap().len() == 1 }).await;
        bench.server.kill().await.unwrap();
        tokio::time::sleep(TERM + Duration::from_secs(1)).await;
        assert_eq!(log.lock().unwrap().len(), 1, "nobody takes over what nobody can see");
        bench.server.restart().await.unwrap();
        eventually("the work again", || async { log.lock().unwrap().len() == 2 }).await;
    };
    tokio::select! {
        ended = work => panic!("{ended:?}"),
        () = watch => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_nats_no_request_to_bitrix24_gets_its_turn() {
    let mut bench = Bench::bootstrapped().await;
    let size = BucketSize { capacity: 50.0, leak_per_second: 2.0, clock_speed: 1.0 };
    let budget = SharedBudget::open(&bench.broker, size).await.unwrap();
    budget.acquire(Lane::Live).await.unwrap();
    bench.server.kill().await.unwrap();
    let asking = tokio::spawn(async move { budget.acquire(Lane::Live).await });
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!asking.is_finished(), "it waits, with a bucket that has room for 48 more");
    bench.server.restart().await.unwrap();
    asking.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_that_is_refused_is_tried_once_a_minute_by_all_together() {
    let bench = Bench::bootstrapped().await;
    // A minute takes two seconds.
    let size = BucketSize { capacity: 50.0, leak_per_second: 2.0, clock_speed: 30.0 };
    let mut budgets = Vec::new();
    for _ in 0..4 {
        let budget = SharedBudget::open(&bench.broker, size).await.unwrap().behind_door().await.unwrap();
        // All are at work before anybody is refused.
        budget.acquire(Lane::Live).await.unwrap();
        budgets.push(budget);
    }
    let tries: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let is_mended = Arc::new(AtomicBool::new(false));
    budgets[0].told(false).await;
    let refused = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for budget in budgets {
        let (tries, is_mended) = (Arc::clone(&tries), Arc::clone(&is_mended));
        tasks.spawn(async move {
            loop {
                budget.acquire(Lane::Live).await.unwrap();
                let is_let_in = is_mended.load(Ordering::SeqCst);
                tries.lock().unwrap().push(Instant::now());
                budget.told(is_let_in).await;
                if is_let_in {
                    break;
                }
            }
        });
    }
    eventually("four tries", || async { tries.lock().unwrap().len() >= 4 }).await;
    is_mended.store(true, Ordering::SeqCst);
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    let tries = tries.lock().unwrap();
    let moments: Vec<Instant> = std::iter::once(refused).chain(tries.iter().copied()).take(6).collect();
    for pair in moments.windows(2) {
        let between = pair[1] - pair[0];
        // A try is told of a little later than it was taken.
        assert!(between > Duration::from_millis(1_500), "{between:?} between two tries: {moments:?}");
    }
    // The one whose try it was let the other three in, who need not wait for a minute of their own.
    assert_eq!(tries.len(), 8);
    assert!(tries[7] - tries[4] < Duration::from_millis(1_500));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_portal_refuses_to_one_all_wait_for() {
    let bench = Bench::bootstrapped().await;
    let size = BucketSize { capacity: 20.0, leak_per_second: 0.001, clock_speed: 1.0 };
    let budgets = [
        SharedBudget::open(&bench.broker, size).await.unwrap(),
        SharedBudget::open(&bench.broker, size).await.unwrap(),
    ];
    for budget in &budgets {
        budget.acquire(Lane::Live).await.unwrap();
    }
    budgets[0].overrun().await;
    let turn = tokio::time::timeout(Duration::from_secs(1), budgets[1].acquire(Lane::Live)).await;
    assert!(turn.is_err(), "two of twenty were booked, and yet nobody gets one");
    let level = SharedBudget::look(&bench.broker).await.unwrap().unwrap();
    assert!(level.level > 19.9, "{level:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_on_different_hosts_take_from_one_bucket() {
    let bench = Bench::bootstrapped().await;
    let size = BucketSize { capacity: 20.0, leak_per_second: 0.001, clock_speed: 1.0 };
    let settings = runtime::broker::NatsSettings::plain(&bench.server.url()).unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let health = runtime::health::Health::default();
        let broker = Broker::connect("test", &settings, health, CancellationToken::new()).await.unwrap();
        let budget = SharedBudget::open(&broker, size).await.unwrap();
        for _ in 0..10 {
            let budget = budget.clone();
            tasks.spawn(async move { budget.acquire(Lane::Live).await });
        }
    }
    let mut had = 0;
    while let Ok(Some(turn)) = tokio::time::timeout(Duration::from_secs(3), tasks.join_next()).await {
        turn.unwrap().unwrap();
        had += 1;
    }
    // Two are kept back, and the forty that ask get the eighteen that are left between them.
    assert_eq!(had, 18);
}
