//! `wasi:keyvalue@0.2.0-draft` for guests: store, atomics and batch.

use std::sync::Arc;

use wasmtime::component::{HasData, Linker, Resource, ResourceTable};

use crate::store::{Error, Store};
use crate::stores::Stores;

mod bindings {
    wasmtime::component::bindgen!({
        path: "../../sdk/wit/deps/keyvalue",
        world: "wasi:keyvalue/imports",
        imports: {
            default: async | trappable,
            "wasi:keyvalue/store.open": trappable,
            "wasi:keyvalue/store.[drop]bucket": trappable,
        },
        with: { "wasi:keyvalue/store.bucket": crate::store::Store },
    });
}

use bindings::wasi::keyvalue::{atomics, batch, store as wit};

/// What one wasmtime store has of the function's key-value stores.
#[derive(Clone)]
pub struct KeyValueCtx {
    stores: Arc<Stores>,
}

impl KeyValueCtx {
    /// A guest that may open `stores`.
    #[must_use]
    pub fn new(stores: Arc<Stores>) -> Self {
        Self { stores }
    }
}

/// A view of the wasmtime store's data, for [`add_to_linker`].
pub struct WasiKeyValue<'a> {
    ctx: &'a mut KeyValueCtx,
    table: &'a mut ResourceTable,
}

impl<'a> WasiKeyValue<'a> {
    /// A view of `ctx` that keeps buckets in `table`.
    #[must_use]
    pub fn new(ctx: &'a mut KeyValueCtx, table: &'a mut ResourceTable) -> Self {
        Self { ctx, table }
    }

    fn store(&self, bucket: &Resource<Store>) -> wasmtime::Result<Store> {
        Ok(self.table.get(bucket)?.clone())
    }
}

struct HasKeyValue;

impl HasData for HasKeyValue {
    type Data<'a> = WasiKeyValue<'a>;
}

/// Offers `wasi:keyvalue/store`, `atomics` and `batch`, all `@0.2.0-draft`, to guests. What a guest gets wrong it is
/// told as `error.other`, with a sentence that names key, size and limit; a store that isn't configured is
/// `no-such-store`, and the host's log says which ones are.
///
/// # Errors
/// When the linker has one of them already.
pub fn add_to_linker<T: Send + 'static>(
    linker: &mut Linker<T>,
    view: fn(&mut T) -> WasiKeyValue<'_>,
) -> wasmtime::Result<()> {
    wit::add_to_linker::<T, HasKeyValue>(linker, view)?;
    atomics::add_to_linker::<T, HasKeyValue>(linker, view)?;
    batch::add_to_linker::<T, HasKeyValue>(linker, view)
}

/// The error as the guest sees it. What failed below the store is in the log only, once.
fn told<R>(result: Result<R, Error>) -> Result<R, wit::Error> {
    result.map_err(|error| wit::Error::Other(error.to_string()))
}

impl wit::Host for WasiKeyValue<'_> {
    fn open(
        &mut self,
        identifier: String,
    ) -> wasmtime::Result<Result<Resource<Store>, wit::Error>> {
        let Some(store) = self.ctx.stores.get(&identifier) else {
            let name: String = identifier.chars().take(64).collect();
            if self.ctx.stores.may_tell(&name) {
                let known: Vec<_> = self.ctx.stores.names().collect();
                tracing::warn!(
                    store = name,
                    ?known,
                    "the guest opened a key-value store that isn't configured"
                );
            }
            return Ok(Err(wit::Error::NoSuchStore));
        };
        let store = store.clone();
        Ok(Ok(self.table.push(store)?))
    }
}

impl wit::HostBucket for WasiKeyValue<'_> {
    async fn get(
        &mut self,
        bucket: Resource<Store>,
        key: String,
    ) -> wasmtime::Result<Result<Option<Vec<u8>>, wit::Error>> {
        Ok(told(self.store(&bucket)?.get(key).await))
    }

    async fn set(
        &mut self,
        bucket: Resource<Store>,
        key: String,
        value: Vec<u8>,
    ) -> wasmtime::Result<Result<(), wit::Error>> {
        Ok(told(self.store(&bucket)?.set(key, value).await))
    }

    async fn delete(
        &mut self,
        bucket: Resource<Store>,
        key: String,
    ) -> wasmtime::Result<Result<(), wit::Error>> {
        Ok(told(self.store(&bucket)?.delete_many(vec![key]).await))
    }

    async fn exists(
        &mut self,
        bucket: Resource<Store>,
        key: String,
    ) -> wasmtime::Result<Result<bool, wit::Error>> {
        Ok(told(self.store(&bucket)?.exists(key).await))
    }

    async fn list_keys(
        &mut self,
        bucket: Resource<Store>,
        cursor: Option<u64>,
    ) -> wasmtime::Result<Result<wit::KeyResponse, wit::Error>> {
        let page = told(self.store(&bucket)?.list(cursor).await);
        Ok(page.map(|page| wit::KeyResponse {
            keys: page.keys,
            cursor: page.cursor,
        }))
    }

    fn drop(&mut self, bucket: Resource<Store>) -> wasmtime::Result<()> {
        self.table.delete(bucket)?;
        Ok(())
    }
}

impl atomics::Host for WasiKeyValue<'_> {
    async fn increment(
        &mut self,
        bucket: Resource<Store>,
        key: String,
        delta: u64,
    ) -> wasmtime::Result<Result<u64, wit::Error>> {
        Ok(told(self.store(&bucket)?.increment(key, delta).await))
    }
}

impl batch::Host for WasiKeyValue<'_> {
    async fn get_many(
        &mut self,
        bucket: Resource<Store>,
        keys: Vec<String>,
    ) -> wasmtime::Result<Result<Vec<Option<(String, Vec<u8>)>>, wit::Error>> {
        Ok(told(self.store(&bucket)?.get_many(keys).await))
    }

    async fn set_many(
        &mut self,
        bucket: Resource<Store>,
        pairs: Vec<(String, Vec<u8>)>,
    ) -> wasmtime::Result<Result<(), wit::Error>> {
        Ok(told(self.store(&bucket)?.set_many(pairs).await))
    }

    async fn delete_many(
        &mut self,
        bucket: Resource<Store>,
        keys: Vec<String>,
    ) -> wasmtime::Result<Result<(), wit::Error>> {
        Ok(told(self.store(&bucket)?.delete_many(keys).await))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Metadata, Subscriber};

    use super::*;

    /// Counts lines.
    struct Log(Arc<AtomicUsize>);

    impl Subscriber for Log {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }

        fn record(&self, _: &Id, _: &Record<'_>) {}

        fn record_follows_from(&self, _: &Id, _: &Id) {}

        fn event(&self, _: &Event<'_>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }

        fn enter(&self, _: &Id) {}

        fn exit(&self, _: &Id) {}
    }

    /// Would fail if a guest could fill the host's log with stores that there aren't, or if who configured another were not told.
    #[test]
    fn instances_have_a_few_lines_of_the_log_together() {
        let stores = Arc::new(Stores::open(&[]).unwrap());
        let lines = Arc::new(AtomicUsize::new(0));
        let open = |name: &str| {
            let mut ctx = KeyValueCtx::new(Arc::clone(&stores));
            let mut table = ResourceTable::new();
            let mut view = WasiKeyValue::new(&mut ctx, &mut table);
            let opened = wit::Host::open(&mut view, name.to_owned()).unwrap();
            assert!(matches!(opened, Err(wit::Error::NoSuchStore)));
            lines.load(Ordering::Relaxed)
        };
        tracing::subscriber::with_default(Log(Arc::clone(&lines)), || {
            assert_eq!([open("a"), open("a"), open("b")], [1, 1, 2]);
            for number in 0..1000 {
                assert!(open(&number.to_string()) <= 16);
            }
        });
    }
}
