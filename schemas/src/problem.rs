//! Everything that can be wrong with a record, and the Russian text that tells a school manager.
//!
//! The one place where such texts are made. They are stable from run to run, so that an unchanged
//! problem gives an unchanged status. `docs/statuses.md` is written from [`catalogue`].

use std::fmt::Write as _;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::record::RecordId;

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
        let Field { title, .. } = field;
        let value = quoted(value);
        Problem::of(
            field,
            "unreadable",
            format!(
                "Не удалось прочитать поле «{title}»: {value}. Заполните его заново; если не поможет, сообщите \
                 администратору."
            ),
        )
    }

    /// A text is no phone number.
    pub fn phone_invalid(field: Field<'_>, value: &str) -> Problem {
        let Field { title, .. } = field;
        let value = quoted(value);
        Problem::of(
            field,
            "invalid",
            format!(
                "В поле «{title}» не номер телефона: {value}. Укажите номер полностью, например +7 926 123-45-67; \
                 иностранный – с плюсом и кодом страны."
            ),
        )
    }

    /// A text is no e-mail address.
    pub fn email_invalid(field: Field<'_>, value: &str) -> Problem {
        let Field { title, .. } = field;
        let value = quoted(value);
        Problem::of(
            field,
            "invalid",
            format!(
                "В поле «{title}» не адрес электронной почты: {value}. Оставьте в нём один адрес, например \
                 ivan@example.ru, или очистите поле."
            ),
        )
    }

    /// A text is no calendar date.
    pub fn date_invalid(field: Field<'_>, value: &str) -> Problem {
        let Field { title, .. } = field;
        let value = quoted(value);
        Problem::of(
            field,
            "invalid",
            format!("В поле «{title}» не дата: {value}. Укажите дату, например 29.11.2009."),
        )
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
        let Field { title, .. } = field;
        let value = quoted(value);
        Problem::of(
            field,
            "invalid",
            format!("В поле «{title}» нет контакта ученика: {value}. Выберите в сделке контакт ученика."),
        )
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
        let Field { title, .. } = field;
        let found = quoted(found);
        Problem::of(
            field,
            "not_one",
            format!(
                "«{title}» товара в сделке: {found}, а должно быть 1. На каждый абонемент заведите свою сделку."
            ),
        )
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
        let Field { title, .. } = field;
        let id = quoted(id);
        Problem::of(
            field,
            "unknown",
            format!(
                "Сотрудник в поле «{title}» не найден в Битрикс24: {id}. Выберите сотрудника, продавшего абонемент."
            ),
        )
    }

    /// The user has neither first name nor surname.
    pub fn seller_nameless(field: Field<'_>, id: &str) -> Problem {
        let Field { title, .. } = field;
        let id = quoted(id);
        Problem::of(
            field,
            "nameless",
            format!(
                "У сотрудника в поле «{title}» ({id}) не заполнены имя и фамилия. Заполните их в его профиле или \
                 выберите другого сотрудника и сохраните сделку."
            ),
        )
    }
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
    pub fn client_missing(contact: RecordId) -> Problem {
        Problem::new(
            "client.missing",
            format!(
                "Ученика этой сделки (контакт {contact}) нет в отмечалке. Откройте контакт и исправьте то, что \
                 написано в его поле «Статус синхронизации»; если он создан до начала синхронизации, заведите новый \
                 контакт и выберите его в сделке. Абонемент затем передастся сам."
            ),
        )
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
            "otmechalka.refused",
            format!(
                "Отмечалка не приняла запись: «{said}». Исправьте данные; если причина не в них, сообщите администратору."
            ),
        )
    }

    /// otmechalka fails on this one record again and again while others pass.
    pub fn otmechalka_keeps_failing(status: u16) -> Problem {
        Problem::new(
            "otmechalka.keeps_failing",
            format!(
                "Отмечалка раз за разом отвечает на эту запись ошибкой {status}, хотя другие принимает. Сообщите \
                 администратору; чтобы повторить попытку, очистите поле «Статус синхронизации»."
            ),
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

/// Returns a text as one clean line: no control characters, no invisible ones, single spaces.
///
/// Anything that separates (line breaks, tabs, no-break and other Unicode spaces) becomes one space. What
/// cannot be seen but changes how text is shown (control characters, direction overrides, zero-width
/// characters) is dropped. A zero-width joiner inside an emoji stays: without it the emoji falls apart.
pub fn clean(text: &str) -> String {
    let mut line = String::with_capacity(text.len().min(256));
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        if is_space(character) {
            if !line.is_empty() && !line.ends_with(' ') {
                line.push(' ');
            }
        } else if joins_emoji(character) {
            let after_emoji = line.chars().next_back().is_some_and(is_emoji);
            let before_emoji =
                character != ZERO_WIDTH_JOINER || characters.peek().copied().is_some_and(is_emoji);
            if after_emoji && before_emoji {
                line.push(character);
            }
        } else if !is_invisible(character) {
            line.push(character);
        }
    }
    line.truncate(line.trim_end_matches(' ').len());
    line
}

const ZERO_WIDTH_JOINER: char = '\u{200D}';

fn is_space(character: char) -> bool {
    // Blank letters of Braille and Hangul look like spaces and are used as such to get past form checks.
    character.is_whitespace() || matches!(character, '\u{2800}' | '\u{3164}' | '\u{FFA0}' | '\u{180E}')
}

fn is_invisible(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{00AD}'
                | '\u{034F}'
                | '\u{061C}'
                | '\u{115F}'
                | '\u{1160}'
                | '\u{200B}'..='\u{200F}'
                | '\u{202A}'..='\u{202E}'
                | '\u{2060}'..='\u{206F}'
                | '\u{FEFF}'
                | '\u{FFF9}'..='\u{FFFB}'
        )
}

/// Tells the characters that bind emoji together and mean nothing elsewhere: joiner and flag tags.
fn joins_emoji(character: char) -> bool {
    character == ZERO_WIDTH_JOINER || matches!(character, '\u{E0000}'..='\u{E007F}')
}

fn is_emoji(character: char) -> bool {
    matches!(
        character,
        '\u{2190}'..='\u{2BFF}' | '\u{FE0F}' | '\u{1F000}'..='\u{1FAFF}' | '\u{E0000}'..='\u{E007F}'
    )
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
    let mut kept: String = text.chars().take(most.saturating_sub(1)).collect();
    kept.truncate(kept.trim_end().len());
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
fn otmechalka_title(field: &str) -> String {
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

/// One kind of problem, for the table of all status texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// When it comes up.
    pub when: &'static str,
    /// The problem with a text as a manager may read it.
    pub problem: Problem,
}

/// Returns every kind of problem once, with an example.
pub fn catalogue() -> Vec<Example> {
    [contact_examples(), deal_examples(), otmechalka_examples()]
        .into_iter()
        .flatten()
        .map(|(when, problem)| Example { when, problem })
        .collect()
}

const fn field(token: &'static str, title: &'static str) -> Field<'static> {
    Field { token, title }
}

fn contact_examples() -> Vec<(&'static str, Problem)> {
    let phone = field("phone", "Телефон");
    let email = field("email", "E-mail");
    let product = field("product", "Продукт");
    let branch = field("branch", "Филиал");
    let birth_date = field("birth_date", "Дата рождения ученика");
    let pupil_last = field("pupil_last_name", "Фамилия ученика");
    let pupil_first = field("pupil_first_name", "Имя ученика");
    let parent_last = field("parent_last_name", "Фамилия родителя");
    let parent_first = field("parent_first_name", "Имя родителя");
    let mut examples = name_examples(pupil_last, pupil_first);
    examples.extend([
        ("Телефона нет", Problem::missing(phone)),
        ("Вместо телефона что-то другое", Problem::phone_invalid(phone, "позвонить маме")),
        ("Телефон пришёл в непонятном виде", Problem::unreadable(phone, "true")),
        ("E-mail указан с ошибкой или их два", Problem::email_invalid(email, "ivan@example,ru")),
        ("E-mail пришёл в непонятном виде", Problem::unreadable(email, "true")),
        ("Продукт не выбран", Problem::nothing_chosen(product)),
        ("Филиал не выбран, а занятия очные", Problem::branch_needed(branch, "Обучение шахматам")),
        ("Вместо даты рождения что-то другое", Problem::date_invalid(birth_date, "31.02.2010")),
        ("Дата рождения пришла в непонятном виде", Problem::unreadable(birth_date, "true")),
    ]);
    examples.extend(name_examples(parent_last, parent_first));
    examples
}

fn name_examples(last: Field<'static>, first: Field<'static>) -> Vec<(&'static str, Problem)> {
    vec![
        ("Фамилии нет", Problem::missing(last)),
        ("Фамилия записана в поле имени", Problem::name_in_one_field(last, first, "Наталья Зарудная")),
        ("Фамилия длиннее 100 символов", Problem::too_long(last, 256, 100, &"А".repeat(256))),
        ("Фамилия пришла в непонятном виде", Problem::unreadable(last, "true")),
        ("Имени нет", Problem::missing(first)),
        ("Имя записано в поле фамилии", Problem::name_in_one_field(first, last, "Зарудная Наталья")),
        ("Имя длиннее 100 символов", Problem::too_long(first, 256, 100, &"А".repeat(256))),
        ("Имя пришло в непонятном виде", Problem::unreadable(first, "true")),
    ]
}

fn deal_examples() -> Vec<(&'static str, Problem)> {
    let contact = field("contact", "Контакт");
    let currency = field("currency", "Валюта");
    let selling_date = field("selling_date", "Дата продажи");
    let branch = field("branch", "Филиал");
    let seller = field("seller", "Ответственный");
    let mut examples = vec![
        ("У сделки нет контакта", Problem::contact_missing(contact)),
        ("Контакт сделки не похож на контакт", Problem::contact_invalid(contact, "-5")),
        ("Контакт сделки пришёл в непонятном виде", Problem::unreadable(contact, "true")),
    ];
    examples.extend(row_examples());
    examples.extend([
        ("Валюты нет", Problem::missing(currency)),
        ("Сделка не в рублях", Problem::currency(currency, "USD", "RUB")),
        ("Валюта пришла в непонятном виде", Problem::unreadable(currency, "true")),
        ("Даты продажи нет", Problem::missing(selling_date)),
        ("Вместо даты продажи что-то другое", Problem::date_invalid(selling_date, "31.02.2020")),
        ("Дата продажи пришла в непонятном виде", Problem::unreadable(selling_date, "true")),
        ("Филиал сделки не выбран", Problem::nothing_chosen(branch)),
        ("Выбрано несколько филиалов", Problem::several_branches(branch, &["Гоголевский", "Сколково"])),
        ("Ответственного нет", Problem::missing(seller)),
        ("Такого сотрудника в Битрикс24 нет", Problem::seller_unknown(seller, "932")),
        ("У сотрудника нет имени", Problem::seller_nameless(seller, "932")),
        ("Имя сотрудника длиннее 100 символов", Problem::too_long(seller, 256, 100, &"А".repeat(256))),
        ("Имя сотрудника пришло в непонятном виде", Problem::unreadable(seller, "true")),
        ("Способ оплаты не выбран", Problem::nothing_chosen(field("payment_method", "Способ оплаты"))),
    ]);
    examples
}

fn row_examples() -> Vec<(&'static str, Problem)> {
    let name = field("product_name", "Название товара");
    let quantity = field("quantity", "Количество");
    let initial = field("price_initial", "Цена без скидки");
    let discount = field("discount", "Скидка");
    let paid = field("price_final", "Цена со скидкой");
    let tax = field("tax_rate", "Налог");
    let of = |initial, paid, discount| Figures { initial, paid, discount };
    vec![
        ("Товаров нет или больше одного", Problem::row_count(field("products", "Товары"), 2)),
        ("У товара нет названия", Problem::missing(name)),
        ("Название товара длиннее 255 символов", Problem::too_long(name, 300, 255, &"А".repeat(300))),
        ("Название товара пришло в непонятном виде", Problem::unreadable(name, "true")),
        ("Количество не указано", Problem::missing(quantity)),
        ("Количество не 1", Problem::quantity(quantity, "2")),
        ("Количество пришло в непонятном виде", Problem::unreadable(quantity, "true")),
        ("Цены без скидки нет", Problem::amount_missing(initial, of("не указано", "8700.00", "300.00"))),
        (
            "Цена без скидки – не сумма",
            Problem::amount_invalid(initial, "NaN", of("NaN", "8700.00", "300.00")),
        ),
        (
            "Цена без скидки меньше нуля",
            Problem::amount_negative(initial, "-9000", of("-9000.00", "8700.00", "300.00")),
        ),
        ("Скидка – не сумма", Problem::amount_invalid(discount, "много", of("9000.00", "8700.00", "много"))),
        (
            "Цена со скидкой больше цены без скидки",
            Problem::discount_negative(discount, of("8000.00", "8700.00", "0.00")),
        ),
        (
            "Скидка не равна разнице цен",
            Problem::discount_mismatch(discount, of("9000.00", "8700.00", "500.00")),
        ),
        ("Цены со скидкой нет", Problem::amount_missing(paid, of("9000.00", "не указано", "300.00"))),
        (
            "Цена со скидкой – не сумма",
            Problem::amount_invalid(paid, "1e21", of("9000.00", "1e21", "300.00")),
        ),
        (
            "Цена со скидкой меньше нуля",
            Problem::amount_negative(paid, "-8700", of("9000.00", "-8700.00", "300.00")),
        ),
        ("Ставка налога – не число", Problem::amount_invalid(tax, "НДС", of("9000.00", "8700.00", "300.00"))),
    ]
}

fn otmechalka_examples() -> Vec<(&'static str, Problem)> {
    let refusal = [("ticket_type".to_owned(), "Неизвестный тип абонемента".to_owned())];
    let contact = RecordId::try_new(39910).map(Problem::client_missing);
    let mut examples = vec![
        ("Запись пришла в непонятном виде", Problem::record_unreadable()),
        ("Отмечалка не приняла запись", Problem::refused_by_otmechalka("", &refusal)),
        ("Отмечалка не справляется с этой записью", Problem::otmechalka_keeps_failing(500)),
        ("В отмечалке нет места", Problem::client_limit()),
    ];
    examples.extend(contact.map(|problem| ("Ученика сделки нет в отмечалке", problem)));
    examples
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    /// Writes the page that `docs/statuses.md` has to be.
    fn page() -> String {
        let mut page = String::from(
            "# Status texts\n\n\
             What the field \"Статус синхронизации\" may say. Written from `schemas/src/problem.rs`: after a change \
             there run `UPDATE_DOCS=1 cargo test -p schemas statuses`.\n\n\
             `Успешно` stands for everything that is in otmechalka or need not be. Anything else tells every problem \
             of the record at once, numbered when there are several, in at most 1,000 characters. Fields are called \
             what the mapping file calls them; the same problem always gives the same text.\n\n\
             | code | when | for example |\n| --- | --- | --- |\n",
        );
        for Example { when, problem } in catalogue() {
            let text = problem.text.replace('|', "\\|");
            let _ = writeln!(page, "| `{}` | {when} | {text} |", problem.code);
        }
        page
    }

    #[test]
    fn the_page_of_statuses_is_current() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/statuses.md");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(&path, page()).unwrap();
        }
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(found == page(), "docs/statuses.md is stale: run with UPDATE_DOCS=1");
    }

    #[test]
    fn every_kind_is_told_apart_and_told_in_russian() {
        let mut codes = HashSet::new();
        for Example { problem, .. } in catalogue() {
            // A blank branch is one kind with two texts: of a pupil and of a sale.
            let is_new = codes.insert(problem.code.clone());
            assert!(is_new || problem.code == "branch.missing", "{} twice", problem.code);
            let text = &problem.text;
            assert!(text.ends_with('.') && text.chars().count() <= 420, "{text}");
            let latin = text.chars().filter(char::is_ascii_alphabetic).count();
            assert!(latin * 3 < text.chars().count(), "{text}");
        }
    }

    #[test]
    fn one_problem_stands_alone_and_several_are_numbered() {
        let (one, other) = (Problem::new("a", "Первое."), Problem::new("b", "Второе."));
        assert_eq!(status_text(std::slice::from_ref(&one)), "Первое.");
        assert_eq!(status_text(&[one, other]), "1) Первое. 2) Второе.");
        assert_ne!(status_text(&[]), SUCCESS);
    }

    #[test]
    fn what_has_no_room_is_left_out_whole_and_counted() {
        let problems: Vec<Problem> =
            (0..5).map(|number| Problem::new("a", format!("{number}{}.", "я".repeat(300)))).collect();
        let text = status_text(&problems);
        assert!(text.chars().count() <= STATUS_MAX_CHARS);
        assert!(text.ends_with("я. …и ещё 2."), "{text}");
        let huge = [Problem::new("a", "я".repeat(5_000)), Problem::new("b", "Второе.")];
        let text = status_text(&huge);
        assert_eq!(text.chars().count(), STATUS_MAX_CHARS);
        assert!(text.ends_with("… …и ещё 1."), "{text}");
        assert_eq!(status_text(&huge[..1]).chars().count(), STATUS_MAX_CHARS);
    }

    #[test]
    fn values_are_cleaned_and_cut() {
        let phone = field("phone", "Телефон");
        let text = Problem::phone_invalid(phone, "звоните\r\n\u{202e}вечером\u{0}\u{7}").text;
        assert!(text.contains("«звоните вечером»"), "{text}");
        let text = Problem::phone_invalid(phone, &"ы".repeat(2_000_000)).text;
        assert!(text.contains(&format!("«{}…»", "ы".repeat(VALUE_MAX_CHARS - 1))), "{text}");
    }

    #[test]
    fn clean_lines_keep_what_can_be_seen() {
        for (text, expected) in [
            ("  Анна \t Мария\r\nИванова ", "Анна Мария Иванова"),
            ("Анна\u{a0}\u{2003}Мария", "Анна Мария"),
            ("\u{a0}\u{200b}\u{feff}\u{2800}", ""),
            ("Ан\u{ad}на\u{200b}", "Анна"),
            ("\u{202e}аннА\u{202c}", "аннА"),
            ("А\u{0}н\u{7}на\u{1b}[31m", "Анна[31m"),
            ("Анна\u{2028}Мария", "Анна Мария"),
            ("👨\u{200d}👩\u{200d}👧 Иван", "👨\u{200d}👩\u{200d}👧 Иван"),
            ("❤\u{fe0f}\u{200d}🔥", "❤\u{fe0f}\u{200d}🔥"),
            ("Ив\u{200d}ан", "Иван"),
            ("👨\u{200d}", "👨"),
            ("Андреи\u{306}", "Андреи\u{306}"),
            ("𝓐𝓷𝓷𝓪", "𝓐𝓷𝓷𝓪"),
            ("<script>alert(1)</script>", "<script>alert(1)</script>"),
            ("'; DROP TABLE pupils; --", "'; DROP TABLE pupils; --"),
            (
                "А=Б&ID=1#x+y 100 %s%n {{7*7}} ${jndi:x} $result[0][ID] sync.>.*",
                "А=Б&ID=1#x+y 100 %s%n {{7*7}} ${jndi:x} $result[0][ID] sync.>.*",
            ),
        ] {
            assert_eq!(clean(text), expected, "{text:?}");
        }
    }

    #[test]
    fn the_same_refusal_gives_the_same_text() {
        let of = |text: &str| Problem::refused_by_otmechalka(text, &[]).text;
        assert_eq!(
            of("Нет места (запрос 3f2a9c1e-77b0-4d0e-9a55-3d6a70bd5c11, 2020-12-21T10:19:34Z)"),
            of("Нет места (запрос 00aa9c1e-1234-4d0e-9a55-3d6a70bd5c99, 2021-01-02T11:20:35Z)"),
        );
        assert!(of("Телефон 79261234567 занят").contains("79261234567"));
        assert!(of("").contains("причина не названа"));
        assert!(of(&"слово ".repeat(1_000)).chars().count() < 500);
        let named = Problem::refused_by_otmechalka("", &[("phone".into(), "неверный формат.".into())]).text;
        assert!(named.contains("«телефон: неверный формат»"), "{named}");
    }

    proptest! {
        #[test]
        fn clean_text_is_one_line_and_stays_as_it_is(text in any::<String>()) {
            let once = clean(&text);
            prop_assert!(!once.chars().any(char::is_control));
            prop_assert!(!once.contains("  ") && once.trim() == once);
            prop_assert_eq!(clean(&once), once.clone());
        }

        #[test]
        fn statuses_never_outgrow_their_field(lengths in proptest::collection::vec(0_usize..1_500, 0..20)) {
            let problems: Vec<Problem> = lengths.iter().map(|length| Problem::new("a", "я".repeat(*length))).collect();
            prop_assert!(status_text(&problems).chars().count() <= STATUS_MAX_CHARS);
        }

        #[test]
        fn texts_of_any_value_are_short(value in any::<String>()) {
            let phone = field("phone", "Телефон");
            prop_assert!(Problem::phone_invalid(phone, &value).text.chars().count() < 250);
            prop_assert!(Problem::refused_by_otmechalka(&value, &[(value.clone(), value.clone())]).text.chars().count() < 500);
        }
    }
}
