//! An API server in memory, for what a real one does too seldom: answers that are lost, and others
//! who come between. (The real one is in `tests/kubernetes`.)

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use http::{Method, Request, Response};
use http_body_util::BodyExt as _;
use kube::{Client, client::Body};
use serde_json::{Value, json};

use super::*;

/// What becomes of a write.
enum Fate {
    /// Done, and nobody hears of it.
    AnswerLost,
    /// Someone else does it first.
    Overtaken,
}

#[derive(Default)]
struct Server {
    secret: Option<Value>,
    version: u32,
    fates: VecDeque<Fate>,
    writes: usize,
}

impl Server {
    fn put(&mut self, mut secret: Value) {
        self.version += 1;
        secret["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.secret = Some(secret);
    }

    fn answer(&mut self, method: &Method, body: &[u8]) -> (u16, Value) {
        let stored =
            |secret: &Option<Value>| secret.clone().map_or((404, failure(404)), |s| (200, s));
        if method == Method::GET {
            return stored(&self.secret);
        }
        self.writes += 1;
        let fate = self.fates.pop_front();
        if matches!(fate, Some(Fate::Overtaken)) {
            self.put(secret(Some(&RootKey::generate().unwrap())));
        }
        let asked: Value = serde_json::from_slice(body).unwrap();
        let fits = match &self.secret {
            None => method == Method::POST,
            Some(now) => {
                let version = |secret: &Value| secret["metadata"]["resourceVersion"].clone();
                method == Method::PUT && version(now) == version(&asked)
            }
        };
        if !fits {
            return (409, failure(409));
        }
        self.put(asked);
        match fate {
            Some(Fate::AnswerLost) => (200, json!("canary")),
            _heard => stored(&self.secret),
        }
    }
}

fn failure(code: u16) -> Value {
    let reason = if code == 404 { "NotFound" } else { "Conflict" };
    json!({"kind": "Status", "status": "Failure", "message": "no", "reason": reason, "code": code})
}

fn secret(key: Option<&RootKey>) -> Value {
    let bytes = key.map(|key| k8s_openapi::ByteString(key.serialize().as_bytes().to_vec()));
    let data = bytes.map_or(json!({}), |bytes| json!({"KEY_TXT": bytes}));
    json!({"metadata": {"name": "vsecm-root-key"}, "data": data})
}

fn start(server: Server) -> (Arc<Mutex<Server>>, KeySecret) {
    let server = Arc::new(Mutex::new(server));
    let serving = Arc::clone(&server);
    let service = tower::service_fn(move |request: Request<Body>| {
        let serving = Arc::clone(&serving);
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            let (code, answer) = lock(&serving).answer(&head.method, &body);
            let answer = Body::from(answer.to_string().into_bytes());
            Ok::<_, kube::Error>(Response::builder().status(code).body(answer).unwrap())
        }
    });
    let client = Client::new(service, "vsecm-system");
    (server, KeySecret::new(client, None, "vsecm-root-key".to_owned()))
}

fn lock(server: &Mutex<Server>) -> MutexGuard<'_, Server> {
    server.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Until there is a key, with what was said on the way.
async fn first_key(secret: &KeySecret, mount: &Path) -> (RootKey, String) {
    let mut said = String::new();
    for _try in 0..9 {
        match attempt(mount, secret, &StoredRecords::None).await {
            Ok(Some(key)) => return (key, said),
            Ok(None) => {}
            Err(error) => said.push_str(&chain(&error)),
        }
    }
    panic!("there is still no key: {said}")
}

fn rests_there(server: &Mutex<Server>, key: &RootKey) -> bool {
    lock(server).secret.as_ref().unwrap()["data"] == secret(Some(key))["data"]
}

#[tokio::test]
async fn the_key_in_use_is_the_one_that_rests_in_the_secret_whatever_comes_between() {
    for blank in [None, Some(secret(None))] {
        for fate in [None, Some(Fate::AnswerLost), Some(Fate::Overtaken)] {
            let lost = matches!(fate, Some(Fate::AnswerLost));
            let mut server = Server { fates: fate.into_iter().collect(), ..Server::default() };
            if let Some(blank) = &blank {
                server.put(blank.clone());
            }
            let (server, secret) = start(server);
            let (key, said) = first_key(&secret, Path::new("/nowhere/key.txt")).await;
            assert!(rests_there(&server, &key));
            assert_eq!(lock(&server).writes, 1, "no second key is made");
            assert_eq!(said.contains("is not understood"), lost, "{said}");
            assert!(!said.contains("canary"), "{said}");
        }
    }
}

#[tokio::test]
async fn a_mounted_key_that_rests_nowhere_any_more_seals_no_first_record() {
    let folder = tempfile::tempdir().unwrap();
    let mount = folder.path().join("key.txt");
    let former = RootKey::load_or_create(&mount, || StoredRecords::None).unwrap();
    let (server, secret) = start(Server::default());
    let (key, _said) = first_key(&secret, &mount).await;
    assert!(rests_there(&server, &key));
    assert_ne!(key.digest(), former.digest());
}
