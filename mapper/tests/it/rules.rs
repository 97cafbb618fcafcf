//! The mapping file: what is read from it, and how its mistakes are told.

use mapper::{DEFAULT_MAPPING, FieldKind, Rules, RulesError};
use proptest::prelude::*;
use schemas::Entity;

fn errors(text: &str) -> Vec<RulesError> {
    Rules::parse(text).expect_err("a wrong mapping file was taken")
}

/// The only mistake of the default file after one change.
fn error_after(old: &str, new: &str) -> RulesError {
    assert!(DEFAULT_MAPPING.contains(old), "{old}");
    let errors = errors(&DEFAULT_MAPPING.replacen(old, new, 1));
    assert_eq!(errors.len(), 1, "{errors:#?}");
    errors.into_iter().next().unwrap()
}

fn line_of(text: &str) -> usize {
    DEFAULT_MAPPING.lines().position(|line| line.contains(text)).unwrap() + 1
}

#[test]
fn the_default_file_holds_the_customers_values() {
    let rules = Rules::parse(DEFAULT_MAPPING).unwrap();
    assert_eq!(rules.deal_stages(), ["WON"]);
    assert_eq!(rules.courses(), ["Групповые занятия", "Индивидуальные занятия", "10985", "10986"]);
    assert_eq!(rules.branchoffices(), ["2633", "+ ЦДШ `МСК", "+ СКОЛКОВО `МСК *"]);
    assert_eq!(rules.status_field(Entity::Contact), "UF_CRM_SYNC_STATUS");
    let phone = rules.fields(Entity::Contact).into_iter().find(|field| field.title == "Телефон").unwrap();
    assert_eq!((phone.code, phone.kind), ("PHONE", FieldKind::Multifield));
    let codes: Vec<&str> = rules.fields(Entity::Deal).into_iter().map(|field| field.code).collect();
    assert_eq!(
        codes,
        [
            "CONTACT_ID",
            "CURRENCY_ID",
            "UF_CRM_58D1057919A6F",
            "UF_CRM_1470852549",
            "ASSIGNED_BY_ID",
            "UF_CRM_1490347942",
            "STAGE_ID"
        ]
    );
    let ids: Vec<Vec<u64>> = Entity::ALL
        .iter()
        .flat_map(|entity| rules.enumerations(*entity))
        .map(|list| list.values.iter().map(|(id, _)| *id).collect())
        .collect();
    assert_eq!(ids, [vec![404, 410], vec![48, 12708], vec![186, 12706], vec![450]]);
}

#[test]
fn a_mistake_names_its_place_what_was_found_and_what_would_do() {
    let error = error_after("code = \"PHONE\"", "code = \"phone number\"");
    assert_eq!(error.at.line, line_of("code = \"PHONE\""));
    assert_eq!(
        error.to_string(),
        format!(
            "line {}, column 18: phone.code: found `phone number`, expected a field code of capital letters, digits \
             and underscores, for example PHONE",
            error.at.line
        )
    );
}

#[test]
fn each_kind_of_mistake_is_found() {
    for (old, new, path, found) in [
        ("id = 404", "id = \"404\"", "contact.products[0].id", "`404`"),
        ("id = 404", "id = -404", "contact.products[0].id", "`-404`"),
        ("id = 410", "id = 404", "contact.products", "`404`"),
        ("id = 12706", "id = 186", "deal.branches", "`186`"),
        ("title = \"Телефон\"", "title = \" \"", "contact.fields.phone.title", "``"),
        (
            "title = \"Телефон\"",
            "titel = \"Телефон\", title = \"Т\"",
            "contact.fields.phone.titel",
            "an unknown key",
        ),
        ("code = \"EMAIL\"", "code = \"PHONE\"", "fields", "`PHONE`"),
        ("stages = [\"WON\"]", "stages = []", "deal.stages", "a value of type array"),
        ("stages = [\"WON\"]", "stages = [\"WON\", \"WON\"]", "deal.stages[1]", "`WON` again"),
        ("stages = [\"WON\"]", "", "deal.stages", "nothing"),
        ("method = \"CASH\"", "method = \"CARD\"", "deal.payment.method", "`CARD`"),
        ("other = \"ONLINE\"", "", "deal.payment.other", "nothing"),
        ("branchoffice = \"2633\"", "branchoffice = 2633", "contact.products[1].branchoffice", "`2633`"),
        (
            "branchoffice = \"2633\"",
            "branch_office = \"2633\"",
            "contact.products[1].branch_office",
            "an unknown key",
        ),
    ] {
        let error = error_after(old, new);
        assert_eq!((error.path.as_str(), error.found.trim()), (path, found.trim()), "{old} -> {new}");
    }
}

#[test]
fn all_mistakes_are_told_at_once_in_the_order_of_the_file() {
    let text = DEFAULT_MAPPING
        .replace("code = \"PHONE\"", "code = 5")
        .replace("id = 48", "id = 0")
        .replace("currency = \"RUB\"", "curency = \"RUB\"");
    let paths: Vec<String> = errors(&text).into_iter().map(|error| error.path).collect();
    assert_eq!(
        paths,
        ["contact.fields.phone.code", "contact.branches[0].id", "deal.currency", "deal.curency"]
    );
}

#[test]
fn an_empty_file_misses_every_table() {
    let paths: Vec<String> = errors("").into_iter().map(|error| error.path).collect();
    assert_eq!(paths, ["contact", "deal", "status"]);
}

#[test]
fn broken_toml_is_told_with_its_place() {
    let told = errors(&DEFAULT_MAPPING.replace("stages = [\"WON\"]", "stages = [\"WON\""));
    assert!((1..=5).contains(&told.len()), "{told:#?}");
    assert!((line_of("stages = [")..=line_of("stages = [") + 1).contains(&told[0].at.line), "{}", told[0]);
    assert_eq!(
        error_after("currency = \"RUB\"", "currency = \"RUB\"\ncurrency = \"RUB\"").at.line,
        line_of("currency = ") + 1
    );
}

#[test]
fn a_status_field_that_the_mapping_reads_is_refused() {
    let rules = Rules::parse(DEFAULT_MAPPING).unwrap();
    for entity in Entity::ALL {
        assert!(rules.check_status_field(entity, "UF_CRM_SYNC_STATUS").is_ok());
    }
    let error = rules.check_status_field(Entity::Contact, "UF_CRM_57AD7FAF7E6C4").unwrap_err();
    assert_eq!(error.at.line, line_of("UF_CRM_57AD7FAF7E6C4"));
    assert!(error.to_string().contains("contact.fields.pupil_last_name.code"), "{error}");
    for wrong in ["UF_CRM_58D1057919A6F", "", "СТАТУС"] {
        assert!(rules.check_status_field(Entity::Deal, wrong).is_err(), "{wrong}");
    }
    let text = DEFAULT_MAPPING.replace("contact = \"UF_CRM_SYNC_STATUS\"", "contact = \"NAME\"");
    assert_eq!(Rules::parse(&text).unwrap_err().len(), 1);
}

#[test]
fn a_branch_is_added_without_touching_code() {
    let text = DEFAULT_MAPPING.to_owned()
        + "\n[[contact.branches]]\nid = 77\ntitle = \"Новый\"\nbranchoffice = \"3001\"\n";
    assert!(Rules::parse(&text).unwrap().branchoffices().contains(&"3001"));
}

proptest! {
    #[test]
    fn any_text_is_read_without_a_panic(text in any::<String>()) {
        let _ = Rules::parse(&text);
    }

    #[test]
    fn a_file_with_a_piece_cut_out_is_read_without_a_panic(from in 0_usize..4_000, length in 1_usize..60) {
        let kept = DEFAULT_MAPPING.chars().enumerate().filter(|(index, _)| !(from..from + length).contains(index));
        let text: String = kept.map(|(_, character)| character).collect();
        let _ = Rules::parse(&text);
    }
}
