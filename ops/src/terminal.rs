//! What others wrote, made harmless for the terminal of whoever reads it. Pure.
//!
//! A name, an id of otmechalka or the reason of a dead letter may hold an escape sequence that clears the screen or
//! a direction override that shows another number than stands there. Nothing is dropped: what cannot be
//! seen is written as its number, so that it can be found.

use std::fmt::Write as _;

/// Makes a text of several lines of ours harmless: its line breaks stay, everything else that acts is shown.
pub fn text(text: &str) -> String {
    neutralised(
        text,
        |character| character == '\n',
        |shown, code| {
            // Writing to a string cannot fail.
            let _ = write!(shown, "\\u{{{code:x}}}");
        },
    )
}

/// Makes foreign text harmless that has to stay on its line.
pub fn line(foreign: &str) -> String {
    text(&foreign.replace('\n', "\\n"))
}

/// Makes JSON harmless, which stays the same JSON: what acts can only stand within its texts.
pub fn json(json: &str) -> String {
    neutralised(
        json,
        |character| character == '\n',
        |shown, code| {
            for unit in char::from_u32(code)
                .map(|character| character.encode_utf16(&mut [0; 2]).to_vec())
                .into_iter()
                .flatten()
            {
                let _ = write!(shown, "\\u{unit:04x}");
            }
        },
    )
}

fn neutralised(text: &str, stays: impl Fn(char) -> bool, write: impl Fn(&mut String, u32)) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if acts(character) && !stays(character) {
            write(&mut shown, character as u32);
        } else {
            shown.push(character);
        }
    }
    shown
}

/// Tells characters that move the cursor, turn the direction of writing, or cannot be seen.
fn acts(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{061c}' | '\u{200b}' | '\u{200c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_acts_is_written_as_its_number() {
        for (foreign, shown) in [
            ("\u{1b}[2J\u{1b}]0;title\u{7}", "\\u{1b}[2J\\u{1b}]0;title\\u{7}"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("12\u{202e}34", "12\\u{202e}34"),
            ("a\u{2066}b\u{2069}", "a\\u{2066}b\\u{2069}"),
            ("over\rwritten\u{8}", "over\\u{d}written\\u{8}"),
            ("Анна\u{200b}", "Анна\\u{200b}"),
            ("👨\u{200d}👩 и\u{306} «x»", "👨\u{200d}👩 и\u{306} «x»"),
            ("two\nlines", "two\nlines"),
        ] {
            assert_eq!(text(foreign), shown, "{foreign:?}");
            assert_eq!(text(shown), shown, "shown once, shown the same");
        }
        assert_eq!(line("one\nof many\u{1b}"), "one\\nof many\\u{1b}");
    }

    #[test]
    fn json_stays_the_same_json() {
        let value = serde_json::json!({"name": "a\u{1b}\u{9b}\u{202e}\n\"\\", "\u{2028}": ["👨\u{200d}👩", "\u{feff}"]});
        let pretty = serde_json::to_string_pretty(&value).unwrap();
        let shown = json(&pretty);
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
        assert!(!shown.chars().any(|character| acts(character) && character != '\n'), "{shown:?}");
    }
}
