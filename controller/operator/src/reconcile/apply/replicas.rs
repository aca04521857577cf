//! A Deployment, the number of whose replicas has another writer than all else of it.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{FieldsV1, ManagedFieldsEntry, ObjectMeta};
use kube::api::{Patch, PatchParams};
use kube::{Resource, ResourceExt as _};
use serde_json::{Map, Value, json};

use super::{Apply, ApplyError, failed};
use crate::names::{MANAGER, SCALER};

impl<O: Resource<DynamicType = ()>> Apply<'_, O> {
    /// Applies it. One that is new begins with `replicas`, which is who scales' from then on: what is applied once and then left
    /// out falls back to one replica, unless another says it, too.
    pub(super) async fn deployment(
        &self,
        deployment: &Deployment,
        replicas: u32,
    ) -> Result<Deployment, ApplyError> {
        let name = deployment.name_any();
        if let Some(found) = self.may_write(deployment).await? {
            if is_half_made(found.managed_fields.as_deref().unwrap_or_default()) {
                let made = self.api::<Deployment>().get(&name).await;
                let made = made.map_err(|error| failed::<Deployment>("applied", &name, error))?;
                self.number(&name, made.spec.replicas).await?;
            }
            self.hand_over(&found).await?;
            return self.object(deployment).await;
        }
        let mut first = deployment.clone();
        first.spec.replicas = i32::try_from(replicas).ok();
        let made = self.object(&first).await?;
        let numbered = self.number(&name, first.spec.replicas).await?;
        Ok(numbered.unwrap_or(made))
    }

    /// Has who scales write the number of replicas that there is; `None` where they set another meanwhile, which stays.
    async fn number(
        &self,
        name: &str,
        replicas: Option<i32>,
    ) -> Result<Option<Deployment>, ApplyError> {
        let number = json!({
            "apiVersion": Deployment::api_version(&()), "kind": Deployment::kind(&()),
            "spec": {"replicas": replicas},
        });
        let parameters = PatchParams::apply(SCALER);
        let changed = self.change(name, &parameters, &Patch::Apply(&number)).await;
        match changed {
            Err(ApplyError::Api { source, .. }) if matches!(&*source, kube::Error::Api(status) if status.code == 409) => {
                Ok(None)
            }
            changed => changed.map(Some),
        }
    }

    /// Has who scales write the number of replicas alone: what it is said to write beside that, as where one request made the
    /// Deployment with its number, would stay when the spec doesn't say it any more.
    async fn hand_over(&self, found: &ObjectMeta) -> Result<(), ApplyError> {
        let Some(writers) = handed_over(found.managed_fields.as_deref().unwrap_or_default()) else {
            return Ok(());
        };
        let name = found.name.as_deref().unwrap_or_default();
        // Nobody else's word in between is lost.
        let patch = json!({"metadata": {
            "managedFields": writers, "resourceVersion": found.resource_version, "uid": found.uid,
        }});
        self.change(name, &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .map(drop)
    }

    async fn change(
        &self,
        name: &str,
        parameters: &PatchParams,
        patch: &Patch<&Value>,
    ) -> Result<Deployment, ApplyError> {
        let changed = self
            .api::<Deployment>()
            .patch(name, parameters, patch)
            .await;
        changed.map_err(|error| failed::<Deployment>("applied", name, error))
    }
}

/// Whether its making broke off before [`SCALER`] had said its number of replicas: [`MANAGER`]'s saying it no more would have
/// it fall to one.
fn is_half_made(writers: &[ManagedFieldsEntry]) -> bool {
    let says_number = |entry: &ManagedFieldsEntry| {
        let fields = entry.fields_v1.as_ref();
        fields.is_some_and(|FieldsV1(fields)| fields.pointer("/f:spec/f:replicas").is_some())
    };
    let of = |manager: &'static str| {
        let is_of = move |entry: &&ManagedFieldsEntry| entry.manager.as_deref() == Some(manager);
        writers.iter().filter(is_of)
    };
    of(MANAGER).any(says_number) && !of(SCALER).any(says_number)
}

/// Who writes what, where all but the number of replicas that [`SCALER`] wrote is as if [`MANAGER`] had applied it; `None`
/// where it wrote nothing else.
fn handed_over(writers: &[ManagedFieldsEntry]) -> Option<Vec<ManagedFieldsEntry>> {
    let is = |entry: &ManagedFieldsEntry, manager: &str, operation: &str| {
        entry.manager.as_deref() == Some(manager)
            && entry.operation.as_deref() == Some(operation)
            && entry.subresource.is_none()
    };
    let mut next = writers.to_vec();
    let scaler = next.iter_mut().find(|entry| is(entry, SCALER, "Update"))?;
    let FieldsV1(Value::Object(mut rest)) = scaler.fields_v1.clone()? else {
        return None;
    };
    let replicas = take_replicas(&mut rest);
    if rest.is_empty() {
        return None;
    }
    let manager = ManagedFieldsEntry {
        manager: Some(MANAGER.to_owned()),
        operation: Some("Apply".to_owned()),
        fields_v1: Some(FieldsV1(Value::Object(rest.clone()))),
        ..scaler.clone()
    };
    scaler.fields_v1 = Some(FieldsV1(json!({"f:spec": {"f:replicas": {}}})));
    if !replicas {
        next.retain(|entry| !is(entry, SCALER, "Update"));
    }
    let before = next.iter_mut().find(|entry| is(entry, MANAGER, "Apply"));
    match before.and_then(|entry| entry.fields_v1.as_mut()) {
        Some(FieldsV1(Value::Object(fields))) => join(fields, rest),
        _ => next.push(manager),
    }
    Some(next)
}

/// Takes the number of replicas out of what somebody writes; returns whether it was there.
fn take_replicas(fields: &mut Map<String, Value>) -> bool {
    let Some(Value::Object(spec)) = fields.get_mut("f:spec") else {
        return false;
    };
    let was_there = spec.remove("f:replicas").is_some();
    if spec.is_empty() {
        fields.remove("f:spec");
    }
    was_there
}

/// Puts all of `more` to `fields`.
fn join(fields: &mut Map<String, Value>, more: Map<String, Value>) {
    for (key, more) in more {
        match (fields.get_mut(&key), more) {
            (Some(Value::Object(fields)), Value::Object(more)) => join(fields, more),
            (_, more) => drop(fields.insert(key, more)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::{Arc, Mutex};

    use wisp_api::RuntimePool;

    use super::*;
    use crate::api_server::{self, refusal};
    use crate::live::lock;
    use crate::names;
    use crate::reconcile::desired::replicated;

    fn pool() -> RuntimePool {
        let mut pool = RuntimePool::new("p", Default::default());
        pool.metadata.namespace = Some("n".to_owned());
        pool.metadata.uid = Some("u".to_owned());
        pool
    }

    fn deployment(pool: &RuntimePool) -> Deployment {
        Deployment {
            metadata: names::owned(pool, "wisp-pool-p", names::pool_labels("p")),
            spec: replicated(
                [("a".to_owned(), "b".to_owned())].into(),
                Default::default(),
            ),
            status: None,
        }
    }

    /// What is asked, each with who asks, where the cluster has these `writers` of the Deployment, or none.
    async fn asked(writers: Option<Value>) -> Vec<(String, Value)> {
        asked_of(writers, 200).await
    }

    /// The same, where who scales is answered so.
    async fn asked_of(writers: Option<Value>, scaled: u16) -> Vec<(String, Value)> {
        let pool = pool();
        let deployment = deployment(&pool);
        let is_half_made = writers.as_ref().is_some_and(|writers| {
            is_half_made(&serde_json::from_value::<Vec<_>>(writers.clone()).unwrap())
        });
        let found = writers.map(|writers| {
            let mut metadata = json!(deployment.metadata);
            metadata["managedFields"] = writers;
            metadata["resourceVersion"] = "7".into();
            json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
        });
        let (asked, made) = (Arc::new(Mutex::new(Vec::new())), json!(deployment));
        let mut whole = made.clone();
        whole["spec"]["replicas"] = 5.into();
        let looked = AtomicU32::new(0);
        let remembered = Arc::clone(&asked);
        let client = api_server::client_by(move |method, uri, sent| {
            if method == "GET" {
                // Who owns it is looked at before what it is.
                if is_half_made && looked.fetch_add(1, Ordering::Relaxed) == 1 {
                    return (200, whole.clone());
                }
                return found
                    .clone()
                    .map_or_else(|| refusal(404), |found| (200, found));
            }
            let query = uri.query().unwrap_or_default().split('&');
            let by = query.filter_map(|part| part.strip_prefix("fieldManager="));
            let what = format!("{method} {}", by.collect::<String>());
            let by_scaler = what.ends_with(SCALER);
            lock(&remembered).push((what, sent));
            if by_scaler && scaled != 200 {
                return refusal(scaled);
            }
            (200, made.clone())
        });
        let apply = Apply {
            client: &client,
            owner: &pool,
        };
        apply.deployment(&deployment, 3).await.unwrap();
        std::mem::take(&mut *lock(&asked))
    }

    /// Would fail if who scales a new Deployment were who wrote all of it: what the spec says no more would stay for good.
    #[tokio::test]
    async fn who_scales_writes_the_number_of_replicas_alone() {
        let asked = asked(None).await;
        let by: Vec<_> = asked.iter().map(|(by, _)| by.as_str()).collect();
        assert_eq!(by, ["PATCH wisp-operator", "PATCH wisp-operator-scale"]);
        assert_eq!(asked[0].1["spec"]["replicas"], 3);
        assert!(asked[0].1["spec"]["template"].is_object());
        assert_eq!(asked[1].1["spec"], json!({"replicas": 3}));
    }

    /// Would fail if a number that a wake-up set while a Deployment was made were overwritten.
    #[tokio::test]
    async fn a_number_that_was_set_meanwhile_stays() {
        let asked = asked_of(None, 409).await;
        let by: Vec<_> = asked.iter().map(|(by, _)| by.as_str()).collect();
        assert_eq!(by, ["PATCH wisp-operator", "PATCH wisp-operator-scale"]);
    }

    /// Would fail if a Deployment whose making broke off fell to one replica as soon as it is applied again.
    #[tokio::test]
    async fn one_whose_making_broke_off_keeps_its_number() {
        let number = json!({"f:spec": {"f:replicas": {}}});
        let entry = |manager: &str| json!({"manager": manager, "operation": "Apply", "fieldsType": "FieldsV1", "fieldsV1": number});
        let asked = asked(Some(json!([entry(MANAGER)]))).await;
        let by: Vec<_> = asked.iter().map(|(by, _)| by.as_str()).collect();
        assert_eq!(by, ["PATCH wisp-operator-scale", "PATCH wisp-operator"]);
        assert_eq!(asked[0].1["spec"], json!({"replicas": 5}));
        let again = self::asked(Some(json!([entry(MANAGER), entry(SCALER)]))).await;
        assert_eq!(again.len(), 1, "{again:?}");
    }

    /// Would fail if a Deployment that was made in one with its number of replicas kept what the spec says no more, or lost its
    /// number.
    #[tokio::test]
    async fn what_who_scales_wrote_before_is_handed_over_once() {
        let template = |fields: Value| json!({"f:spec": {"f:template": fields}});
        let entry = |manager: &str, operation: &str, fields: Value| json!({"manager": manager, "operation": operation, "fieldsType": "FieldsV1", "fieldsV1": fields});
        let number = json!({"f:spec": {"f:replicas": {}}});
        let mut all = template(json!({"f:selector": {}, "f:image": {}}));
        all["f:spec"]["f:replicas"] = json!({});
        let applied = entry(MANAGER, "Apply", template(json!({"f:image": {}})));
        let other = entry("kube", "Update", json!({"f:status": {}}));
        let before = json!([applied, entry(SCALER, "Update", all), other]);
        let asked = asked(Some(before)).await;
        assert_eq!(asked.len(), 2, "{asked:?}");
        let patched = &asked[0].1["metadata"];
        let joined = template(json!({"f:selector": {}, "f:image": {}}));
        let after = json!([
            entry(MANAGER, "Apply", joined),
            entry(SCALER, "Update", number),
            other
        ]);
        assert_eq!(patched["managedFields"], after);
        assert_eq!(patched["resourceVersion"], "7");
        assert_eq!(asked[1].0, "PATCH wisp-operator");
        assert_eq!(asked[1].1["spec"].get("replicas"), None);

        let again = self::asked(Some(after)).await;
        assert_eq!(again.len(), 1, "{again:?}");
    }

    #[test]
    fn one_that_was_scaled_since_and_never_applied_is_handed_over_too() {
        let writers = [ManagedFieldsEntry {
            manager: Some(SCALER.to_owned()),
            operation: Some("Update".to_owned()),
            fields_v1: Some(FieldsV1(json!({"f:spec": {"f:template": {}}}))),
            ..ManagedFieldsEntry::default()
        }];
        let after = handed_over(&writers).unwrap();
        let [entry] = &after[..] else {
            panic!("{after:?}")
        };
        assert_eq!(entry.manager.as_deref(), Some(MANAGER));
        assert_eq!(entry.operation.as_deref(), Some("Apply"));
        assert_eq!(entry.fields_v1, writers[0].fields_v1);
    }
}
