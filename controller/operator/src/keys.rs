//! The installation's one secret: made at the first start, never overwritten; and what gateways are told of it, which follows it.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use uuid::Uuid;
use wisp_contract::keys::{Root, RootError};
use wisp_contract::log::chain;

use crate::names::{DATA_KEY, GATEWAY_SECRET, KEYS_SECRET, MANAGER, OPERATOR_KEY, ROOT_KEY};

/// Why there is no secret.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The API server refused.
    #[error("the Secret {namespace}/{name} can't be read or made")]
    Api {
        /// Where.
        namespace: String,
        /// Which.
        name: &'static str,
        /// Why.
        source: kube::Error,
    },
    /// What is there is none.
    #[error(
        "the Secret {namespace}/{KEYS_SECRET} has no key `{ROOT_KEY}` with the installation's secret"
    )]
    Missing {
        /// Where.
        namespace: String,
    },
    /// What is there is too short.
    #[error("the key `{ROOT_KEY}` of the Secret {namespace}/{KEYS_SECRET} can't be used")]
    Short {
        /// Where.
        namespace: String,
        /// Why.
        source: RootError,
    },
}

/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// And the first one.
const SHORTEST_PAUSE: Duration = Duration::from_millis(200);

/// The installation's secret, as [`load`] has it, as soon as the API server can be asked.
///
/// # Errors
/// When what is there is none.
pub async fn wait(client: &Client, namespace: &str) -> Result<Root, KeysError> {
    let mut pause = SHORTEST_PAUSE;
    loop {
        match load(client, namespace).await {
            Err(error @ KeysError::Api { .. }) => {
                tracing::warn!(error = %chain(&error), "the installation's secret can't be had yet");
            }
            other => return other,
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Reads the installation's secret, or makes it, and that of the gateways, where there is none.
///
/// # Errors
/// When the API server refuses, or what is there is none.
pub async fn load(client: &Client, namespace: &str) -> Result<Root, KeysError> {
    let api = Api::<Secret>::namespaced(client.clone(), namespace);
    let fresh = BTreeMap::from([(
        ROOT_KEY,
        format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple()),
    )]);
    let secret = get_or_create(&api, namespace, KEYS_SECRET, fresh).await?;
    let missing = || KeysError::Missing {
        namespace: namespace.to_owned(),
    };
    let bytes = secret
        .data
        .iter()
        .flatten()
        .find(|(key, _)| *key == ROOT_KEY)
        .ok_or_else(missing)?;
    let text = String::from_utf8(bytes.1.0.clone()).map_err(|_| missing())?;
    let root = Root::new(&text).map_err(|source| KeysError::Short {
        namespace: namespace.to_owned(),
        source,
    })?;
    get_or_create(&api, namespace, GATEWAY_SECRET, for_gateways(&root)).await?;
    Ok(root)
}

/// Sees to it that gateways are told the keys of `root`, for whoever leads: after `wisp-keys` was lost alone, nothing would answer
/// those that have the keys of the one before, and a standby's are nobody's yet. Tries until the API server lets it.
pub async fn tell(client: &Client, namespace: &str, root: &Root) {
    let mut pause = SHORTEST_PAUSE;
    while let Err(error) = try_tell(client, namespace, root).await {
        tracing::warn!(error = %chain(&error), "the gateways' keys can't be looked at yet");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn try_tell(client: &Client, namespace: &str, root: &Root) -> Result<(), KeysError> {
    let api = Api::<Secret>::namespaced(client.clone(), namespace);
    let derived = for_gateways(root);
    let told = get_or_create(&api, namespace, GATEWAY_SECRET, derived.clone()).await?;
    let Some(patch) = differing(&told, &derived) else {
        return Ok(());
    };
    tracing::warn!(
        secret = GATEWAY_SECRET,
        "the gateways were told other keys than the installation's secret makes: they are told these"
    );
    let parameters = PatchParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PatchParams::default()
    };
    let patched = api
        .patch(GATEWAY_SECRET, &parameters, &Patch::Merge(patch))
        .await;
    patched.map_err(|source| KeysError::Api {
        namespace: namespace.to_owned(),
        name: GATEWAY_SECRET,
        source,
    })?;
    Ok(())
}

fn for_gateways(root: &Root) -> BTreeMap<&'static str, String> {
    BTreeMap::from([
        (DATA_KEY, root.data().reveal()),
        (OPERATOR_KEY, root.operator().0),
    ])
}

/// What is to be changed of a Secret for it to hold `values`, if anything.
fn differing(secret: &Secret, values: &BTreeMap<&str, String>) -> Option<serde_json::Value> {
    let data = secret.data.as_ref();
    let holds = |(key, value): (&&str, &String)| {
        data.and_then(|data| data.get(*key))
            .is_some_and(|held| held.0 == value.as_bytes())
    };
    (!values.iter().all(holds)).then(|| {
        let data = values
            .iter()
            .map(|(key, value)| ((*key).to_owned(), ByteString(value.clone().into_bytes())));
        json!({"data": data.collect::<BTreeMap<_, _>>()})
    })
}

async fn get_or_create(
    api: &Api<Secret>,
    namespace: &str,
    name: &'static str,
    values: BTreeMap<&str, String>,
) -> Result<Secret, KeysError> {
    let failed = |source| KeysError::Api {
        namespace: namespace.to_owned(),
        name,
        source,
    };
    if let Some(secret) = api.get_opt(name).await.map_err(failed)? {
        return Ok(secret);
    }
    let data = values
        .into_iter()
        .map(|(key, value)| (key.to_owned(), ByteString(value.into_bytes())));
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(BTreeMap::from([(
                "app.kubernetes.io/managed-by".to_owned(),
                MANAGER.to_owned(),
            )])),
            ..ObjectMeta::default()
        },
        data: Some(data.collect()),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    };
    match api.create(&PostParams::default(), &secret).await {
        // Another was quicker: theirs counts.
        Err(kube::Error::Api(status)) if status.code == 409 => api.get(name).await.map_err(failed),
        other => other.map_err(failed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would fail if gateways kept what a lost secret made, lacked one of the keys, or were written to at every start.
    #[test]
    fn what_gateways_are_told_follows_the_secret() {
        let values = BTreeMap::from([
            (DATA_KEY, "new".to_owned()),
            (OPERATOR_KEY, "op".to_owned()),
        ]);
        let secret = |data: serde_json::Value| -> Secret {
            serde_json::from_value(json!({"data": data})).unwrap()
        };
        // base64 of new, op and old.
        let whole = json!({"data": "bmV3", "operator": "b3A="});
        assert_eq!(differing(&secret(whole.clone()), &values), None);
        let patch = Some(json!({"data": whole}));
        for held in [
            json!({"data": "b2xk", "operator": "b3A="}),
            json!({"data": "bmV3"}),
            json!({}),
        ] {
            assert_eq!(differing(&secret(held.clone()), &values), patch, "{held}");
        }
        assert_eq!(differing(&Secret::default(), &values), patch);
    }
}
