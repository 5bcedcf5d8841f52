//! What an SVID's certificate says beside the SPIFFE ID.

use time::OffsetDateTime;

/// When a certificate (DER) ends; `None` if it cannot be read.
pub fn end_of(certificate: &[u8]) -> Option<OffsetDateTime> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    OffsetDateTime::from_unix_timestamp(certificate.validity().not_after.timestamp()).ok()
}
