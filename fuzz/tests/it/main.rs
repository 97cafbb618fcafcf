//! Each target over its seeds, its kept corpus, and for a moment over inputs that nobody has seen.

mod settings;

use std::time::Duration;

use fuzz::targets::{TARGETS, peak_memory};
use fuzz::{Mutator, Target, Until, run};

/// How long each target is fuzzed here at least, and over how many inputs. Minutes are for `cargo run -p fuzz`.
const MOMENT: Until = Until::Both(Duration::from_millis(700), 60);

/// Most memory that parsing may take, all targets at once.
const MOST_KIB: u64 = 512 << 10;

fn target(name: &str) -> &'static Target {
    TARGETS.iter().find(|target| target.name == name).unwrap_or_else(|| panic!("no target {name}"))
}

/// Fuzzes a target with a seed that differs from run to run, and tells it with what it found.
fn fuzz(name: &str) {
    let seed = rand::random();
    let report = run(target(name), seed, MOMENT, |_| {}).unwrap_or_else(|finding| {
        let input = String::from_utf8_lossy(&finding.input);
        let kept = fuzz::keep(name, "finding", &finding.input).expect("the corpus can be written to");
        panic!("{name}, seed {seed}: {}\nkept as {}\n{input:.2000}", finding.said, kept.display())
    });
    assert!(report.inputs >= 60, "{name}: only {} inputs", report.inputs);
    assert!(peak_memory().is_none_or(|kib| kib < MOST_KIB), "parsing took {:?} KiB", peak_memory());
}

macro_rules! fuzzed {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                fuzz(stringify!($name));
            }
        )*

        #[test]
        fn every_target_is_fuzzed_here() {
            let named = [$(stringify!($name)),*];
            assert_eq!(named.to_vec(), TARGETS.iter().map(|target| target.name).collect::<Vec<_>>());
        }
    };
}

fuzzed! {
    bitrix24_answer
    bitrix24_batch
    bitrix24_list
    otmechalka_answer
    record_changed
    record_mapped
    record_processed
    status_settled
    dead_letter
    checkpoint
    record
    producer_row
    mapping_file
    settings_of_all_stages
    phone
    money
    date
    line
}

#[test]
fn a_seed_makes_the_same_inputs_again() {
    let pool = (target("record").seeds)();
    let inputs = |seed: u64| {
        let mut mutator = Mutator::new(seed);
        (0..500).map(|_| mutator.next(&pool)).collect::<Vec<_>>()
    };
    assert_eq!(inputs(7), inputs(7));
    assert_ne!(inputs(7), inputs(8));
}

/// The fuzzing must be able to fail: parsers with a hole each are caught.
#[test]
fn a_planted_hole_is_found() {
    fn seeds() -> Vec<Vec<u8>> {
        vec![br#"{"ID":"1","NAME":"x","PHONE":[{"VALUE":"8 (926) 123-45-67"}]}"#.to_vec()]
    }
    fn chokes_on_a_number(input: &[u8]) -> String {
        let value: serde_json::Value = serde_json::from_slice(input).unwrap_or_default();
        assert!(!value["PHONE"].is_f64() && !value["PHONE"].is_i64(), "a phone that is a number");
        String::new()
    }
    fn chokes_on_equal_keys(input: &[u8]) -> String {
        let text = String::from_utf8_lossy(input);
        let sound = serde_json::from_slice::<serde_json::Value>(input).is_ok();
        assert!(!sound || text.matches("\"VALUE\"").count() < 2, "equal keys");
        String::new()
    }
    fn chokes_on_an_escape(input: &[u8]) -> String {
        let value: serde_json::Value = serde_json::from_slice(input).unwrap_or_default();
        assert!(!value["NAME"].as_str().is_some_and(|name| name.contains('\u{1b}')), "an escape in a name");
        String::new()
    }
    fn chokes_on_broken_text(input: &[u8]) -> String {
        assert!(std::str::from_utf8(input).is_ok(), "not UTF-8");
        String::new()
    }
    for check in [chokes_on_a_number, chokes_on_equal_keys, chokes_on_an_escape, chokes_on_broken_text] {
        let holed = Target { name: "planted", seeds, check };
        assert!(run(&holed, 1, Until::Inputs(50_000), |_| {}).is_err(), "the hole was not found");
    }
}
