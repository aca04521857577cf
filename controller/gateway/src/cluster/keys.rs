//! The gateway's keys, which the operator makes at its first start.

use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use wisp_contract::assignment::Key;
use wisp_contract::keys::{Root, RootError};
use wisp_contract::log::chain;

use crate::watches::Pauses;

/// The operator makes the Secret within seconds of an installation, and until then nobody is served.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How often it is looked whether the Secret still holds the same: a gateway may read it, and not watch it.
const LOOKED_EVERY: Duration = Duration::from_secs(30);

/// What a gateway proves itself with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Keys {
    /// Makes the keys of the functions' data ports.
    pub(crate) data: Root,
    /// The operator's port's.
    pub(crate) operator: Key,
}

/// Why there are no keys yet.
#[derive(Debug, thiserror::Error)]
enum KeysError {
    #[error("the Secret `{0}` is not there yet: the operator makes it when it first starts")]
    Missing(String),
    #[error("the Secret `{0}` cannot be read")]
    Api(String, #[source] kube::Error),
    #[error("the Secret `{0}` has no key `{1}`")]
    NoKey(String, &'static str),
    #[error("the key `{1}` of the Secret `{0}` is not what the operator makes")]
    BadKey(String, &'static str, #[source] RootError),
}

/// Reads the Secret, as soon as it is there.
pub(crate) async fn wait(client: Client, namespace: &str, name: &str) -> Keys {
    let secrets = Api::<Secret>::namespaced(client, namespace);
    let mut pauses = Pauses::default();
    let mut told = String::new();
    loop {
        match read(&secrets, name).await {
            Ok(keys) => return keys,
            Err(error) => {
                let text = chain(&error);
                if text != told {
                    tracing::warn!(namespace, "{text}");
                    told = text;
                }
            }
        }
        let pause = pauses.next().unwrap_or(LONGEST_PAUSE);
        tokio::time::sleep(pause.min(LONGEST_PAUSE)).await;
    }
}

/// Ends once the Secret holds other keys than `keys`, as where the installation's secret was lost and made anew. Whoever has the
/// ones before is refused by the operator and by new replicas for ever. What can't be read is no other.
pub(crate) async fn replaced(client: Client, namespace: &str, name: &str, keys: &Keys) {
    let secrets = Api::<Secret>::namespaced(client, namespace);
    let is_other = async || {
        let now = read(&secrets, name).await;
        now.is_ok_and(|now| now != *keys)
    };
    loop {
        tokio::time::sleep(LOOKED_EVERY).await;
        // Not all gateways at once, which mostly began together: it is known to none of the others when one ends.
        if is_other().await {
            let [share, ..] = *uuid::Uuid::new_v4().as_bytes();
            tokio::time::sleep(LOOKED_EVERY * u32::from(share) / 256).await;
            if is_other().await {
                return;
            }
        }
    }
}

async fn read(secrets: &Api<Secret>, name: &str) -> Result<Keys, KeysError> {
    let secret = secrets
        .get_opt(name)
        .await
        .map_err(|error| KeysError::Api(name.to_owned(), error))?
        .ok_or_else(|| KeysError::Missing(name.to_owned()))?;
    of(&secret, name)
}

fn of(secret: &Secret, name: &str) -> Result<Keys, KeysError> {
    let text = |key: &'static str| {
        secret
            .data
            .as_ref()
            .and_then(|data| String::from_utf8(data.get(key)?.0.clone()).ok())
            .map(|text| text.trim().to_owned())
            .filter(|text| !text.is_empty())
            .ok_or_else(|| KeysError::NoKey(name.to_owned(), key))
    };
    Ok(Keys {
        data: Root::new(&text("data")?)
            .map_err(|error| KeysError::BadKey(name.to_owned(), "data", error))?,
        operator: Key(text("operator")?),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_secret_that_lacks_something_is_told_by_its_key() {
        let told = |data: serde_json::Value| {
            let secret: Secret =
                serde_json::from_value(json!({"stringData": {}, "data": data})).unwrap();
            of(&secret, "wisp-gateway").map_or_else(|error| chain(&error), |_| String::new())
        };
        // base64 of 32 and of 4 letters.
        let (long, short) = ("YWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWE=", "YWFhYQ==");
        assert_eq!(told(json!({"data": long, "operator": short})), "");
        assert!(told(json!({"operator": short})).contains("no key `data`"));
        assert!(told(json!({"data": long})).contains("no key `operator`"));
        assert!(told(json!({"data": long, "operator": ""})).contains("no key `operator`"));
        assert!(told(json!({"data": short, "operator": short})).contains("too short"));
    }
}
