//! Every kind of problem with an example: what `docs/statuses.md` is written from.

use super::{ClientAbsence, Field, Figures, Problem};
use crate::record::RecordId;

/// One kind of problem, for the table of all status texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// When it comes up.
    pub when: &'static str,
    /// The problem with a text as a manager may read it.
    pub problem: Problem,
}

/// Returns every kind of problem with an example of each of its texts.
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
        ("Ставка налога – не число", Problem::rate_invalid(tax, "НДС")),
    ]
}

fn otmechalka_examples() -> Vec<(&'static str, Problem)> {
    let refusal = [("ticket_type".to_owned(), "Неизвестный тип абонемента".to_owned())];
    let absences = [
        ("Контакт ученика с ошибкой", ClientAbsence::Refused),
        ("Контакт ученика отмечалки не касается", ClientAbsence::OutOfScope),
        ("Контакта ученика среди читаемых нет", ClientAbsence::NotRead),
        ("Ученика удалили из отмечалки", ClientAbsence::Lost),
    ];
    let mut examples = vec![
        ("Запись пришла в непонятном виде", Problem::record_unreadable()),
        ("Отмечалка не приняла запись", Problem::refused_by_otmechalka("", &refusal)),
        ("Отмечалка не справляется с этой записью", Problem::otmechalka_keeps_failing()),
        ("В отмечалке нет места", Problem::client_limit()),
    ];
    let of_contact = RecordId::try_new(39910)
        .map(|contact| absences.map(|(case, absence)| (case, Problem::client_missing(contact, absence))));
    examples.extend(of_contact.into_iter().flatten());
    examples
}
