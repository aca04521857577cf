//! What does an event mean whose object can't be read? A later version of the API may have written it, or whoever edits its
//! definition.

use std::sync::Arc;

use kube::core::DeserializeGuard;
use kube::core::error_boundary::InvalidObject;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher::Event;
use kube::{Resource, ResourceExt as _};

/// The event; where its object can't be read, what it means for what is `known` of it: that stays as it is until the object is
/// gone, which doesn't take reading.
pub(super) fn readable<K>(event: Event<DeserializeGuard<K>>, known: &Store<K>) -> Option<Event<K>>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    match event {
        Event::Init => Some(Event::Init),
        Event::InitDone => Some(Event::InitDone),
        Event::Apply(guard) => guard
            .0
            .map_err(|invalid| warn(&invalid))
            .ok()
            .map(Event::Apply),
        Event::InitApply(guard) => {
            let kept = |invalid| {
                warn(&invalid);
                let before = find(&invalid, known)?;
                // Of one that is another by now, nothing is known.
                let is_same = before.uid() == invalid.metadata.uid;
                is_same.then(|| K::clone(&before))
            };
            guard.0.map_or_else(kept, Some).map(Event::InitApply)
        }
        Event::Delete(guard) => {
            let gone = |invalid| Some(K::clone(&*find(&invalid, known)?));
            guard.0.map_or_else(gone, Some).map(Event::Delete)
        }
    }
}

fn find<K>(invalid: &InvalidObject, known: &Store<K>) -> Option<Arc<K>>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    let name = invalid.metadata.name.as_deref()?;
    let mut reference = ObjectRef::new(name);
    if let Some(namespace) = &invalid.metadata.namespace {
        reference = reference.within(namespace);
    }
    known.get(&reference)
}

fn warn(invalid: &InvalidObject) {
    let (namespace, name) = (&invalid.metadata.namespace, &invalid.metadata.name);
    tracing::warn!(?namespace, ?name, error = %invalid.error, "an object can't be read: what was known of it stays");
}

#[cfg(test)]
mod tests {
    use kube::runtime::reflector::store::Writer;
    use serde_json::json;
    use wisp_api::Function;

    use super::*;

    /// A Function, that can be read or not.
    fn function(name: &str, uid: &str, is_readable: bool) -> DeserializeGuard<Function> {
        let spec = if is_readable {
            json!({})
        } else {
            json!({"scaling": "a word"})
        };
        let object = json!({
            "apiVersion": "wisp.dev/v1alpha1", "kind": "Function", "spec": spec,
            "metadata": {"namespace": "n", "name": name, "uid": uid},
        });
        let guard: DeserializeGuard<Function> = serde_json::from_value(object).unwrap();
        assert_eq!(guard.0.is_ok(), is_readable);
        guard
    }

    /// Would fail if a Function whose definition was edited badly lost its replicas when the watch begins anew, if it were known for
    /// ever after it is deleted, or one that has its name by now were taken for it.
    #[test]
    fn what_cannot_be_read_is_known_as_it_was_until_it_is_gone() {
        let mut writer = Writer::<Function>::default();
        let store = writer.as_reader();
        let mut tell = |event| {
            if let Some(event) = readable(event, &store) {
                writer.apply_watcher_event(&event);
            }
            let known = store.state();
            let mut names: Vec<_> = known.iter().map(|known| known.name_any()).collect();
            names.sort();
            names.concat()
        };
        let all = |of: &[DeserializeGuard<Function>]| {
            let applied = of.iter().cloned().map(Event::InitApply);
            let whole: Vec<_> = std::iter::once(Event::Init)
                .chain(applied)
                .chain([Event::InitDone])
                .collect();
            whole
        };
        let first = [
            function("a", "1", true),
            function("b", "2", true),
            function("c", "3", true),
            function("d", "4", false),
        ];
        assert_eq!(
            all(&first).into_iter().map(&mut tell).last().unwrap(),
            "abc"
        );
        assert_eq!(tell(Event::Apply(function("a", "1", false))), "abc");
        let again = [function("a", "1", false), function("b", "5", false)];
        assert_eq!(all(&again).into_iter().map(&mut tell).last().unwrap(), "a");
        assert_eq!(tell(Event::Delete(function("d", "4", false))), "a");
        assert_eq!(tell(Event::Delete(function("a", "1", false))), "");
    }
}
