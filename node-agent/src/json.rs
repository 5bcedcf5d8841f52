//! The top-level members of a JSON object, as they stand in the document.
//!
//! Written by hand because a tree of `serde_json::Value` would leave copies of the secret all over
//! the heap, and would change numbers: here every byte is copied once, into a buffer that is wiped.
//! One gap: `serde_json` unescapes a string that has escapes in a buffer of its own, which is not.

use serde::de::IgnoredAny;
use zeroize::Zeroizing;

use crate::member::{Member, Shape};

/// The members of `document` in its order, the last of equal keys only; `None` if it is not a
/// JSON object.
pub(crate) fn members(document: &[u8]) -> Option<Vec<Member>> {
    // from here on the text is known to be well-formed, nesting is bounded by serde_json
    serde_json::from_slice::<IgnoredAny>(document).ok()?;
    let mut scan = Scan { text: document, at: 0 };
    scan.space();
    scan.expect(b'{')?;
    let mut found: Vec<Member> = Vec::new();
    loop {
        scan.space();
        if scan.peek()? == b'}' {
            break;
        }
        let key: String = serde_json::from_slice(scan.string()?).ok()?;
        scan.space();
        scan.expect(b':')?;
        scan.space();
        let raw = scan.value()?;
        let shape = if raw.first() == Some(&b'{') { Shape::Object } else { Shape::Other };
        found.push(Member { key, value: shown(raw)?, shape });
        scan.space();
        if scan.peek()? == b',' {
            scan.at += 1;
        }
    }
    Some(last_of_equal_keys(found))
}

fn last_of_equal_keys(found: Vec<Member>) -> Vec<Member> {
    let mut seen = std::collections::HashSet::new();
    let mut kept: Vec<Member> =
        found.into_iter().rev().filter(|member| seen.insert(member.key.clone())).collect();
    kept.reverse();
    kept
}

fn shown(raw: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    if raw.first() == Some(&b'"') {
        let text: String = serde_json::from_slice(raw).ok()?;
        return Some(Zeroizing::new(text.into_bytes()));
    }
    // sized once: a buffer that grows leaves unwiped copies behind
    let mut compact = Zeroizing::new(Vec::with_capacity(raw.len()));
    let mut in_string = false;
    let mut escaped = false;
    for &byte in raw {
        if in_string {
            in_string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
        } else if byte.is_ascii_whitespace() {
            continue;
        } else {
            in_string = byte == b'"';
        }
        compact.push(byte);
    }
    Some(compact)
}

struct Scan<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Scan<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn space(&mut self) {
        while self.peek().is_some_and(|b| b.is_ascii_whitespace()) {
            self.at += 1;
        }
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    fn string(&mut self) -> Option<&'a [u8]> {
        let start = self.at;
        self.expect(b'"')?;
        loop {
            match self.peek()? {
                b'"' => break,
                b'\\' => self.at += 2,
                _ => self.at += 1,
            }
        }
        self.at += 1;
        self.text.get(start..self.at)
    }

    fn value(&mut self) -> Option<&'a [u8]> {
        let start = self.at;
        let mut depth = 0_usize;
        loop {
            match self.peek()? {
                b'"' => {
                    self.string()?;
                    if depth == 0 {
                        break;
                    }
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' | b',' if depth == 0 => break,
                b'}' | b']' => {
                    depth -= 1;
                    if depth == 0 {
                        self.at += 1;
                        break;
                    }
                }
                b if depth == 0 && b.is_ascii_whitespace() => break,
                _ => {}
            }
            self.at += 1;
        }
        self.text.get(start..self.at)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn pairs(document: &str) -> Option<Vec<(String, String)>> {
        let text = |m: Member| (m.key, String::from_utf8(m.value.to_vec()).unwrap());
        members(document.as_bytes()).map(|found| found.into_iter().map(text).collect())
    }

    fn pair(key: &str, value: &str) -> (String, String) {
        (key.to_owned(), value.to_owned())
    }

    #[test]
    fn strings_are_unescaped_and_other_values_keep_their_json() {
        let document = r#" {"a": "x\n\u00e9", "n" : 1.10e400 , "o": { "k" : [1, "a b\" }"] }, "t":true,"z":null} "#;
        let expected = vec![
            pair("a", "x\n\u{e9}"),
            pair("n", "1.10e400"),
            pair("o", r#"{"k":[1,"a b\" }"]}"#),
            pair("t", "true"),
            pair("z", "null"),
        ];
        assert_eq!(pairs(document), Some(expected));
    }

    #[test]
    fn of_equal_keys_the_last_one_counts() {
        assert_eq!(
            pairs(r#"{"a":1,"b":2,"\u0061":3}"#),
            Some(vec![pair("b", "2"), pair("a", "3")])
        );
    }

    #[test]
    fn what_is_no_json_object_has_no_members() {
        for text in ["", "x", "[1]", "\"a\"", "1", "null", "{", "{\"a\":}", "{} x", "{a:1}"] {
            assert!(pairs(text).is_none(), "{text:?} must have no members");
        }
        assert_eq!(pairs("{}"), Some(vec![]));
        assert!(members(b"{\"a\":\"\xff\"}").is_none());
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(".{0,4}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn agrees_with_serde_json(value in json(), pretty in any::<bool>()) {
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
            let expected = value.as_object().map(|object| {
                object.iter().map(|(key, value)| {
                    (key.clone(), value.as_str().map_or_else(|| value.to_string(), str::to_owned))
                }).collect::<Vec<_>>()
            });
            prop_assert_eq!(pairs(&text), expected);
        }

        #[test]
        fn no_input_is_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            drop(members(&bytes));
        }
    }
}
