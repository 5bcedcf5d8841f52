//! A story: its namespaces, its secrets, and their end, also when it fails.

use std::{
    cell::RefCell,
    fmt,
    panic::{self, AssertUnwindSafe},
    process, thread,
    time::Duration,
};

use serde_json::json;

use super::{artefacts, created::Created, installation, kubectl::Kubectl, pod::Pod, secret};

/// A namespace goes when its last pod has gone, and a held publish lasts 110 s.
const NAMESPACE_GOES: Duration = Duration::from_mins(4);

type Cleanup = Box<dyn FnOnce()>;

/// A story on the cluster.
pub(crate) struct Story {
    name: &'static str,
    namespaces: RefCell<Vec<String>>,
    secrets: RefCell<Vec<(String, String)>>,
    cleanups: RefCell<Vec<Cleanup>>,
}

impl fmt::Debug for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Story").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Story {
    /// Begins a story that needs the installation; `name` is its module's.
    #[track_caller]
    pub(crate) fn begin(name: &'static str) -> Self {
        let story = Self::begin_bare(name);
        installation::ensure();
        story
    }

    /// Begins a story that installs by itself.
    #[track_caller]
    pub(crate) fn begin_bare(name: &'static str) -> Self {
        let story = Self {
            name,
            namespaces: RefCell::default(),
            secrets: RefCell::default(),
            cleanups: RefCell::default(),
        };
        story.new_namespace("main", &[]);
        story
    }

    /// Makes another namespace of the story, with labels.
    #[track_caller]
    pub(crate) fn new_namespace(&self, part: &str, labels: &[(&str, &str)]) -> String {
        let number = self.name.split('_').next().unwrap_or(self.name);
        let name = format!("e2e-{number}-{part}-{}", process::id());
        let labels: serde_json::Map<_, _> =
            labels.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
        self.namespaces.borrow_mut().push(name.clone());
        let cluster = Kubectl::cluster();
        cluster.apply(&json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": labels }
        }));
        // pods are refused before it is there
        let made = |_: &_| Ok(());
        let account = ("serviceaccount", "default");
        Kubectl::namespace(&name).wait(account, "is there", super::awaiting::SOON, made);
        name
    }

    /// Its first namespace.
    pub(crate) fn namespace(&self) -> String {
        self.namespaces.borrow()[0].clone()
    }

    /// kubectl in its first namespace.
    pub(crate) fn kubectl(&self) -> Kubectl {
        Kubectl::namespace(&self.namespace())
    }

    /// Creates a pod in its first namespace.
    #[track_caller]
    pub(crate) fn create(&self, pod: &Pod) -> Created {
        self.create_in(&self.namespace(), pod)
    }

    /// Creates a pod in another of its namespaces.
    #[track_caller]
    pub(crate) fn create_in(&self, namespace: &str, pod: &Pod) -> Created {
        let own = self.namespaces.borrow().iter().any(|own| own == namespace);
        assert!(own, "{namespace} would not be cleaned up");
        Kubectl::namespace(namespace).apply(&pod.manifest());
        Created::look(namespace, &pod.name).expect("the pod was created")
    }

    /// Registers a secret in its first namespace.
    #[track_caller]
    pub(crate) fn register(&self, name: &str, value: &str) {
        self.register_in(&self.namespace(), name, value);
    }

    /// Registers a secret; it goes with the story.
    #[track_caller]
    pub(crate) fn register_in(&self, namespace: &str, name: &str, value: &str) {
        self.will_delete(namespace, name);
        secret::put(namespace, name, value);
    }

    /// Notes a secret that comes by another way, so that it goes with the story.
    pub(crate) fn will_delete(&self, namespace: &str, name: &str) {
        let secret = (namespace.to_owned(), name.to_owned());
        let mut secrets = self.secrets.borrow_mut();
        if !secrets.contains(&secret) {
            secrets.push(secret);
        }
    }

    /// Does this at the story's end, the last one first, before its namespaces go.
    pub(crate) fn at_the_end(&self, work: impl FnOnce() + 'static) {
        self.cleanups.borrow_mut().push(Box::new(work));
    }

    fn clean_up(&self) {
        // whatever fails: the rest is still to be done
        let mut failed = false;
        let cleanups = self.cleanups.take();
        for work in cleanups.into_iter().rev() {
            failed |= panic::catch_unwind(AssertUnwindSafe(work)).is_err();
        }
        for namespace in self.namespaces.borrow().iter() {
            Kubectl::cluster().begin_delete("namespace", namespace);
        }
        for (namespace, name) in self.secrets.take() {
            let deleted = secret::delete(&namespace, &name);
            // a story may have deleted it by itself
            failed |= !deleted.is_ok() && !deleted.stderr.contains("no secret");
        }
        for namespace in self.namespaces.take() {
            let cluster = Kubectl::cluster();
            cluster.delete("namespace", &namespace, NAMESPACE_GOES);
        }
        assert!(!failed, "{}: not everything could be cleaned up", self.name);
    }
}

impl Drop for Story {
    fn drop(&mut self) {
        let guarded = |work: &dyn Fn()| panic::catch_unwind(AssertUnwindSafe(work)).is_ok();
        let namespaces = self.namespaces.borrow().clone();
        let gather = || artefacts::gather(self.name, &namespaces);
        if thread::panicking() {
            // the story's own panic is what counts
            guarded(&gather);
            guarded(&|| self.clean_up());
            installation::suspect();
        } else if !guarded(&|| self.clean_up()) {
            guarded(&gather);
            installation::suspect();
            panic!(
                "{}: did not end well; see {}",
                self.name,
                artefacts::folder(self.name).display()
            );
        }
    }
}
