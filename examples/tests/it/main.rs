//! The example in Rust without what it needs. `e2e` tries it with that, and starts the program that cargo builds for
//! this test.

use std::process::Command;

#[test]
fn without_a_name_it_says_how_it_is_called() {
    let output = Command::new(env!("CARGO_BIN_EXE_subscribe")).output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("usage: subscribe NAME"), "{said}");
}
