//! `safe -w NAME -d`: deletes in the given namespaces only.

use std::io;

use vsecm_safe_api::name::SecretKey;

use super::{Context, Exit};
use crate::{
    outcome::{Action, Done, each},
    output,
    session::Session,
};

#[derive(Debug)]
pub(crate) struct Delete {
    pub(super) keys: Vec<SecretKey>,
}

impl Delete {
    pub(super) async fn run(self, context: Context<'_>) -> io::Result<Exit> {
        let session = Session::open(&context.config, &context.correlation).await;
        let outcomes =
            each(Action::Delete, self.keys, session.map_err(Into::into), async |session, key| {
                Ok(if session.delete(key).await? { Done::Deleted } else { Done::NothingToDelete })
            })
            .await;
        output::outcomes(context, &outcomes)
    }
}
