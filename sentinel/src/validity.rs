//! From when until when a value is shown.

use std::str::FromStr;

use time::{OffsetDateTime, UtcOffset, format_description::well_known::Rfc3339};

/// Why times are refused: VSecM took "now" and "never" for them in silence.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum ValidityError {
    #[error("it is neither {word} nor an RFC 3339 time such as 2030-12-31T23:59:59Z")]
    Unparsable { word: &'static str },
    #[error("-E {expires} is not later than -N {not_before}: the value would never be shown")]
    Reversed { not_before: String, expires: String },
    #[error("-E {expires} is in the past: pods that have the value would lose it")]
    Past { expires: String },
}

fn time(text: &str, word: &'static str) -> Result<Option<OffsetDateTime>, ValidityError> {
    if text == word {
        return Ok(None);
    }
    OffsetDateTime::parse(text, &Rfc3339)
        .ok()
        // an offset can lead out of the years that there are
        .and_then(|time| time.checked_to_offset(UtcOffset::UTC))
        .filter(|utc| (0..=9999).contains(&utc.year()))
        .map(Some)
        .ok_or(ValidityError::Unparsable { word })
}

/// The argument of `-N`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NotBefore(Option<OffsetDateTime>);

impl FromStr for NotBefore {
    type Err = ValidityError;

    fn from_str(text: &str) -> Result<Self, ValidityError> {
        time(text, "now").map(Self)
    }
}

/// The argument of `-E`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expires(Option<OffsetDateTime>);

impl FromStr for Expires {
    type Err = ValidityError;

    fn from_str(text: &str) -> Result<Self, ValidityError> {
        time(text, "never").map(Self)
    }
}

/// A span that is not over yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Validity {
    /// `None`: now.
    pub(crate) not_before: Option<OffsetDateTime>,
    /// `None`: never.
    pub(crate) expires: Option<OffsetDateTime>,
}

impl Validity {
    /// Joins `-N` and `-E` at the time `now`.
    pub(crate) fn parse(
        NotBefore(not_before): NotBefore,
        Expires(expires): Expires,
        now: OffsetDateTime,
    ) -> Result<Self, ValidityError> {
        if let Some(end) = expires {
            if end <= now {
                return Err(ValidityError::Past { expires: written(end) });
            }
            if let Some(start) = not_before
                && end <= start
            {
                return Err(ValidityError::Reversed {
                    not_before: written(start),
                    expires: written(end),
                });
            }
        }
        Ok(Self { not_before, expires })
    }
}

/// A time in RFC 3339. Those from the wire and from arguments are in UTC.
pub(crate) fn written(time: OffsetDateTime) -> String {
    // fails only for years before 0000, which nobody registers
    time.format(&Rfc3339).unwrap_or_else(|_year| time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    fn parse(not_before: &str, expires: &str) -> Result<Validity, ValidityError> {
        Validity::parse(not_before.parse()?, expires.parse()?, NOW)
    }

    #[test]
    fn words_stand_for_no_time() {
        let always = Validity { not_before: None, expires: None };
        assert_eq!(parse("now", "never"), Ok(always));
    }

    #[test]
    fn a_time_has_a_zone() {
        let validity = parse("now", "1970-01-01T02:00:00+01:00").unwrap();
        assert_eq!(validity.expires.map(written), Some("1970-01-01T01:00:00Z".into()));
        for bad in [
            "",
            "1970-01-01",
            "1970-01-01T02:00:00",
            "Never",
            "now",
            "9999-12-31T23:59:59-23:59",
            "0000-01-01T00:00:00+23:59",
        ] {
            assert!(bad.parse::<Expires>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_span_that_never_shows_the_value_is_refused() {
        assert!(matches!(parse("now", "1969-12-31T23:59:59Z"), Err(ValidityError::Past { .. })));
        assert!(matches!(
            parse("1970-01-02T00:00:00Z", "1970-01-01T00:00:01Z"),
            Err(ValidityError::Reversed { .. })
        ));
    }
}
