//! The path of a record below its folder: injective, and no component can be mistaken.
//!
//! `<namespace>/<name>.age`. In names, capitals and other characters that file systems treat in
//! their own ways are escaped by `=`; a name longer than a component may be is cut into folders
//! that end with `+`. So no name escapes its folder, none is `.` or `..`, and none collides with
//! another, also where a file system does not tell capitals from small letters.

use std::path::{Component, Path, PathBuf};

use vsecm_safe_api::name::SecretKey;

const EXTENSION: &str = ".age";
/// A path component has 255 bytes at most; this leaves room for extension and numbering.
const CHUNK: usize = 200;
/// Ends a folder that holds the rest of a long name.
const CONTINUES: char = '+';
/// Before the number of a second record that was set aside under one key.
const NUMBER: char = '~';

/// The path of a key's record.
pub fn path(key: &SecretKey) -> PathBuf {
    let name = escape(key.name.as_str());
    let mut path = PathBuf::from(key.namespace.as_str());
    let mut rest = name.as_str();
    while let Some((chunk, tail)) = rest.split_at_checked(CHUNK) {
        if tail.is_empty() {
            break;
        }
        path.push(format!("{chunk}{CONTINUES}"));
        rest = tail;
    }
    path.push(format!("{rest}{EXTENSION}"));
    path
}

/// The same path for the `number`th record that was set aside under one key.
pub(super) fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut numbered = path.as_os_str().to_owned();
    if number > 0 {
        numbered.push(format!("{NUMBER}{number}"));
    }
    PathBuf::from(numbered)
}

/// The key of a path, if it is the path of one.
pub fn key(path: &Path) -> Option<SecretKey> {
    let mut parts = path.components().map(|part| match part {
        Component::Normal(text) => text.to_str(),
        _other => None,
    });
    let namespace = parts.next()??;
    let mut escaped = String::new();
    let mut last = parts.next()??;
    for next in parts {
        escaped.push_str(last.strip_suffix(CONTINUES)?);
        last = next?;
    }
    let last = match last.rsplit_once(NUMBER) {
        Some((file, number)) if number.parse::<u32>().is_ok() => file,
        Some(_) => return None,
        None => last,
    };
    escaped.push_str(last.strip_suffix(EXTENSION)?);
    let key = SecretKey::parse(namespace, &unescape(&escaped)?).ok()?;
    // one key, one path
    let unnumbered = path.with_file_name(last);
    (self::path(&key) == unnumbered).then_some(key)
}

fn escape(name: &str) -> String {
    let mut escaped = String::with_capacity(name.len() + 8);
    for (at, c) in name.char_indices() {
        match c {
            ':' => escaped.push_str("=0"),
            '.' if at == 0 => escaped.push_str("=1"),
            c if c.is_ascii_uppercase() => {
                escaped.push('=');
                escaped.push(c.to_ascii_lowercase());
            }
            c => escaped.push(c),
        }
    }
    escaped
}

fn unescape(escaped: &str) -> Option<String> {
    let mut name = String::with_capacity(escaped.len());
    let mut characters = escaped.chars();
    while let Some(c) = characters.next() {
        name.push(match c {
            '=' => match characters.next()? {
                '0' => ':',
                '1' => '.',
                c if c.is_ascii_lowercase() => c.to_ascii_uppercase(),
                _other => return None,
            },
            c => c,
        });
    }
    Some(name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(namespace: &str, name: &str) -> SecretKey {
        SecretKey::parse(namespace, name).unwrap()
    }

    #[test]
    fn a_path_can_be_read_by_people() {
        let path = |name| path(&of("default", name)).display().to_string();
        assert_eq!(path("billing-db"), "default/billing-db.age");
        assert_eq!(path("k8s:Db"), "default/k8s=0=db.age");
        assert_eq!(path(".hidden"), "default/=1hidden.age");
    }

    #[test]
    fn the_longest_names_fit() {
        for longest in ["X".repeat(253), format!("raw:{}", "x".repeat(253))] {
            let key = of(&"n".repeat(63), &longest);
            for part in &path(&key) {
                assert!(part.len() <= 255);
            }
            assert_eq!(super::key(&path(&key)), Some(key));
        }
    }

    #[test]
    fn a_path_that_no_key_has_is_foreign() {
        for foreign in [
            "db.age",
            "default/db",
            "default/DB.age",
            "default/db.age~x",
            "../db.age",
            "default/x/db.age",
            "default/=.age",
            "default/x+/db.age",
            "Default/db.age",
        ] {
            assert_eq!(key(Path::new(foreign)), None, "{foreign}");
        }
    }

    const NAME: &str = "(k8s:|raw:)?[A-Za-z0-9._-]{1,253}";

    proptest! {
        #[test]
        fn a_path_stays_inside_and_gives_its_key_back(
            namespace in "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", name in NAME, number in 0..3_u32,
        ) {
            let Ok(key) = SecretKey::parse(&namespace, &name) else { return Ok(()) };
            let path = path(&key);
            for part in path.components() {
                let Component::Normal(text) = part else { panic!("{part:?}") };
                prop_assert!(text.len() <= 255);
            }
            prop_assert_eq!(super::key(&numbered(&path, number)), Some(key));
        }

        #[test]
        fn two_keys_never_share_a_path_whatever_the_case(a in NAME, b in NAME) {
            let (Ok(a), Ok(b)) = (SecretKey::parse("n", &a), SecretKey::parse("n", &b)) else {
                return Ok(());
            };
            let folded = |key| path(key).display().to_string().to_lowercase();
            prop_assert_eq!(a == b, folded(&a) == folded(&b));
        }
    }
}
