//! A cluster for one test alone.

use std::ops::Deref;

use super::Cluster;
use crate::files;

/// A cluster that is taken down with its owner.
pub struct Owned(pub(super) Cluster);

impl Deref for Owned {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.0
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let target = files::repository().join("target/cluster-failures");
            let target = target.join(self.0.name.as_deref().unwrap_or("cluster"));
            match self.0.keep_component_logs(&target) {
                Ok(()) => eprintln!("the components' logs are kept in {}", target.display()),
                Err(error) => eprintln!("the components' logs could not be kept: {error:#}"),
            }
        }
        if let Err(error) = self.0.drive(&["down"]) {
            eprintln!("{error:#}");
        }
    }
}
