//! Whether the signature policy lets something be used.

use wisp_artifacts::{Credentials, Demand, Error, Fetcher, Reference, Store};

use super::{ArtifactError, Origin};
use crate::signatures::{Policy, Verdict};

/// Refuses what the policy refuses. Gives an image that must be signed by the digest under which it is.
pub(super) async fn admit(
    policy: &Policy,
    namespace: &str,
    origin: Origin<'_>,
    fetcher: &Fetcher,
    store: &Store,
) -> Result<Option<String>, ArtifactError> {
    // Nodes take references that nothing here has to understand.
    if policy.is_empty() {
        return Ok(None);
    }
    let (reference, credentials) = match origin {
        Origin::Other(what) => return judge(policy.other(namespace, what)).map(|_| None),
        Origin::Image {
            reference,
            credentials,
        } => (reference, credentials),
    };
    let image: Reference = reference.parse()?;
    let verdict = judge(policy.image(namespace, &image))?;
    let demands = verdict.demands();
    let Some(first) = demands.first() else {
        return Ok(None);
    };
    let credentials = logins(credentials)?;
    let sha256 = fetcher
        .on_behalf_of(namespace)
        .verify(&image, &demands, &credentials, store)
        .await
        .map_err(|error| unverified(&error, first))?;
    Ok(Some(image.pinned(&sha256).to_string()))
}

fn judge(verdict: Verdict<'_>) -> Result<Verdict<'_>, ArtifactError> {
    match verdict {
        Verdict::Refused(message) => Err(ArtifactError {
            reason: "PolicyDenied",
            message,
            is_transient: false,
            retry_after: None,
        }),
        other => Ok(other),
    }
}

/// Says who wants to know, where the error doesn't.
fn unverified(error: &Error, demand: &Demand<'_>) -> ArtifactError {
    let message = match error {
        Error::NotSigned { .. } | Error::Untrusted { .. } => error.sentence(),
        _ => format!(
            "the signature that {} demands can't be verified: {}",
            demand.by,
            error.sentence()
        ),
    };
    ArtifactError {
        reason: error.reason(),
        message,
        is_transient: error.is_transient(),
        retry_after: error.retry_after(),
    }
}

/// The logins of Secrets of type kubernetes.io/dockerconfigjson.
pub(super) fn logins(secrets: &[Vec<u8>]) -> Result<Credentials, Error> {
    let mut logins = Credentials::default();
    for json in secrets {
        logins.add_docker_config(json)?;
    }
    Ok(logins)
}
