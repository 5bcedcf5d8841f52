//! Stories: real processes, real mutual TLS, real mounts; each module tells one.
//!
//! They run as root, or inside a user namespace: `unshare -Urm cargo test -p vsecm-tests --test
//! stories`, as `make test` does. Where FUSE cannot be mounted they fail with a sentence.

mod a_secret_reaches_a_pods_file;
