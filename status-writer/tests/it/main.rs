//! The stage against a real nats-server and the simulated Bitrix24.

mod bench;

use std::collections::BTreeSet;

use serde_json::json;

use crate::bench::{Bench, FIELD, SUCCESS, updates_that_take};

#[tokio::test(flavor = "multi_thread")]
async fn a_status_is_written_once_and_read_back_in_the_same_request() {
    let bench = Bench::start().await;
    let ids = bench.contacts(3).await;
    bench.run().await;
    for id in &ids {
        bench.outcome(*id, 1, SUCCESS, "").await;
    }
    bench.settled(3).await;
    assert_eq!(bench.writes().await, ids.iter().map(|id| (*id, SUCCESS.to_owned())).collect::<Vec<_>>());
    let history = bench.history().await;
    assert!(
        history.iter().all(|entry| entry["fields"].as_object().unwrap().keys().eq([FIELD])),
        "{history:?}"
    );
    // Two looks at the fields and one batch. The look at those of deals may come last.
    bench.until("three requests", || async { bench.requests().await["requests"] == 3 }).await;
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_is_shown_already_is_not_written() {
    let bench = Bench::start().await;
    let id = bench.contacts(1).await[0];
    bench.run().await;
    bench.outcome(id, 1, "Не заполнено поле.", "Не заполнено поле.").await;
    bench.settled(1).await;
    assert!(bench.writes().await.is_empty());
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_versions_only_the_newest_is_written() {
    let bench = Bench::start().await;
    let id = bench.contacts(1).await[0];
    for (version, text) in [(1, "one"), (3, "three"), (2, "two")] {
        bench.outcome(id, version, text, "").await;
    }
    bench.run().await;
    bench.settled(1).await;
    bench.consumed().await;
    assert_eq!(bench.writes().await, [(id, "three".to_owned())]);
    bench.outcome(id, 2, "two", "").await;
    bench.consumed().await;
    assert_eq!(bench.shown(id).await, "three");
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_field_stops_everything_until_it_is_back() {
    let bench = Bench::start().await;
    let ids = bench.contacts(4).await;
    bench.run().await;
    bench.outcome(ids[0], 1, SUCCESS, "").await;
    bench.settled(1).await;
    bench.delete_field().await;
    for id in &ids[1..] {
        bench.outcome(*id, 2, "new", "").await;
    }
    bench
        .until("a second look at the fields", || async { bench.commands("crm.contact.fields").await >= 2 })
        .await;
    assert_eq!(bench.unsettled().await, 3);
    bench.add_field().await;
    bench.settled(4).await;
    bench.consumed().await;
    for id in &ids[1..] {
        assert_eq!(bench.shown(*id).await, "new");
    }
    // What was confirmed in vain, and once more.
    assert!(bench.commands("crm.contact.update").await <= 1 + 2 * 3);
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_that_is_gone_from_contacts_does_not_hold_up_deals() {
    let bench = Bench::start().await;
    bench.delete_field().await;
    let deal = bench.deal().await;
    // More than can be in flight.
    for id in 1..=1_100 {
        bench.outcome(id, 1, SUCCESS, "").await;
    }
    bench.outcome_of(deal, 1, SUCCESS, "").await;
    bench.run().await;
    bench.settled(1).await;
    assert_eq!(bench.commands("crm.deal.update").await, 1);
    // It is published before it is acked, and of the contacts none can be written.
    bench.until("the deal's ack", || async { bench.unsettled().await == 1_100 }).await;
    bench.stop_stage().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_that_is_missing_at_the_start_is_waited_for() {
    let bench = Bench::start().await;
    let id = bench.contacts(1).await[0];
    bench.delete_field().await;
    bench.outcome(id, 1, SUCCESS, "").await;
    bench.run().await;
    bench
        .until("a second look at the fields", || async { bench.commands("crm.contact.fields").await >= 2 })
        .await;
    assert_eq!(bench.commands("crm.contact.update").await, 0);
    bench.add_field().await;
    bench.settled(1).await;
    assert_eq!(bench.commands("crm.contact.update").await, 1);
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_record_ends_quietly() {
    let bench = Bench::start().await;
    let ids = bench.contacts(2).await;
    bench.delete(ids[0]).await;
    bench.run().await;
    for id in &ids {
        bench.outcome(*id, 1, SUCCESS, "").await;
    }
    bench.settled(2).await;
    bench.consumed().await;
    assert_eq!(bench.shown(ids[1]).await, SUCCESS);
    assert_eq!(bench.commands("crm.contact.update").await, 2);
    assert_eq!(bench.dead_letters().await, 0);
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_the_list_still_shows_is_not_gone() {
    let bench = Bench::start().await;
    let id = bench.contacts(1).await[0];
    bench
        .fault(json!({
            "kind": "command_error", "method": "crm.contact.update", "count": 1,
            "error": "", "description": "Contact is not found"
        }))
        .await;
    bench.run().await;
    bench.outcome(id, 1, SUCCESS, "").await;
    bench.settled(1).await;
    assert_eq!(bench.shown(id).await, SUCCESS);
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_does_not_write_twice() {
    for kind in ["answer_lost", "reset_after_apply", "truncated", "bad_gzip"] {
        let bench = Bench::start().await;
        let ids = bench.contacts(5).await;
        bench.fault(json!({"kind": kind, "method": "batch", "count": 1})).await;
        bench.run().await;
        for id in &ids {
            bench.outcome(*id, 1, SUCCESS, "").await;
        }
        bench.settled(5).await;
        bench.consumed().await;
        assert_eq!(bench.writes().await.len(), 5, "{kind}");
        bench.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn however_many_answers_are_lost_no_version_is_written_more_than_twice() {
    for fault in [
        // Those of all updates; looks are answered.
        json!({"kind": "reset_after_apply", "method": "crm.contact.update"}),
        // Whatever is asked.
        json!({"kind": "reset_after_apply", "method": "batch", "count": 8}),
    ] {
        let bench = Bench::start().await;
        let ids = bench.contacts(20).await;
        bench.fault(fault).await;
        bench.run().await;
        for id in &ids {
            bench.outcome(*id, 1, SUCCESS, "").await;
        }
        bench.settled(20).await;
        bench.consumed().await;
        let writes = bench.writes().await;
        assert!(writes.len() >= 20);
        assert!(writes.chunk_by(|one, other| one == other).all(|same| same.len() <= 2), "{writes:?}");
        bench.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_cut_off_is_never_sent_again_at_the_same_size() {
    const CUT_OFF: usize = 3;
    let bench = Bench::start().await;
    let ids = bench.contacts(120).await;
    for id in &ids {
        bench.outcome(*id, 1, SUCCESS, "").await;
    }
    // The first two batches, of ten and twenty, pass.
    bench
        .fault(json!({"kind": "half_batch_then_504", "method": "crm.contact.update", "skip": 2, "count": CUT_OFF}))
        .await;
    bench.run().await;
    bench.settled(120).await;
    bench.consumed().await;
    let history = bench.history().await;
    let sizes: Vec<usize> =
        history.chunk_by(|one, other| one["request"] == other["request"]).map(<[_]>::len).collect();
    let halves = &sizes[2..2 + CUT_OFF];
    assert!(halves.is_sorted_by(|one, next| one > next), "{sizes:?}");
    assert_eq!(bench.requests().await["faults"]["half_batch_then_504"], CUT_OFF);
    assert_eq!(bench.writes().await.len(), 120);
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_batch_applied_by_half_only_the_rest_is_written_again() {
    let bench = Bench::start().await;
    let ids = bench.contacts(10).await;
    bench.fault(json!({"kind": "half_batch_then_504", "method": "batch", "count": 1})).await;
    for id in &ids {
        bench.outcome(*id, 1, SUCCESS, "").await;
    }
    bench.run().await;
    bench.settled(10).await;
    bench.consumed().await;
    assert_eq!(bench.writes().await.len(), 10);
    bench.stop().await;
}

/// Has others written one after the other until the one that waits is a dead letter.
async fn is_buried_beside(bench: &Bench, others: &[u64]) {
    let mut written = 0;
    for id in others {
        if bench.dead_letters().await > 0 {
            break;
        }
        bench.outcome(*id, 1, SUCCESS, "").await;
        written += 1;
        bench.settled(written).await;
    }
    assert_eq!((bench.dead_letters().await, bench.writes().await.len() as u64), (1, written));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_status_is_a_dead_letter_only_once_others_are_written() {
    let bench = Bench::start().await;
    let ids = bench.contacts(40).await;
    bench
        .fault(json!({
            "kind": "command_error", "method": "crm.contact.update", "id": ids[0],
            "error": "ERROR_CORE", "description": "Field is not valid"
        }))
        .await;
    bench.run().await;
    bench.outcome(ids[0], 1, SUCCESS, "").await;
    // Alone it may be the portal that rejects everything.
    bench.until("five tries", || async { bench.requests().await["faults"]["command_error"] == 5 }).await;
    assert_eq!(bench.dead_letters().await, 0);
    is_buried_beside(&bench, &ids[1..]).await;
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_portal_that_rejects_everything_for_a_while_buries_nothing() {
    let bench = Bench::start().await;
    let ids = bench.contacts(30).await;
    let fault = json!({"kind": "command_error", "method": "crm.contact.update", "error": "ERROR_CORE"});
    bench.fault(fault).await;
    bench.run().await;
    for id in &ids {
        bench.outcome(*id, 1, SUCCESS, "").await;
    }
    let tries = || async { bench.requests().await["faults"]["command_error"].as_u64() };
    bench.until("five tries of each", || async { tries().await >= Some(150) }).await;
    bench.no_faults().await;
    bench.settled(30).await;
    assert_eq!(bench.dead_letters().await, 0);
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_on_which_the_portal_itself_fails_is_given_up_while_others_are_written() {
    let bench = Bench::start().await;
    let ids = bench.contacts(200).await;
    let (sick, others) = ids.split_first().expect("contacts");
    bench
        .fault(json!({
            "kind": "command_error", "method": "crm.contact.update", "id": sick, "error": "INTERNAL_SERVER_ERROR"
        }))
        .await;
    bench.run().await;
    bench.outcome(*sick, 1, SUCCESS, "").await;
    // Alone it is everybody's trouble: it waits for somebody who is written, and longer each time.
    let begun = bench.now().await;
    bench.until("some tries", || async { bench.commands("crm.contact.update").await > 10 }).await;
    let took = (bench.now().await - begun).num_seconds();
    assert!(took > 120, "ten tries within {took} s");
    assert_eq!(bench.dead_letters().await, 0);
    is_buried_beside(&bench, others).await;
    assert!(bench.writes().await.iter().all(|(id, _)| id != sick));
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_over_which_the_portal_fails_whole_batches_holds_nobody_else() {
    for kind in ["php_fatal_500", "html_403", "login_redirect", "reset_before"] {
        let bench = Bench::start().await;
        let ids = bench.contacts(300).await;
        let sick = ids[7];
        bench.fault(json!({"kind": kind, "method": "crm.contact.update", "id": sick})).await;
        for id in &ids {
            bench.outcome(*id, 1, SUCCESS, "").await;
        }
        bench.run().await;
        bench.settled(299).await;
        assert!(bench.writes().await.iter().all(|(id, _)| *id != sick), "{kind}");
        // Each of these shows that it is the record's own trouble.
        for version in 2.. {
            if bench.dead_letters().await > 0 {
                break;
            }
            bench.outcome(ids[0], version, ["Ошибка", SUCCESS][version as usize % 2], "").await;
            bench.settled(298 + version).await;
        }
        assert_eq!(bench.dead_letters().await, 1, "{kind}");
        bench.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_failed_alone_for_long_lets_the_next_one_go_first() {
    for kind in ["php_fatal_500", "html_504"] {
        let bench = Bench::start().await;
        let [sick, other] = bench.contacts(2).await[..] else { panic!("two contacts") };
        bench.fault(json!({"kind": kind, "method": "crm.contact.update", "id": sick})).await;
        bench.run().await;
        bench.outcome(sick, 1, SUCCESS, "").await;
        // From then on it pauses for a minute or more each time.
        bench.until("nine tries", || async { bench.requests().await["faults"][kind] == 9 }).await;
        bench.outcome(other, 1, SUCCESS, "").await;
        bench.settled(1).await;
        bench.no_faults().await;
        bench.settled(2).await;
        bench.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_never_ends_is_tried_with_others_once() {
    // A minute of the portal, after which it cuts a request off, takes 12 s.
    let bench = Bench::at_speed(5.0, json!({})).await;
    let ids = bench.contacts(40).await;
    let stuck = json!({
        "kind": "slow_command", "method": "crm.contact.update", "id": ids[7], "seconds": 36_000.0
    });
    bench.fault(stuck).await;
    for id in &ids {
        bench.outcome(*id, 1, SUCCESS, "").await;
    }
    bench.run().await;
    bench.settled(39).await;
    // Once with others, once alone: they do not wait for that.
    let tries = bench.requests().await["faults"]["slow_command"].as_u64();
    assert!(tries <= Some(2), "{tries:?} tries");
    bench.no_faults().await;
    bench.settled(40).await;
    assert_eq!(bench.dead_letters().await, 0);
    bench.stop().await;
}

/// Has a stage die once the first of these statuses are written, and before it knows that they are.
async fn killed_while_it_writes(bench: &Bench, ids: &[u64]) {
    for id in ids {
        bench.outcome(*id, 1, SUCCESS, "").await;
    }
    // The answer drips in while the writes are done.
    bench.fault(json!({"kind": "slow", "method": "batch", "count": 1, "seconds": 600.0})).await;
    bench.run().await;
    bench.until("writes", || async { !bench.writes().await.is_empty() }).await;
    bench.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_batch_of_one_that_was_killed_is_completed_and_overtaken() {
    let bench = Bench::start().await;
    let ids = bench.contacts(6).await;
    bench
        .fault(json!({
            "kind": "slow_command", "method": "crm.contact.update", "id": ids[3], "seconds": 36_000.0
        }))
        .await;
    for id in &ids {
        bench.outcome(*id, 1, SUCCESS, "").await;
    }
    bench.run().await;
    bench.until("writes", || async { !bench.writes().await.is_empty() }).await;
    bench.kill().await;
    bench.no_faults().await;
    let half: BTreeSet<u64> = bench.writes().await.into_iter().map(|(id, _)| id).collect();
    assert!(half.len() < 6, "{half:?}");
    let edited =
        [true, false].map(|is_written| *ids.iter().find(|id| half.contains(id) == is_written).unwrap());
    for id in edited {
        bench.outcome(id, 2, "Ошибка", "").await;
    }
    bench.run().await;
    bench.consumed().await;
    let writes = bench.writes().await;
    for id in ids {
        let expected = if edited.contains(&id) { "Ошибка" } else { SUCCESS };
        assert_eq!(bench.shown(id).await, expected, "{id}");
        for text in ["Ошибка", SUCCESS] {
            let times = writes.iter().filter(|write| **write == (id, text.to_owned())).count();
            assert!(times <= 2, "{id}: {text} was written {times} times");
        }
    }
    assert_eq!(bench.dead_letters().await, 0);
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_at_which_nobody_can_look_holds_nobody_else() {
    for kind in ["php_fatal_500", "html_504"] {
        let bench = Bench::start().await;
        let ids = bench.contacts(40).await;
        killed_while_it_writes(&bench, &ids).await;
        // It has to look at all that comes again.
        bench.fault(json!({"kind": kind, "method": "crm.contact.list", "id": ids[7]})).await;
        bench.run().await;
        bench.settled(39).await;
        bench.no_faults().await;
        bench.settled(40).await;
        assert_eq!(bench.dead_letters().await, 0, "{kind}");
        bench.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_for_which_there_is_no_room_hold_nobody() {
    let bench = Bench::start().await;
    let ids = bench.contacts(20).await;
    let sick = json!({
        "kind": "command_error", "method": "crm.contact.update", "id": ids[0],
        "error": "ERROR_CORE", "description": "Field is not valid"
    });
    bench.fault(sick).await;
    bench.room_for_dead_letters(1).await;
    bench.run().await;
    // Nobody can read this one, and the portal takes that one never.
    bench.unreadable(ids[1]).await;
    bench.outcome(ids[0], 1, SUCCESS, "").await;
    let tries = || async { bench.requests().await["faults"]["command_error"].as_u64() };
    let mut written = 0;
    let mut write_another = async || {
        written += 1;
        bench.outcome(ids[2], written, ["Ошибка", SUCCESS][written as usize % 2], "").await;
        bench.settled(written).await;
        written
    };
    // Three tries beside others make a dead letter of it.
    while write_another().await < 20 || tries().await < Some(3) {}
    assert_eq!(bench.dead_letters().await, 0);
    bench.room_for_dead_letters(1 << 20).await;
    while bench.dead_letters().await < 2 {
        write_another().await;
    }
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_outlived_and_nothing_is_lost() {
    for kind in ["html_502", "internal_500", "html_200", "result_null", "empty_body", "query_limit_503"] {
        let bench = Bench::start().await;
        let id = bench.contacts(1).await[0];
        bench.run().await;
        bench.fault(json!({"kind": kind, "count": 3})).await;
        bench.outcome(id, 1, SUCCESS, "").await;
        bench.settled(1).await;
        assert_eq!(bench.writes().await, [(id, SUCCESS.to_owned())], "{kind}");
        bench.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_webhook_is_asked_once_a_minute_and_work_resumes() {
    for kind in ["unauthorized_401", "overload_503", "portal_deleted_500"] {
        let bench = Bench::start().await;
        let id = bench.contacts(1).await[0];
        bench.run().await;
        bench.fault(json!({"kind": kind, "count": 3})).await;
        bench.outcome(id, 1, SUCCESS, "").await;
        bench.settled(1).await;
        assert_eq!(bench.writes().await, [(id, SUCCESS.to_owned())], "{kind}");
        assert!(bench.requests().await["requests"].as_u64().unwrap() <= 8, "{kind}");
        bench.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_looks_like_a_reference_arrives_unchanged() {
    let bench = Bench::start().await;
    let ids = bench.contacts(2).await;
    let text = "В поле «Имя» $result[c0][ID] & = # % +";
    bench.run().await;
    bench.outcome(ids[0], 1, text, "").await;
    bench.outcome(ids[1], 1, SUCCESS, "").await;
    bench.settled(2).await;
    assert_eq!(bench.shown(ids[0]).await, text);
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stage_killed_between_write_and_settlement_writes_at_most_twice() {
    let bench = Bench::start().await;
    let ids = bench.contacts(5).await;
    killed_while_it_writes(&bench, &ids).await;
    assert_eq!(bench.fences().await, 0);
    bench.run().await;
    bench.settled(5).await;
    let writes = bench.writes().await;
    for id in ids {
        let times = writes.iter().filter(|(of, _)| *of == id).count();
        assert!((1..=2).contains(&times), "{times} writes of contact {id}");
    }
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_a_killed_stage_left_behind_does_not_outlive_a_newer_version() {
    let bench = Bench::start().await;
    let id = bench.contacts(1).await[0];
    bench.run().await;
    bench.outcome(id, 3, "E", "").await;
    bench.settled(1).await;
    bench.fault(json!({"kind": "slow", "method": "batch", "count": 1, "seconds": 600.0})).await;
    bench.outcome(id, 4, SUCCESS, "").await;
    bench.until("the second write", || async { bench.writes().await.len() == 2 }).await;
    bench.kill().await;
    // Read before that write was applied.
    bench.outcome(id, 5, "E", "E").await;
    bench.run().await;
    bench.consumed().await;
    assert_eq!(bench.shown(id).await, "E");
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redelivery_is_not_written_over_a_newer_status_that_a_killed_stage_left_behind() {
    let bench = Bench::start().await;
    let id = bench.contacts(1).await[0];
    let (old, new) = ((id, "old".to_owned()), (id, "new".to_owned()));
    for (version, write) in [(1, &old), (2, &new)] {
        // The answer drips in while the write is done.
        bench.fault(json!({"kind": "slow", "method": "batch", "count": 1, "seconds": 600.0})).await;
        bench.outcome(id, version, &write.1, "").await;
        bench.run().await;
        bench.until("the write", || async { bench.writes().await.contains(write) }).await;
        bench.kill().await;
    }
    // The older outcome comes again first.
    bench.run().await;
    bench.consumed().await;
    let texts: Vec<_> = bench.history().await.iter().map(|entry| entry["fields"][FIELD].clone()).collect();
    assert!(texts[0] == "old" && texts[1..].iter().all(|text| text == "new"), "{texts:?}");
    bench.stop().await;
}

/// Portal seconds in one of ours where what the portal does for a minute has to be told from what we do.
const SLOWLY: f64 = 20.0;

#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_goes_on_after_it_was_cut_off_does_not_outlive_a_newer_version() {
    // The portal cuts it off after 60 s.
    let bench = Bench::at_speed(SLOWLY, updates_that_take(95.0)).await;
    let ids = bench.contacts(2).await;
    bench.run().await;
    bench.outcome(ids[0], 1, "old", "").await;
    bench.until("the update", || async { bench.commands("crm.contact.update").await == 1 }).await;
    bench.updates_take(0.04).await;
    bench.until("the cut", || async { bench.requests().await["timed_out_504"] == 1 }).await;
    bench.outcome(ids[0], 2, "new", "").await;
    bench.outcome(ids[1], 1, SUCCESS, "").await;
    bench.settled(2).await;
    bench.until("the older write", || async { bench.writes().await.contains(&(ids[0], "old".into())) }).await;
    bench.consumed().await;
    assert_eq!(bench.shown(ids[0]).await, "new");
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redelivery_of_everything_writes_nothing() {
    let bench = Bench::start().await;
    let ids = bench.contacts(20).await;
    bench.run().await;
    for id in &ids {
        bench.outcome(*id, 1, SUCCESS, "").await;
    }
    bench.settled(20).await;
    bench.stop_stage().await;
    bench.forget_acks().await;
    bench.delete_state();
    bench.run().await;
    bench.consumed().await;
    assert_eq!(bench.writes().await.len(), 20);
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_sync_fills_its_batches() {
    let bench = Bench::start().await;
    let ids = bench.contacts(600).await;
    for id in &ids {
        bench.outcome(*id, 1, SUCCESS, "").await;
    }
    bench.run().await;
    bench.settled(600).await;
    let requests = bench.requests().await;
    assert_eq!(bench.writes().await.len(), 600);
    // At best 14: 10, 20 and 40 to learn, then 49 at a time. Some may leave before they are full.
    assert!(requests["by_method"]["batch"].as_u64().unwrap() <= 20, "{requests}");
    assert_eq!(requests["refused_503"], 0);
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn computing_time_is_never_overdrawn() {
    let bench = Bench::with(json!({
        "operating_limit": 60.0,
        "costs": {"seconds": {"crm.*.update": 1.35}}
    }))
    .await;
    let ids = bench.contacts(100).await;
    for id in &ids {
        bench.outcome(*id, 1, SUCCESS, "").await;
    }
    bench.run().await;
    bench.settled(100).await;
    let requests = bench.requests().await;
    assert_eq!((&requests["refused_operating"], &requests["timed_out_504"]), (&json!(0), &json!(0)));
    assert_eq!(bench.writes().await.len(), 100);
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_updates_never_run_into_the_portals_patience() {
    let bench = Bench::with(json!({"costs": {"seconds": {"crm.*.update": 5.0}}})).await;
    let ids = bench.contacts(40).await;
    for id in &ids {
        bench.outcome(*id, 1, SUCCESS, "").await;
    }
    bench.run().await;
    bench.settled(40).await;
    assert_eq!(bench.requests().await["timed_out_504"], 0);
    assert_eq!(bench.writes().await.len(), 40);
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_that_lag_behind_only_cost_a_second_look() {
    let bench = Bench::with(json!({"list_delay_seconds": 20.0})).await;
    let ids = bench.contacts(30).await;
    bench.run().await;
    for id in &ids {
        bench.outcome(*id, 1, SUCCESS, "").await;
    }
    bench.settled(30).await;
    bench.consumed().await;
    assert!(bench.writes().await.len() <= 60, "{}", bench.writes().await.len());
    assert_eq!(bench.dead_letters().await, 0);
    for id in &ids {
        assert_eq!(bench.shown(*id).await, SUCCESS, "contact {id}");
    }
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_a_look_does_not_find_is_gone_only_where_an_update_says_so() {
    let bench = Bench::with(json!({"list_delay_seconds": 20.0})).await;
    let ids = bench.contacts(2).await;
    bench.delete(ids[1]).await;
    // The batch may have been carried out: it is looked first.
    bench.fault(json!({"kind": "html_502", "method": "batch", "count": 1})).await;
    bench.run().await;
    for id in &ids {
        bench.outcome(*id, 1, SUCCESS, "").await;
    }
    bench.settled(2).await;
    bench.consumed().await;
    assert_eq!(bench.shown(ids[0]).await, SUCCESS);
    assert_eq!(bench.dead_letters().await, 0);
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn updates_refused_for_want_of_computing_time_come_again_and_no_others() {
    let bench = Bench::start().await;
    let ids = bench.contacts(60).await;
    bench
        .fault(json!({
            "kind": "command_error", "method": "crm.contact.update", "skip": 15, "count": 15,
            "error": "OPERATION_TIME_LIMIT"
        }))
        .await;
    for id in &ids {
        bench.outcome(*id, 1, SUCCESS, "").await;
    }
    bench.run().await;
    bench.settled(60).await;
    let mut written: Vec<u64> = bench.writes().await.into_iter().map(|(id, _)| id).collect();
    written.sort_unstable();
    assert_eq!(written, ids, "each once");
    assert_eq!(bench.commands("crm.contact.update").await, 75, "what was done is not done again");
    assert_eq!(bench.dead_letters().await, 0);
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_employee_without_rights_stops_nothing_for_good() {
    let bench = Bench::start().await;
    let ids = bench.contacts(3).await;
    bench
        .fault(json!({
            "kind": "command_error", "method": "crm.contact.update", "count": 9,
            "error": "", "description": "Access denied."
        }))
        .await;
    for id in &ids {
        bench.outcome(*id, 1, SUCCESS, "").await;
    }
    bench.run().await;
    bench.settled(3).await;
    assert_eq!(bench.dead_letters().await, 0);
    assert_eq!(bench.writes().await.len(), 3);
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_nobody_can_read_is_buried_and_the_next_one_passes() {
    let bench = Bench::start().await;
    let ids = bench.contacts(2).await;
    bench.unreadable(ids[0]).await;
    bench.outcome(ids[1], 1, SUCCESS, "").await;
    bench.run().await;
    bench.settled(1).await;
    bench.consumed().await;
    assert_eq!(bench.dead_letters().await, 1);
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_status_that_overtook_a_newer_one_is_repaired() {
    let bench = Bench::start().await;
    let id = bench.contacts(1).await[0];
    bench.outcome(id, 1, "old", "").await;
    // The write of the old text is done, and its answer is on its way for long.
    bench.fault(json!({"kind": "slow", "method": "batch", "count": 1, "seconds": 240.0})).await;
    bench.run().await;
    bench.until("the write", || async { bench.writes().await.len() == 1 }).await;
    // Meanwhile a replica has written the newer one.
    bench.settle_elsewhere(id, 2, "new").await;
    bench.consumed().await;
    assert_eq!(bench.shown(id).await, "new");
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_writers_one_works_and_the_other_takes_over() {
    let bench = Bench::start().await;
    let ids = bench.contacts(200).await;
    bench.run_in("one").await;
    bench.run_in("other").await;
    for id in &ids {
        bench.outcome(*id, 1, "text 1", "").await;
    }
    bench.until("some writes", || async { !bench.writes().await.is_empty() }).await;
    // It dies in the middle, and its disk with it.
    bench.kill_the_first_stage().await;
    for id in &ids {
        bench.outcome(*id, 2, "text 2", "").await;
    }
    bench
        .until("every newest version settled", || async {
            bench.consumed().await;
            bench.fences().await >= 200
        })
        .await;
    for id in &ids {
        assert_eq!(bench.shown(*id).await, "text 2");
    }
    // Twice at most for one version: what the dead one wrote and could not settle.
    let mut writes = std::collections::BTreeMap::<(u64, String), u32>::new();
    for write in bench.writes().await {
        *writes.entry(write).or_default() += 1;
    }
    assert!(writes.len() >= 200 && writes.values().all(|count| *count <= 2), "{writes:?}");
    assert_eq!(bench.requests().await["refused_503"], 0);
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stage_that_stops_gives_back_what_it_holds() {
    let bench = Bench::start().await;
    let id = bench.contacts(1).await[0];
    bench.delete_field().await;
    bench.outcome(id, 1, SUCCESS, "").await;
    bench.run().await;
    bench.until("a look at the fields", || async { bench.commands("crm.contact.fields").await >= 1 }).await;
    bench.stop_stage().await;
    bench.add_field().await;
    bench.run().await;
    bench.settled(1).await;
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_the_broker_is_outlived() {
    let mut bench = Bench::start().await;
    let ids = bench.contacts(40).await;
    bench.run().await;
    for id in &ids[..20] {
        bench.outcome(*id, 1, SUCCESS, "").await;
    }
    bench.restart_broker().await;
    for id in &ids[20..] {
        bench.outcome(*id, 1, SUCCESS, "").await;
    }
    bench.settled(40).await;
    bench.consumed().await;
    assert!(bench.writes().await.len() <= 60);
    bench.stop().await;
}
