//! Stories on a real Kubernetes cluster; each module tells one. `.ci/e2e.sh` brings the cluster up
//! and runs them one after the other, in the order of their names. Those that `make e2e` leaves
//! out are ignored with that reason.
//!
//! | environment | |
//! |---|---|
//! | `KUBECONFIG`, `PATH` | the cluster; kubectl and helm |
//! | `VSECM_E2E_REGISTRY`, `VSECM_E2E_TAG` | where the images are: `registry.local`, `e2e` |
//! | `VSECM_CLUSTER` | the script of `tests/cluster`; without it stories skip what needs the nodes, and say so |
//!
//! A story that fails leaves logs, events and descriptions in `target/e2e/<story>/`.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a story fails by panicking, in its helpers too"
)]

mod s01_one_command_installs_all;
mod s02_a_pod_waits_and_says_why;
mod s03_a_rotation_reaches_every_node;
mod s04_pods_use_the_volume_in_every_way;
mod s05_namespaces_are_apart;
mod s06_a_pod_deleted_while_waiting_leaves_nothing;
mod s07_pods_outlive_every_death;
mod s08_a_node_has_its_own_pods_alone;
mod s09_a_hundred_pods_on_one_node;
mod s10_secrets_outlive_the_release;
mod s11_a_partition_heals;
mod s12_uninstall_leaves_nothing;
mod s13_a_value_is_written_nowhere;
mod s14_forged_requests_are_refused;
mod s15_the_csidriver_object_is_watched;
mod s16_a_static_pod_claims_nothing;
mod s17_csi_has_no_network;
mod s18_custody_passes_pod_security;
mod s19_the_startup_taint_goes;
mod s20_each_wait_has_its_sentence;
mod s21_spire_comes_late;
mod s22_spires_server_is_down_for_long;
mod s23_identities_are_withdrawn;
mod s24_identities_change;
mod s25_the_authority_is_rotated;
mod s26_spire_of_ones_own;
mod s27_bad_input_gets_a_sentence;
mod s28_the_readme_word_for_word;
mod s29_reserved_names_are_nobodys;
mod s30_watchers_see_a_secret_volume;
mod s31_sub_paths_follow_keep_or_go;
mod s32_a_pod_starts_while_safe_is_away;
mod s40_the_kubelet_knows_usage_and_condition;
mod support;
