//! Text as people can safely be shown it.

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
            // A joiner before a tag joins nothing, and would be the first to go on a second look.
            let before_emoji = character != ZERO_WIDTH_JOINER
                || characters.peek().is_some_and(|next| is_emoji(*next) && !joins_emoji(*next));
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
