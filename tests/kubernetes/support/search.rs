//! Looking for a value wherever a cluster writes something down.

use std::{fs, path::PathBuf};

use super::{
    kubectl::Kubectl,
    node::{self, Node},
    program::Program,
};

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// A value in the forms in which it would be written down: as it is, in hex, in base64 at each of
/// the three places where it could begin.
#[derive(Clone, Debug)]
pub(crate) struct Needle(Vec<String>);

impl Needle {
    pub(crate) fn of(value: &str) -> Self {
        let mut forms = vec![value.to_owned(), hex::encode(value)];
        for before in 0..3 {
            let padded = [&vec![0; before][..], value.as_bytes()].concat();
            // the characters at both ends have bits of what stands there
            let first = [0, 2, 3][before];
            forms.push(base64(&padded[..padded.len() / 3 * 3])[first..].to_owned());
        }
        Self(forms)
    }

    /// Several values.
    pub(crate) fn all<'a>(values: impl IntoIterator<Item = &'a str>) -> Self {
        Self(values.into_iter().flat_map(|value| Self::of(value).0).collect())
    }

    fn is_in(&self, text: &str) -> bool {
        self.0.iter().any(|form| text.contains(form))
    }

    /// Files of the cluster's folder on this machine's disk: what etcd, the API server's audit log,
    /// containerd, the kubelets, the containers' logs and all volumes are made of. Nothing that a
    /// node has mounted is there.
    #[track_caller]
    pub(crate) fn on_disks(&self) -> Vec<String> {
        let folder = node::state();
        let grep = ["--recursive", "--text", "--fixed-strings", "--files-with-matches"];
        let output = Program::new("grep")
            .args(grep)
            .args(["--devices=skip", "--file=-", folder.to_str().expect("a folder's name")])
            .stdin(self.0.join("\n"))
            .run();
        // 1: nothing found; 2: a file went while it was looked at
        assert!(output.code() <= 2, "{}", output.tell());
        let of_a_kind = |line: &&str| !line.is_empty();
        output.stdout.lines().filter(of_a_kind).map(str::to_owned).collect()
    }

    /// Files in a node's /run: the containers' configurations, sockets' folders, locks.
    #[track_caller]
    pub(crate) fn in_run(&self, node: &Node) -> Vec<String> {
        let forms = self.0.iter().flat_map(|form| ["-e", form]);
        let find = ["find", "/run", "-xdev", "-type", "f", "-exec", "grep", "-l", "-a", "-F"];
        let argv: Vec<_> = find.into_iter().chain(forms).chain(["{}", "+"]).collect();
        let output = node.exec(&argv);
        output.stdout.lines().map(str::to_owned).collect()
    }

    /// Kinds of objects, events among them, that have it.
    #[track_caller]
    pub(crate) fn in_objects(&self) -> Vec<String> {
        let cluster = Kubectl::cluster();
        let kinds = cluster.run(["api-resources", "--verbs=list", "--output=name"]).ok();
        let all = |kind: &&str| {
            let list = cluster.run(["get", kind, "--all-namespaces", "--output=json"]).ok();
            self.is_in(&list)
        };
        let kinds: Vec<_> = kinds.lines().collect();
        assert!(kinds.contains(&"events") && kinds.contains(&"secrets"), "{kinds:?}");
        kinds.into_iter().filter(all).map(str::to_owned).collect()
    }

    /// Processes of this machine, the nodes' among them, that have it in their arguments or
    /// environment.
    pub(crate) fn in_processes(&self) -> Vec<String> {
        let files = node::pids().into_iter().flat_map(|pid| {
            ["cmdline", "environ"].map(|file| PathBuf::from(format!("/proc/{pid}/{file}")))
        });
        let has = |file: &PathBuf| {
            fs::read(file).is_ok_and(|bytes| self.is_in(&String::from_utf8_lossy(&bytes)))
        };
        files.filter(has).map(|file| file.display().to_string()).collect()
    }
}

fn base64(bytes: &[u8]) -> String {
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits = three.iter().fold(0, |bits, byte| bits << 8 | usize::from(*byte));
        text.extend([18, 12, 6, 0].map(|shift| char::from(ALPHABET[bits >> shift & 63])));
    }
    text
}
