//! Makes the cluster have the objects that a Function is made of.

mod replicas;

use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{ControllerRevision, Deployment};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use wisp_api::{Function, RuntimePool};
use wisp_contract::log::chain;

use super::desired::Desired;
use super::due;
use crate::names::{self, MANAGER, Ownership};
use crate::pool::is_refusal;

/// Why the objects can't be made.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The API server refused one.
    #[error("the {kind} {name} can't be {done}")]
    Api {
        /// What was to be done with it.
        done: &'static str,
        /// Its kind.
        kind: String,
        /// Its name.
        name: String,
        /// Why.
        source: Box<kube::Error>,
    },
    /// It is there, and somebody else's.
    #[error("there is a {kind} {name} already that isn't this function's: it is left alone")]
    Foreign {
        /// Its kind.
        kind: String,
        /// Its name.
        name: String,
    },
    /// It is there, of a function of the same name that was deleted.
    #[error("the {kind} {name} of a function that was deleted is still there")]
    Leftover {
        /// Its kind.
        kind: String,
        /// Its name.
        name: String,
    },
}

/// Whether a function has the Service of its name. Without it, it is reached by its URL and hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceName {
    /// It has.
    Held,
    /// That is somebody else's.
    Taken,
    /// The API server wants none there, and says why: a quota has no room, or a policy is against it.
    Refused(String),
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// The Deployment's generation.
    pub generation: Option<i64>,
    /// Its [`shape`](super::due::shape).
    pub shape: u64,
    /// What came of the Service.
    pub service: ServiceName,
}

/// Makes the objects, or has them again as they should be. `number` orders the revision after others; a Deployment that
/// is new begins with `replicas`, and from then on only its scale is set.
///
/// # Errors
/// When the API server refuses, or an object is somebody else's. That the Service is, or is refused, is no error.
pub async fn apply(
    client: &Client,
    function: &Function,
    desired: &Desired,
    number: i64,
    replicas: u32,
) -> Result<Applied, ApplyError> {
    let apply = Apply {
        client,
        owner: function,
    };
    let service = match apply.object(&desired.service).await {
        Ok(_) => ServiceName::Held,
        Err(ApplyError::Foreign { .. }) => ServiceName::Taken,
        Err(ApplyError::Api { source, .. }) if is_refusal(&source) => {
            ServiceName::Refused(chain(&*source))
        }
        Err(error) => return Err(error),
    };
    let name = names::policy(&function.name_any());
    apply.policy(desired.policy.as_ref(), &name).await?;
    let mut record = desired.record.clone();
    record.revision = Some(number);
    apply.object(&record).await?;
    apply.object(&desired.secret).await?;
    let deployment = apply.deployment(&desired.deployment, replicas).await?;
    Ok(Applied {
        generation: deployment.metadata.generation,
        shape: due::shape(&deployment),
        service,
    })
}

/// Makes a pool's objects, as [`apply`] does a function's.
///
/// # Errors
/// When the API server refuses, or an object is somebody else's.
pub async fn apply_pool(
    client: &Client,
    pool: &RuntimePool,
    policy: Option<&NetworkPolicy>,
    secret: &Secret,
    deployment: &Deployment,
    replicas: u32,
) -> Result<(), ApplyError> {
    let apply = Apply {
        client,
        owner: pool,
    };
    let name = names::pool_policy(&pool.name_any());
    apply.policy(policy, &name).await?;
    apply.object(secret).await?;
    apply.deployment(deployment, replicas).await.map(drop)
}

struct Apply<'a, O> {
    client: &'a Client,
    owner: &'a O,
}

impl<O: Resource<DynamicType = ()>> Apply<'_, O> {
    async fn object<K>(&self, object: &K) -> Result<K, ApplyError>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Debug
            + Serialize
            + DeserializeOwned,
    {
        self.may_write(object).await?;
        let parameters = PatchParams::apply(MANAGER).force();
        let result = self
            .api::<K>()
            .patch(&object.name_any(), &parameters, &Patch::Apply(object))
            .await;
        result.map_err(|error| failed::<K>("applied", &object.name_any(), error))
    }

    /// The policy, or that there is none of that name where none is wanted.
    async fn policy(&self, policy: Option<&NetworkPolicy>, name: &str) -> Result<(), ApplyError> {
        match policy {
            Some(policy) => self.object(policy).await.map(drop),
            None => self.remove::<NetworkPolicy>(name).await,
        }
    }

    /// Removes one that the owner had and needs no more. Somebody else's of that name stays.
    async fn remove<K>(&self, name: &str) -> Result<(), ApplyError>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Debug
            + DeserializeOwned,
    {
        let api = self.api::<K>();
        let failed = |error| failed::<K>("removed", name, error);
        let found = api.get_metadata_opt(name).await;
        let Some(found) = found.map_err(failed)? else {
            return Ok(());
        };
        if names::ownership(self.owner, &found.metadata) != Ownership::Ours {
            return Ok(());
        }
        let parameters = DeleteParams {
            preconditions: Some(Preconditions {
                uid: found.uid(),
                ..Preconditions::default()
            }),
            ..DeleteParams::background()
        };
        match api.delete(name, &parameters).await {
            // It is no more, or another's.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            other => other.map(drop).map_err(failed),
        }
    }

    /// What is there by the object's name already, if it is the owner's.
    async fn may_write<K>(&self, object: &K) -> Result<Option<ObjectMeta>, ApplyError>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Debug
            + Serialize
            + DeserializeOwned,
    {
        let name = object.name_any();
        let found = self.api::<K>().get_metadata_opt(&name).await;
        let Some(found) = found.map_err(|error| failed::<K>("applied", &name, error))? else {
            return Ok(None);
        };
        let kind = K::kind(&()).into_owned();
        match names::ownership(self.owner, &found.metadata) {
            Ownership::Ours => Ok(Some(found.metadata)),
            Ownership::Leftover => Err(ApplyError::Leftover { kind, name }),
            Ownership::Foreign => Err(ApplyError::Foreign { kind, name }),
        }
    }

    fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(
            self.client.clone(),
            &self.owner.namespace().unwrap_or_default(),
        )
    }
}

fn failed<K: Resource<DynamicType = ()>>(
    done: &'static str,
    name: &str,
    source: kube::Error,
) -> ApplyError {
    ApplyError::Api {
        done,
        kind: K::kind(&()).into_owned(),
        name: name.to_owned(),
        source: Box::new(source),
    }
}

/// Removes a revision of `function` with its pods: what of that name is the function's.
///
/// # Errors
/// When the API server refuses.
pub async fn remove(
    client: &Client,
    function: &Function,
    revision: &str,
) -> Result<(), ApplyError> {
    let apply = Apply {
        client,
        owner: function,
    };
    apply.remove::<Deployment>(revision).await?;
    apply.remove::<Secret>(revision).await?;
    // The last: by it the others are found.
    apply.remove::<ControllerRevision>(revision).await
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use serde_json::json;

    use super::*;
    use crate::api_server::{self, refusal};
    use crate::live::lock;

    /// Would fail if a policy that the installation doesn't want any more went on keeping clients away, or somebody else's
    /// were taken away.
    #[tokio::test]
    async fn what_the_function_had_is_removed_and_nothing_else() {
        let mut function = Function::new("f", Default::default());
        function.metadata.namespace = Some("n".to_owned());
        function.metadata.uid = Some("u".to_owned());
        for (owner, expected) in [("u", 2), ("other", 1)] {
            let asked = Arc::new(Mutex::new(Vec::new()));
            let remembered = Arc::clone(&asked);
            let mut theirs = function.clone();
            theirs.metadata.uid = Some(owner.to_owned());
            let metadata = names::owned(&theirs, "wisp-f", names::labels("f"));
            let client = api_server::client(move |asked, _| {
                lock(&remembered).push(asked.to_owned());
                match asked.starts_with("GET") {
                    true => (
                        200,
                        json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata}),
                    ),
                    false => refusal(404),
                }
            });
            let apply = Apply {
                client: &client,
                owner: &function,
            };
            apply.remove::<NetworkPolicy>("wisp-f").await.unwrap();
            let policy = "/apis/networking.k8s.io/v1/namespaces/n/networkpolicies/wisp-f";
            let all = [format!("GET {policy}"), format!("DELETE {policy}")];
            assert_eq!(*lock(&asked), all[..expected]);
        }
    }

    /// Would fail if a revision's name were enough to have anybody's Deployment or Secret deleted, or one that was made anew
    /// under that name meanwhile.
    #[tokio::test]
    async fn of_a_revision_goes_what_is_the_functions_alone() {
        let mut function = Function::new("f", Default::default());
        function.metadata.namespace = Some("n".to_owned());
        function.metadata.uid = Some("u".to_owned());
        let ours = names::owned(&function, "database", names::labels("f"));
        let deleted = Arc::new(Mutex::new(Vec::new()));
        let remembered = Arc::clone(&deleted);
        let client = api_server::client(move |asked, sent| {
            if !asked.starts_with("GET") {
                let uid = sent["preconditions"]["uid"].clone();
                let policy = sent["propagationPolicy"].clone();
                lock(&remembered).push(format!("{asked} {uid} {policy}"));
                return refusal(404);
            }
            let mut metadata = ours.clone();
            metadata.uid = Some("x".to_owned());
            // It is somebody's who is no function.
            if asked.contains("/secrets/") {
                metadata.owner_references = None;
            }
            (
                200,
                json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata}),
            )
        });
        remove(&client, &function, "database").await.unwrap();
        let in_apps = |kind: &str| {
            format!("DELETE /apis/apps/v1/namespaces/n/{kind}/database \"x\" \"Background\"")
        };
        let expected = ["deployments", "controllerrevisions"].map(in_apps);
        assert_eq!(*lock(&deleted), expected);
    }
}
