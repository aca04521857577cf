//! Configuration: `wasi:config/store`.

use crate::bindings::wasi::config::store;
use crate::config::Error;

pub(crate) fn get(key: &str) -> Result<Option<String>, Error> {
    store::get(key).map_err(|error| {
        let (store::Error::Upstream(detail) | store::Error::Io(detail)) = error;
        Error::Unreadable {
            key: key.to_owned(),
            detail,
        }
    })
}
