//! Tickets and their clients.

use schemas::streams::{COMMANDS, RESULTS, WAITING};
use schemas::{Answered, Mapping, Outcome, RecordProcessed, RecordRef, Version, subjects};
use serde_json::json;

use crate::bench::{Bench, assert_success, client, contact, deal, eventually, refused, ticket, version};

/// Has a deal's ticket be made.
async fn sell(bench: &Bench, sale: RecordRef, pupil: RecordRef, raw_sequence: u64) {
    bench.command(sale, pupil, version(raw_sequence), "", ticket(pupil)).await;
    assert_success(&bench.settled(sale, version(raw_sequence)).await, Outcome::Created);
}

/// Sells to a contact that does not become a client; returns the raw version of the contact, which the deal's follows, and what
/// became of the deal.
async fn sell_to_nobody(
    bench: &Bench,
    sale: RecordRef,
    pupil: RecordRef,
    mapping: Mapping,
) -> (u64, RecordProcessed) {
    let read = bench.raw(pupil).await;
    bench.command(pupil, pupil, version(read), "", mapping).await;
    bench.command(sale, pupil, version(read + 1), "", ticket(pupil)).await;
    (read, bench.settled(sale, version(read + 1)).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_waits_for_its_client_and_follows_it() {
    let bench = Bench::start().await;
    let (pupil, sale) = (contact(39910), deal(96038));
    let read = bench.raw(pupil).await;
    let _pusher = bench.pusher();
    bench.command(sale, pupil, version(read + 1), "", ticket(pupil)).await;
    let commands = subjects::command(pupil.id, sale);
    eventually("the ticket to come back twice", async || {
        let message = bench.last(&COMMANDS, &commands).await.unwrap();
        message.header("ce-attempt").is_some_and(|attempt| attempt.parse::<u64>().unwrap() >= 2)
    })
    .await;
    assert!(bench.result(sale).await.is_none());
    let waited = bench.last(&COMMANDS, &commands).await.unwrap();
    assert_eq!(waited.header(Answered::HEADER), Some("get_client not_found 404"));

    bench.command(pupil, pupil, version(read), "", client("Иван")).await;
    assert_success(&bench.settled(sale, version(read + 1)).await, Outcome::Created);
    assert_success(&bench.settled(pupil, version(read)).await, Outcome::Created);
    bench.idle().await;
    assert_eq!(bench.applied("/api/tickets/").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_is_refused_with_its_client_and_released_when_that_is_put_right() {
    let bench = Bench::start().await;
    let _pusher = bench.pusher();
    let (pupil, sale) = (contact(39910), deal(96038));
    let (read, without_client) = sell_to_nobody(&bench, sale, pupil, refused()).await;
    assert_eq!(without_client.outcome, Outcome::Refused);
    assert_eq!(without_client.problems[0].code, "client.missing");
    assert!(without_client.status.contains("39910"), "{}", without_client.status);

    let corrected = bench.raw(pupil).await;
    bench.command(pupil, pupil, version(corrected), &without_client.status, client("Иван")).await;
    let released = Version { raw_sequence: read + 1, redrive: 1 };
    assert_success(&bench.settled(sale, released).await, Outcome::Created);

    // The next change of the pupil finds nobody waiting.
    bench.command(pupil, pupil, version(corrected + 1), "Успешно", client("Пётр")).await;
    bench.settled(pupil, version(corrected + 1)).await;
    bench.idle().await;
    assert_eq!(bench.result(sale).await.unwrap().0, released);
    assert_eq!(bench.applied("/api/tickets/").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_goes_where_its_client_is_although_that_arrived_unseen_and_is_refused_since() {
    let bench = Bench::start().await;
    let _pusher = bench.pusher();
    let (pupil, sale) = (contact(39910), deal(96038));
    let (read, without_client) = sell_to_nobody(&bench, sale, pupil, refused()).await;
    assert_eq!(without_client.problems[0].code, "client.missing");

    bench
        .fault(json!({"kind": "reset_after_apply", "method": "POST", "path": "/api/clients/", "count": 1}))
        .await;
    bench.fault(json!({"kind": "validation_400", "method": "POST", "path": "/api/clients/39910/"})).await;
    let corrected = bench.raw(pupil).await;
    bench.command(pupil, pupil, version(corrected), "", client("Иван")).await;
    let told = bench.settled(pupil, version(corrected)).await;
    assert_eq!(told.outcome, Outcome::Refused);
    assert!(told.target_id.is_some(), "it is there");
    let released = Version { raw_sequence: read + 1, redrive: 1 };
    assert_success(&bench.settled(sale, released).await, Outcome::Created);
    assert_eq!(bench.applied("/api/clients/").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_of_a_pupil_who_does_not_concern_otmechalka_says_so() {
    let bench = Bench::start().await;
    let _pusher = bench.pusher();
    let (pupil, sale) = (contact(39911), deal(96039));
    let (_, told) = sell_to_nobody(&bench, sale, pupil, Mapping::OutOfScope).await;
    // The contact's own status is a success, so nothing there could be put right.
    assert_eq!(told.problems[0].code, "client.out_of_scope");
    assert!(!told.status.contains("Статус синхронизации"), "{}", told.status);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_otmechalka_is_named_as_that() {
    let bench = Bench::start().await;
    bench.otmechalka_settings(serde_json::json!({"max_visitors": 1})).await;
    let _pusher = bench.pusher();
    bench.new_client(contact(1)).await;
    bench.settled(contact(1), version(1)).await;
    bench.command(contact(2), contact(2), version(2), "", client("Иван")).await;
    let told = bench.settled(contact(2), version(2)).await;
    assert_eq!((told.outcome, told.problems[0].code.as_str()), (Outcome::Refused, "client.limit"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_of_a_contact_that_is_never_read_waits_only_until_the_contacts_are_read_that_far() {
    let bench = Bench::start().await;
    let _pusher = bench.pusher();
    let (pupil, sale) = (contact(17), deal(18));
    bench.contacts_read_until("2026-01-10T11:59:00+03:00").await;
    bench.command(sale, pupil, version(9), "", ticket(pupil)).await;
    let commands = subjects::command(pupil.id, sale);
    eventually("the ticket to come back", async || {
        bench.last(&COMMANDS, &commands).await.unwrap().header("ce-attempt").is_some()
    })
    .await;
    assert!(bench.result(sale).await.is_none());
    bench.contacts_read_until("2026-01-10T12:00:01+03:00").await;
    assert_eq!(bench.settled(sale, version(9)).await.problems[0].code, "client.not_read");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_that_is_there_is_left_alone() {
    let bench = Bench::start().await;
    let _pusher = bench.pusher();
    let (pupil, sale) = (contact(17), deal(18));
    bench.command(pupil, pupil, version(1), "", client("Иван")).await;
    sell(&bench, sale, pupil, 2).await;
    let calls = bench.history().await.len();
    bench.command(sale, pupil, version(3), "Успешно", ticket(pupil)).await;
    assert_success(&bench.settled(sale, version(3)).await, Outcome::AlreadyThere);
    assert_eq!(bench.history().await.len(), calls);
    bench.command(sale, pupil, version(4), "", ticket(pupil)).await;
    assert_success(&bench.settled(sale, version(4)).await, Outcome::AlreadyThere);
    assert_eq!(bench.history().await.len(), calls + 1, "a cleared status is looked up for real");
    assert_eq!(bench.applied("/api/tickets/").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_whose_client_was_deleted_in_otmechalka_follows_when_it_is_back() {
    let bench = Bench::start().await;
    let _pusher = bench.pusher();
    let (pupil, sale) = (contact(17), deal(18));
    let read = bench.raw(pupil).await;
    bench.command(pupil, pupil, version(read), "", client("Иван")).await;
    bench.settled(pupil, version(read)).await;
    bench.delete_client(pupil).await;
    bench.command(sale, pupil, version(read + 1), "", ticket(pupil)).await;
    assert_eq!(bench.settled(sale, version(read + 1)).await.problems[0].code, "client.lost");

    bench.command(pupil, pupil, version(read + 2), "", client("Иван")).await;
    assert_success(&bench.settled(pupil, version(read + 2)).await, Outcome::Created);
    let released = Version { raw_sequence: read + 1, redrive: 1 };
    assert_success(&bench.settled(sale, released).await, Outcome::Created);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deal_with_a_ticket_stays_a_success_when_a_later_edit_does_not_map() {
    let bench = Bench::start().await;
    let pusher = bench.pusher();
    let (pupil, sale) = (contact(22), deal(23));
    bench.command(pupil, pupil, version(1), "", client("Иван")).await;
    bench.settled(pupil, version(1)).await;
    sell(&bench, sale, pupil, 2).await;
    let calls = bench.history().await.len();
    for (raw_sequence, mapping) in [(3, refused()), (4, Mapping::OutOfScope), (5, refused())] {
        bench.command(sale, pupil, version(raw_sequence), "Успешно", mapping).await;
        assert_success(&bench.settled(sale, version(raw_sequence)).await, Outcome::AlreadyThere);
    }
    assert_eq!(bench.history().await.len(), calls, "what is remembered is not asked");
    assert!(pusher.stop().await.success());

    // The results are forgotten, as after their time.
    let results = bench.broker.stream(RESULTS.name).await.unwrap();
    results.purge().await.unwrap();
    std::fs::remove_dir_all(bench.state_dir()).unwrap();
    let _pusher = bench.pusher();
    bench.command(sale, pupil, version(6), "Успешно", refused()).await;
    assert_success(&bench.settled(sale, version(6)).await, Outcome::AlreadyThere);
    assert_eq!(bench.history().await.len(), calls + 1);
    for (sale, status) in [(deal(24), "Успешно"), (deal(25), "")] {
        bench.command(sale, pupil, version(7), status, refused()).await;
        assert_eq!(bench.settled(sale, version(7)).await.problems[0].code, "phone.missing");
    }
    assert_eq!(bench.history().await.len(), calls + 2, "a new deal is not looked up");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_deal_without_a_pupil_is_looked_up_again_where_the_first_look_fails() {
    let bench = Bench::start().await;
    let (pupil, sale) = (contact(22), deal(23));
    let _pusher = bench.pusher();
    bench.new_client(pupil).await;
    sell(&bench, sale, pupil, 30).await;
    bench
        .fault(json!({"kind": "internal_500", "method": "GET", "path": "/api/tickets/23/", "count": 1}))
        .await;
    bench.command(sale, sale, version(31), "", refused()).await;
    assert_success(&bench.settled(sale, version(31)).await, Outcome::AlreadyThere);
    assert_eq!(bench.faults_fired().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_that_is_sent_round_again_looks_whether_the_ticket_came_meanwhile() {
    let bench = Bench::start().await;
    let (pupil, sale) = (contact(39912), deal(96040));
    let pusher = bench.pusher();
    bench.new_client(pupil).await;
    sell(&bench, sale, pupil, 4).await;
    assert!(pusher.stop().await.success());
    // As a replica sees it that does not know of the older version, whose ticket is just being made.
    bench.forget(sale).await;
    std::fs::remove_dir_all(bench.state_dir()).unwrap();
    let _pusher = bench.pusher();
    bench.command(sale, pupil, version(5), "", refused()).await;
    assert_eq!(bench.settled(sale, version(5)).await.outcome, Outcome::Refused);
    let again = Version { raw_sequence: 5, redrive: 1 };
    bench.command(sale, pupil, again, "Телефон", refused()).await;
    assert_success(&bench.settled(sale, again).await, Outcome::AlreadyThere);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deal_that_was_given_up_is_looked_up_before_a_later_version_is_refused() {
    let bench = Bench::start().await;
    let (pupil, sale) = (contact(22), deal(23));
    let _pusher = bench.pusher();
    bench.new_client(pupil).await;
    bench.settled(pupil, version(22)).await;
    bench.fault(json!({"kind": "internal_500", "method": "POST", "origin_id": "23"})).await;
    bench.command(sale, pupil, version(30), "", ticket(pupil)).await;
    // Others are taken meanwhile, so it is the deal that is sick.
    eventually("the first failure", async || bench.faults_fired().await >= 1).await;
    bench.new_client(contact(31)).await;
    let given_up = bench.settled(sale, version(30)).await;
    assert_eq!(given_up.problems[0].code, "otmechalka.keeps_failing");
    // The last of its creates is carried out after all.
    bench.no_faults().await;
    let creates = bench.history().await;
    let last = creates.iter().rfind(|call| call["method"] == "POST" && call["path"] == "/api/tickets/");
    bench.carry_out(last.unwrap()).await;
    bench.command(sale, pupil, version(31), &given_up.status, refused()).await;
    assert_success(&bench.settled(sale, version(31)).await, Outcome::AlreadyThere);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_whose_command_is_no_longer_kept_is_not_forgotten() {
    let bench = Bench::start().await;
    let (pupil, sale) = (contact(26), deal(27));
    let key = format!("{}.{}", pupil.id, sale.id);
    let waiting = bench.broker.bucket(&WAITING).await.unwrap();
    waiting.put(&key, subjects::command(pupil.id, sale).into()).await.unwrap();
    let _pusher = bench.pusher();
    bench.command(pupil, pupil, version(1), "", client("Иван")).await;
    bench.idle().await;
    assert_success(&bench.settled(pupil, version(1)).await, Outcome::Created);
    assert!(waiting.get(&key).await.unwrap().is_some());
}
