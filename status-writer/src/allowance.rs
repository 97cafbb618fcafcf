//! The request budget that all processes share, as the client's budget.

use bitrix24::{ClientBuilder, Lane};
use runtime::CancellationToken;
use runtime::budget::{self, SharedBudget};

tokio::task_local! {
    /// Cancelled when a request gets no place in the bucket any more, as the stage is to stop.
    static NO_MORE: CancellationToken;
}

/// Has every request of a client wait for its place in the shared bucket, and at the door while that is shut.
pub fn share(portal: ClientBuilder, shared: SharedBudget) -> ClientBuilder {
    let (listening, overrun) = (shared.clone(), shared.clone());
    let portal = portal.told(move |is_let_in| {
        let listening = listening.clone();
        Box::pin(async move { listening.told(is_let_in).await })
    });
    let portal = portal.refused(move || {
        let overrun = overrun.clone();
        Box::pin(async move { overrun.overrun().await })
    });
    portal.budget(move |lane| {
        let shared = shared.clone();
        Box::pin(async move {
            let lane = match lane {
                Lane::Live => budget::Lane::Live,
                Lane::Backfill => budget::Lane::Backfill,
            };
            if shared.acquire(lane).await.is_err() {
                let _outside_of_a_request = NO_MORE.try_with(CancellationToken::cancel);
                // No request without a place.
                std::future::pending::<()>().await;
            }
        })
    })
}

/// Makes requests; `None` when the next of them gets no place in the bucket any more.
pub async fn unless_stopped<T>(requests: impl Future<Output = T>) -> Option<T> {
    let no_more = CancellationToken::new();
    let scope = NO_MORE.scope(no_more.clone(), async {
        tokio::select! {
            biased;
            answer = requests => Some(answer),
            () = no_more.cancelled() => None,
        }
    });
    scope.await
}
