//! `volumeAttributes` to [`VolumeOptions`].

use crate::volume::{FileMode, FileName, Gate, Layout, OnWithdraw, VolumeOptions};

/// Why the attributes are refused. No refusal holds a value.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum AttributeError {
    /// An attribute nobody knows; its name, shortened.
    #[error("volumeAttributes has {0:?}: only layout, document, mode, optional, onWithdraw exist")]
    Unknown(String),
    /// A known attribute with a value that is not possible, and what is.
    #[error("the volume attribute {0} must be {1}")]
    Value(&'static str, &'static str),
}

const DOCUMENT: AttributeError = AttributeError::Value(
    "document",
    "a file name of at most 255 bytes without '/' that does not start with '..'",
);
const MODE: AttributeError =
    AttributeError::Value("mode", "octal permission bits, \"0001\" to \"0777\"");

/// Parses what the pod's author asked for; `group` is the pod's `fsGroup`.
///
/// # Errors
/// [`AttributeError`].
pub fn parse<'a>(
    attributes: impl Iterator<Item = (&'a String, &'a String)>,
    group: Option<u32>,
) -> Result<VolumeOptions, AttributeError> {
    let value = |name, rule| Err(AttributeError::Value(name, rule));
    let default_mode = if group.is_some() { "0440" } else { "0444" };
    let mut options = VolumeOptions {
        layout: Layout::Files,
        document: document("secrets.json")?,
        mode: mode(default_mode)?,
        gate: Gate::Required,
        on_withdraw: OnWithdraw::Keep,
        group,
    };
    for (key, text) in attributes {
        match (key.as_str(), text.as_str()) {
            ("layout", "files") => options.layout = Layout::Files,
            ("layout", "document") => options.layout = Layout::Document,
            ("layout", _) => return value("layout", "files or document"),
            ("document", name) => options.document = document(name)?,
            ("mode", text) => options.mode = mode(text)?,
            ("optional", "true") => options.gate = Gate::Optional,
            ("optional", "false") => options.gate = Gate::Required,
            ("optional", _) => return value("optional", "\"true\" or \"false\", quoted"),
            ("onWithdraw", "keep") => options.on_withdraw = OnWithdraw::Keep,
            ("onWithdraw", "revoke") => options.on_withdraw = OnWithdraw::Revoke,
            ("onWithdraw", _) => return value("onWithdraw", "keep or revoke"),
            (key, _) => return Err(AttributeError::Unknown(key.chars().take(80).collect())),
        }
    }
    Ok(options)
}

fn document(name: &str) -> Result<FileName, AttributeError> {
    name.parse().map_err(|_rule| DOCUMENT)
}

fn mode(text: &str) -> Result<FileMode, AttributeError> {
    let octal = matches!(text.len(), 3 | 4) && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
    let bits = u16::from_str_radix(text, 8).ok().filter(|_| octal);
    bits.ok_or(MODE)?.try_into().map_err(|_rule| MODE)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn without_attributes_the_defaults_hold() {
        let options = parse(std::iter::empty(), None).unwrap();
        assert_eq!(options.document.as_str(), "secrets.json");
        assert_eq!(
            (options.layout, options.gate),
            (Layout::Files, Gate::Required)
        );
        assert_eq!(options.mode.bits(), 0o444);
        let options = parse(std::iter::empty(), Some(5)).unwrap();
        assert_eq!((options.mode.bits(), options.group), (0o440, Some(5)));
    }

    proptest! {
        #[test]
        fn no_attribute_panics_and_no_refusal_shows_a_value(
            key in "(mode|layout|document|optional|onWithdraw|[a-z]{1,9})",
            text in "canary\\PC{0,12}",
        ) {
            if let Err(error) = parse([(&key, &text)].into_iter(), None) {
                prop_assert!(!error.to_string().contains("canary"));
            }
        }
    }
}
