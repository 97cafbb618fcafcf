//! Everything that can be wrong with a record, and the Russian text that tells a school manager.
//!
//! The one place where such texts are made. They are stable from run to run, so that an unchanged
//! problem gives an unchanged status. `docs/statuses.md` is written from [`catalogue`].

mod catalogue;
mod line;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::record::RecordId;

pub use catalogue::{Example, catalogue};
pub use line::clean;

/// The status of a record that is in otmechalka, or need not be.
pub const SUCCESS: &str = "Успешно";

/// Longest status text, in characters.
pub const STATUS_MAX_CHARS: usize = 1_000;

/// Longest part of an offending value that a text repeats, in characters.
pub const VALUE_MAX_CHARS: usize = 60;

/// Longest part of otmechalka's own words that a text repeats, in characters.
pub const FOREIGN_TEXT_MAX_CHARS: usize = 300;

/// One thing that is wrong with a record, with the text that says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// Stable machine-readable name of the kind of problem, for example `phone.invalid`.
    pub code: String,
    /// Russian sentence: the field's human name, the offending value, what to do.
    pub text: String,
}

/// A field as problems name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// First half of the problem's code: `phone`.
    pub token: &'a str,
    /// Name of the field in the portal's form: `Телефон`.
    pub title: &'a str,
}

/// The money of a product row, as found: what cannot be read stands there as it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figures<'a> {
    /// Price before the discount.
    pub initial: &'a str,
    /// Price after the discount.
    pub paid: &'a str,
    /// Discount as the row states it.
    pub discount: &'a str,
}

/// Joins the texts of all problems of a record into its status.
///
/// Several problems are numbered. What has no room is left out problem by problem and counted, so that no
/// sentence ends in the middle.
pub fn status_text(problems: &[Problem]) -> String {
    match problems {
        [] => cut(&Problem::record_unreadable().text, STATUS_MAX_CHARS),
        [only] => cut(&only.text, STATUS_MAX_CHARS),
        several => numbered(several),
    }
}

fn numbered(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems
        .iter()
        .enumerate()
        .map(|(index, problem)| format!("{}) {}", index + 1, problem.text))
        .collect();
    let whole = lines.join(" ");
    if whole.chars().count() <= STATUS_MAX_CHARS {
        return whole;
    }
    let shown = (1..lines.len()).rev().find(|shown| fits(&lines[..*shown], lines.len() - shown));
    match shown {
        Some(shown) => format!("{} {}", lines[..shown].join(" "), and_more(lines.len() - shown)),
        // Even the first alone is too long: it is cut, so that the count behind it still has room.
        None => {
            let rest = and_more(lines.len() - 1);
            let room = STATUS_MAX_CHARS - rest.chars().count() - 1;
            format!("{} {rest}", cut(&lines[0], room))
        }
    }
}

fn fits(lines: &[String], left_out: usize) -> bool {
    let text = lines.join(" ").chars().count() + 1 + and_more(left_out).chars().count();
    text <= STATUS_MAX_CHARS
}

fn and_more(left_out: usize) -> String {
    format!("…и ещё {left_out}.")
}

/// Problems with single fields of a record.
impl Problem {
    /// Names the kind of problem and tells it to a manager.
    pub fn new(code: &str, text: impl Into<String>) -> Problem {
        Problem { code: code.to_owned(), text: text.into() }
    }

    fn of(field: Field<'_>, kind: &str, text: String) -> Problem {
        Problem { code: format!("{}.{kind}", field.token), text }
    }

    /// Tells a problem with a value that is repeated.
    fn quoting(
        field: Field<'_>,
        kind: &str,
        value: &str,
        text: impl FnOnce(&str, String) -> String,
    ) -> Problem {
        Problem::of(field, kind, text(field.title, quoted(value)))
    }

    /// A required field is blank.
    pub fn missing(field: Field<'_>) -> Problem {
        let Field { title, .. } = field;
        Problem::of(field, "missing", format!("Не заполнено поле «{title}». Заполните его."))
    }

    /// One of surname and first name is blank, and the other holds both.
    pub fn name_in_one_field(blank: Field<'_>, filled: Field<'_>, value: &str) -> Problem {
        let (blank_title, filled_title) = (blank.title, filled.title);
        let value = quoted(value);
        Problem::of(
            blank,
            "in_other_field",
            format!(
                "Не заполнено поле «{blank_title}»: похоже, фамилия и имя вместе записаны в поле \
                 «{filled_title}» ({value}). Перенесите нужное слово из него в поле «{blank_title}»."
            ),
        )
    }

    /// A text is longer than otmechalka takes.
    pub fn too_long(field: Field<'_>, found: usize, most: usize, value: &str) -> Problem {
        let Field { title, .. } = field;
        let value = quoted(value);
        Problem::of(
            field,
            "too_long",
            format!(
                "Слишком длинное значение в поле «{title}»: {value} – символов в нём {found}, а можно не больше \
                 {most}. Сократите его."
            ),
        )
    }

    /// A field did not fit into the message at all.
    pub fn far_too_long(field: Field<'_>) -> Problem {
        let Field { title, .. } = field;
        Problem::of(field, "too_long", format!("Слишком длинное значение в поле «{title}». Сократите его."))
    }

    /// A field holds something else than its kind of value, for example a list in place of a text.
    pub fn unreadable(field: Field<'_>, value: &str) -> Problem {
        Problem::quoting(field, "unreadable", value, |title, value| {
            format!(
                "Не удалось прочитать поле «{title}»: {value}. Заполните его заново; если не поможет, сообщите \
                 администратору."
            )
        })
    }

    /// A text is no phone number.
    pub fn phone_invalid(field: Field<'_>, value: &str) -> Problem {
        Problem::quoting(field, "invalid", value, |title, value| {
            format!(
                "В поле «{title}» не номер телефона: {value}. Укажите номер полностью, например +7 926 123-45-67; \
                 иностранный – с плюсом и кодом страны."
            )
        })
    }

    /// A text is no e-mail address.
    pub fn email_invalid(field: Field<'_>, value: &str) -> Problem {
        Problem::quoting(field, "invalid", value, |title, value| {
            format!(
                "В поле «{title}» не адрес электронной почты: {value}. Оставьте в нём один адрес, например \
                 ivan@example.ru, или очистите поле."
            )
        })
    }

    /// A text is no calendar date.
    pub fn date_invalid(field: Field<'_>, value: &str) -> Problem {
        Problem::quoting(field, "invalid", value, |title, value| {
            format!("В поле «{title}» не дата: {value}. Укажите дату, например 29.11.2009.")
        })
    }

    /// No value of a list is chosen.
    pub fn nothing_chosen(field: Field<'_>) -> Problem {
        let Field { title, .. } = field;
        Problem::of(
            field,
            "missing",
            format!("В поле «{title}» ничего не выбрано. Выберите значение из списка."),
        )
    }

    /// No branch is chosen though a chosen product is taught in branches.
    pub fn branch_needed(branch: Field<'_>, product: &str) -> Problem {
        let Field { title, .. } = branch;
        let product = quoted(product);
        Problem::of(
            branch,
            "missing",
            format!(
                "В поле «{title}» ничего не выбрано, а для продукта {product} нужен филиал. Выберите филиал."
            ),
        )
    }

    /// More than one branch sold one ticket.
    pub fn several_branches(branch: Field<'_>, chosen: &[&str]) -> Problem {
        let Field { title, .. } = branch;
        let chosen = chosen.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ");
        Problem::of(
            branch,
            "several",
            format!(
                "В поле «{title}» выбрано несколько филиалов: {chosen}. Оставьте один – тот, где продан абонемент."
            ),
        )
    }
}

/// Problems with deals.
impl Problem {
    /// The contact of a deal is no id.
    pub fn contact_invalid(field: Field<'_>, value: &str) -> Problem {
        Problem::quoting(field, "invalid", value, |title, value| {
            format!("В поле «{title}» нет контакта ученика: {value}. Выберите в сделке контакт ученика.")
        })
    }

    /// A deal has no contact.
    pub fn contact_missing(field: Field<'_>) -> Problem {
        let Field { title, .. } = field;
        Problem::of(
            field,
            "missing",
            format!(
                "Не заполнено поле «{title}»: неизвестно, чей это абонемент. Выберите в сделке контакт ученика."
            ),
        )
    }

    /// A deal has another number of product rows than one.
    pub fn row_count(field: Field<'_>, found: usize) -> Problem {
        let Field { title, .. } = field;
        let text = if found == 0 {
            format!(
                "В разделе «{title}» сделки нет ни одной позиции, а нужна ровно одна. Добавьте абонемент."
            )
        } else {
            format!(
                "В разделе «{title}» сделки позиций: {found}, а нужна ровно одна. Оставьте один абонемент, остальное \
                 перенесите в другие сделки."
            )
        };
        Problem::of(field, "count", text)
    }

    /// A product row sells another quantity than one.
    pub fn quantity(field: Field<'_>, found: &str) -> Problem {
        Problem::quoting(field, "not_one", found, |title, found| {
            format!(
                "«{title}» товара в сделке: {found}, а должно быть 1. На каждый абонемент заведите свою сделку."
            )
        })
    }

    /// The deal is not in roubles.
    pub fn currency(field: Field<'_>, found: &str, wanted: &str) -> Problem {
        let Field { title, .. } = field;
        let found = quoted(found);
        Problem::of(
            field,
            "unsupported",
            format!(
                "В поле «{title}» сделки {found}, а передаются только суммы в {wanted}. Исправьте валюту сделки."
            ),
        )
    }

    /// An amount of a product row is no amount of money.
    pub fn amount_invalid(field: Field<'_>, value: &str, figures: Figures<'_>) -> Problem {
        let Field { title, .. } = field;
        let (value, figures) = (quoted(value), told(figures));
        Problem::of(
            field,
            "invalid",
            format!(
                "«{title}» товара в сделке – не сумма: {value} ({figures}). Исправьте цену и скидку товара."
            ),
        )
    }

    /// The tax of a product row is no rate.
    pub fn rate_invalid(field: Field<'_>, value: &str) -> Problem {
        Problem::quoting(field, "invalid", value, |title, value| {
            format!(
                "«{title}» товара в сделке – не ставка в процентах: {value}. Исправьте ставку налога товара."
            )
        })
    }

    /// An amount of a product row is not there.
    pub fn amount_missing(field: Field<'_>, figures: Figures<'_>) -> Problem {
        let Field { title, .. } = field;
        let figures = told(figures);
        Problem::of(
            field,
            "missing",
            format!("«{title}» товара в сделке не указана ({figures}). Укажите цену и скидку товара."),
        )
    }

    /// An amount of a product row is below zero.
    pub fn amount_negative(field: Field<'_>, value: &str, figures: Figures<'_>) -> Problem {
        let Field { title, .. } = field;
        let (value, figures) = (quoted(value), told(figures));
        Problem::of(
            field,
            "negative",
            format!(
                "«{title}» товара в сделке меньше нуля: {value} ({figures}). Исправьте цену и скидку товара."
            ),
        )
    }

    /// More is paid than the price before the discount.
    pub fn discount_negative(field: Field<'_>, figures: Figures<'_>) -> Problem {
        let figures = told(figures);
        Problem::of(
            field,
            "negative",
            format!(
                "Цена товара со скидкой больше цены без скидки ({figures}). Исправьте цену и скидку товара."
            ),
        )
    }

    /// The stated discount is not the difference of the prices.
    pub fn discount_mismatch(field: Field<'_>, figures: Figures<'_>) -> Problem {
        let Field { title, .. } = field;
        let figures = told(figures);
        Problem::of(
            field,
            "mismatch",
            format!(
                "«{title}» товара не равна разнице цен ({figures}). Введите цену и скидку товара заново и сохраните \
                 сделку."
            ),
        )
    }

    /// The portal has no such user, or the deal names none.
    pub fn seller_unknown(field: Field<'_>, id: &str) -> Problem {
        Problem::quoting(field, "unknown", id, |title, id| {
            format!(
                "Сотрудник в поле «{title}» не найден в Битрикс24: {id}. Выберите сотрудника, продавшего абонемент."
            )
        })
    }

    /// The user has neither first name nor surname.
    pub fn seller_nameless(field: Field<'_>, id: &str) -> Problem {
        Problem::quoting(field, "nameless", id, |title, id| {
            format!(
                "У сотрудника в поле «{title}» ({id}) не заполнены имя и фамилия. Заполните их в его профиле или \
                 выберите другого сотрудника и сохраните сделку."
            )
        })
    }
}

/// Code of what otmechalka refused with words of its own.
pub const OTMECHALKA_REFUSED: &str = "otmechalka.refused";

/// Why otmechalka does not have the client of a ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAbsence {
    /// The contact was refused; its own status says why.
    Refused,
    /// Nothing in the contact concerns otmechalka.
    OutOfScope,
    /// The contact is none of those that are read.
    NotRead,
    /// It had the client once.
    Lost,
}

impl ClientAbsence {
    const ALL: [ClientAbsence; 4] =
        [ClientAbsence::Refused, ClientAbsence::OutOfScope, ClientAbsence::NotRead, ClientAbsence::Lost];

    /// Returns the code of the problem that it is.
    pub fn code(self) -> &'static str {
        match self {
            ClientAbsence::Refused => "client.missing",
            ClientAbsence::OutOfScope => "client.out_of_scope",
            ClientAbsence::NotRead => "client.not_read",
            ClientAbsence::Lost => "client.lost",
        }
    }
}

/// Tells whether a code is that of a ticket whose client otmechalka does not have.
pub fn is_want_of_client(code: &str) -> bool {
    ClientAbsence::ALL.iter().any(|absence| absence.code() == code)
}

/// Problems with whole records, and those that only otmechalka can tell.
impl Problem {
    /// A record has a shape that no reading of it can help.
    pub fn record_unreadable() -> Problem {
        Problem::new(
            "record.unreadable",
            "Битрикс24 передал запись в непонятном виде. Откройте её и сохраните заново; если не поможет, сообщите \
             администратору.",
        )
    }

    /// The pupil of a ticket is not in otmechalka and not on its way there.
    pub fn client_missing(contact: RecordId, absence: ClientAbsence) -> Problem {
        let text = match absence {
            ClientAbsence::Refused => format!(
                "Ученика этой сделки (контакт {contact}) нет в отмечалке. Откройте контакт и исправьте то, что \
                 написано в его поле «Статус синхронизации». Абонемент затем передастся сам."
            ),
            ClientAbsence::OutOfScope => format!(
                "Ученик этой сделки (контакт {contact}) в отмечалку не передаётся: среди его продуктов и филиалов нет \
                 тех, что в ней есть. Исправьте их в контакте, и абонемент передастся сам; если ученик не для \
                 отмечалки, оставьте как есть."
            ),
            ClientAbsence::NotRead => format!(
                "Ученика этой сделки (контакт {contact}) нет в отмечалке: этот контакт создан до начала синхронизации \
                 или удалён. Выберите в сделке другой контакт ученика или заведите новый."
            ),
            ClientAbsence::Lost => format!(
                "Ученика этой сделки (контакт {contact}) в отмечалке больше нет. Очистите в контакте поле «Статус \
                 синхронизации»: ученик передастся снова, а за ним и абонемент."
            ),
        };
        Problem::new(absence.code(), text)
    }

    /// otmechalka refused a record; `fields` are its own field names with what it said about each.
    ///
    /// Its words are repeated because nobody else knows the reason; identifiers of requests and times are
    /// blanked, so that the same refusal gives the same text.
    pub fn refused_by_otmechalka(text: &str, fields: &[(String, String)]) -> Problem {
        let mut said: Vec<String> = Vec::new();
        let text = foreign(text);
        if !text.is_empty() {
            said.push(text);
        }
        for (field, words) in fields {
            let words = foreign(words);
            said.push(format!("{}: {words}", otmechalka_title(field)));
        }
        let said =
            if said.is_empty() { "причина не названа".to_owned() } else { said.join("; ") };
        let said = cut(&said, FOREIGN_TEXT_MAX_CHARS);
        Problem::new(
            OTMECHALKA_REFUSED,
            format!(
                "Отмечалка не приняла запись: «{said}». Исправьте данные; если причина не в них, сообщите администратору."
            ),
        )
    }

    /// otmechalka fails on this one record again and again while others pass.
    ///
    /// What it answered the last time is left out: the next tries may end otherwise, and the problem is the same.
    pub fn otmechalka_keeps_failing() -> Problem {
        Problem::new(
            "otmechalka.keeps_failing",
            "Отмечалка раз за разом отвечает на эту запись ошибкой, хотя другие принимает. Сообщите администратору; \
             чтобы повторить попытку, очистите поле «Статус синхронизации».",
        )
    }

    /// otmechalka holds as many active clients as it may.
    pub fn client_limit() -> Problem {
        Problem::new(
            "client.limit",
            "В отмечалке уже 5000 активных посетителей, больше она не принимает. Отправьте ненужных посетителей в \
             архив, затем очистите поле «Статус синхронизации» у этого контакта.",
        )
    }
}

/// Returns an offending value as texts show it: one clean line, bounded, in quotes.
fn quoted(value: &str) -> String {
    // The bound comes first too: a value may be megabytes long, and only its beginning is shown.
    let beginning: String = value.chars().take(VALUE_MAX_CHARS * 8).collect();
    format!("«{}»", cut(&clean(&beginning), VALUE_MAX_CHARS))
}

fn told(figures: Figures<'_>) -> String {
    let Figures { initial, paid, discount } = figures;
    let (initial, paid, discount) = (quoted(initial), quoted(paid), quoted(discount));
    format!("без скидки {initial}, со скидкой {paid}, скидка {discount}")
}

fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let beginning: String = text.chars().take(most.saturating_sub(1)).collect();
    // It may end with a space, or with a joiner of emoji that joins nothing any more.
    let mut kept = clean(&beginning);
    kept.push('…');
    kept
}

/// Returns otmechalka's words without what differs from call to call.
fn foreign(text: &str) -> String {
    let beginning: String = text.chars().take(FOREIGN_TEXT_MAX_CHARS * 4).collect();
    let mut words = String::new();
    for word in clean(&beginning).split(' ') {
        if !words.is_empty() {
            words.push(' ');
        }
        let _ = write!(words, "{}", if differs_from_call_to_call(word) { "…" } else { word });
    }
    cut(words.trim_end_matches(['.', ' ']), FOREIGN_TEXT_MAX_CHARS)
}

fn differs_from_call_to_call(word: &str) -> bool {
    let core = word.trim_matches(|character: char| !character.is_ascii_alphanumeric());
    let digits = core.bytes().filter(u8::is_ascii_digit).count();
    let is_identifier = core.len() >= 16
        && digits > 0
        && digits < core.len()
        && core.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    let is_moment =
        digits >= 6 && core.contains(':') && core.bytes().all(|byte| b"0123456789-:.+TZ".contains(&byte));
    is_identifier || is_moment
}

/// Names a field of otmechalka as the portal's form does.
pub fn otmechalka_title(field: &str) -> String {
    let title = match field {
        "last_name" => "фамилия ученика",
        "first_name" => "имя ученика",
        "phone" => "телефон",
        "email" => "e-mail",
        "courses" => "направления (по продукту)",
        "branchoffices" => "филиалы",
        "birthdate" => "дата рождения ученика",
        "gender" => "пол",
        "additional_data" => "фамилия и имя родителя",
        "origin_id" => "ID записи в Битрикс24",
        "client_origin_id" => "контакт сделки",
        "ticket_type" => "тип абонемента (название товара)",
        "price_initial" => "цена без скидки",
        "discount" => "скидка",
        "price_final" => "цена со скидкой",
        "selling_date" => "дата продажи",
        "selling_branchoffice" => "филиал продажи",
        "employee" => "сотрудник, продавший абонемент",
        "payment_method" => "способ оплаты",
        unknown => return cut(&clean(unknown), VALUE_MAX_CHARS),
    };
    title.to_owned()
}
