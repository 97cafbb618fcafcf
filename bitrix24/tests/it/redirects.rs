//! A portal that has moved, and places that are no portal.

use bitrix24::error::RedirectFault;
use bitrix24::{Error, ErrorClass, Lane};
use serde_json::json;

use crate::portal::{CODE, Portal, redirect, success};

fn moved(to: &Portal, method: &str) -> String {
    format!("http://{}/rest/1/{CODE}/{method}.json", to.address)
}

#[tokio::test]
async fn a_move_is_followed_once_and_remembered() {
    for status in [301, 302, 307, 308] {
        let new = Portal::with_result(json!(true)).await;
        let location = moved(&new, "crm.deal.update");
        let old = Portal::start(move |_, _| redirect(status, &location)).await;
        let client = old.client();
        let params = json!({"id": 1, "fields": {"A": "b"}});
        for _ in 0..3 {
            client.call("crm.deal.update", &params, Lane::Live).await.expect("an answer");
        }
        assert_eq!((old.calls().len(), new.calls().len()), (1, 3), "{status}");
        assert!(new.calls().iter().all(|call| call.params == params));
    }
}

#[tokio::test]
async fn a_move_to_something_that_is_no_portal_is_not_remembered() {
    let new = Portal::start(|_, _| crate::portal::body(200, "<html>")).await;
    let location = moved(&new, "profile");
    let old = Portal::start(move |number, _| match number {
        0 => redirect(302, &location),
        _ => success(json!({"ID": "1"})),
    })
    .await;
    let client = old.client();
    client.profile(Lane::Live).await.expect_err("an error");
    client.profile(Lane::Live).await.expect("a profile");
    assert_eq!(old.calls().len(), 2);
}

async fn fault_of(status: u16, location: &'static str) -> RedirectFault {
    let portal = Portal::start(move |_, _| redirect(status, location)).await;
    let error = portal.client().call("profile", &json!({}), Lane::Live).await.expect_err("an error");
    assert_eq!(error.class(), ErrorClass::Refused);
    assert_eq!(portal.calls().len(), 1);
    match error {
        Error::Redirect { fault, .. } => fault,
        other => panic!("no redirect: {other:?}"),
    }
}

#[tokio::test]
async fn other_redirects_are_errors() {
    assert_eq!(fault_of(302, "/auth/?backurl=%2Frest").await, RedirectFault::OtherPath);
    assert_eq!(fault_of(302, "https://login.example/auth/").await, RedirectFault::OtherPath);
    assert_eq!(
        fault_of(302, "http://portal.example/rest/1/x/profile.json").await,
        RedirectFault::Unprotected
    );
    assert_eq!(fault_of(303, "https://portal.example/").await, RedirectFault::NoAddress);
    assert_eq!(fault_of(302, "").await, RedirectFault::Circle);
}

#[tokio::test]
async fn two_portals_that_name_each_other_are_a_circle() {
    let third = Portal::with_result(json!(true)).await;
    let location = moved(&third, "profile");
    let second = Portal::start(move |_, _| redirect(302, &location)).await;
    let location = moved(&second, "profile");
    let first = Portal::start(move |_, _| redirect(302, &location)).await;
    let error = first.client().call("profile", &json!({}), Lane::Live).await.expect_err("an error");
    assert!(matches!(error, Error::Redirect { fault: RedirectFault::Circle, .. }), "{error:?}");
    assert!(third.calls().is_empty());
}
