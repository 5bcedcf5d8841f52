//! What became of each pair of workload and namespace.

use std::ops::AsyncFn;

use vsecm_safe_api::{name::SecretKey, position::Revision};

use crate::{command::Exit, failure::CallError, session::Session};

/// What was to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Put,
    Delete,
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Done {
    Registered(Revision),
    Deleted,
    NothingToDelete,
}

/// One pair, and what became of it.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) key: SecretKey,
    pub(crate) action: Action,
    pub(crate) result: Result<Done, CallError>,
}

/// Acts on the pairs in their order. Once Safe cannot be reached the rest is not tried: each try
/// would wait for the same deadline.
pub(crate) async fn each(
    action: Action,
    keys: Vec<SecretKey>,
    session: Result<Session, CallError>,
    act: impl AsyncFn(&Session, &SecretKey) -> Result<Done, CallError>,
) -> Vec<Outcome> {
    let mut way = session;
    let mut outcomes = Vec::with_capacity(keys.len());
    for key in keys {
        let result = match way {
            Ok(ref session) => act(session, &key).await,
            Err(error) => {
                way = Err(CallError::NotTried);
                Err(error)
            }
        };
        if let Err(error) = &result
            && error.exit() == Exit::Unreachable
        {
            way = Err(CallError::NotTried);
        }
        outcomes.push(Outcome { key, action, result });
    }
    outcomes
}

/// The exit code that says it.
pub(crate) fn exit(outcomes: &[Outcome]) -> Exit {
    let failed: Vec<Exit> = outcomes
        .iter()
        .filter_map(|outcome| outcome.result.as_ref().err().map(CallError::exit))
        .collect();
    match failed.as_slice() {
        [] => Exit::Done,
        some if some.len() < outcomes.len() => Exit::Partly,
        all if all.contains(&Exit::Refused) => Exit::Refused,
        _ => Exit::Unreachable,
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    fn outcome(result: Result<Done, CallError>) -> Outcome {
        Outcome { key: SecretKey::parse("default", "db").unwrap(), action: Action::Delete, result }
    }

    fn refused() -> CallError {
        CallError::Refused { code: Code::Internal, message: "no".to_owned() }
    }

    #[test]
    fn only_everything_done_is_0() {
        let done = || outcome(Ok(Done::Deleted));
        let nothing = || outcome(Ok(Done::NothingToDelete));
        assert_eq!(exit(&[done(), nothing()]), Exit::Done);
        assert_eq!(exit(&[done(), outcome(Err(refused()))]), Exit::Partly);
        assert_eq!(exit(&[done(), outcome(Err(CallError::NotTried))]), Exit::Partly);
    }

    #[test]
    fn where_nothing_was_done_a_refusal_is_1_and_silence_3() {
        assert_eq!(exit(&[outcome(Err(refused()))]), Exit::Refused);
        let unheard = outcome(Err(CallError::NotTried));
        assert_eq!(exit(&[unheard]), Exit::Unreachable);
        let unheard = outcome(Err(CallError::NotTried));
        assert_eq!(exit(&[outcome(Err(refused())), unheard]), Exit::Refused);
    }
}
