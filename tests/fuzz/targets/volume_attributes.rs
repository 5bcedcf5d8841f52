//! `volumeAttributes`, as lines `NAME=VALUE` after a line with the group: accepted options are
//! within their bounds and can be written as attributes again; a refusal shows no value.

#![no_main]

use std::{
    collections::HashMap,
    path::{Component, Path},
};

use libfuzzer_sys::fuzz_target;
use vsecm_node_agent_api::{
    attributes::{self, Context},
    volume::{Audit, Gate, Layout, OnRotate, OnWithdraw, VolumeOptions},
};

const CANARY: &str = "<canary>";

fuzz_target!(|data: &str| {
    let (group, lines) = data.split_once('\n').unwrap_or(("", data));
    let pairs = lines.lines().filter_map(|line| line.split_once('='));
    let context: Context = pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect();

    if let Ok(options) = attributes::options(&context, group) {
        check(&options);
        let (context, group) = written(&options);
        assert_eq!(attributes::options(&context, &group), Ok(options));
    }
    if let Ok(pod) = attributes::pod(&context) {
        let values: Vec<&str> = context.values().map(String::as_str).collect();
        for part in [
            pod.namespace.as_str(),
            pod.name.as_str(),
            pod.uid.as_str(),
            pod.service_account.as_str(),
        ] {
            assert!(values.contains(&part));
            assert!(!part.contains('/') && !matches!(part, "" | "." | ".."));
        }
    }

    let marked = context.iter().map(|(k, v)| (k.clone(), format!("{v}{CANARY}")));
    if let Err(refusal) = attributes::options(&marked.collect(), group) {
        let is_name = context.keys().any(|name| name.contains(CANARY));
        assert!(is_name || !refusal.to_string().contains(CANARY));
    }
});

fn check(options: &VolumeOptions) {
    let name = options.document.as_str();
    let parts: Vec<_> = Path::new(name).components().collect();
    assert!(matches!(parts.as_slice(), [Component::Normal(part)] if *part == name));
    assert!(name.len() <= 255 && !name.starts_with("..") && !name.contains('\0'));
    assert!(!name.chars().any(char::is_control));
    assert!((1..=0o555).contains(&options.mode.bits()) && options.mode.bits() & 0o222 == 0);
    let paths: Vec<String> = options.items.iter().map(|item| item.path.to_string()).collect();
    for (at, path) in paths.iter().enumerate() {
        let parts = Path::new(path).components();
        assert!(parts.into_iter().all(|part| matches!(part, Component::Normal(_))));
        assert!(!path.split('/').any(|name| matches!(name, "" | ".") || name.starts_with("..")));
        let others = paths.iter().enumerate().filter(|(other, _)| *other != at);
        for (_, other) in others {
            assert!(other != path && !other.starts_with(&format!("{path}/")));
        }
    }
    assert_ne!(options.group, Some(u32::MAX), "-1 leaves a file's group as it is");
}

fn written(options: &VolumeOptions) -> (Context, String) {
    let layout = match options.layout {
        Layout::Files => "files",
        Layout::Document => "document",
    };
    let optional = match options.gate {
        Gate::Required => "false",
        Gate::Optional => "true",
    };
    let on_withdraw = match options.on_withdraw {
        OnWithdraw::Keep => "keep",
        OnWithdraw::Revoke => "revoke",
    };
    let audit = match options.audit {
        Audit::Off => "off",
        Audit::Opens => "opens",
    };
    let on_rotate = match options.on_rotate {
        OnRotate::Follow => "follow",
        OnRotate::Keep => "keep",
        OnRotate::Revoke => "revoke",
    };
    let mode = format!("{:04o}", options.mode.bits());
    let items = options.items.to_string();
    let attributes = [
        ("items", items.as_str()),
        ("layout", layout),
        ("document", options.document.as_str()),
        ("mode", &mode),
        ("optional", optional),
        ("onWithdraw", on_withdraw),
        ("audit", audit),
        ("onRotate", on_rotate),
    ];
    let context = HashMap::from(attributes.map(|(k, v)| (k.to_owned(), v.to_owned())));
    (context, options.group.map_or_else(String::new, |group| group.to_string()))
}
