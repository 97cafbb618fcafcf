//! Single values: phone, money, date, and any text that is shown.

use mapper::{Phone, Rubles, parse_date};
use schemas::problem::clean;

use super::text_of;
use crate::Target;

/// A phone in any spelling.
pub const PHONE: Target = Target { name: "phone", seeds: phones, check: phone };

/// An amount of money.
pub const MONEY: Target = Target { name: "money", seeds: amounts, check: money };

/// A calendar date.
pub const DATE: Target = Target { name: "date", seeds: dates, check: date };

/// A text made one clean line.
pub const LINE: Target = Target { name: "line", seeds: lines, check: line };

fn inputs(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

fn phones() -> Vec<Vec<u8>> {
    inputs(&[
        "8 (926) 123-45-67",
        "+7 (926) 1234567",
        "9265672098",
        "+7\u{a0}926\u{a0}123–45–67 доб. 7",
        "8-926-123-45-67, 8-916-765-43-21",
        "＋７９２６１２３４５６７",
        "٨٩٢٦١٢٣٤٥٦٧",
        "00 380 44 123-45-67",
        "+44 20 7946 0958 ext. 12",
        "tel:+7-926-123-45-67;ext=5",
        "мама 89261234567 Оля",
        "нет телефона",
        "+7",
        "1234567",
    ])
}

fn phone(input: &[u8]) -> String {
    let text = text_of(input);
    let parsed = Phone::parse(&text);
    assert_eq!(parsed, Phone::parse(&text));
    let Ok(phone) = parsed else { return "no phone".to_owned() };
    let digits = phone.digits();
    assert!((7..=15).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit()), "{digits}");
    assert_eq!(
        Phone::parse(&format!("+{digits}")).as_ref(),
        Ok(&phone),
        "{digits} is read as something else"
    );
    // Every digit was there: a Russian number is found, never made up. Some countries' plans add an area code.
    if let Some(national) = digits.strip_prefix('7') {
        let digit = |character: char| character.to_digit(10).or_else(|| other_digit(character));
        let mut there = text.chars().filter_map(digit);
        let all_there = national.chars().filter_map(digit).all(|digit| there.any(|found| found == digit));
        assert!(all_there, "{digits} does not stand in {text:?}");
    }
    format!("phone {} {}", &digits[..1], digits.len())
}

/// Digits of the scripts that phone numbers come in.
fn other_digit(character: char) -> Option<u32> {
    let zeros = ['\u{660}', '\u{6f0}', '\u{966}', '\u{ff10}'];
    let value = |zero: &char| (character as u32).checked_sub(*zero as u32).filter(|value| *value < 10);
    zeros.iter().find_map(value)
}

fn amounts() -> Vec<Vec<u8>> {
    inputs(&[
        "8700",
        "8702.2999999999993",
        "8700,50",
        "-0.001",
        "8.7e3",
        "1e21",
        "1e-400",
        "NaN",
        "999999999.99",
        "0.0000000000000000000000000001",
        "79228162514264337593543950335",
        " +1. ",
    ])
}

fn money(input: &[u8]) -> String {
    let text = text_of(input);
    let parsed = Rubles::parse(&text);
    assert_eq!(parsed, Rubles::parse(&text));
    let Ok(amount) = parsed else { return "no amount".to_owned() };
    let shown = amount.to_string();
    let (roubles, kopecks) = shown.split_once('.').expect("a point");
    assert!(kopecks.len() == 2 && roubles.len() <= 11, "{shown}");
    assert!(shown.bytes().all(|byte| byte.is_ascii_digit() || b".-".contains(&byte)), "{shown}");
    let rounded = amount.rounded();
    assert_eq!(rounded.to_string(), shown);
    if let Ok(again) = Rubles::parse(&shown) {
        assert_eq!(again.rounded(), rounded, "{shown} is read as something else");
    } else {
        // Rounding up may reach the bound itself, which is no amount any more.
        assert_eq!(shown.trim_start_matches('-'), "1000000000.00");
    }
    let float: f64 = shown.parse().expect("a number");
    let meant: f64 = text.trim().replace(',', ".").parse().expect("what is an amount is a number");
    assert!((float - meant).abs() <= 0.005 + meant.abs() * 1e-9, "{text:?} became {shown}");
    format!("{} {}", amount.is_negative(), roubles.len())
}

fn dates() -> Vec<Vec<u8>> {
    inputs(&[
        "2009-11-29T03:00:00+03:00",
        "2009-11-29T00:00:00+04:00",
        "2009-11-29T00:00:00Z",
        "2009-11-29 00:00:00",
        "2009-11-29",
        "29.11.2009",
        "29.11.2009 15:00",
        "31.02.2010",
        "0000-11-29",
        "2009-11-29T23:59:60+03:00",
        "1259452800",
    ])
}

fn date(input: &[u8]) -> String {
    let text = text_of(input);
    let parsed = parse_date(&text);
    assert_eq!(parsed, parse_date(&text));
    let Ok(date) = parsed else { return "no date".to_owned() };
    let (iso, russian) = (date.to_string(), date.format("%d.%m.%Y").to_string());
    assert!((1900..2100).contains(&iso[..4].parse().expect("a year")), "{iso}");
    // The date is the one that is written, whatever time and offset stand behind it.
    let line = clean(&text);
    assert!(line.starts_with(&iso) || line.starts_with(&russian), "{text:?} became {iso}");
    assert_eq!((parse_date(&iso), parse_date(&russian)), (Ok(date), Ok(date)));
    format!("date {} {}", line.len(), line.starts_with(&iso))
}

fn lines() -> Vec<Vec<u8>> {
    inputs(&[
        "  Анна \t Мария\r\nИванова ",
        "\u{202e}аннА\u{202c}",
        "👨\u{200d}👩\u{200d}👧 Иван",
        "А\u{0}н\u{7}на\u{1b}[31m",
        "Андреи\u{306} 𝓐𝓷𝓷𝓪",
        "<script>alert(1)</script>",
        "\u{1f3f4}\u{e0067}\u{e0062}\u{e007f}",
    ])
}

fn line(input: &[u8]) -> String {
    let text = text_of(input);
    let line = clean(&text);
    assert_eq!(clean(&line), line, "a clean line is not clean");
    assert!(line.len() <= text.len(), "a line grew");
    assert!(!line.chars().any(char::is_control), "control characters in {line:?}");
    assert!(!line.contains("  ") && line.trim() == line, "blanks in {line:?}");
    let is_hidden = |c: char| matches!(c, '\u{200b}'..='\u{200c}' | '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
    assert!(!line.contains(is_hidden), "hidden characters in {line:?}");
    // Nothing that can be seen is lost or added.
    let seen = |text: &str| {
        text.chars()
            .filter(|c| {
                c.is_alphanumeric()
                    && !('\u{115f}'..='\u{1160}').contains(c)
                    && !matches!(c, '\u{3164}' | '\u{ffa0}')
            })
            .count()
    };
    assert_eq!(seen(&line), seen(&text), "letters were lost");
    format!("{} {}", line.is_empty(), line.len() == text.len())
}
