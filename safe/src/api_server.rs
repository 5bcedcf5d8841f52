//! What goes wrong between Safe and the Kubernetes API server, in words that hold nothing of a body:
//! an answer may have the root key in it, or sentinel's token ([I7]).

use kube::core::Status;
use vsecm_safe_api::client::chain;

/// Characters of what the API server says: a proxy before it may answer with a page.
const SAID_LIMIT: usize = 300;

/// Why a call has no result.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// RBAC.
    Forbidden(String),
    /// The API server refuses it for another reason.
    Refused(String),
    /// No answer, or none that is understood.
    Unreachable(String),
}

impl From<&kube::Error> for Failure {
    fn from(error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if matches!(status.code, 401 | 403) => {
                Self::Forbidden(said(status))
            }
            kube::Error::Api(status) => Self::Refused(said(status)),
            // the parsers' words quote what they do not understand
            kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) => {
                Self::Unreachable("its answer is not understood".to_owned())
            }
            other => Self::Unreachable(chain(other)),
        }
    }
}

fn said(status: &Status) -> String {
    status.message.chars().take(SAID_LIMIT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_role_is_told_from_a_missing_api_server() {
        let of = |code| {
            let status = Status::failure(&"no".repeat(999), "reason").with_code(code);
            Failure::from(&kube::Error::Api(status.boxed()))
        };
        let short = "no".repeat(SAID_LIMIT / 2);
        assert_eq!(of(403), Failure::Forbidden(short.clone()));
        assert_eq!(of(401), Failure::Forbidden(short.clone()));
        assert_eq!(of(500), Failure::Refused(short));
    }

    #[test]
    fn what_is_not_understood_is_not_quoted() {
        let error = serde_json::from_str::<u8>("\"canary\"").unwrap_err();
        assert!(error.to_string().contains("canary"), "{error}");
        let Failure::Unreachable(said) = Failure::from(&kube::Error::SerdeError(error)) else {
            unreachable!()
        };
        assert!(!said.contains("canary"), "{said}");
    }
}
