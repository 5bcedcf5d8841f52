use proptest::prelude::*;
use vsecm_node_agent_api::volume::{Gate, Layout, OnWithdraw};

use super::*;
use crate::proto::v1::volume_capability::{AccessMode, BlockVolume};

pub(crate) const KUBELET: &str = "/var/lib/kubelet";
const KEY: InodeKey = InodeKey::from_random([7; 16]);
pub(crate) const TARGET: &str = "pods/0a1-b/volumes/kubernetes.io~csi/vsecm/mount";

/// What the kubelet 1.34 sends.
pub(crate) fn mk_request() -> NodePublishVolumeRequest {
    let context = [
        ("csi.storage.k8s.io/ephemeral", "true"),
        ("csi.storage.k8s.io/pod.name", "web-0"),
        ("csi.storage.k8s.io/pod.namespace", "shop"),
        ("csi.storage.k8s.io/pod.uid", "0a1-b"),
        ("csi.storage.k8s.io/serviceAccount.name", "default"),
    ];
    NodePublishVolumeRequest {
        volume_id: format!("csi-{}", "0a".repeat(32)),
        target_path: format!("{KUBELET}/{TARGET}"),
        volume_capability: Some(VolumeCapability {
            access_type: Some(AccessType::Mount(MountVolume::default())),
            access_mode: Some(AccessMode { mode: Mode::SingleNodeWriter.into() }),
        }),
        readonly: true,
        volume_context: context.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        ..Default::default()
    }
}

fn mount(request: &mut NodePublishVolumeRequest) -> &mut MountVolume {
    match request.volume_capability.as_mut().unwrap().access_type.as_mut() {
        Some(AccessType::Mount(mount)) => mount,
        other => panic!("{other:?}"),
    }
}

fn changed(change: impl FnOnce(&mut NodePublishVolumeRequest)) -> Result<VolumeRecord, Refusal> {
    let mut request = mk_request();
    change(&mut request);
    parse(&request, KUBELET, &Operator::default(), KEY)
}

fn with(key: &str, value: &str) -> Result<VolumeRecord, Refusal> {
    changed(|r| drop(r.volume_context.insert(key.to_owned(), value.to_owned())))
}

#[test]
fn the_kubelets_request_is_understood() {
    let record = changed(|_| {}).unwrap();
    assert_eq!(record.target, TARGET);
    assert_eq!(record.pod.namespace.as_str(), "shop");
    assert_eq!(record.pod.name.as_str(), "web-0");
    assert_eq!(record.pod.service_account.as_str(), "default");
    let options = record.options;
    assert_eq!(options.layout, Layout::Files);
    assert_eq!(options.document.as_str(), "secrets.json");
    assert_eq!((options.mode.bits(), options.group), (0o444, None));
    assert_eq!(options.gate, Gate::Required);
    assert_eq!(options.on_withdraw, OnWithdraw::Keep);
}

#[test]
fn the_groups_files_are_not_for_others() {
    let grouped = |group: &str| changed(|r| mount(r).volume_mount_group = group.to_owned());
    let options = grouped("2000").unwrap().options;
    assert_eq!((options.mode.bits(), options.group), (0o440, Some(2000)));
    for bad in ["staff", "-1", "+5", "4294967295", "99999999999", "1 "] {
        assert_eq!(grouped(bad), Err(Refusal::Attribute(AttributeError::Group)), "{bad:?}");
    }
}

#[test]
fn every_attribute_is_understood() {
    let of = |key: &str, value: &str| with(key, value).unwrap().options;
    assert_eq!(of("layout", "document").layout, Layout::Document);
    assert_eq!(of("document", "all.json").document.as_str(), "all.json");
    assert_eq!(of("items", "a.b=x/y:0400").items[0].path.to_string(), "x/y");
    assert_eq!(of("mode", "0400").mode.bits(), 0o400);
    assert_eq!(of("mode", "444").mode.bits(), 0o444);
    assert_eq!(of("optional", "true").gate, Gate::Optional);
    assert_eq!(of("onWithdraw", "revoke").on_withdraw, OnWithdraw::Revoke);
    of("csi.storage.k8s.io/of-a-later-kubelet", "x");
}

#[test]
fn an_attribute_with_an_impossible_value_is_refused_by_name_and_without_the_value() {
    for (key, value) in [
        ("layout", "canary"),
        ("document", "../canary"),
        ("document", ""),
        ("document", "canary\n"),
        ("items", "canary"),
        ("items", "a=../canary"),
        ("items", "a=canary,b=canary/x"),
        ("items", "canary=secrets.json"),
        ("mode", "canary"),
        ("mode", "0644"),
        ("mode", "4444"),
        ("mode", "0"),
        ("mode", "7777"),
        ("mode", "+44"),
        ("mode", "0o444"),
        ("mode", "00444"),
        ("optional", "canary"),
        ("onWithdraw", "canary"),
    ] {
        let refusal = with(key, value).unwrap_err();
        let text = refusal.to_string();
        assert!(matches!(refusal, Refusal::Attribute(_)), "{key}={value}: {refusal:?}");
        assert!(text.contains(key) && !text.contains("canary"), "{text}");
    }
}

#[test]
fn an_unknown_attribute_is_refused_by_name() {
    for key in ["item", "Layout", "", "csi.storage.k8s.io"] {
        let refusal = with(key, "canary").unwrap_err();
        let unknown = AttributeError::Unknown(key.to_owned());
        assert_eq!(refusal, Refusal::Attribute(unknown));
        assert!(!refusal.to_string().contains("canary"));
    }
}

#[test]
fn a_request_without_volume_id_or_target_path_is_refused() {
    assert_eq!(changed(|r| r.volume_id.clear()), Err(Refusal::Missing("volume id")));
    assert_eq!(changed(|r| r.target_path.clear()), Err(Refusal::Missing("target path")));
    let bad = changed(|r| r.volume_id = "../x".to_owned());
    assert!(matches!(bad, Err(Refusal::VolumeId(_))));
}

#[test]
fn a_relative_target_path_is_refused() {
    let refusal = changed(|r| r.target_path = TARGET.to_owned()).unwrap_err();
    assert!(matches!(refusal, Refusal::Target(TargetError::Relative(_))));
}

#[test]
fn a_request_without_capability_is_refused() {
    let missing = changed(|r| r.volume_capability = None);
    assert_eq!(missing, Err(Refusal::Missing("volume capability")));
    let typeless = changed(|r| r.volume_capability.as_mut().unwrap().access_type = None);
    assert!(matches!(typeless, Err(Refusal::Missing(_))));
    let block = changed(|r| {
        let block = AccessType::Block(BlockVolume {});
        r.volume_capability.as_mut().unwrap().access_type = Some(block);
    });
    assert_eq!(block, Err(Refusal::Unfit(BLOCK)));
}

#[test]
fn an_access_mode_passes_if_it_is_for_one_node_or_for_readers() {
    for (mode, passes) in [
        (0, false),
        (1, true),
        (2, true),
        (3, true),
        (4, false),
        (5, false),
        (6, true),
        (7, true),
        (8, false),
    ] {
        let access_mode = Some(AccessMode { mode });
        let parsed = changed(|r| r.volume_capability.as_mut().unwrap().access_mode = access_mode);
        assert_eq!(parsed.is_ok(), passes, "{mode}: {parsed:?}");
    }
    let none = changed(|r| r.volume_capability.as_mut().unwrap().access_mode = None);
    assert_eq!(none, Err(Refusal::AccessMode("UNKNOWN".to_owned())));
}

#[test]
fn mount_options_secrets_staging_and_what_is_no_read_only_inline_volume_are_refused() {
    let flags = changed(|r| mount(r).mount_flags.push("rw".to_owned()));
    assert_eq!(flags, Err(Refusal::Unfit(FLAGS)));
    let secrets = changed(|r| drop(r.secrets.insert("a".to_owned(), "b".to_owned())));
    assert_eq!(secrets, Err(Refusal::Unfit(SECRETS)));
    assert_eq!(changed(|r| r.readonly = false), Err(Refusal::Unfit(WRITABLE)));
    let staged = changed(|r| r.staging_target_path = "/x".to_owned());
    assert_eq!(staged, Err(Refusal::Unfit(STAGED)));
    for no in ["false", "", "True"] {
        assert_eq!(with(EPHEMERAL, no), Err(Refusal::Unfit(PERSISTENT)));
    }
}

#[test]
fn a_token_is_refused_by_name_wherever_it_comes() {
    let token = || (TOKENS.to_owned(), "canary".to_owned());
    for refusal in [
        changed(|r| r.volume_context.extend([token()])).unwrap_err(),
        changed(|r| r.secrets.extend([token()])).unwrap_err(),
    ] {
        let text = refusal.to_string();
        assert!(text.contains("token") && !text.contains("canary"), "{text}");
        assert!(refusal.can_heal());
    }
}

#[test]
fn the_operators_rules_are_part_of_every_request() {
    let operator = Operator {
        defaults: "document=all.json".parse().unwrap(),
        enforced: "mode=0400".parse().unwrap(),
    };
    let mut request = mk_request();
    let options = parse(&request, KUBELET, &operator, KEY).unwrap().options;
    assert_eq!((options.document.as_str(), options.mode.bits()), ("all.json", 0o400));
    request.volume_context.insert("mode".to_owned(), "0444".to_owned());
    let refusal = parse(&request, KUBELET, &operator, KEY).unwrap_err();
    assert!(matches!(refusal, Refusal::Operator(_)) && refusal.can_heal(), "{refusal}");
}

#[test]
fn a_request_without_usable_pod_information_is_refused() {
    for key in [
        EPHEMERAL,
        "csi.storage.k8s.io/pod.name",
        "csi.storage.k8s.io/pod.namespace",
        "csi.storage.k8s.io/pod.uid",
        "csi.storage.k8s.io/serviceAccount.name",
    ] {
        let missing = changed(|r| drop(r.volume_context.remove(key)));
        assert_eq!(missing, Err(Refusal::Attribute(AttributeError::NoPodInfo(key))));
        if key == EPHEMERAL {
            continue;
        }
        let bad = with(key, "a/b").unwrap_err();
        let named = matches!(bad, Refusal::Attribute(AttributeError::PodInfo(k, _)) if k == key);
        assert!(named, "{bad}");
    }
}

#[test]
fn the_uid_in_the_path_must_be_the_pods() {
    let refusal = with("csi.storage.k8s.io/pod.uid", "other").unwrap_err();
    assert!(matches!(refusal, Refusal::ForeignPod { .. }), "{refusal}");
}

proptest! {
    #[test]
    fn no_request_panics_and_no_accepted_target_escapes(
        id in "\\PC{0,20}",
        path in "(/var/lib/kubelet/pods/[0a1./-]{1,6}/volumes/kubernetes.io~csi/[a./]{0,4}/mount|\\PC{0,60})",
        uid in "[0a1./-]{1,6}",
        group in "[0-9-]{0,12}",
        key in "(items|mode|layout|document|optional|onWithdraw|\\PC{0,9})",
        value in "\\PC{0,12}",
        access in any::<i32>(),
    ) {
        let parsed = changed(|r| {
            r.volume_id = id;
            r.target_path = path;
            mount(r).volume_mount_group = group;
            r.volume_capability.as_mut().unwrap().access_mode = Some(AccessMode { mode: access % 9 });
            r.volume_context.insert("csi.storage.k8s.io/pod.uid".to_owned(), uid);
            r.volume_context.insert(key, value);
        });
        if let Ok(record) = parsed {
            let parts: Vec<&str> = record.target.split('/').collect();
            prop_assert_eq!(parts.len(), 6);
            prop_assert_eq!(parts[1], record.pod.uid.as_str());
            prop_assert!(parts.iter().all(|part| !matches!(*part, "" | "." | "..")));
        }
    }
}
