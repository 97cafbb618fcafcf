//! The webhook goes nowhere but to the host it was configured for.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};

use bitrix24::error::RedirectFault;
use bitrix24::{Error, ErrorClass, Lane};
use serde_json::json;

use crate::portal::{CODE, Portal, failure, redirect, success, webhook};

async fn fault_of(status: u16, location: String) -> RedirectFault {
    let portal = Portal::start(move |_, _| redirect(status, &location)).await;
    let error = portal.client().call("profile", &json!({}), Lane::Live).await.expect_err("an error");
    assert_eq!(error.class(), ErrorClass::Refused);
    assert!(error.surely_not_processed());
    assert_eq!(portal.calls().len(), 1);
    match error {
        Error::Redirect { fault, .. } => fault,
        other => panic!("no redirect: {other:?}"),
    }
}

#[tokio::test]
async fn a_portal_that_has_moved_is_named_and_not_followed() {
    for status in [301, 302, 303, 307, 308] {
        let new = Portal::with_result(json!(true)).await;
        let location = format!("http://{}/rest/1/{CODE}/profile.json", new.address);
        let fault = fault_of(status, location).await;
        assert_eq!(fault, RedirectFault::Moved { host: "127.0.0.1".into() }, "{status}");
        assert!(new.calls().is_empty(), "{status}");
    }
}

#[tokio::test]
async fn other_redirects_are_errors() {
    let fault = async |location: &str| fault_of(302, location.to_owned()).await;
    assert_eq!(fault("/auth/?backurl=%2Frest").await, RedirectFault::OtherPage);
    assert_eq!(fault("https://login.example/auth/").await, RedirectFault::OtherPage);
    assert_eq!(fault("").await, RedirectFault::OtherPage);
    assert_eq!(fault("https://").await, RedirectFault::NoAddress);
}

#[tokio::test]
async fn a_replaced_webhook_is_taken_when_the_old_one_is_refused() {
    let new = Portal::with_result(json!(true)).await;
    let old = Portal::start(|number, _| match number {
        0 => success(json!(true)),
        _ => failure(401, "NO_AUTH_FOUND", ""),
    })
    .await;
    let address = format!("http://{}", new.address);
    let client = old.builder().renewed_by(move || Some(webhook(&address))).build().expect("a client");
    for _ in 0..3 {
        client.call("profile", &json!({}), Lane::Live).await.expect("an answer");
    }
    assert_eq!((old.calls().len(), new.calls().len()), (2, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_request_that_was_under_way_with_the_old_webhook_is_made_again() {
    let new = Portal::with_result(json!(true)).await;
    let both = Arc::new(Barrier::new(2));
    let old = Portal::start(move |_, _| {
        // The other request may have been given to this very worker, which must not keep it while it waits.
        tokio::task::block_in_place(|| both.wait());
        failure(401, "NO_AUTH_FOUND", "")
    })
    .await;
    let address = format!("http://{}", new.address);
    let refusals = Arc::new(AtomicUsize::new(0));
    let told = refusals.clone();
    let client = old.builder().renewed_by(move || Some(webhook(&address))).told(move |is_taken| {
        told.fetch_add(usize::from(!is_taken), Ordering::SeqCst);
        Box::pin(std::future::ready(()))
    });
    let client = client.build().expect("a client");
    let (profile, nothing) = ("profile", json!({}));
    let (one, other) =
        tokio::join!(client.call(profile, &nothing, Lane::Live), client.call(profile, &nothing, Lane::Live));
    assert!(one.is_ok() && other.is_ok(), "{one:?} {other:?}");
    assert_eq!((old.calls().len(), new.calls().len(), refusals.load(Ordering::SeqCst)), (2, 2, 0));
}
