//! Invented people, mail addresses and the many ways of writing a telephone number.

use rand::RngExt;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

const BOYS: &[&str] = &[
    "Кирилл",
    "Тимофей",
    "Матвей",
    "Лев",
    "Арсений",
    "Глеб",
    "Ярослав",
    "Мирон",
    "Фёдор",
    "Савелий",
    "Артемий",
    "Данила",
    "Егор",
    "Платон",
    "Всеволод",
    "Андрей",
];
const GIRLS: &[&str] = &[
    "Алиса",
    "Варвара",
    "Ева",
    "Мирослава",
    "Таисия",
    "Полина",
    "Агата",
    "Василиса",
    "Марьяна",
    "Злата",
    "Вера",
    "Ульяна",
];
const MEN: &[&str] =
    &["Олег", "Игорь", "Павел", "Руслан", "Борис", "Тимур", "Геннадий", "Антон", "Максим", "Степан"];
const WOMEN: &[&str] = &[
    "Наталья",
    "Елена",
    "Ольга",
    "Инна",
    "Жанна",
    "Лариса",
    "Оксана",
    "Регина",
    "Юлия",
    "Галина",
    "Анна-Мария",
];
/// Masculine and feminine forms of one surname.
const SURNAMES: &[(&str, &str)] = &[
    ("Зарудный", "Зарудная"),
    ("Свеклов", "Свеклова"),
    ("Ладьин", "Ладьина"),
    ("Ферзев", "Ферзева"),
    ("Слонимов", "Слонимова"),
    ("Пешкин", "Пешкина"),
    ("Рокировкин", "Рокировкина"),
    ("Гамбитов", "Гамбитова"),
    ("Эндшпильский", "Эндшпильская"),
    ("Коневой", "Коневая"),
    ("Дебютов", "Дебютова"),
    ("Цугцвангов", "Цугцвангова"),
    ("Белопольский", "Белопольская"),
    ("Чернопольский", "Чернопольская"),
    ("Миттельшпилев", "Миттельшпилева"),
    ("Вилкин", "Вилкина"),
    ("Патов", "Патова"),
    ("Шахов", "Шахова"),
    ("Матов-Королёв", "Матова-Королёва"),
    ("Этюдников", "Этюдникова"),
    ("Часовщиков", "Часовщикова"),
    ("Щуко", "Щуко"),
];
const MAIL_HOSTS: &[&str] = &["example.com", "example.org", "mail.example.net", "pochta.example"];

/// One pupil with the parent who signed the contract.
pub struct Family {
    pub pupil_last_name: &'static str,
    pub pupil_first_name: &'static str,
    pub parent_last_name: &'static str,
    pub parent_first_name: &'static str,
}

/// Invents a pupil and a parent of the same surname.
pub fn family(rng: &mut ChaCha8Rng) -> Family {
    let (masculine, feminine) = pick(rng, SURNAMES);
    let (pupil_last_name, pupil_first_name) =
        if rng.random_bool(0.6) { (masculine, pick(rng, BOYS)) } else { (feminine, pick(rng, GIRLS)) };
    let (parent_last_name, parent_first_name) =
        if rng.random_bool(0.25) { (masculine, pick(rng, MEN)) } else { (feminine, pick(rng, WOMEN)) };
    Family { pupil_last_name, pupil_first_name, parent_last_name, parent_first_name }
}

/// Invents a grown-up as (first name, surname).
pub fn adult(rng: &mut ChaCha8Rng) -> (&'static str, &'static str) {
    let (masculine, feminine) = pick(rng, SURNAMES);
    if rng.random_bool(0.5) { (pick(rng, MEN), masculine) } else { (pick(rng, WOMEN), feminine) }
}

/// Invents a mail address on a host that belongs to nobody.
pub fn mail(rng: &mut ChaCha8Rng) -> String {
    let number = rng.random_range(10..99_999);
    format!("roditel.{number}@{}", pick(rng, MAIL_HOSTS))
}

/// Writes a valid number in one of the spellings managers use.
pub fn phone(rng: &mut ChaCha8Rng) -> String {
    if rng.random_bool(0.04) {
        return foreign_phone(rng);
    }
    let code =
        *["903", "905", "915", "916", "925", "926", "964", "977", "985", "999"].choose(rng).unwrap_or(&"926");
    let number = rng.random_range(2_000_000..9_999_999);
    spell(rng.random_range(0..14), code, &format!("{number:07}"))
}

fn spell(way: u32, code: &str, number: &str) -> String {
    let (a, b, c) = (&number[..3], &number[3..5], &number[5..]);
    match way {
        0 => format!("8 ({code}) {a}-{b}-{c}"),
        1 => format!("+7 ({code}) {a}{b}{c}"),
        2 => format!("{code}{number}"),
        3 => format!("8{code}{number}"),
        4 => format!("7{code}{number}"),
        5 => format!("+7{code}{number}"),
        6 => format!("8-{code}-{a}-{b}-{c}"),
        7 => format!("+7 {code} {a} {b} {c}"),
        8 => format!("8\u{a0}({code})\u{a0}{a}\u{a0}{b}\u{a0}{c}"),
        9 => format!("+7 ({code}) {a}\u{2013}{b}\u{2013}{c}"),
        10 => format!("8({code}){a}.{b}.{c}"),
        11 => format!("  +7{code}{number} "),
        12 => format!("8 {code} {a}-{b}-{c} доб. 12"),
        _ => format!("{code} {a} {b} {c} мама"),
    }
}

fn foreign_phone(rng: &mut ChaCha8Rng) -> String {
    let number = rng.random_range(200_000..999_999);
    match rng.random_range(0..3) {
        0 => format!("+375 29 6{number}"),
        1 => format!("+49 1512 3{number}"),
        _ => format!("+374 91 {number}"),
    }
}

/// Picks one element; the lists of this module are never empty.
pub fn pick<T: Copy>(rng: &mut ChaCha8Rng, from: &[T]) -> T {
    from[rng.random_range(0..from.len())]
}
