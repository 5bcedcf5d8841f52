//! The top-level members of a YAML mapping, as they stand in the document.
//!
//! Read event by event, as a tree of values would change numbers and leave copies of the secret
//! all over the heap. The same gap as in [`crate::json`]: what the parser unescapes or folds lies
//! in a buffer of its own for a moment.
//!
//! What is more than JSON in another dress is one document, as a text that is no YAML is: aliases
//! (whose expansion has no bound), several documents, equal keys, keys that are no scalars.

use std::{borrow::Cow, collections::HashSet};

use granit_parser::{Event, Options, Parser, ScalarStyle, StrInput, Tag, options};
use serde::de::IgnoredAny;
use zeroize::{Zeroize as _, Zeroizing};

use crate::member::{Member, Shape};

/// Below the depth at which a nested value, which is shown as JSON, could not be read again.
const DEPTH: usize = 100;

fn bounds() -> Options {
    let mut bounds = options! { block_nesting_limit: DEPTH, flow_nesting_limit: DEPTH };
    bounds.set_emit_comments(false);
    bounds
}

/// The members of `document` in its order; `None` if it is not one plain YAML mapping.
pub(crate) fn members(document: &[u8]) -> Option<Vec<Member>> {
    let text = std::str::from_utf8(document).ok()?;
    let mut events = Events(Parser::new_from_str_with_options(text, bounds()));
    let mut found = Vec::new();
    let mut keys = HashSet::new();
    events.expect(|event| matches!(event, Event::StreamStart))?;
    events.expect(|event| matches!(event, Event::DocumentStart(..)))?;
    events.expect(|event| matches!(event, Event::MappingStart(..)))?;
    while let Some(key) = events.key()? {
        if !keys.insert(key.clone()) {
            return None;
        }
        let member = match events.next()? {
            Event::Scalar(text, ..) => Member { key, value: taken(text), shape: Shape::Other },
            nested => {
                let is_object = matches!(nested, Event::MappingStart(..));
                let shape = if is_object { Shape::Object } else { Shape::Other };
                let mut json = Json(Zeroizing::default());
                events.value(nested, &mut json)?;
                Member { key, value: json.0, shape }
            }
        };
        found.push(member);
    }
    events.expect(|event| matches!(event, Event::DocumentEnd))?;
    events.expect(|event| matches!(event, Event::StreamEnd))?;
    Some(found)
}

/// A scalar's bytes; the parser's own copy is wiped.
fn taken(text: Cow<'_, str>) -> Zeroizing<Vec<u8>> {
    match text {
        Cow::Borrowed(text) => Zeroizing::new(text.as_bytes().to_vec()),
        Cow::Owned(text) => Zeroizing::new(text.into_bytes()),
    }
}

struct Events<'a>(Parser<'a, StrInput<'a>>);

impl<'a> Events<'a> {
    fn next(&mut self) -> Option<Event<'a>> {
        let (event, span) = self.0.next_event()?.ok()?;
        // the parser reads a `~` where nothing stands
        let is_nothing = span.start.index() == span.end.index();
        match event {
            Event::Scalar(_, style, anchor, tag) if is_nothing => {
                Some(Event::Scalar(Cow::Borrowed(""), style, anchor, tag))
            }
            event => Some(event),
        }
    }

    fn expect(&mut self, is: impl FnOnce(&Event<'_>) -> bool) -> Option<()> {
        is(&self.next()?).then_some(())
    }

    /// The next key of a mapping; none at its end.
    #[expect(clippy::option_option, reason = "the outer one is the end of it all")]
    fn key(&mut self) -> Option<Option<String>> {
        match self.next()? {
            Event::Scalar(key, ..) => Some(Some(key.into_owned())),
            Event::MappingEnd => Some(None),
            _ => None,
        }
    }

    /// Writes a value. The parser bounds the depth.
    fn value(&mut self, first: Event<'a>, json: &mut Json) -> Option<()> {
        match first {
            Event::Scalar(mut text, style, _anchor, tag) => {
                json.scalar(&text, style, tag.as_deref())?;
                if let Cow::Owned(text) = &mut text {
                    text.zeroize();
                }
            }
            Event::SequenceStart(..) => {
                json.push(b"[");
                let mut comma: &[u8] = b"";
                loop {
                    match self.next()? {
                        Event::SequenceEnd => break,
                        value => {
                            json.push(comma);
                            self.value(value, json)?;
                        }
                    }
                    comma = b",";
                }
                json.push(b"]");
            }
            Event::MappingStart(..) => {
                json.push(b"{");
                let (mut comma, mut keys): (&[u8], _) = (b"", HashSet::new());
                while let Some(key) = self.key()? {
                    json.push(comma);
                    json.string(&key)?;
                    json.push(b":");
                    let value = self.next()?;
                    self.value(value, json)?;
                    if !keys.insert(key) {
                        return None;
                    }
                    comma = b",";
                }
                json.push(b"}");
            }
            _ => return None,
        }
        Some(())
    }
}

/// JSON without white space, in a buffer that leaves nothing behind when it grows.
struct Json(Zeroizing<Vec<u8>>);

impl Json {
    fn push(&mut self, bytes: &[u8]) {
        let length = self.0.len() + bytes.len();
        if length > self.0.capacity() {
            let mut larger = Zeroizing::new(Vec::with_capacity(2 * length));
            larger.extend_from_slice(&self.0);
            // the smaller one is wiped
            self.0 = larger;
        }
        self.0.extend_from_slice(bytes);
    }

    fn string(&mut self, text: &str) -> Option<()> {
        let json = Zeroizing::new(serde_json::to_vec(text).ok()?);
        self.push(&json);
        Some(())
    }

    /// A number, a truth value or null as YAML's core schema has them in common with JSON; all
    /// else is a string.
    fn scalar(&mut self, text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Option<()> {
        let is_plain = style == ScalarStyle::Plain && tag.is_none();
        match text {
            _ if !is_plain => self.string(text)?,
            "" | "~" | "null" | "Null" | "NULL" => self.push(b"null"),
            "true" | "True" | "TRUE" => self.push(b"true"),
            "false" | "False" | "FALSE" => self.push(b"false"),
            number if is_number(number) => self.push(number.as_bytes()),
            text => self.string(text)?,
        }
        Some(())
    }
}

fn is_number(text: &str) -> bool {
    let may_be = text.starts_with(|c: char| c == '-' || c.is_ascii_digit());
    may_be && serde_json::from_str::<IgnoredAny>(text).is_ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::json;

    type Pairs = Vec<(String, String)>;

    fn texts(found: Vec<Member>) -> Pairs {
        let text = |m: Member| (m.key, String::from_utf8(m.value.to_vec()).unwrap());
        found.into_iter().map(text).collect()
    }

    fn pairs(document: &str) -> Option<Pairs> {
        members(document.as_bytes()).map(texts)
    }

    fn owned(pairs: &[(&str, &str)]) -> Pairs {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn what_vsecm_writes_is_understood_as_the_json_that_it_came_from() {
        // vector 10 of VSecM's own tests
        let yaml = "a: 1\nb: 1.5\nc: true\nd: null\ne:\n    - 1\n    - x\nf:\n    g: h\nh: \"1\"\n\
                    i: \"true\"\nj: \"\"\nk: 'a: b'\nl: |-\n    line1\n    line2\n";
        let json = r#"{"a":1,"b":1.5,"c":true,"d":null,"e":[1,"x"],"f":{"g":"h"},"h":"1","i":"true","j":"","k":"a: b","l":"line1\nline2"}"#;
        assert_eq!(pairs(yaml), Some(texts(json::members(json.as_bytes()).unwrap())));
    }

    #[test]
    fn scalars_are_shown_as_they_stand() {
        let yaml = "a: 1.50\nb: 0x1F\nc: '*root*'\nd: \"x\\ty\"\ne:\nf: ~\ng: >\n  two\n  words\n7: seven\n";
        let expected = [
            ("a", "1.50"),
            ("b", "0x1F"),
            ("c", "*root*"),
            ("d", "x\ty"),
            ("e", ""),
            ("f", "~"),
            ("g", "two words\n"),
            ("7", "seven"),
        ];
        assert_eq!(pairs(yaml), Some(owned(&expected)));
    }

    #[test]
    fn what_is_nested_is_json() {
        let yaml = "o: {n: 1.50, s: 0x1F, q: \"1\", t: !!str 2, l: [~, True, [], {}]}\n";
        let expected = [("o", r#"{"n":1.50,"s":"0x1F","q":"1","t":"2","l":[null,true,[],{}]}"#)];
        assert_eq!(pairs(yaml), Some(owned(&expected)));
        let shapes: Vec<_> = members(b"o: {}\nl: []\ns: '{}'\n").unwrap();
        let shapes: Vec<_> = shapes.iter().map(|member| member.shape).collect();
        assert_eq!(shapes, [Shape::Object, Shape::Other, Shape::Other]);
    }

    #[test]
    fn what_is_no_single_plain_mapping_has_no_members() {
        for text in [
            "",
            "x",
            "- a",
            "a: 1\na: 2\n",
            "a: {b: 1, b: 2}\n",
            "a: &x 1\nb: *x\n",
            "? [a]\n: 1\n",
            "a: 1\n---\nb: 2\n",
            "a: [1\n",
            "a: *x\n",
        ] {
            assert!(pairs(text).is_none(), "{text:?} must have no members");
        }
        assert_eq!(pairs("{}"), Some(vec![]));
        assert_eq!(pairs("--- {a: b}\n...\n"), Some(owned(&[("a", "b")])));
        assert!(members(b"a: \xff\n").is_none());
    }

    #[test]
    fn depth_and_expansion_have_bounds() {
        let nested = |depth: usize| format!("a: {}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(pairs(&nested(DEPTH - 1)).is_some());
        assert!(pairs(&nested(DEPTH + 1)).is_none());
        assert!(pairs(&nested(500_000)).is_none());
        let laugh = |below: u32| {
            let level = below + 1;
            format!("a{level}: &a{level} [*a{below}, *a{below}]\n")
        };
        let laughs: String = (0..30).map(laugh).collect();
        assert!(pairs(&format!("a0: &a0 x\n{laughs}")).is_none());
    }

    #[test]
    fn a_nested_value_can_be_searched_like_json() {
        let found = members(b"db:\n  pass: \"x\\\"y\"\n  net: {host: a.b}\n").unwrap();
        let inner = texts(json::members(&found[0].value).unwrap());
        assert_eq!(inner, owned(&[("pass", "x\"y"), ("net", r#"{"host":"a.b"}"#)]));
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[ -~]{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[ -~]{0,4}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn json_is_yaml_with_the_same_members(values in prop::collection::btree_map("[ -~]{0,4}", json(), 0..5)) {
            let text = serde_json::to_string(&values).unwrap();
            prop_assert_eq!(pairs(&text), Some(texts(json::members(text.as_bytes()).unwrap())));
        }

        #[test]
        fn no_input_is_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..64), text in "[-a:{}\\[\\]&*!|>'\",#\n ?]{0,40}") {
            drop(members(&bytes));
            drop(members(text.as_bytes()));
        }
    }
}
