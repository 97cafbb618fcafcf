//! What otmechalka takes: every field checked, every complaint in Russian under the field's name.

use std::collections::{BTreeMap, BTreeSet};

use chrono::NaiveDate;
use serde_json::{Map, Value, json};

use super::settings::Settings;

const MAX_NAME_CHARS: usize = 100;
const MAX_TEXT_CHARS: usize = 255;
const MAX_ID_CHARS: usize = 64;

/// Complaints by field, as Django REST framework writes them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Complaints(BTreeMap<String, Vec<String>>);

impl Complaints {
    pub fn add(&mut self, field: &str, text: impl Into<String>) {
        self.0.entry(field.to_owned()).or_default().push(text.into());
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn into_json(self) -> Value {
        json!(self.0)
    }
}

type Fields = Map<String, Value>;

/// Checks a client's body.
pub fn client(body: &Fields, settings: &Settings) -> Complaints {
    let mut check = Check::new(body);
    check.text("origin_id", MAX_ID_CHARS);
    check.text("last_name", MAX_NAME_CHARS);
    check.text("first_name", MAX_NAME_CHARS);
    check.phone();
    check.optional("email", |check, value| check.email(value));
    check.choices("courses", &settings.courses);
    check.choices("branchoffices", &settings.branchoffices);
    check.optional("birthdate", |check, value| check.date_value("birthdate", value));
    check.one_of("gender", &["M", "F"]);
    check.optional("additional_data", |check, _| {
        check.text("additional_data", MAX_TEXT_CHARS);
    });
    check.finish()
}

/// Checks a ticket's body; `knows_client` tells whether its client exists.
pub fn ticket(body: &Fields, settings: &Settings, knows_client: impl Fn(&str) -> bool) -> Complaints {
    let mut check = Check::new(body);
    check.text("origin_id", MAX_ID_CHARS);
    if let Some(client) = check.text("client_origin_id", MAX_ID_CHARS)
        && !knows_client(client)
    {
        check.complain("client_origin_id", format!("Клиент с внешним ID «{client}» не найден."));
    }
    check.choice("ticket_type", &settings.ticket_types);
    check.amounts();
    if let Some(value) = check.required("selling_date") {
        check.date_value("selling_date", value);
    }
    check.choice("selling_branchoffice", &settings.branchoffices);
    check.text("employee", MAX_TEXT_CHARS);
    check.one_of("payment_method", &["CASH", "ONLINE"]);
    check.finish()
}

/// One pass over a body.
struct Check<'a> {
    body: &'a Fields,
    known: BTreeSet<&'static str>,
    complaints: Complaints,
}

impl<'a> Check<'a> {
    fn new(body: &'a Fields) -> Self {
        Self { body, known: BTreeSet::new(), complaints: Complaints::default() }
    }

    fn finish(mut self) -> Complaints {
        for field in self.body.keys() {
            if !self.known.contains(field.as_str()) {
                self.complaints.add(field, "Неизвестное поле.");
            }
        }
        self.complaints
    }

    fn complain(&mut self, field: &str, text: impl Into<String>) {
        self.complaints.add(field, text);
    }

    fn required(&mut self, field: &'static str) -> Option<&'a Value> {
        self.known.insert(field);
        match self.body.get(field) {
            None => self.complain(field, "Обязательное поле."),
            Some(Value::Null) => self.complain(field, "Это поле не может быть пустым."),
            Some(value) => return Some(value),
        }
        None
    }

    fn optional(&mut self, field: &'static str, check: impl FnOnce(&mut Self, &'a Value)) {
        self.known.insert(field);
        match self.body.get(field) {
            None => {}
            Some(Value::Null) => self.complain(field, "Это поле не может быть пустым."),
            Some(value) => check(self, value),
        }
    }

    fn string(&mut self, field: &'static str) -> Option<&'a str> {
        match self.required(field)? {
            Value::String(text) if text.trim().is_empty() => {
                self.complain(field, "Это поле не может быть пустым.");
                None
            }
            Value::String(text) => Some(text),
            _ => {
                self.complain(field, "Не является строкой.");
                None
            }
        }
    }

    fn text(&mut self, field: &'static str, max_chars: usize) -> Option<&'a str> {
        let text = self.string(field)?;
        if text.chars().count() > max_chars {
            self.complain(
                field,
                format!("Убедитесь, что это значение содержит не более {max_chars} символов."),
            );
        }
        if text.contains('\0') {
            self.complain(field, "Символы NULL не допускаются.");
        }
        Some(text)
    }

    fn phone(&mut self) {
        if let Some(text) = self.string("phone")
            && !((10..=15).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit()))
        {
            self.complain("phone", "Телефон должен состоять только из цифр, от 10 до 15.");
        }
    }

    fn email(&mut self, value: &Value) {
        let good = value.as_str().and_then(|text| text.split_once('@')).is_some_and(|(user, host)| {
            let plain = |text: &str| !text.is_empty() && !text.contains([' ', '@', ',', ';']);
            plain(user) && plain(host) && host.contains('.') && !host.starts_with('.') && !host.ends_with('.')
        });
        if !good {
            self.complain("email", "Введите правильный адрес электронной почты.");
        }
    }

    fn date_value(&mut self, field: &str, value: &Value) {
        let written = |date: NaiveDate| date.format("%Y-%m-%d").to_string();
        let good = value.as_str().is_some_and(|text| {
            NaiveDate::parse_from_str(text, "%Y-%m-%d").is_ok_and(|date| written(date) == text)
        });
        if !good {
            self.complain(field, "Неправильный формат date. Используйте один из этих форматов: YYYY-MM-DD.");
        }
    }

    fn choices(&mut self, field: &'static str, known: &[String]) {
        let Some(value) = self.required(field) else { return };
        let Some(items) = value.as_array() else {
            return self.complain(field, "Ожидался список значений.");
        };
        if items.is_empty() {
            self.complain(field, "Этот список не может быть пустым.");
        }
        for (at, item) in items.iter().enumerate() {
            self.known_value(field, item, known);
            if items[..at].contains(item) {
                self.complain(field, format!("Значение {} повторяется.", shown(item)));
            }
        }
    }

    fn choice(&mut self, field: &'static str, known: &[String]) {
        if let Some(value) = self.required(field) {
            self.known_value(field, value, known);
        }
    }

    fn known_value(&mut self, field: &str, value: &Value, known: &[String]) {
        if !value.as_str().is_some_and(|text| known.iter().any(|item| item == text)) {
            self.complain(field, format!("Значения {} нет среди допустимых вариантов.", shown(value)));
        }
    }

    fn one_of(&mut self, field: &'static str, known: &[&str]) {
        if let Some(value) = self.required(field)
            && !value.as_str().is_some_and(|text| known.contains(&text))
        {
            self.complain(field, format!("Значения {} нет среди допустимых вариантов.", shown(value)));
        }
    }

    fn amounts(&mut self) {
        let amounts = ["price_initial", "discount", "price_final"].map(|field| self.amount(field));
        if let [Some(initial), Some(discount), Some(last)] = amounts
            && initial - discount != last
        {
            self.complain(
                "non_field_errors",
                "Стоимость без скидки минус скидка не равна стоимости со скидкой.",
            );
        }
    }

    fn amount(&mut self, field: &'static str) -> Option<i64> {
        let text = self.string(field)?;
        let kopecks = text.split_once('.').and_then(|(roubles, kopecks)| {
            let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
            let good =
                (1..=9).contains(&roubles.len()) && kopecks.len() == 2 && digits(roubles) && digits(kopecks);
            if good { format!("{roubles}{kopecks}").parse().ok() } else { None }
        });
        if kopecks.is_none() {
            self.complain(field, "Требуется неотрицательная сумма в рублях с двумя знаками после точки.");
        }
        kopecks
    }
}

/// Shows a value in a complaint, as far as a person wants to read it.
fn shown(value: &Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    format!("«{}»", text.chars().take(80).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good_client() -> Value {
        json!({
            "origin_id": "39558", "last_name": "Петров", "first_name": "Василий", "phone": "79261234567",
            "email": "ivan.petrov@example.com", "courses": ["10985", "10986"], "branchoffices": ["2633"],
            "birthdate": "2009-11-29", "gender": "M", "additional_data": "Петров Иван",
        })
    }

    fn good_ticket() -> Value {
        json!({
            "origin_id": "24545676786", "client_origin_id": "39558",
            "ticket_type": "6 КМС индивидуальные 45 мин", "price_initial": "9000.00", "discount": "300.00",
            "price_final": "8700.00", "selling_date": "2009-11-29", "selling_branchoffice": "2633",
            "employee": "Андрей Сергеев", "payment_method": "ONLINE",
        })
    }

    fn complaints(mut body: Value, changes: Value) -> Vec<String> {
        let fields = body.as_object_mut().expect("an object");
        for (key, value) in changes.as_object().expect("an object") {
            if value == "ABSENT" {
                fields.remove(key)
            } else {
                fields.insert(key.clone(), value.clone())
            };
        }
        let settings = Settings::default();
        let found = if fields.contains_key("phone") || fields.contains_key("courses") {
            client(fields, &settings)
        } else {
            ticket(fields, &settings, |client| client == "39558")
        };
        found.0.into_keys().collect()
    }

    #[test]
    fn samples_of_the_specification_are_taken() {
        assert!(complaints(good_client(), json!({})).is_empty());
        assert!(complaints(good_ticket(), json!({})).is_empty());
        let by_title = json!({"courses": ["Он-лайн Групповое"], "branchoffices": ["+Он-лайн `МСК"]});
        assert!(complaints(good_client(), by_title).is_empty());
        let bare = json!({"email": "ABSENT", "birthdate": "ABSENT", "additional_data": "ABSENT"});
        assert!(complaints(good_client(), bare).is_empty());
    }

    #[test]
    fn each_faulty_client_field_is_named() {
        for (field, values) in [
            ("origin_id", json!(["", 5, null, "ABSENT"])),
            ("last_name", json!([" ", null, "ABSENT", "а".repeat(101), "а\u{0}б"])),
            ("phone", json!(["+79261234567", "8 926", "", 79_261_234_567_u64, "926123456", "٧٩٢٦١٢٣٤٥٦٧"])),
            ("email", json!(["", "a", "a@b", "a@b.", "a b@c.d", "a@b.c,d@e.f", null])),
            ("courses", json!([[], "10985", ["7"], ["10985", "10985"], [10985], "ABSENT"])),
            ("branchoffices", json!([[], ["Гоголевский"], null])),
            (
                "birthdate",
                json!(["29.11.2009", "2009-11-29T03:00:00+03:00", "2009-02-30", "2009-1-2", "", null]),
            ),
            ("gender", json!(["m", "", null, "ABSENT"])),
            ("additional_data", json!(["", null, 5])),
            ("groups", json!([[1]])),
        ] {
            for value in values.as_array().expect("a list") {
                assert_eq!(complaints(good_client(), json!({field: value})), [field], "{field} = {value}");
            }
        }
    }

    #[test]
    fn each_faulty_ticket_field_is_named() {
        for (field, values) in [
            ("client_origin_id", json!(["5", "", null])),
            ("ticket_type", json!(["Шахматный лагерь", " 6 КМС индивидуальные 45 мин", null])),
            (
                "price_initial",
                json!(["9000", "9000.0", "-1.00", "1e3", 9000, "9 000.00", ".00", "9999999999.00"]),
            ),
            ("selling_date", json!(["", "2009-13-01", null, "ABSENT"])),
            ("selling_branchoffice", json!(["186", ["2633"], null])),
            ("employee", json!(["", " ", null])),
            ("payment_method", json!(["450", "cash", null])),
            ("non_field_errors", json!([])),
        ] {
            for value in values.as_array().expect("a list") {
                assert_eq!(complaints(good_ticket(), json!({field: value})), [field], "{field} = {value}");
            }
        }
        assert_eq!(complaints(good_ticket(), json!({"discount": "300.01"})), ["non_field_errors"]);
    }
}
