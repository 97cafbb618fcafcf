//! Seeded scripts. `ROLLCALL_SEED=7` plays the script of that seed instead.

use e2e::harness::{Kind, Plan, play};

/// Plays some kinds of trouble, or the script that is asked for.
async fn script(seed: u64, kinds: &[Kind]) -> anyhow::Result<()> {
    let plan = match std::env::var("ROLLCALL_SEED") {
        Ok(seed) => Plan::of_seed(seed.parse()?),
        Err(_) => Plan::new(seed, kinds),
    };
    play(&plan).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seeded_script_of_edits_and_troubles_ends_as_the_oracle_says() -> anyhow::Result<()> {
    script(1, &Kind::ALL[..8]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn and_so_does_another_with_the_other_troubles() -> anyhow::Result<()> {
    script(2, &Kind::ALL[8..]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn and_so_does_a_third_on_three_servers() -> anyhow::Result<()> {
    let others = [Kind::Kill, Kind::Zombie, Kind::Redeliver, Kind::Otmechalka];
    script(3, &[&Kind::OF_A_CLUSTER[..], &others].concat()).await
}
