//! Stories: real processes, real mutual TLS, real mounts; each module tells one.
//!
//! They run as root, or inside a user namespace: `unshare -Urm cargo test -p vsecm-tests --test
//! stories`, as `make test` does. Where FUSE cannot be mounted they fail with a sentence.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a story fails by panicking, in its helpers too"
)]

mod a_secret_reaches_a_pods_file;
mod a_volume_is_as_its_author_asks;
mod acknowledged_writes_survive;
mod an_impostor_is_not_safe;
mod an_open_watch_ends_with_its_svid;
mod bad_input_gets_a_sentence;
mod csi_sanity;
mod custody_begins_safely;
mod deaths_fail_no_read;
mod delegates_have_no_admin_rights;
mod deliveries_are_known;
mod held_versions_follow_stay_or_go;
mod hostile_servers_reach_nothing;
mod identity_is_withdrawn;
mod mounts_of_others;
mod namespaces_are_apart;
mod opens_are_audited;
mod retained_content_starts_pods;
mod rotation_is_atomic;
mod safes_outage_is_survived;
mod secrets_have_no_exits;
mod sentinel_waits_and_ends;
mod strangers_read_nothing;
mod support;
mod svids_are_renewed;
mod the_keeper_reads_nothing;
mod the_node_is_watched;
mod time_is_up;
mod two_playgrounds_leave_nothing;
mod watchers_see_a_secret_volume;
