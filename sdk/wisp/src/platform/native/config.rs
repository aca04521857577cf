//! Configuration: the test's.

use crate::config::Error;
use crate::test::fakes;

#[expect(clippy::unnecessary_wraps, reason = "a host may fail")]
pub(crate) fn get(key: &str) -> Result<Option<String>, Error> {
    Ok(fakes::with(|fakes| fakes.config.get(key).cloned()))
}
