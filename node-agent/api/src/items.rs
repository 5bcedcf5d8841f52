//! Attribute `items`: which keys of the document become files, and where.
//!
//! ```text
//!   items = item *( "," item )
//!   item  = key "=" path [ ":" mode ]
//!   key   = "." / name *( "." name )       "." is the whole document
//!   path  = file-name *( "/" file-name )
//! ```
//!
//! White space around a part is dropped. A backslash takes the meaning from a `,` `=` `:` `.` space
//! or backslash after it.

use std::{fmt, ops::Deref, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::volume::{FileMode, FileName};

/// Bytes of the attribute at most: a record with it must fit into a frame.
pub const TEXT_LIMIT: usize = 4096;

/// Items at most.
pub const COUNT_LIMIT: usize = 128;

/// Names in a key, and folders and file in a path, at most.
pub const DEPTH_LIMIT: usize = 16;

/// Bytes of a path at most.
pub const PATH_LIMIT: usize = 1024;

/// Why a text is no [`Items`]. No error holds a part of the text, which may be anything.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ItemsError {
    /// The text is longer than a record can hold.
    #[error("it has more than {TEXT_LIMIT} bytes")]
    TooLong,
    /// More items than allowed.
    #[error("it has more than {COUNT_LIMIT} items")]
    TooMany,
    /// One of the items, counted from 1.
    #[error("item {0} {1}")]
    Item(usize, ItemRule),
    /// Two of the items, counted from 1.
    #[error("items {0} and {1} cannot both be there: one path is the other, or a folder of it")]
    Clash(usize, usize),
}

/// The rule that an item breaks.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ItemRule {
    /// Not the shape of an item.
    #[error("is not key=path or key=path:mode (a ',' '=' ':' that is meant itself needs a '\\')")]
    Shape,
    /// A backslash that escapes nothing.
    #[error("has a '\\' that is not before one of , = : . \\ and space")]
    Escape,
    /// The key.
    #[error("has a key that is empty, has a control character, or more than {DEPTH_LIMIT} names")]
    Key,
    /// The path.
    #[error(
        "has a path that is not relative, has a name that is empty, '.', longer than 255 bytes or \
         starts with '..', has a control character, more than {DEPTH_LIMIT} names or more than \
         {PATH_LIMIT} bytes"
    )]
    Path,
    /// The mode.
    #[error("has a mode that is not octal within 0555: read and execute bits only")]
    Mode,
}

/// What is to be shown, and where. Empty: everything, as the layout says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Items(Vec<Item>);

/// One file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Item {
    /// What it shows.
    pub key: ItemKey,
    /// Where.
    pub path: FilePath,
    /// Its permission bits, unless the volume's.
    pub mode: Option<FileMode>,
}

/// What an item shows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ItemKey {
    /// The whole document, byte for byte.
    Document,
    /// The top-level key with all names joined by `.`, if there is one; else the first name's
    /// value, in it the second's, and so on.
    Member(Vec<String>),
}

/// A relative path below a volume.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FilePath(Vec<FileName>);

impl Deref for Items {
    type Target = [Item];

    fn deref(&self) -> &[Item] {
        &self.0
    }
}

impl FilePath {
    /// Folders and, last, the file.
    pub fn names(&self) -> &[FileName] {
        &self.0
    }
}

impl From<FileName> for FilePath {
    fn from(name: FileName) -> Self {
        Self(vec![name])
    }
}

impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, name) in self.0.iter().enumerate() {
            let slash = if at == 0 { "" } else { "/" };
            write!(f, "{slash}{name}")?;
        }
        Ok(())
    }
}

impl fmt::Display for ItemKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Document => f.write_str("."),
            Self::Member(names) => f.write_str(&names.join(".")),
        }
    }
}

/// A character, and whether a backslash stood before it.
type Token = (char, bool);

fn is(token: Token, sign: char) -> bool {
    token == (sign, false)
}

fn tokens(text: &str) -> Result<Vec<Token>, ItemsError> {
    let mut tokens = Vec::with_capacity(text.len());
    let mut item = 1;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character == ',' {
            item += 1;
        }
        if character != '\\' {
            tokens.push((character, false));
            continue;
        }
        let escaped = characters.next().filter(|c| matches!(c, '\\' | ',' | '=' | ':' | '.' | ' '));
        tokens.push((escaped.ok_or(ItemsError::Item(item, ItemRule::Escape))?, true));
    }
    Ok(tokens)
}

fn trimmed(mut tokens: &[Token]) -> &[Token] {
    let is_space = |token: &Token| token.0.is_ascii_whitespace() && !token.1;
    while let Some((_, rest)) = tokens.split_first().filter(|(first, _)| is_space(first)) {
        tokens = rest;
    }
    while let Some((_, rest)) = tokens.split_last().filter(|(last, _)| is_space(last)) {
        tokens = rest;
    }
    tokens
}

/// The parts of `tokens` between the signs, trimmed.
fn parts(tokens: &[Token], sign: char) -> Vec<&[Token]> {
    tokens.split(|token| is(*token, sign)).map(trimmed).collect()
}

fn text(tokens: &[Token]) -> String {
    tokens.iter().map(|token| token.0).collect()
}

fn key(tokens: &[Token]) -> Option<ItemKey> {
    if tokens == [('.', false)] {
        return Some(ItemKey::Document);
    }
    let is_plain = tokens.iter().all(|token| !token.0.is_control());
    // not trimmed: a name may have spaces around it, the key as a whole has none
    let names: Vec<_> = tokens.split(|token| is(*token, '.')).map(text).collect();
    let fits = !tokens.is_empty() && is_plain && names.len() <= DEPTH_LIMIT;
    fits.then_some(ItemKey::Member(names))
}

fn path(tokens: &[Token]) -> Option<FilePath> {
    let text = text(tokens);
    let names: Result<Vec<_>, _> = text.split('/').map(str::parse).collect();
    let names = names.ok().filter(|names| names.len() <= DEPTH_LIMIT)?;
    (text.len() <= PATH_LIMIT).then_some(FilePath(names))
}

fn item(tokens: &[Token]) -> Result<Item, ItemRule> {
    let (shown, place) = match parts(tokens, '=')[..] {
        [shown, place] if shown.iter().all(|token| !is(*token, ':')) => (shown, place),
        _ => return Err(ItemRule::Shape),
    };
    let (place, mode) = match parts(place, ':')[..] {
        [place] => (place, None),
        [place, mode] => (place, Some(text(mode).parse().map_err(|_rule| ItemRule::Mode)?)),
        _ => return Err(ItemRule::Shape),
    };
    let key = key(shown).ok_or(ItemRule::Key)?;
    Ok(Item { key, path: path(place).ok_or(ItemRule::Path)?, mode })
}

/// Two of the paths of which one is the other or a folder of it, by their places.
fn clash(items: &[Item]) -> Option<(usize, usize)> {
    let mut paths: Vec<_> =
        items.iter().enumerate().map(|(at, item)| (item.path.names(), at + 1)).collect();
    // a folder stands right before what is in it
    paths.sort();
    let mut pairs = paths.iter().zip(paths.iter().skip(1));
    let (a, b) = pairs.find(|((a, _), (b, _))| b.starts_with(a))?;
    Some((a.1.min(b.1), a.1.max(b.1)))
}

impl FromStr for Items {
    type Err = ItemsError;

    fn from_str(text: &str) -> Result<Self, ItemsError> {
        if text.len() > TEXT_LIMIT {
            return Err(ItemsError::TooLong);
        }
        let tokens = tokens(text)?;
        let mut items = Vec::new();
        if !trimmed(&tokens).is_empty() {
            for (at, tokens) in parts(&tokens, ',').into_iter().enumerate() {
                if at == COUNT_LIMIT {
                    return Err(ItemsError::TooMany);
                }
                items.push(item(tokens).map_err(|rule| ItemsError::Item(at + 1, rule))?);
            }
        }
        match clash(&items) {
            Some((a, b)) => Err(ItemsError::Clash(a, b)),
            None => Ok(Self(items)),
        }
    }
}

impl TryFrom<String> for Items {
    type Error = ItemsError;

    fn try_from(text: String) -> Result<Self, ItemsError> {
        text.parse()
    }
}

impl From<Items> for String {
    fn from(items: Items) -> Self {
        items.to_string()
    }
}

/// Never longer than a text that means the same: a record can always be read back.
impl fmt::Display for Items {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, Item { key, path, mode }) in self.0.iter().enumerate() {
            f.write_str(if at == 0 { "" } else { "," })?;
            match key {
                ItemKey::Document => f.write_str(".")?,
                ItemKey::Member(names) => {
                    let names: Vec<_> = names.iter().map(|name| escaped(name, ",=:.\\")).collect();
                    f.write_str(&outer_spaces(names.join(".")))?;
                }
            }
            f.write_str("=")?;
            f.write_str(&outer_spaces(escaped(&path.to_string(), ",=:\\")))?;
            if let Some(mode) = mode {
                write!(f, ":{:03o}", mode.bits())?;
            }
        }
        Ok(())
    }
}

fn escaped(text: &str, signs: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if signs.contains(character) {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

/// Keeps the spaces around an escaped text from being dropped, with as few signs as an author needs.
fn outer_spaces(mut text: String) -> String {
    if text.ends_with(' ') && text != " " {
        text.insert(text.len() - 1, '\\');
    }
    if text.starts_with(' ') {
        text.insert(0, '\\');
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<Items, ItemsError> {
        text.parse()
    }

    fn member(names: &[&str]) -> ItemKey {
        ItemKey::Member(names.iter().map(|name| (*name).to_owned()).collect())
    }

    fn rule(text: &str) -> ItemRule {
        match parse(text) {
            Err(ItemsError::Item(1, rule)) => rule,
            other => panic!("{text:?}: {other:?}"),
        }
    }

    #[test]
    fn an_item_is_a_key_a_path_and_perhaps_a_mode() {
        let items = parse("password=db/password:0400, tls.key = tls/key ,.=all.json").unwrap();
        let shown: Vec<_> = items.iter().map(|i| (i.key.clone(), i.path.to_string())).collect();
        let expected = [
            (member(&["password"]), "db/password".to_owned()),
            (member(&["tls", "key"]), "tls/key".to_owned()),
            (ItemKey::Document, "all.json".to_owned()),
        ];
        assert_eq!(shown, expected);
        let modes: Vec<_> = items.iter().map(|i| i.mode.map(FileMode::bits)).collect();
        assert_eq!(modes, [Some(0o400), None, None]);
        assert!(parse("").unwrap().is_empty());
    }

    #[test]
    fn a_backslash_takes_a_signs_meaning() {
        let items = parse(r"a\,b\=c\:d=x\,y\=z\:1,tls.tls\.crt=crt,\.=dot,\ k\ =\ p").unwrap();
        let keys: Vec<_> = items.iter().map(|item| item.key.clone()).collect();
        let expected =
            [member(&["a,b=c:d"]), member(&["tls", "tls.crt"]), member(&["."]), member(&[" k "])];
        assert_eq!(keys, expected);
        assert_eq!(items[0].path.to_string(), "x,y=z:1");
        assert_eq!(items[3].path.to_string(), " p");
        assert_eq!(items.to_string().parse(), Ok(items));
    }

    #[test]
    fn a_key_may_start_with_a_dot() {
        let items = parse(".dockerconfigjson=config.json").unwrap();
        assert_eq!(items[0].key, member(&["", "dockerconfigjson"]));
        assert_eq!(items[0].key.to_string(), ".dockerconfigjson");
    }

    #[test]
    fn what_is_no_item_is_refused_by_its_rule() {
        for text in ["a", "a=b=c", "a:b=c", "a=b:400:1", "a=b:0400:", ","] {
            assert_eq!(rule(text), ItemRule::Shape, "{text:?}");
        }
        for text in ["a\\", "a\\b=c", "a=\\/"] {
            assert_eq!(rule(text), ItemRule::Escape, "{text:?}");
        }
        let deep = ["k"; DEPTH_LIMIT + 1].join(".");
        for text in ["=a", " =a", "a\u{1}=b", "a\u{85}=b", &format!("{deep}=a")] {
            assert_eq!(rule(text), ItemRule::Key, "{text:?}");
        }
        let deep = ["k"; DEPTH_LIMIT + 1].join("/");
        let long = ["k".repeat(255).as_str(); 5].join("/");
        for path in
            ["", "/a", "a/", "a//b", ".", "..", "a/..", "a/./b", "..data", "a/..b", "a\nb", "a\0"]
        {
            assert_eq!(rule(&format!("k={path}")), ItemRule::Path, "{path:?}");
        }
        for path in [deep, long, "k".repeat(256)] {
            assert_eq!(rule(&format!("k={path}")), ItemRule::Path, "{path:?}");
        }
        for mode in ["", "0", "200", "0644", "4400", "0o400", "x", "00400"] {
            assert_eq!(rule(&format!("k=p:{mode}")), ItemRule::Mode, "{mode:?}");
        }
    }

    #[test]
    fn two_items_never_clash() {
        for text in ["a=x,b=x", "a=x,b=x/y", "a=x/y/z,b=q,c=x/y", "a=x,b=x-y,c=x/y"] {
            assert!(matches!(parse(text), Err(ItemsError::Clash(..))), "{text:?}");
        }
        parse("a=x/a,a=x/b,b=x-y,c=xy/z").expect("one key may be shown twice");
    }

    #[test]
    fn there_are_bounds() {
        let many: Vec<_> = (0..=COUNT_LIMIT).map(|n| format!("k=p{n}")).collect();
        assert_eq!(parse(&many.join(",")), Err(ItemsError::TooMany));
        parse(&many[1..].join(",")).unwrap();
        assert_eq!(parse(&"x".repeat(TEXT_LIMIT + 1)), Err(ItemsError::TooLong));
    }

    #[test]
    fn a_trailing_comma_is_the_number_of_a_missing_item() {
        let error = parse("a=b,").unwrap_err();
        assert_eq!(error, ItemsError::Item(2, ItemRule::Shape));
        assert_eq!(parse("a=b,c\\x=d"), Err(ItemsError::Item(2, ItemRule::Escape)));
    }

    proptest! {
        #[test]
        fn what_is_accepted_is_read_back_is_not_longer_and_stays_inside(text in "[a-c .,=:/\\\\0-7]{0,40}") {
            if let Ok(items) = parse(&text) {
                let again = items.to_string();
                prop_assert!(again.len() <= text.len(), "{:?} is longer than {:?}", again, text);
                for item in items.iter() {
                    let path = item.path.to_string();
                    prop_assert!(!path.starts_with('/') && path.split('/').all(|n| !matches!(n, "" | ".") && !n.starts_with("..")));
                }
                let paths: BTreeSet<_> = items.iter().map(|item| item.path.to_string()).collect();
                prop_assert_eq!(paths.len(), items.len());
                for path in &paths {
                    let folder = format!("{path}/");
                    let is_folder = paths.iter().any(|other| other.starts_with(&folder));
                    prop_assert!(!is_folder);
                }
                prop_assert_eq!(again.parse::<Items>(), Ok(items));
            }
        }

        #[test]
        fn no_text_panics_and_no_error_shows_a_part_of_it(text in "canary\\PC{0,30}") {
            if let Err(error) = parse(&text) {
                prop_assert!(!error.to_string().contains("canary"));
            }
        }

        #[test]
        fn all_well_formed_items_are_understood(keys in prop::collection::vec("\\PC{1,6}", 1..8)) {
            let written: Vec<_> = keys.iter().enumerate().map(|(at, key)| {
                let key = escaped(key, ",=:.\\ ");
                format!("{key}=folder{at}/file:0444")
            }).collect();
            let items = parse(&written.join(",")).unwrap();
            for (item, key) in items.iter().zip(&keys) {
                prop_assert_eq!(&item.key, &member(&[key]));
            }
        }
    }
}
