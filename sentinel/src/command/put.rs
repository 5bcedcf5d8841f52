//! `safe -w NAME -s -`: registers a value.

use std::io;

use vsecm_safe_api::{client::chain, name::SecretKey, state::Format};

use super::{Context, Exit};
use crate::{
    input::Source,
    outcome::{Action, Done, each},
    output,
    session::Session,
    validity::Validity,
};

#[derive(Debug)]
pub(crate) struct Put {
    pub(super) keys: Vec<SecretKey>,
    pub(super) source: Source,
    pub(super) format: Format,
    pub(super) validity: Validity,
}

impl Put {
    pub(super) async fn run(self, context: Context<'_>) -> io::Result<Exit> {
        let Self { keys, source, format, validity } = self;
        source.remark(context.err)?;
        let value = match source.read() {
            Ok(value) => value,
            Err(error) => {
                writeln!(context.err, "safe: {}", chain(&error))?;
                return Ok(Exit::Usage);
            }
        };
        let session = Session::open(&context.config, &context.correlation).await;
        let outcomes =
            each(Action::Put, keys, session.map_err(Into::into), async |session, key| {
                let revision = session.put(key, &value, format, validity).await?;
                Ok(Done::Registered(revision))
            })
            .await;
        output::outcomes(context, &outcomes)
    }
}
