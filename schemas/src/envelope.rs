//! The envelope around every event: CloudEvents 1.0 in binary mode, attributes as `ce-*` headers.

use chrono::{DateTime, FixedOffset, Utc};
use cloudevents::event::{AttributesReader, ExtensionValue};
use cloudevents::{EventBuilder, EventBuilderV10};
use uuid::Uuid;

use crate::events::EventData;
use crate::record::{Entity, RecordId, RecordRef};

/// Namespace of the ids that are derived from what an event says.
const EVENT_IDS: Uuid = Uuid::from_u128(0x6f1e_1f0a_51c6_4d0e_9a55_3d6a_70bd_5c11);

/// Where a version of a record stands in the order of its versions.
///
/// Every effect of a version is fenced by this: what is not newer than what was already done is not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Version {
    /// Sequence of the version's raw event in its stream.
    pub raw_sequence: u64,
    /// How often that version was sent round again on purpose (replay, release of a waiting ticket).
    pub redrive: u64,
}

/// What every event says besides its data.
#[derive(Clone, Debug, PartialEq)]
pub struct Envelope {
    /// The record that the event is about.
    pub record: RecordRef,
    /// The stage that published it: `/rollcall/mapper`.
    pub source: String,
    /// The pupil whose partition the record travels in.
    pub pupil: Option<RecordId>,
    /// Modification time of the version, as Bitrix24 tells it.
    pub modified: DateTime<FixedOffset>,
    /// Digest of the version's content.
    pub fingerprint: String,
    /// Place among the versions; a raw event gets it only by being stored.
    pub version: Option<Version>,
    /// Which try at the far side this is, counted from zero.
    pub attempt: u64,
}

/// A message that cannot be read as an event.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum EnvelopeError {
    /// A header is missing.
    #[error("header `{0}` is missing")]
    Missing(&'static str),
    /// A header holds something else than it should.
    #[error("header `{0}` is malformed")]
    Malformed(&'static str),
    /// The type is not the expected one.
    #[error("type `{found}` is none of those expected here")]
    UnexpectedType {
        /// The type found, cut to a printable length.
        found: String,
    },
    /// The data does not have the shape of its type.
    #[error("data does not fit its type at line {line} column {column}")]
    Data {
        /// Line of the first misfit.
        line: usize,
        /// Column of the first misfit.
        column: usize,
    },
    /// CloudEvents' own rules are broken.
    #[error("not a CloudEvents 1.0 event")]
    NotCloudEvents,
}

/// An event ready to be published: headers in order, and JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// Headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The data as JSON.
    pub payload: Vec<u8>,
}

/// Source of what stands in the place of erased messages.
pub const ERASER: &str = "/rollcall/erase";

/// Header of what an erasure leaves: the highest sequence in `B24_RAW` of the record's erased messages.
pub const ERASED: &str = "ce-erased";

/// Content type of all data.
pub const CONTENT_TYPE: &str = "application/json";

impl Envelope {
    /// Encodes an event. The same envelope and data always give the same bytes and the same id.
    pub fn encode<T: EventData>(&self, data: &T) -> Result<Encoded, EnvelopeError> {
        let event_type = data.event_type(self.record.entity);
        let payload = serde_json::to_vec(data).map_err(|_| EnvelopeError::NotCloudEvents)?;
        let id = self.event_id(event_type, &payload);
        let mut builder = EventBuilderV10::new()
            .id(id)
            .ty(event_type)
            .source(self.source.clone())
            .subject(format!("{}/{}", self.record.entity, self.record.id))
            .time(self.modified.with_timezone(&Utc))
            .extension("modified", self.modified.to_rfc3339())
            .extension("fingerprint", self.fingerprint.clone());
        if let Some(pupil) = self.pupil {
            builder = builder.extension("pupil", pupil.to_string());
        }
        if let Some(version) = self.version {
            builder = builder
                .extension("rawsequence", version.raw_sequence.to_string())
                .extension("redrive", version.redrive.to_string());
        }
        if self.attempt > 0 {
            builder = builder.extension("attempt", self.attempt.to_string());
        }
        let event = builder.build().map_err(|_| EnvelopeError::NotCloudEvents)?;
        let mut headers: Vec<(String, String)> = vec![
            ("ce-specversion".to_owned(), "1.0".to_owned()),
            ("ce-id".to_owned(), event.id().to_owned()),
            ("ce-type".to_owned(), event.ty().to_owned()),
            ("ce-source".to_owned(), event.source().to_string()),
            ("content-type".to_owned(), CONTENT_TYPE.to_owned()),
        ];
        headers.extend(event.subject().map(|subject| ("ce-subject".to_owned(), subject.to_owned())));
        headers.extend(event.time().map(|time| ("ce-time".to_owned(), time.to_rfc3339())));
        let mut extensions: Vec<(String, String)> =
            event.iter_extensions().map(|(name, value)| (format!("ce-{name}"), text_of(value))).collect();
        extensions.sort();
        headers.extend(extensions);
        Ok(Encoded { headers, payload })
    }

    /// Reads an event back; `header` looks a header up by its lower-case name.
    pub fn decode<'h, T: EventData>(
        header: impl Fn(&str) -> Option<&'h str>,
        payload: &[u8],
    ) -> Result<(Envelope, T), EnvelopeError> {
        let envelope = Envelope::decode_headers(&header)?;
        let found = header("ce-type").ok_or(EnvelopeError::Missing("ce-type"))?;
        if !T::TYPES.contains(&found) {
            return Err(EnvelopeError::UnexpectedType { found: printable(found) });
        }
        let data: T = serde_json::from_slice(payload)
            .map_err(|error| EnvelopeError::Data { line: error.line(), column: error.column() })?;
        if data.event_type(envelope.record.entity) != found {
            return Err(EnvelopeError::UnexpectedType { found: printable(found) });
        }
        Ok((envelope, data))
    }

    /// Reads only the envelope, for readers that ask the server for headers alone.
    pub fn decode_headers<'h>(header: &impl Fn(&str) -> Option<&'h str>) -> Result<Envelope, EnvelopeError> {
        let required = |name: &'static str| header(name).ok_or(EnvelopeError::Missing(name));
        // What is copied into the headers of the next event must not be able to break them.
        let one_line = |name: &'static str| {
            let text = required(name)?;
            if text.chars().any(char::is_control) {
                Err(EnvelopeError::Malformed(name))
            } else {
                Ok(text.to_owned())
            }
        };
        if required("ce-specversion")? != "1.0" {
            return Err(EnvelopeError::Malformed("ce-specversion"));
        }
        required("ce-id")?;
        let (entity, id) =
            required("ce-subject")?.split_once('/').ok_or(EnvelopeError::Malformed("ce-subject"))?;
        let record = RecordRef {
            entity: Entity::from_token(entity).ok_or(EnvelopeError::Malformed("ce-subject"))?,
            id: RecordId::parse(id).map_err(|_| EnvelopeError::Malformed("ce-subject"))?,
        };
        let number = |name: &'static str| -> Result<Option<u64>, EnvelopeError> {
            header(name).map(|text| text.parse().map_err(|_| EnvelopeError::Malformed(name))).transpose()
        };
        let version = number("ce-rawsequence")?
            .map(|raw_sequence| {
                Ok::<_, EnvelopeError>(Version { raw_sequence, redrive: number("ce-redrive")?.unwrap_or(0) })
            })
            .transpose()?;
        Ok(Envelope {
            record,
            source: one_line("ce-source")?,
            pupil: header("ce-pupil")
                .map(|text| RecordId::parse(text).map_err(|_| EnvelopeError::Malformed("ce-pupil")))
                .transpose()?,
            modified: DateTime::parse_from_rfc3339(required("ce-modified")?)
                .map_err(|_| EnvelopeError::Malformed("ce-modified"))?,
            fingerprint: one_line("ce-fingerprint")?,
            version,
            attempt: number("ce-attempt")?.unwrap_or(0),
        })
    }

    /// Derives the id from what the event says, so that a redelivered input gives the same output.
    fn event_id(&self, event_type: &str, payload: &[u8]) -> String {
        let mut name = format!(
            "{event_type}\n{}\n{}\n{}\n{:?}\n{}\n",
            self.record,
            self.source,
            self.modified.to_rfc3339(),
            self.version,
            self.attempt
        )
        .into_bytes();
        name.extend_from_slice(payload);
        Uuid::new_v5(&EVENT_IDS, &name).to_string()
    }
}

fn text_of(value: &ExtensionValue) -> String {
    match value {
        ExtensionValue::String(text) => text.clone(),
        ExtensionValue::Integer(number) => number.to_string(),
        ExtensionValue::Boolean(flag) => flag.to_string(),
    }
}

fn printable(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_graphic()).take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{Mapping, RecordMapped, Shown, StatusSettled, StatusWritten};
    use proptest::prelude::*;

    fn lookup<'e>(encoded: &'e Encoded) -> impl for<'n> Fn(&'n str) -> Option<&'e str> {
        move |name: &str| encoded.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn envelope(id: u64, deal: bool, raw_sequence: u64, redrive: u64, attempt: u64) -> Envelope {
        let id = RecordId::try_new(id).unwrap();
        Envelope {
            record: if deal { RecordRef::deal(id) } else { RecordRef::contact(id) },
            source: "/rollcall/mapper".into(),
            pupil: Some(id),
            modified: DateTime::parse_from_rfc3339("2020-12-21T10:19:34+03:00").unwrap(),
            fingerprint: "ab12".into(),
            version: Some(Version { raw_sequence, redrive }),
            attempt,
        }
    }

    proptest! {
        #[test]
        fn every_envelope_survives_a_round_trip(id in 1u64.., deal: bool, raw in 1u64.., redrive in 0u64..9, attempt in 0u64..9, text in ".*") {
            let envelope = envelope(id, deal, raw, redrive, attempt);
            let data = StatusWritten { status: text, how: StatusSettled::Written, settled: envelope.modified };
            let encoded = envelope.encode(&data).unwrap();
            prop_assert_eq!(&encoded, &envelope.encode(&data).unwrap());
            let (envelope_again, data_again) = Envelope::decode::<StatusWritten>(lookup(&encoded), &encoded.payload).unwrap();
            prop_assert_eq!(envelope_again, envelope);
            prop_assert_eq!(data_again, data);
        }
    }

    #[test]
    fn a_wrong_type_or_shape_is_named() {
        let envelope = envelope(7, false, 1, 0, 0);
        let shown = Shown { status: Some(String::new()), observed: envelope.modified };
        let encoded = envelope.encode(&RecordMapped { mapping: Mapping::OutOfScope, shown }).unwrap();
        assert_eq!(
            Envelope::decode::<StatusWritten>(lookup(&encoded), &encoded.payload).unwrap_err(),
            EnvelopeError::UnexpectedType { found: "rollcall.contact.out_of_scope.v1".into() }
        );
        assert!(matches!(
            Envelope::decode::<RecordMapped>(lookup(&encoded), b"{}").unwrap_err(),
            EnvelopeError::Data { .. }
        ));
        assert_eq!(
            Envelope::decode::<RecordMapped>(|_| None, b"{}").unwrap_err(),
            EnvelopeError::Missing("ce-specversion")
        );
    }

    #[test]
    fn a_header_that_would_break_the_next_one_is_refused() {
        for name in ["ce-source", "ce-fingerprint"] {
            let envelope = envelope(7, false, 1, 0, 0);
            let data = StatusWritten {
                status: "Успешно".into(),
                how: StatusSettled::Written,
                settled: envelope.modified,
            };
            let mut encoded = envelope.encode(&data).unwrap();
            let header = encoded.headers.iter_mut().find(|(key, _)| key == name).unwrap();
            header.1.push('\0');
            let read = Envelope::decode::<StatusWritten>(lookup(&encoded), &encoded.payload);
            assert_eq!(read.unwrap_err(), EnvelopeError::Malformed(name));
        }
    }

    #[test]
    fn another_version_is_another_event() {
        let data = StatusWritten {
            status: "Успешно".into(),
            how: StatusSettled::Written,
            settled: DateTime::parse_from_rfc3339("2020-12-21T10:19:34+03:00").unwrap(),
        };
        let id = |e: &Envelope| {
            e.encode(&data).unwrap().headers.into_iter().find(|(k, _)| k == "ce-id").unwrap().1
        };
        assert_ne!(id(&envelope(7, false, 1, 0, 0)), id(&envelope(7, false, 2, 0, 0)));
        assert_ne!(id(&envelope(7, false, 1, 0, 0)), id(&envelope(7, false, 1, 1, 0)));
    }
}
