//! The way to Safe: mutual TLS, the second proof, a correlation id, a deadline.

use std::{fmt, fs, io, path::Path, sync::Arc, time::Duration};

use spiffe::{X509Source, x509_source::X509SourceError};
use tonic::{Code, Request, Status, metadata::AsciiMetadataValue, transport::Channel};
use vsecm_safe_api::{
    client::{self, chain},
    metadata::{ADMIN_TOKEN, CORRELATION_ID},
    name::SecretKey,
    position::Revision,
    proto::{self, admin_client::AdminClient},
    state::Format,
    value::SecretValue,
    wire::timestamp,
};
use zeroize::Zeroizing;

use crate::{
    config::Config,
    failure::{CallError, SessionError},
    identity::{OwnIdentity, is_missing},
    validity::Validity,
};

/// An answer of Safe takes milliseconds; after this its loss is certain enough.
const DEADLINE: Duration = Duration::from_secs(30);

/// A list of the 100,000 secrets that Safe is built for, with the longest names.
const LIST_LIMIT: usize = 64 * 1024 * 1024;

/// What spiffe-rustls (pinned) says of a server whose SPIFFE ID is not Safe's.
const NOT_AUTHORIZED: &str = "peer SPIFFE ID is not authorized: ";

/// Follows this command through the logs of every process.
#[derive(Clone, Debug)]
pub(crate) struct CorrelationId(String);

impl CorrelationId {
    pub(crate) fn random() -> io::Result<Self> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(|e| io::Error::other(e.to_string()))?;
        Ok(Self(hex::encode(bytes)))
    }
}

impl fmt::Display for CorrelationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A channel to Safe with what each request carries.
#[derive(Debug)]
pub(crate) struct Session {
    admin: AdminClient<Channel>,
    token: AsciiMetadataValue,
    correlation: CorrelationId,
    address: String,
    deadline: Duration,
}

impl Session {
    /// Gets an identity and prepares the channel, which dials at the first call.
    pub(crate) async fn open(
        config: &Config,
        correlation: &CorrelationId,
    ) -> Result<Self, SessionError> {
        let token = token(&config.token_file)?;
        let source = identity(config).await?;
        let tls = client::tls_config(source, config.trust_domain.clone(), config.safe.clone())?;
        let channel = client::channel(&config.address, Arc::new(tls))?;
        let address = config.address.to_string();
        Ok(Self::over(channel, token, correlation.clone(), address))
    }

    fn over(
        channel: Channel,
        token: AsciiMetadataValue,
        correlation: CorrelationId,
        address: String,
    ) -> Self {
        Self {
            admin: AdminClient::new(channel).max_decoding_message_size(LIST_LIMIT),
            token,
            correlation,
            address,
            deadline: DEADLINE,
        }
    }

    /// Registers the value under `key`.
    pub(crate) async fn put(
        &self,
        key: &SecretKey,
        value: &SecretValue,
        format: Format,
        validity: Validity,
    ) -> Result<Revision, CallError> {
        let request = self.request(proto::PutRequest {
            key: Some(key.into()),
            // tonic owns this copy and does not wipe it: the process ends soon and cannot be dumped
            value: value.expose().to_vec(),
            format: proto::Format::from(format).into(),
            not_before: validity.not_before.map(timestamp),
            expires: validity.expires.map(timestamp),
        });
        let response = self.answer(self.admin.clone().put(request)).await?;
        Ok(Revision(response.revision))
    }

    /// Deletes what is under `key`; says whether there was something.
    pub(crate) async fn delete(&self, key: &SecretKey) -> Result<bool, CallError> {
        let request = self.request(proto::DeleteRequest { key: Some(key.into()) });
        let response = self.answer(self.admin.clone().delete(request)).await?;
        Ok(response.existed)
    }

    /// What is registered.
    pub(crate) async fn list(&self) -> Result<Vec<proto::Item>, CallError> {
        let request = self.request(proto::ListRequest {});
        let response = self.answer(self.admin.clone().list(request)).await?;
        Ok(response.items)
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.deadline);
        let metadata = request.metadata_mut();
        metadata.insert(ADMIN_TOKEN, self.token.clone());
        // hexadecimal digits are always ASCII
        if let Ok(correlation) = AsciiMetadataValue::try_from(self.correlation.0.as_str()) {
            metadata.insert(CORRELATION_ID, correlation);
        }
        request
    }

    async fn answer<T>(
        &self,
        call: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Result<T, CallError> {
        match tokio::time::timeout(self.deadline, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(self.error(&status)),
            Err(_elapsed) => Err(self.silent()),
        }
    }

    fn silent(&self) -> CallError {
        CallError::Silent { address: self.address.clone(), deadline: self.deadline }
    }

    fn error(&self, status: &Status) -> CallError {
        let address = self.address.clone();
        // a status with a source was made here, by the transport; Safe's own has none
        let cause = match std::error::Error::source(status) {
            Some(source) => chain(source),
            None => status.message().to_owned(),
        };
        if let Some((_, met)) = cause.split_once(NOT_AUTHORIZED) {
            let cause = format!("it has the identity {met}");
            return CallError::Impostor { address, cause };
        }
        let is_local = std::error::Error::source(status).is_some();
        match status.code() {
            Code::DeadlineExceeded | Code::Cancelled => self.silent(),
            _ if is_local => CallError::Unreachable { address, cause },
            // Safe was reached and says itself why not, as when its disk is full
            Code::Unavailable => CallError::Unable(cause),
            code => CallError::Refused { code, message: cause },
        }
    }
}

fn token(path: &Path) -> Result<AsciiMetadataValue, SessionError> {
    let bytes =
        fs::read(path).map_err(|source| SessionError::Token { path: path.to_owned(), source })?;
    let bytes = Zeroizing::new(bytes);
    let refused = || SessionError::TokenText(path.to_owned());
    let text = bytes.trim_ascii();
    if text.is_empty() || !text.iter().all(u8::is_ascii_graphic) {
        return Err(refused());
    }
    let mut token = AsciiMetadataValue::try_from(text).map_err(|_invalid| refused())?;
    token.set_sensitive(true);
    Ok(token)
}

async fn identity(config: &Config) -> Result<X509Source, SessionError> {
    let workload_api = || config.workload_api.clone();
    let failed = |error: X509SourceError| match error {
        X509SourceError::InitialSyncTimeout => SessionError::NoIdentity {
            timeout: config.identity_timeout,
            state: if is_missing(&config.workload_api) {
                "its socket does not exist"
            } else {
                "its agent does not answer, or has no entry for this process"
            },
            workload_api: workload_api(),
        },
        other => SessionError::WorkloadApi { workload_api: workload_api(), cause: chain(&other) },
    };
    let source = X509Source::builder()
        .endpoint(&config.workload_api)
        .initial_sync_timeout(config.identity_timeout)
        .picker(OwnIdentity::new(config.sentinel.clone()))
        .build()
        .await
        .map_err(failed)?;
    let svid = source.svid().map_err(failed)?;
    // without this, Safe's end of the handshake would fail with a riddle
    if *svid.spiffe_id().trust_domain() != config.trust_domain {
        return Err(SessionError::ForeignIdentity {
            id: svid.spiffe_id().clone(),
            expected: config.trust_domain.clone(),
        });
    }
    Ok(source)
}

#[cfg(test)]
mod tests;
