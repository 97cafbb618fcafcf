//! Phone numbers, however a person wrote them, as the digits that otmechalka takes.
//!
//! What is a number and what is not is decided by the phone number library. This module only finds in a text
//! the stretches that may be one, since managers also write whose number it is, extensions and second numbers.

use phonenumber::country::Id::RU;
use phonenumber::{Mode, PhoneNumber};
use schemas::problem::clean;

/// Longest text that is searched for a number, in characters.
const SEARCHED_MAX_CHARS: usize = 300;

/// Fewest and most digits that are worth asking the library about: E.164 ends at 15, prefixes come on top.
const DIGITS: std::ops::RangeInclusive<usize> = 5..=20;

/// Longest number of the international plan.
const E164_MAX_DIGITS: usize = 15;

/// A valid phone number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Phone(String);

/// A text holds no phone number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no phone number")]
pub struct NoPhone;

impl Phone {
    /// Finds the first valid number in a text; one without a country code is Russian.
    ///
    /// ```
    /// let phone = mapper::Phone::parse("8 (926) 123-45-67 доб. 12, мама").unwrap();
    /// assert_eq!(phone.digits(), "79261234567");
    /// ```
    pub fn parse(text: &str) -> Result<Phone, NoPhone> {
        let beginning: String = text.chars().take(SEARCHED_MAX_CHARS).collect();
        stretches(&plain(&beginning)).iter().find_map(|stretch| first_number(stretch)).ok_or(NoPhone)
    }

    /// Returns the digits of the international form, without a plus.
    pub fn digits(&self) -> &str {
        &self.0
    }
}

/// Writes digits of other scripts, spaces, dashes and pluses of all kinds as their ASCII brothers.
fn plain(text: &str) -> String {
    clean(text).chars().map(plain_character).collect()
}

fn plain_character(character: char) -> char {
    /// Zeros of the scripts whose digits people can type here; the other nine follow each.
    const ZEROS: [char; 4] = ['\u{FF10}', '\u{0660}', '\u{06F0}', '\u{0966}'];
    let digit = ZEROS.into_iter().find_map(|zero| {
        let value = u32::from(character).checked_sub(u32::from(zero))?;
        char::from_digit(value, 10)
    });
    match character {
        '\u{2010}'..='\u{2015}' | '\u{2212}' | '\u{FE58}' | '\u{FE63}' | '\u{FF0D}' | '\u{30FC}' => '-',
        '\u{FF0B}' | '\u{FE62}' => '+',
        '\u{FF08}' => '(',
        '\u{FF09}' => ')',
        '\u{FF0E}' | '\u{00B7}' | '\u{2022}' => '.',
        '_' => ' ',
        other => digit.unwrap_or(other),
    }
}

/// Cuts a text into stretches that consist of nothing but what phone numbers are written with.
///
/// A plus begins a new stretch: it can only stand in front of a number.
fn stretches(text: &str) -> Vec<&str> {
    let is_part = |character: char| character.is_ascii_digit() || " +-().[]/".contains(character);
    text.split(|character: char| !is_part(character))
        .flat_map(before_each_plus)
        .map(|stretch| stretch.trim_matches(|edge: char| !edge.is_ascii_digit() && !"+(".contains(edge)))
        .map(|stretch| stretch.trim_end_matches(|edge: char| !edge.is_ascii_digit()))
        .filter(|stretch| !stretch.is_empty())
        .collect()
}

fn before_each_plus(text: &str) -> impl Iterator<Item = &str> {
    let mut starts: Vec<usize> = text.match_indices('+').map(|(index, _)| index).collect();
    starts.insert(0, 0);
    starts.push(text.len());
    let bounds: Vec<(usize, usize)> = starts.windows(2).map(|pair| (pair[0], pair[1])).collect();
    bounds.into_iter().map(move |(from, to)| &text[from..to])
}

/// Reads a stretch as one number, or else as a number with something behind it.
///
/// What may stand behind is a slash, an opening bracket, or another number: a mistyped number with a digit too
/// many must not pass as a shorter one.
fn first_number(stretch: &str) -> Option<Phone> {
    number(stretch).or_else(|| {
        stretch.match_indices(['/', ' ', '(', '[']).find_map(|(index, _)| {
            let (front, rest) = stretch.split_at(index);
            let rest = rest.trim_start();
            let rest_is_apart = rest.starts_with(['/', '(', '[']) || first_number_of_spaced(rest);
            if rest_is_apart { number(front) } else { None }
        })
    })
}

fn first_number_of_spaced(text: &str) -> bool {
    let ends = text.match_indices(' ').map(|(index, _)| index).chain([text.len()]);
    ends.into_iter().any(|end| number(&text[..end]).is_some())
}

/// Asks the library about one spelling.
fn number(spelling: &str) -> Option<Phone> {
    let digits: String = spelling.chars().filter(char::is_ascii_digit).collect();
    if !DIGITS.contains(&digits.len()) {
        return None;
    }
    if spelling.trim_start_matches(['(', ' ']).starts_with('+') {
        return abroad(&digits).or_else(|| with_a_plus_by_mistake(&digits));
    }
    // Two zeros dial abroad from most countries and 8 10 from Russia; no Russian number begins so.
    match digits.strip_prefix("00").or_else(|| digits.strip_prefix("810")) {
        Some(behind) => abroad(behind),
        None => russian(&digits),
    }
}

/// Reads digits as they are dialled in Russia, or with its code.
///
/// The library drops an 8 as the trunk prefix twice, the second time from the area code where that begins with one: 812, 843,
/// 800. It is given two for these. Ten digits that begin with 8 are refused: they may lack one.
fn russian(digits: &str) -> Option<Phone> {
    match digits.strip_prefix(['7', '8']) {
        Some(national) if national.len() == 10 && national.starts_with('8') => {
            valid(phonenumber::parse(Some(RU), format!("88{national}")).ok()?)
        }
        // One too many, which the library would drop as well. A mobile number may have both.
        _ if has_code_of_eight(digits) => None,
        _ => valid(phonenumber::parse(Some(RU), digits).ok()?),
    }
}

/// Tells whether an area code that begins with 8 comes after Russia's code or prefix; there is none with 89.
fn has_code_of_eight(digits: &str) -> bool {
    ["78", "88"].iter().any(|start| digits.starts_with(start)) && !digits.starts_with("789")
}

/// Reads digits that begin with the code of a country.
///
/// The library must not be told a country here: it would drop that country's trunk prefix, which is 8 in
/// Russia, from a Munich number.
fn abroad(digits: &str) -> Option<Phone> {
    if digits.starts_with('7') && has_code_of_eight(digits) {
        return russian(digits);
    }
    valid(phonenumber::parse(None, format!("+{digits}")).ok()?)
}

/// Reads "+8 926 …", a Russian number as it is dialled at home: no country's code begins with 89.
fn with_a_plus_by_mistake(digits: &str) -> Option<Phone> {
    let is_russian = digits.len() == 11 && digits.starts_with("89");
    if is_russian { russian(digits) } else { None }
}

fn valid(number: PhoneNumber) -> Option<Phone> {
    if !number.is_valid() {
        return None;
    }
    let digits = number.format().mode(Mode::E164).to_string().trim_start_matches('+').to_owned();
    // The library knows longer ones, such as German numbers with a direct dial, which nobody abroad can call.
    (digits.len() <= E164_MAX_DIGITS).then_some(Phone(digits))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn digits(text: &str) -> Option<String> {
        Phone::parse(text).ok().map(|phone| phone.digits().to_owned())
    }

    #[test]
    fn every_way_of_writing_a_russian_number_gives_its_digits() {
        for text in [
            "8 (926) 123-45-67",
            "+7 (926) 1234567",
            "9261234567",
            "89261234567",
            "79261234567",
            "+79261234567",
            "8-926-123-45-67",
            "8.926.123.45.67",
            "926 123 45 67",
            "(926)123-45-67",
            "+7\u{a0}926\u{a0}123–45–67",
            "+7(926)123 45 67",
            "8 926 123-45-67 доб. 12",
            "8 926 123-45-67 доб.12",
            "+7 926 123-45-67 ext 5",
            "8 926 123-45-67 #12",
            "8 926 123-45-67 мама",
            "мама 8 926 123-45-67",
            "моб.: 8 926 123-45-67 (после 18:00)",
            "8 (926) 123-45-67 (12)",
            "８９２６１２３４５６７",
            "٨٩٢٦١٢٣٤٥٦٧",
            "\u{202d}+7 926 123-45-67\u{202c}",
            "8_926_123_45_67",
            "8/926/123-45-67",
            "+8 926 123-45-67",
            "++7 926 123-45-67",
            "тел1: 8 926 123-45-67",
            "tel:+79261234567",
            "８（９２６）１２３－４５－６７",
        ] {
            assert_eq!(digits(text).as_deref(), Some("79261234567"), "{text:?}");
        }
    }

    #[test]
    fn area_codes_may_begin_with_the_digit_of_the_trunk_prefix() {
        for (text, expected) in [
            ("8 (812) 345-07-57", Some("78123450757")),
            ("+7 812 345-07-57", Some("78123450757")),
            ("7 812 345 07 57", Some("78123450757")),
            ("88123450757", Some("78123450757")),
            ("8 10 7 812 345-07-57", Some("78123450757")),
            ("8 800 555-35-35", Some("78005553535")),
            ("+7 (843) 292-00-00", Some("78432920000")),
            ("8 831 234-56-78 доб. 3", Some("78312345678")),
            ("8 812 345-07-57, 8 926 123-45-67", Some("78123450757")),
            ("+7 8 926 123-45-67", Some("79261234567")),
            ("8 8 812 345-07-57", None),
            ("7 8482 22-33-44-5", None),
            ("+7 8482 22-33-44-5", None),
            ("8 812 345-07-5", None),
            ("8 343 123-45-6", None),
            ("8 926 123-45-6", None),
            ("812 345-07-57", None),
        ] {
            assert_eq!(digits(text).as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn of_two_numbers_in_one_field_the_first_counts() {
        for text in [
            "8 926 123-45-67, 8 916 765-43-21",
            "8 926 123-45-67; 8 916 765-43-21",
            "8 926 123-45-67 / 8 916 765-43-21",
            "8 926 123-45-67 8 916 765-43-21",
            "89261234567 89167654321",
            "+79261234567+79167654321",
            "+7 926 123 45 67 +7 916 765 43 21",
            "8 926 123-45-67\n8 916 765-43-21",
            "8 926 123-45-67 или 8 916 765-43-21",
            "8 926 123-45-67/68",
        ] {
            assert_eq!(digits(text).as_deref(), Some("79261234567"), "{text:?}");
        }
    }

    #[test]
    fn foreign_numbers_need_the_international_form() {
        for (text, expected) in [
            ("+375 29 123-45-67", Some("375291234567")),
            ("+49 (30) 901820", Some("4930901820")),
            ("+1 (650) 253-0000", Some("16502530000")),
            ("0049 30 901820", Some("4930901820")),
            ("8 10 375 29 123-45-67", Some("375291234567")),
            ("+7 701 123 45 67", Some("77011234567")),
            ("+49 89 636-48018", Some("498963648018")),
            ("8 10 49 89 636-48018", Some("498963648018")),
            ("+972 50-234-5678", Some("972502345678")),
            ("+39 06 6982", Some("39066982")),
            ("+380 44 123-45-67", Some("380441234567")),
            ("+998 90 123-45-67", Some("998901234567")),
            ("+995 322 12-34-56", Some("995322123456")),
            ("375291234567", None),
            ("+999 12 345 67 89", None),
            ("+49 460 9583 1022 010", None),
        ] {
            assert_eq!(digits(text).as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for text in [
            "",
            "нет телефона",
            "1234567",
            "+7",
            "7",
            "8",
            "0",
            "+",
            "+7 926 123-45-6",
            "8 926 123 45 678",
            "8 926 123 45 67 8",
            "000000000000",
            "8926ABC4567",
            "ivan@example.ru",
            "0000000000000000000000000000000000",
        ] {
            assert_eq!(digits(text), None, "{text:?}");
        }
    }

    /// Ways to set out ten digits and the prefix before them.
    fn spellings(ten: &str) -> Vec<String> {
        let (code, a, b, c) = (&ten[..3], &ten[3..6], &ten[6..8], &ten[8..]);
        let mut all = vec![ten.to_owned()];
        for prefix in ["7", "8", "+7", "8 ", "+7 ", "7-"] {
            all.push(format!("{prefix}{ten}"));
            all.push(format!("{prefix}({code}) {a}-{b}-{c}"));
            all.push(format!("{prefix}{code} {a} {b} {c}"));
            all.push(format!("{prefix}{code}\u{a0}{a}–{b}–{c} доб. 7"));
        }
        all
    }

    proptest! {
        #[test]
        fn a_parsed_number_parses_to_itself(text in "\\PC{0,40}|[+78]{0,2}[0-9() -]{5,20}") {
            if let Ok(phone) = Phone::parse(&text) {
                prop_assert_eq!(&Phone::parse(&format!("+{}", phone.digits())), &Ok(phone.clone()));
                if phone.digits().starts_with('7') {
                    prop_assert_eq!(Phone::parse(phone.digits()), Ok(phone));
                }
            }
        }

        #[test]
        fn all_spellings_of_a_russian_mobile_agree(ten in "9[0-9]{9}") {
            for spelling in spellings(&ten) {
                prop_assert_eq!(digits(&spelling), Some(format!("7{ten}")), "{:?}", spelling);
            }
        }

        #[test]
        fn all_spellings_of_a_petersburg_number_agree(ten in "812[2-7][0-9]{6}") {
            for spelling in spellings(&ten).iter().skip(1) {
                prop_assert_eq!(digits(spelling), Some(format!("7{ten}")), "{:?}", spelling);
            }
        }

        #[test]
        fn any_text_is_read_without_a_panic(text in any::<String>()) {
            let _ = Phone::parse(&text);
        }

        #[test]
        fn any_digits_and_signs_are_read_without_a_panic(text in "[0-9+()*#;=a-z. /-]{0,60}") {
            let _ = Phone::parse(&text);
        }
    }
}
