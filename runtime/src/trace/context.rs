//! The place of a span in its trace, as W3C Trace Context writes it.

use std::fmt;

use uuid::Uuid;

/// Header that carries a context from message to message.
pub const TRACEPARENT: &str = "traceparent";

/// Names a trace and a span in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SpanContext {
    pub(super) trace: [u8; 16],
    pub(super) span: [u8; 8],
}

impl SpanContext {
    /// Makes the context of a new span below another one, or of a new trace.
    pub fn below(parent: Option<SpanContext>) -> SpanContext {
        let trace = parent.map_or_else(|| Uuid::new_v4().into_bytes(), |parent| parent.trace);
        let [a, b, c, d, e, f, g, h, ..] = Uuid::new_v4().into_bytes();
        SpanContext { trace, span: [a, b, c, d, e, f, g, h] }
    }

    /// Reads a `traceparent`. One that cannot be read, or is not to be sampled, is none.
    pub fn parse(header: &str) -> Option<SpanContext> {
        let mut parts = header.split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let is_known = version.len() == 2 && version != "ff" && (version != "00" || parts.next().is_none());
        let is_sampled = flags.len() == 2 && u8::from_str_radix(flags, 16).ok()? & 1 == 1;
        let context = SpanContext { trace: bytes(trace)?, span: bytes(span)? };
        let is_named = context.trace != [0; 16] && context.span != [0; 8];
        (is_known && is_sampled && is_named).then_some(context)
    }
}

impl fmt::Display for SpanContext {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("00-")?;
        self.trace.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))?;
        formatter.write_str("-")?;
        self.span.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))?;
        formatter.write_str("-01")
    }
}

fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    let is_hex = text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    if !is_hex || text.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (place, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * place..2 * place + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let context = SpanContext::below(None);
        assert_eq!(SpanContext::parse(&context.to_string()), Some(context));
        let below = SpanContext::below(Some(context));
        assert!(below.trace == context.trace && below.span != context.span);
    }

    #[test]
    fn what_is_no_context_is_none() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(SpanContext::parse(good).map(|context| context.to_string()).as_deref(), Some(good));
        for bad in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e47é-00f067aa0ba902b7-01",
        ] {
            assert_eq!(SpanContext::parse(bad), None, "{bad}");
        }
    }
}
