//! What comes with a volume, to [`PodRef`] and [`VolumeOptions`]: the pod's author says
//! `volumeAttributes`, and among them the kubelet says which pod it is.

use std::{collections::HashMap, str::FromStr};

use crate::{
    items::{Item, ItemKey, Items, ItemsError},
    volume::{
        Audit, FileMode, FileName, Gate, Layout, ModeError, OnRotate, OnWithdraw, ParseError,
        PodRef, VolumeOptions,
    },
};

/// Why the attributes are refused. No refusal holds a value.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum AttributeError {
    /// An attribute nobody knows; its name, shortened.
    #[error(
        "volumeAttributes has {0:?}: only layout, document, items, mode, optional, audit, onRotate, onWithdraw exist"
    )]
    Unknown(String),
    /// A known attribute with a value that is not possible, and what is.
    #[error("the volume attribute {0} must be {1}")]
    Value(&'static str, &'static str),
    /// No permission bits that a file of this volume can have.
    #[error("the volume attribute mode cannot be used: {0}")]
    Mode(ModeError),
    /// No items.
    #[error("the volume attribute items cannot be used: {0}")]
    Items(ItemsError),
    /// An item, counted from 1, where the document's name is expected to be the document.
    #[error(
        "the volume attribute items cannot be used: item {0} has the document's name, or a path in \
         a folder of that name; only the key . is the document"
    )]
    Document(usize),
    /// Both.
    #[error("the volume attributes items and layout: document exclude each other")]
    ItemsOrDocument,
    /// The kubelet did not say which pod it is.
    #[error("{0} is missing: the CSIDriver object of this driver must have podInfoOnMount: true")]
    NoPodInfo(&'static str),
    /// Pod information that Kubernetes would not produce.
    #[error("{0} cannot be used")]
    PodInfo(&'static str, #[source] ParseError),
    /// The pod's `fsGroup` is no group id.
    #[error("the volume mount group is no group id: fsGroup is a number below 4294967295")]
    Group,
}

const DOCUMENT: AttributeError = AttributeError::Value(
    "document",
    "a file name of at most 255 bytes without '/' and control characters that does not start with '..'",
);

/// `volume_context` of a publish request.
pub type Context = HashMap<String, String>;

/// What the names of the attributes begin with that the kubelet gives itself.
pub const KUBELETS: &str = "csi.storage.k8s.io/";

/// Parses the kubelet's word on which pod it is.
///
/// # Errors
/// [`AttributeError`].
pub fn pod(context: &Context) -> Result<PodRef, AttributeError> {
    Ok(PodRef {
        namespace: pod_info(context, "csi.storage.k8s.io/pod.namespace")?,
        name: pod_info(context, "csi.storage.k8s.io/pod.name")?,
        uid: pod_info(context, "csi.storage.k8s.io/pod.uid")?,
        service_account: pod_info(context, "csi.storage.k8s.io/serviceAccount.name")?,
    })
}

fn pod_info<T: FromStr<Err = ParseError>>(
    context: &Context,
    key: &'static str,
) -> Result<T, AttributeError> {
    let text = context.get(key).ok_or(AttributeError::NoPodInfo(key))?;
    text.parse().map_err(|e| AttributeError::PodInfo(key, e))
}

fn parse_group(text: &str) -> Result<Option<u32>, AttributeError> {
    if text.is_empty() {
        return Ok(None);
    }
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    // the last number is "no group" to the kernel
    let group = text.parse().ok().filter(|group| digits && *group != u32::MAX);
    group.map(Some).ok_or(AttributeError::Group)
}

/// Parses what the pod's author asked for; `group` is the pod's `fsGroup`, or empty.
///
/// # Errors
/// [`AttributeError`].
pub fn options(context: &Context, group: &str) -> Result<VolumeOptions, AttributeError> {
    let group = parse_group(group)?;
    let value = |name, rule| Err(AttributeError::Value(name, rule));
    let default_mode = if group.is_some() { "0440" } else { "0444" };
    let mut options = VolumeOptions {
        layout: Layout::Files,
        document: document("secrets.json")?,
        items: Items::default(),
        mode: mode(default_mode)?,
        gate: Gate::Required,
        on_withdraw: OnWithdraw::Keep,
        audit: Audit::Off,
        on_rotate: OnRotate::Follow,
        group,
    };
    for (key, text) in context.iter().filter(|(k, _)| !k.starts_with(KUBELETS)) {
        match (key.as_str(), text.as_str()) {
            ("layout", "files") => options.layout = Layout::Files,
            ("layout", "document") => options.layout = Layout::Document,
            ("layout", _) => return value("layout", "files or document"),
            ("document", name) => options.document = document(name)?,
            ("items", text) => options.items = text.parse().map_err(AttributeError::Items)?,
            ("mode", text) => options.mode = mode(text)?,
            ("optional", "true") => options.gate = Gate::Optional,
            ("optional", "false") => options.gate = Gate::Required,
            ("optional", _) => return value("optional", "\"true\" or \"false\", quoted"),
            ("onWithdraw", "keep") => options.on_withdraw = OnWithdraw::Keep,
            ("onWithdraw", "revoke") => options.on_withdraw = OnWithdraw::Revoke,
            ("onWithdraw", _) => return value("onWithdraw", "keep or revoke"),
            ("audit", "off") => options.audit = Audit::Off,
            ("audit", "opens") => options.audit = Audit::Opens,
            ("audit", _) => return value("audit", "off or opens"),
            ("onRotate", "follow") => options.on_rotate = OnRotate::Follow,
            ("onRotate", "keep") => options.on_rotate = OnRotate::Keep,
            ("onRotate", "revoke") => options.on_rotate = OnRotate::Revoke,
            ("onRotate", _) => return value("onRotate", "follow, keep or revoke"),
            (key, _) => return Err(AttributeError::Unknown(key.chars().take(80).collect())),
        }
    }
    fit(&options)?;
    Ok(options)
}

/// Whether the attributes go together.
fn fit(options: &VolumeOptions) -> Result<(), AttributeError> {
    if !options.items.is_empty() && options.layout == Layout::Document {
        return Err(AttributeError::ItemsOrDocument);
    }
    let mut items = options.items.iter();
    let is_named_so = |item: &Item| item.path.names().first() == Some(&options.document);
    match items.position(|item| is_named_so(item) && item.key != ItemKey::Document) {
        Some(at) => Err(AttributeError::Document(at + 1)),
        None => Ok(()),
    }
}

fn document(name: &str) -> Result<FileName, AttributeError> {
    name.parse().map_err(|_rule| DOCUMENT)
}

fn mode(text: &str) -> Result<FileMode, AttributeError> {
    text.parse().map_err(AttributeError::Mode)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn without_attributes_the_defaults_hold() {
        let parsed = options(&HashMap::new(), "").unwrap();
        assert_eq!(parsed.document.as_str(), "secrets.json");
        assert_eq!((parsed.layout, parsed.gate), (Layout::Files, Gate::Required));
        assert_eq!(parsed.mode.bits(), 0o444);
        let parsed = options(&HashMap::new(), "5").unwrap();
        assert_eq!((parsed.mode.bits(), parsed.group), (0o440, Some(5)));
    }

    fn of(attributes: &[(&str, &str)]) -> Result<VolumeOptions, AttributeError> {
        let owned = attributes.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        options(&owned.collect(), "")
    }

    #[test]
    fn items_clash_neither_with_the_layout_nor_with_the_document() {
        assert_eq!(of(&[("items", "a=x/y:0400,.=all")]).unwrap().items.len(), 2);
        assert_eq!(
            of(&[("items", "a=b"), ("layout", "document")]),
            Err(AttributeError::ItemsOrDocument)
        );
        for path in ["secrets.json", "secrets.json/a"] {
            let refused = of(&[("items", &format!("x=y,a={path}"))]);
            assert_eq!(refused, Err(AttributeError::Document(2)));
        }
        of(&[("items", ".=secrets.json,a=x/secrets.json")]).unwrap();
        of(&[("items", "a=secrets.json"), ("document", "all")]).unwrap();
        assert_eq!(of(&[("items", ".=x"), ("document", "x")]).unwrap().items.len(), 1);
    }

    #[test]
    fn a_mode_that_is_refused_is_refused_with_its_rule() {
        for (mode, part) in [("0644", "no write bits"), ("4444", "setuid"), ("x", "octal")] {
            let text = of(&[("mode", mode)]).unwrap_err().to_string();
            assert!(text.contains("attribute mode") && text.contains(part), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_attribute_panics_and_no_refusal_shows_a_value(
            key in "(items|mode|layout|document|optional|audit|onRotate|onWithdraw|[a-z]{1,9})",
            text in "canary\\PC{0,12}",
        ) {
            if let Err(error) = options(&HashMap::from([(key, text)]), "") {
                prop_assert!(!error.to_string().contains("canary"));
            }
        }
    }
}
