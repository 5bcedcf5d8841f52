//! Which files a version has, before they have a place.

use std::{collections::HashMap, fmt};

use vsecm_node_agent_api::{
    items::{FilePath, ItemKey},
    volume::{FileMode, FileName, Layout, VolumeOptions},
};
use zeroize::Zeroizing;

use super::Source;
use crate::{
    json,
    member::{Member, Shape},
    snapshot::{Content, Snapshot},
};

/// What a file shows.
pub(super) enum Part {
    /// The document.
    Document,
    /// A top-level member.
    Member(usize),
    /// What is further down.
    Picked(Zeroizing<Vec<u8>>),
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Document => f.write_str("Document"),
            Self::Member(at) => write!(f, "Member({at})"),
            Self::Picked(_) => f.write_str("Picked(redacted)"),
        }
    }
}

/// The files in the order of their paths, none of which is a folder of another.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) files: Vec<(FilePath, Part, Option<FileMode>)>,
    /// Keys that have no file though all have one.
    pub(super) hidden: Vec<String>,
    /// Keys that are to have a file and are not there.
    pub(super) missing: Vec<String>,
}

pub(super) fn plan(source: &Source, options: &VolumeOptions) -> Plan {
    let Source::Said(snapshot) = source else { return Plan::default() };
    if matches!(snapshot.content(), Content::Removed { .. }) {
        return Plan::default();
    }
    let mut plan =
        if options.items.is_empty() { all(snapshot, options) } else { picked(snapshot, options) };
    plan.files.sort_by(|(a, ..), (b, ..)| a.cmp(b));
    plan
}

/// The keys that the items name and the document, if there is one, does not have.
pub fn missing(snapshot: &Snapshot, options: &VolumeOptions) -> Vec<String> {
    match snapshot.content() {
        Content::Document { .. } if !options.items.is_empty() => picked(snapshot, options).missing,
        Content::Document { .. } | Content::Removed { .. } => Vec::new(),
    }
}

fn all(snapshot: &Snapshot, options: &VolumeOptions) -> Plan {
    let mut plan = Plan::default();
    plan.files.push((options.document.clone().into(), Part::Document, None));
    if options.layout == Layout::Document {
        return plan;
    }
    for (at, member) in snapshot.members().iter().enumerate() {
        match member.key.parse::<FileName>() {
            Ok(name) if name != options.document => {
                plan.files.push((name.into(), Part::Member(at), None));
            }
            _ => plan.hidden.push(member.key.clone()),
        }
    }
    plan
}

fn picked(snapshot: &Snapshot, options: &VolumeOptions) -> Plan {
    let mut plan = Plan::default();
    let mut picker = Picker { top: snapshot.members(), inner: HashMap::new() };
    for item in options.items.iter() {
        let part = match &item.key {
            ItemKey::Document => Some(Part::Document),
            ItemKey::Member(names) => picker.pick(names),
        };
        match part {
            Some(part) => plan.files.push((item.path.clone(), part, item.mode)),
            None => plan.missing.push(item.key.to_string()),
        }
    }
    plan
}

/// Finds members by their names; each object on the way is parsed once.
struct Picker<'a> {
    top: &'a [Member],
    inner: HashMap<&'a [String], Vec<Member>>,
}

fn find<'a>(members: &'a [Member], key: &str) -> Option<&'a Member> {
    members.iter().find(|member| member.key == key)
}

impl<'a> Picker<'a> {
    fn pick(&mut self, names: &'a [String]) -> Option<Part> {
        let literal = names.join(".");
        if let Some(at) = self.top.iter().position(|member| member.key == literal) {
            return Some(Part::Member(at));
        }
        let (last, folders) = names.split_last().filter(|(_, folders)| !folders.is_empty())?;
        let value = find(self.object(folders), last)?.value.clone();
        Some(Part::Picked(value))
    }

    /// The members of the object at `names`; none if there is no object.
    fn object(&mut self, names: &'a [String]) -> &[Member] {
        let Some((last, outer)) = names.split_last() else { return self.top };
        if !self.inner.contains_key(names) {
            let member = find(self.object(outer), last);
            // a string that looks like an object is none
            let object = member.filter(|member| member.shape == Shape::Object);
            let members = object.and_then(|member| json::members(&member.value));
            self.inner.insert(names, members.unwrap_or_default());
        }
        self.inner.get(names).map_or(&[], Vec::as_slice)
    }
}
