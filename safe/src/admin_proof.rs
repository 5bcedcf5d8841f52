//! The second proof: no Admin RPC is granted by an SVID alone.
//!
//! A node-agent may ask SPIRE for every identity of its node, sentinel's too. What it cannot get
//! is sentinel's token.

use std::{fmt, fs, io, path::PathBuf, pin::Pin, time::Duration};

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use sha2::{Digest as _, Sha256};
use spiffe::SpiffeId;
use subtle::ConstantTimeEq as _;
use tokio::time::timeout;

use crate::api_server::Failure;

/// The audience of sentinel's token: a token for another service is no proof.
const AUDIENCE: &str = "vsecm-safe";
/// Where the API server says to which pod a token is bound.
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
/// An operator waits for the answer; the API server gives it in milliseconds.
const REVIEW_TIMEOUT: Duration = Duration::from_secs(5);
/// A projected token has about 1 KiB.
const TOKEN_LIMIT: usize = 16 * 1024;

/// Why the proof does not hold.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProofError {
    /// There is none.
    #[error("sentinel's token is missing: an SVID alone does not administer secrets")]
    Missing,
    /// It is not sentinel's.
    #[error("the token is refused: {0}")]
    Refused(&'static str),
    /// It cannot be checked now.
    #[error("the token cannot be checked now ({0})")]
    Unavailable(String),
    /// Safe may not have it checked.
    #[error(
        "the token cannot be checked: the API server forbids Safe to create TokenReviews ({0}); \
         its service account needs the ClusterRole of the chart, or system:auth-delegator"
    )]
    Forbidden(String),
}

/// The answer to a check, boxed so that the trait has objects.
pub type Checked<'a> = Pin<Box<dyn Future<Output = Result<(), ProofError>> + Send + 'a>>;

/// Says whether a token proves that its bearer is the sentinel of this SVID.
pub trait AdminProof: Send + Sync + fmt::Debug {
    /// Checks the token that came with a call.
    fn check<'a>(&'a self, token: Option<&'a str>, caller: &'a SpiffeId) -> Checked<'a>;
}

fn present(token: Option<&str>) -> Result<&str, ProofError> {
    match token {
        None | Some("") => Err(ProofError::Missing),
        Some(token) if token.len() > TOKEN_LIMIT => Err(ProofError::Refused("it is too long")),
        Some(token) => Ok(token),
    }
}

/// Compares with the SHA-256 of one token, from a file: for places without Kubernetes. Safe holds
/// the digest only, so its folder gives no token away.
#[derive(Debug)]
pub struct TokenDigest {
    file: PathBuf,
}

impl TokenDigest {
    /// With the hex digits in this file, which is read at every check: it may be replaced.
    pub fn new(file: PathBuf) -> io::Result<Self> {
        let proof = Self { file };
        proof.digest()?;
        Ok(proof)
    }

    fn digest(&self) -> io::Result<[u8; 32]> {
        let text = fs::read_to_string(&self.file)?;
        let mut digest = [0; 32];
        hex::decode_to_slice(text.trim(), &mut digest).map_err(|_not_hex| {
            io::Error::other("it does not hold the 64 hex digits of a SHA-256")
        })?;
        Ok(digest)
    }

    fn compare(&self, token: Option<&str>) -> Result<(), ProofError> {
        let given = Sha256::digest(present(token)?);
        let expected = self.digest().map_err(|error| ProofError::Unavailable(error.to_string()))?;
        if bool::from(given.as_slice().ct_eq(&expected)) {
            return Ok(());
        }
        Err(ProofError::Refused("it is not sentinel's token"))
    }
}

impl AdminProof for TokenDigest {
    fn check<'a>(&'a self, token: Option<&'a str>, _caller: &'a SpiffeId) -> Checked<'a> {
        Box::pin(std::future::ready(self.compare(token)))
    }
}

/// Asks the API server whose token it is: service account and bound pod must be the SVID's.
pub struct KubernetesToken {
    reviews: Api<TokenReview>,
}

impl fmt::Debug for KubernetesToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KubernetesToken").finish_non_exhaustive()
    }
}

impl KubernetesToken {
    /// By this client.
    pub fn new(client: Client) -> Self {
        Self { reviews: Api::all(client) }
    }

    async fn review(&self, token: Option<&str>, caller: &SpiffeId) -> Result<(), ProofError> {
        let review = TokenReview {
            metadata: ObjectMeta::default(),
            spec: TokenReviewSpec {
                token: Some(present(token)?.to_owned()),
                audiences: Some(vec![AUDIENCE.to_owned()]),
            },
            status: None,
        };
        let how = PostParams::default();
        let reviewed = timeout(REVIEW_TIMEOUT, self.reviews.create(&how, &review)).await;
        let reviewed = reviewed.map_err(|_elapsed| {
            let reason = format!("the API server has not answered within {REVIEW_TIMEOUT:?}");
            ProofError::Unavailable(reason)
        })?;
        let reviewed = reviewed.map_err(|error| unchecked(&error))?;
        judge(&reviewed.status.unwrap_or_default(), caller)
    }
}

impl AdminProof for KubernetesToken {
    fn check<'a>(&'a self, token: Option<&'a str>, caller: &'a SpiffeId) -> Checked<'a> {
        Box::pin(self.review(token, caller))
    }
}

fn unchecked(error: &kube::Error) -> ProofError {
    match Failure::from(error) {
        Failure::Forbidden(reason) => ProofError::Forbidden(reason),
        Failure::Refused(reason) => {
            ProofError::Unavailable(format!("the API server refuses: {reason}"))
        }
        Failure::Unreachable(reason) => {
            ProofError::Unavailable(format!("the API server cannot be reached: {reason}"))
        }
    }
}

fn judge(status: &TokenReviewStatus, caller: &SpiffeId) -> Result<(), ProofError> {
    if status.authenticated != Some(true) {
        return Err(ProofError::Refused(unauthenticated(status.error.as_deref())));
    }
    let audiences = status.audiences.as_deref().unwrap_or_default();
    if !audiences.iter().any(|audience| audience == AUDIENCE) {
        return Err(ProofError::Refused("its audience is not vsecm-safe"));
    }
    let Some(Owner { namespace, account, pod }) = owner(caller) else {
        return Err(ProofError::Refused(
            "the SVID does not end with /ns/NAMESPACE/sa/ACCOUNT/n/POD",
        ));
    };
    let user = status.user.clone().unwrap_or_default();
    if user.username != Some(format!("system:serviceaccount:{namespace}:{account}")) {
        return Err(ProofError::Refused("its service account is not the SVID's"));
    }
    let extra = user.extra.unwrap_or_default();
    match extra.get(POD_NAME).map(Vec::as_slice) {
        Some([bound]) if *bound == pod => Ok(()),
        _other => Err(ProofError::Refused("it is not bound to the SVID's pod")),
    }
}

/// In words of our own: the API server's might hold parts of the token.
fn unauthenticated(error: Option<&str>) -> &'static str {
    match error.unwrap_or_default() {
        error if error.contains("audience") => "its audience is not vsecm-safe",
        error if error.contains("expired") => "it has expired",
        _other => "the API server does not know it, or its pod is gone",
    }
}

struct Owner<'a> {
    namespace: &'a str,
    account: &'a str,
    pod: &'a str,
}

/// Read from the end: what stands before may hold any words.
fn owner(id: &SpiffeId) -> Option<Owner<'_>> {
    let (rest, pod) = id.path().rsplit_once("/n/")?;
    let (rest, account) = rest.rsplit_once("/sa/")?;
    let (_, namespace) = rest.rsplit_once("/ns/")?;
    let is_segment = |text: &str| !text.is_empty() && !text.contains('/');
    let owner = Owner { namespace, account, pod };
    [namespace, account, pod].into_iter().all(is_segment).then_some(owner)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::authentication::v1::UserInfo;

    use super::*;

    fn sentinel() -> SpiffeId {
        "spiffe://vsecm.com/workload/vsecm-sentinel/ns/vsecm-system/sa/vsecm-sentinel/n/pod-1"
            .parse()
            .unwrap()
    }

    fn status(account: &str, pod: &str, audience: &str) -> TokenReviewStatus {
        TokenReviewStatus {
            authenticated: Some(true),
            audiences: Some(vec![audience.to_owned()]),
            user: Some(UserInfo {
                username: Some(format!("system:serviceaccount:{account}")),
                extra: Some([(POD_NAME.to_owned(), vec![pod.to_owned()])].into()),
                ..UserInfo::default()
            }),
            error: None,
        }
    }

    #[test]
    fn a_reviewed_token_must_be_that_of_the_svids_pod() {
        let ours = "vsecm-system:vsecm-sentinel";
        assert!(judge(&status(ours, "pod-1", AUDIENCE), &sentinel()).is_ok());
        for bad in [
            status("vsecm-system:default", "pod-1", AUDIENCE),
            status("default:vsecm-sentinel", "pod-1", AUDIENCE),
            status(ours, "pod-2", AUDIENCE),
            status(ours, "pod-1", "kubernetes"),
            TokenReviewStatus { authenticated: Some(false), ..status(ours, "pod-1", AUDIENCE) },
            TokenReviewStatus::default(),
        ] {
            assert!(judge(&bad, &sentinel()).is_err(), "{bad:?}");
        }
        let agent = "spiffe://vsecm.com/vsecm-node-agent".parse().unwrap();
        assert!(judge(&status(ours, "pod-1", AUDIENCE), &agent).is_err());
    }

    #[test]
    fn what_is_wrong_with_a_token_is_said_in_words_of_our_own() {
        // as the API server 1.34 says it
        let audience = "[invalid bearer token, token audiences [\"x\"] is invalid for the target \
                        audiences [\"vsecm-safe\"]]";
        assert_eq!(unauthenticated(Some(audience)), "its audience is not vsecm-safe");
        let expired = "[invalid bearer token, service account token has expired]";
        assert_eq!(unauthenticated(Some(expired)), "it has expired");
        assert!(unauthenticated(Some("[invalid bearer token, eyJh]")).contains("does not know"));
    }

    #[test]
    fn only_the_token_with_this_digest_passes() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("digest");
        assert!(TokenDigest::new(file.clone()).is_err(), "no file");
        fs::write(&file, "zz").unwrap();
        assert!(TokenDigest::new(file.clone()).is_err(), "no digest");
        fs::write(&file, format!("{}\n", hex::encode(Sha256::digest("token")))).unwrap();
        let proof = TokenDigest::new(file).unwrap();
        assert!(proof.compare(Some("token")).is_ok());
        assert!(matches!(proof.compare(Some("")), Err(ProofError::Missing)));
        assert!(matches!(proof.compare(None), Err(ProofError::Missing)));
        assert!(matches!(proof.compare(Some("tokem")), Err(ProofError::Refused(_))));
    }
}
