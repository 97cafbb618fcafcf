//! Required and optional fields as clean lines of text.

use schemas::Problem;
use schemas::problem::{Field, clean};

use crate::php::{Php, Record};
use crate::rules::FieldRule;

/// Longest name that is sent, in characters (not bytes: an emoji may be several).
pub(crate) const NAME_MAX_CHARS: usize = 100;

/// Longest product name that is sent; Bitrix24 itself keeps no more.
pub(crate) const PRODUCT_NAME_MAX_CHARS: usize = 255;

/// Reads a name that has to be there.
pub(crate) fn name(record: &Record, rule: &FieldRule) -> Result<String, Problem> {
    let field = rule.named();
    match record.field(&rule.code) {
        Php::Absent if record.is_trimmed(&rule.code) => Err(Problem::far_too_long(field)),
        value => line(value, field, NAME_MAX_CHARS)?.ok_or_else(|| Problem::missing(field)),
    }
}

/// Reads a clean line of bounded length; `None` where there is none.
pub(crate) fn line(value: &Php, field: Field<'_>, most: usize) -> Result<Option<String>, Problem> {
    let Some(text) = scalar(value, field)? else { return Ok(None) };
    bounded(clean(text), field, most)
}

/// Reads a text; a value of another kind is a problem of its field.
pub(crate) fn scalar<'v>(value: &'v Php, field: Field<'_>) -> Result<Option<&'v str>, Problem> {
    value.text().map_err(|unreadable| Problem::unreadable(field, &unreadable.excerpt))
}

pub(crate) fn bounded(text: String, field: Field<'_>, most: usize) -> Result<Option<String>, Problem> {
    let length = text.chars().count();
    if length > most {
        return Err(Problem::too_long(field, length, most, &text));
    }
    Ok(if text.is_empty() { None } else { Some(text) })
}

/// Keeps the value of a reading that succeeded, and the problem of one that failed.
pub(crate) fn note<T>(problems: &mut Vec<Problem>, reading: Result<T, Problem>) -> Option<T> {
    reading.map_err(|problem| problems.push(problem)).ok()
}
