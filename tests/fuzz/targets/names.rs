//! Lines of a namespace and two names: accepted ones are no paths, and their records' files are
//! told apart, also by a file system that does not tell capitals from small letters.

#![no_main]

use std::path::{Component, Path, PathBuf};

use libfuzzer_sys::fuzz_target;
use vsecm_safe::store::file_name;
use vsecm_safe_api::name::SecretKey;

fuzz_target!(|data: &str| {
    let mut lines = data.splitn(3, '\n');
    let mut line = || lines.next().unwrap_or_default();
    let (namespace, one, other) = (line(), line(), line());
    let keys = [one, other].map(|name| SecretKey::parse(namespace, name).ok());
    for (key, name) in keys.iter().zip([one, other]) {
        let Some(key) = key else { continue };
        let parts = (key.namespace.as_str(), key.name.as_str());
        assert_eq!(parts, (namespace, name), "nothing is normalised");
        assert_eq!(key.to_string().split_once('/'), Some(parts));
        for part in [namespace, name] {
            assert!(!part.contains(['/', '\0', '\n']) && !matches!(part, "" | "." | ".."));
        }
        let path = file_name::path(key);
        assert!(path.components().all(|part| matches!(part, Component::Normal(_))));
        assert!(path.iter().all(|part| part.len() <= 255));
        assert_eq!(file_name::key(&path).as_ref(), Some(key));
    }
    if let [Some(one), Some(other)] = &keys {
        let (a, b) = (folded(one), folded(other));
        assert_eq!(one == other, a == b, "one key, one file");
        assert_eq!(one == other, a.starts_with(&b), "no file in the place of a folder");
    }
    // a file that is taken for a key's is that key's
    let found: PathBuf = Path::new(data).components().collect();
    if let Some(key) = file_name::key(&found) {
        let (found, path) = (found.display().to_string(), file_name::path(&key));
        let number = found.strip_prefix(&path.display().to_string()).expect("the key's path");
        // a second record that was set aside has a number
        let is_numbered = number.strip_prefix('~').is_some_and(|n| n.parse::<u32>().is_ok());
        assert!(number.is_empty() || is_numbered, "{data:?} is of another key");
    }
});

fn folded(key: &SecretKey) -> PathBuf {
    let path = file_name::path(key).display().to_string();
    path.to_lowercase().into()
}
