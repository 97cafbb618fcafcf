//! Hides personal data in what operators are shown: ids, list values and dates stay, everything else is `***`.

use std::collections::{BTreeMap, BTreeSet};

use mapper::{FieldKind, Rules};
use schemas::Entity;
use schemas::problem::SUCCESS;
use serde_json::{Map, Value};

use crate::environment::Environment;
use crate::mapping_file;

/// Fields of Bitrix24 and of our events that say nothing about a person.
const OPEN_FIELDS: [&str; 58] = [
    "ID",
    "STAGE_ID",
    "CONTACT_ID",
    "COMPANY_ID",
    "LEAD_ID",
    "QUOTE_ID",
    "CATEGORY_ID",
    "TYPE_ID",
    "SOURCE_ID",
    "STAGE_SEMANTIC_ID",
    "CURRENCY_ID",
    "ASSIGNED_BY_ID",
    "CREATED_BY_ID",
    "MODIFY_BY_ID",
    "MOVED_BY_ID",
    "LAST_ACTIVITY_BY",
    "OWNER_ID",
    "OWNER_TYPE",
    "PRODUCT_ID",
    "DATE_CREATE",
    "DATE_MODIFY",
    "MOVED_TIME",
    "LAST_ACTIVITY_TIME",
    "OPENED",
    "CLOSED",
    "EXPORT",
    "HAS_PHONE",
    "HAS_EMAIL",
    "HAS_IMOL",
    "IS_NEW",
    "IS_RECURRING",
    "IS_RETURN_CUSTOMER",
    "IS_REPEATED_APPROACH",
    "IS_MANUAL_OPPORTUNITY",
    "VALUE_TYPE",
    "SORT",
    "CUSTOMIZED",
    "MEASURE_CODE",
    "TAX_INCLUDED",
    "DISCOUNT_TYPE_ID",
    "observed",
    "settled",
    "trimmed",
    "outcome",
    "how",
    "code",
    "courses",
    "branchoffices",
    "gender",
    "client_origin_id",
    "ticket_type",
    "selling_date",
    "selling_branchoffice",
    "payment_method",
    "target_id",
    "body_digest",
    "ACTIVE",
    "ORDER",
];

/// Fields that hold a text for managers, which may repeat a value.
const TOLD_FIELDS: [&str; 2] = ["status", "text"];

/// Knows what may be shown.
#[derive(Clone, Debug, Default)]
pub struct Mask {
    /// Nothing is hidden.
    is_off: bool,
    lists: BTreeSet<String>,
    titles: BTreeSet<String>,
    names: BTreeMap<String, String>,
    status_fields: BTreeSet<String>,
}

impl Mask {
    /// Shows everything.
    pub fn revealing(self) -> Mask {
        Mask { is_off: true, ..self }
    }

    /// Returns what the mapping calls a field.
    pub fn title(&self, code: &str) -> Option<&str> {
        self.names.get(code).map(String::as_str)
    }

    /// Hides what may be about a person. The mapping tells which fields are lists, and what fields are called.
    pub fn new(rules: &Rules) -> Mask {
        let fields: Vec<_> = Entity::ALL.into_iter().flat_map(|entity| rules.fields(entity)).collect();
        let lists = fields.iter().filter(|field| field.kind == FieldKind::Enumeration);
        let own_titles = ["Статус синхронизации"].map(str::to_owned);
        Mask {
            is_off: false,
            lists: lists.map(|field| field.code.to_owned()).collect(),
            titles: fields.iter().map(|field| field.title.to_owned()).chain(own_titles).collect(),
            names: fields.iter().map(|field| (field.code.to_owned(), field.title.to_owned())).collect(),
            status_fields: Entity::ALL.map(|entity| rules.status_field(entity).to_owned()).into(),
        }
    }

    /// Hides what may be about a person, by the settings. Where they cannot be used, less is shown, not more.
    pub fn of(environment: &Environment) -> Mask {
        let mask = match mapping_file::load(environment, None) {
            Ok(mapping) => Mask::new(&mapping.rules),
            Err(_) => Mask::default(),
        };
        let named = ["CONTACT_STATUS_FIELD", "DEAL_STATUS_FIELD"].map(|name| environment.text(name));
        named.iter().flatten().fold(mask, |mask, code| mask.with_status_field(code))
    }

    /// Takes this field for one that holds a status.
    pub fn with_status_field(mut self, code: &str) -> Mask {
        self.status_fields.insert(code.to_owned());
        self
    }

    /// Hides what has to be hidden of a field's value.
    pub fn value(&self, field: &str, value: &Value) -> Value {
        if self.is_off {
            return value.clone();
        }
        match value {
            Value::Null | Value::Bool(_) => value.clone(),
            Value::Array(items) => Value::Array(items.iter().map(|item| self.value(field, item)).collect()),
            Value::Object(fields) => Value::Object(self.object(fields)),
            Value::String(text) => Value::String(self.word(field, text)),
            Value::Number(number) => {
                let text = number.to_string();
                if self.is_open(field, &text) { value.clone() } else { Value::String(hidden(&text)) }
            }
        }
    }

    /// Gives a text back only where everything may be shown.
    pub fn whole_text(&self, text: &str) -> Option<String> {
        self.is_off.then(|| text.to_owned())
    }

    /// Hides the value of a header that is none of ours or the server's.
    pub fn header(&self, name: &str, value: &str) -> String {
        let name = name.to_ascii_lowercase();
        let is_known = name.starts_with("ce-") || name.starts_with("nats-") || name == "content-type";
        if self.is_off || is_known { value.to_owned() } else { hidden(value) }
    }

    fn object(&self, fields: &Map<String, Value>) -> Map<String, Value> {
        fields.iter().map(|(field, value)| (field.clone(), self.value(field, value))).collect()
    }

    fn word(&self, field: &str, text: &str) -> String {
        if text.is_empty() || self.is_open(field, text) {
            text.to_owned()
        } else if self.status_fields.contains(field) || TOLD_FIELDS.contains(&field) {
            self.status(text)
        } else {
            hidden(text)
        }
    }

    fn is_open(&self, field: &str, text: &str) -> bool {
        let is_code = |text: &str| {
            text.len() <= 64 && text.chars().all(|c| c.is_ascii_alphanumeric() || "_:+.-".contains(c))
        };
        let is_number = !text.is_empty() && text.len() <= 9 && text.bytes().all(|byte| byte.is_ascii_digit());
        // Titles of branches and courses are the school's own words, in the mapping file.
        let is_ours = field.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        OPEN_FIELDS.contains(&field) && (is_ours || is_code(text)) || self.lists.contains(field) && is_number
    }

    /// Hides the values that a status text repeats: from the first quotation that is no field's title to the last.
    pub fn status(&self, text: &str) -> String {
        if self.is_off || text == SUCCESS {
            return text.to_owned();
        }
        let mut from = 0;
        while let Some(open) = text[from..].find('«').map(|at| from + at + '«'.len_utf8()) {
            let close = text[open..].find('»').map(|at| open + at);
            if let Some(close) = close.filter(|close| self.titles.contains(&text[open..*close])) {
                from = close + '»'.len_utf8();
                continue;
            }
            // A value may hold quotation marks of its own, so nothing in between can be told apart.
            let end = text.rfind('»').filter(|end| *end >= open).unwrap_or(text.len());
            return format!("{}***{}", &text[..open], &text[end..]);
        }
        text.to_owned()
    }
}

/// Tells only how long a value is.
fn hidden(text: &str) -> String {
    format!("*** ({})", text.chars().count())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn mask() -> Mask {
        Mask::new(&Rules::parse(mapper::DEFAULT_MAPPING).unwrap())
    }

    #[test]
    fn ids_lists_and_dates_are_shown_and_nothing_else() {
        let record = json!({
            "ID": "39910", "NAME": "Елена", "DATE_MODIFY": "2026-01-10T12:00:00+03:00", "ASSIGNED_BY_ID": 7,
            "PHONE": [{"ID": "5", "VALUE": "+7 926 555-01-02", "VALUE_TYPE": "MOBILE"}],
            "UF_CRM_58D15BB9CA8F4": [410], "UF_CRM_1470852549": ["48"], "COMMENTS": "", "UF_CRM_1": null,
            "UF_CRM_2": 9265550102_u64, "STAGE_ID": "Елена прислала",
        });
        let expected = json!({
            "ID": "39910", "NAME": "*** (5)", "DATE_MODIFY": "2026-01-10T12:00:00+03:00", "ASSIGNED_BY_ID": 7,
            "PHONE": [{"ID": "5", "VALUE": "*** (16)", "VALUE_TYPE": "MOBILE"}],
            "UF_CRM_58D15BB9CA8F4": [410], "UF_CRM_1470852549": ["48"], "COMMENTS": "", "UF_CRM_1": null,
            "UF_CRM_2": "*** (10)", "STAGE_ID": "*** (14)",
        });
        assert_eq!(mask().value("", &record), expected);
        assert_eq!(mask().revealing().value("", &record), record);
    }

    #[test]
    fn a_status_keeps_the_names_of_fields_and_loses_values() {
        let masked = |text: &str| mask().status(text);
        assert_eq!(masked("Успешно"), "Успешно");
        assert_eq!(
            masked("В поле «Телефон» не номер телефона: «позвонить маме». Укажите номер полностью."),
            "В поле «Телефон» не номер телефона: «***». Укажите номер полностью."
        );
        assert_eq!(
            masked("1) Не «Телефон»: «а» б «в» г». 2) В поле «E-mail» «x». Конец."),
            "1) Не «Телефон»: «***». Конец."
        );
        assert_eq!(masked("Отмечалка не приняла запись: «Иван"), "Отмечалка не приняла запись: «***");
    }

    #[test]
    fn no_value_of_any_problem_survives() {
        for example in schemas::problem::catalogue() {
            let text = mask().status(&example.problem.text);
            for secret in ["Зарудная", "позвонить", "ivan@", "31.02", "8700", "9000", "USD"]
            {
                let is_fixed_advice = text.contains("ivan@example.ru") && secret == "ivan@";
                assert!(is_fixed_advice || !text.contains(secret), "{text}");
            }
        }
    }
}
