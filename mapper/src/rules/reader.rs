//! Reads a mapping file value by value and notes every mistake with its place, instead of stopping at the first.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;

use serde_spanned::Spanned;
use toml::de::{DeTable, DeValue};

/// One mistake of a mapping file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {path}: found {found}, expected {expected}, for example {example}")]
pub struct RulesError {
    /// Where it is.
    pub at: Position,
    /// Which key it is about: `contact.fields.phone.code`.
    pub path: String,
    /// What stands there.
    pub found: String,
    /// What should stand there.
    pub expected: String,
    /// A value that would do.
    pub example: String,
}

/// A place in a mapping file, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Line.
    pub line: usize,
    /// Column in characters.
    pub column: usize,
}

impl Position {
    fn of(text: &str, offset: usize) -> Position {
        let before = text.get(..offset).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Position { line: before.matches('\n').count() + 1, column: before[line_start..].chars().count() + 1 }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

/// A value together with its place.
#[derive(Clone, Debug)]
pub(super) struct Placed<T> {
    pub value: T,
    pub at: Position,
}

/// A table of the file with its own place and path.
pub(super) struct Section<'a> {
    path: String,
    span: Range<usize>,
    table: &'a DeTable<'a>,
}

impl Section<'_> {
    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
}

/// Collects the mistakes of one file.
pub(super) struct Reader<'t> {
    text: &'t str,
    errors: Vec<RulesError>,
}

impl<'t> Reader<'t> {
    pub fn new(text: &'t str) -> Reader<'t> {
        Reader { text, errors: Vec::new() }
    }

    /// Returns the mistakes in the order of the file.
    pub fn finish(mut self) -> Vec<RulesError> {
        self.errors.sort_by(|left, right| left.at.cmp(&right.at).then_with(|| left.path.cmp(&right.path)));
        self.errors
    }

    /// Notes what keeps a text from being TOML at all.
    ///
    /// One slip, such as a bracket that is never closed, makes the lines behind it look wrong too: only the
    /// first few are told, one for a line.
    pub fn syntax(&mut self, errors: &[toml::de::Error]) {
        const TOLD: usize = 5;
        for error in errors {
            let offset = error.span().map_or(0, |span| span.start);
            self.note(offset, "the file", one_line(error.message()), "valid TOML", "id = 404");
        }
        self.errors.sort_by_key(|error| error.at);
        self.errors.dedup_by_key(|error| error.at.line);
        self.errors.truncate(TOLD);
    }

    pub fn root<'a>(&self, table: &'a Spanned<DeTable<'a>>) -> Section<'a> {
        Section { path: String::new(), span: 0..0, table: table.get_ref() }
    }

    /// Notes every key of a table that has no meaning: a misspelt optional key would otherwise do nothing.
    pub fn only_keys(&mut self, section: &Section<'_>, known: &[&str]) {
        for key in section.table.keys().filter(|key| !known.contains(&key.get_ref().as_ref())) {
            let path = section.path_of(&one_line(key.get_ref()));
            let expected = format!("one of the keys {}", known.join(", "));
            self.note(
                key.span().start,
                &path,
                "an unknown key".into(),
                &expected,
                known.first().unwrap_or(&""),
            );
        }
    }

    pub fn section<'a>(&mut self, parent: &Section<'a>, key: &str) -> Option<Section<'a>> {
        let path = parent.path_of(key);
        let example = format!("[{path}]");
        let value = self.required(parent, key, "a table", &example)?;
        self.as_section(value, path, &example)
    }

    /// Reads a list of tables that must not be empty.
    pub fn sections<'a>(&mut self, parent: &Section<'a>, key: &str) -> Vec<Section<'a>> {
        let path = parent.path_of(key);
        let example = format!("[[{path}]]");
        let Some(value) = self.required(parent, key, "at least one table", &example) else {
            return Vec::new();
        };
        let items =
            value.get_ref().as_array().map(|array| array.iter().collect::<Vec<_>>()).unwrap_or_default();
        if items.is_empty() {
            self.note(value.span().start, &path, shown(value.get_ref()), "at least one table", &example);
        }
        let mut sections = Vec::new();
        for (index, item) in items.into_iter().enumerate() {
            sections.extend(self.as_section(item, format!("{path}[{index}]"), &example));
        }
        sections
    }

    pub fn text(&mut self, section: &Section<'_>, key: &str, example: &str) -> Option<Placed<String>> {
        let example = format!("\"{example}\"");
        let value = self.required(section, key, TEXT, &example)?;
        self.as_text(value, &section.path_of(key), &example)
    }

    /// Reads a text that may be absent: `Some(None)` where it is.
    pub fn optional_text(
        &mut self,
        section: &Section<'_>,
        key: &str,
        example: &str,
    ) -> Option<Option<Placed<String>>> {
        if section.table.contains_key(key) { self.text(section, key, example).map(Some) } else { Some(None) }
    }

    /// Reads a list of texts that must not be empty nor hold one text twice.
    pub fn texts(&mut self, section: &Section<'_>, key: &str, example: &str) -> Option<Vec<String>> {
        let example = format!("[\"{example}\"]");
        let expected = "a list of different texts, at least one";
        let value = self.required(section, key, expected, &example)?;
        let path = section.path_of(key);
        let items = value.get_ref().as_array().filter(|array| !array.is_empty());
        let Some(items) = items else {
            self.note(value.span().start, &path, shown(value.get_ref()), expected, &example);
            return None;
        };
        let mut texts: Vec<String> = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let path = format!("{path}[{index}]");
            let text = self.as_text(item, &path, &example)?;
            if texts.contains(&text.value) {
                self.note(item.span().start, &path, format!("`{}` again", text.value), expected, &example);
            }
            texts.push(text.value);
        }
        Some(texts)
    }

    /// Reads the id of a list value.
    pub fn id(&mut self, section: &Section<'_>, key: &str, example: &str) -> Option<Placed<u64>> {
        let value = self.required(section, key, ID, example)?;
        let number = value
            .get_ref()
            .as_integer()
            .and_then(|integer| u64::from_str_radix(integer.as_str(), integer.radix()).ok())
            .filter(|number| *number > 0);
        let at = value.span().start;
        match number {
            Some(value) => Some(Placed { value, at: Position::of(self.text, at) }),
            None => {
                self.note(at, &section.path_of(key), shown(value.get_ref()), ID, example);
                None
            }
        }
    }

    /// Notes a value that breaks a rule of its own.
    pub fn refuse<T: fmt::Display>(&mut self, path: &str, placed: &Placed<T>, expected: &str, example: &str) {
        self.errors.push(RulesError {
            at: placed.at,
            path: path.to_owned(),
            found: format!("`{}`", one_line(&placed.value.to_string())),
            expected: expected.to_owned(),
            example: example.to_owned(),
        });
    }

    /// Notes every value that stands in a list before.
    pub fn only_once<'v, T>(
        &mut self,
        path: &str,
        values: impl IntoIterator<Item = &'v Placed<T>>,
        example: &str,
    ) where
        T: fmt::Display + Eq + std::hash::Hash + 'v,
    {
        let mut first: HashMap<&T, Position> = HashMap::new();
        for placed in values {
            if let Some(before) = first.get(&placed.value) {
                let expected = format!("another value than at {before}");
                self.refuse(path, placed, &expected, example);
            } else {
                first.insert(&placed.value, placed.at);
            }
        }
    }

    fn required<'a>(
        &mut self,
        section: &Section<'a>,
        key: &str,
        expected: &str,
        example: &str,
    ) -> Option<&'a Spanned<DeValue<'a>>> {
        let value = section.table.get(key);
        if value.is_none() {
            self.note(section.span.start, &section.path_of(key), "nothing".into(), expected, example);
        }
        value
    }

    fn as_section<'a>(
        &mut self,
        value: &'a Spanned<DeValue<'a>>,
        path: String,
        example: &str,
    ) -> Option<Section<'a>> {
        match value.get_ref().as_table() {
            Some(table) => Some(Section { path, span: value.span(), table }),
            None => {
                self.note(value.span().start, &path, shown(value.get_ref()), "a table", example);
                None
            }
        }
    }

    fn as_text(&mut self, value: &Spanned<DeValue<'_>>, path: &str, example: &str) -> Option<Placed<String>> {
        let at = value.span().start;
        match value.get_ref().as_str() {
            Some(text) if !schemas::problem::clean(text).is_empty() => {
                Some(Placed { value: text.to_owned(), at: Position::of(self.text, at) })
            }
            _ => {
                self.note(at, path, shown(value.get_ref()), TEXT, example);
                None
            }
        }
    }

    fn note(&mut self, offset: usize, path: &str, found: String, expected: &str, example: &str) {
        self.errors.push(RulesError {
            at: Position::of(self.text, offset),
            path: path.to_owned(),
            found,
            expected: expected.to_owned(),
            example: example.to_owned(),
        });
    }
}

const TEXT: &str = "a text that is not blank";
const ID: &str = "a positive whole number";

fn shown(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("`{}`", one_line(text)),
        DeValue::Integer(integer) => format!("`{}`", one_line(integer.as_str())),
        other => format!("a value of type {}", other.type_str()),
    }
}

fn one_line(text: &str) -> String {
    schemas::problem::clean(text).chars().take(80).collect()
}
