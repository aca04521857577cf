use serde_json::json;

use super::*;
use crate::api_server;
use crate::references::{Kind, Reference, References};

/// Would fail if an operator were blind for minutes after the node of an API server lost its power: a watch that says nothing is
/// given up a little after it should have ended.
#[tokio::test]
async fn no_watch_lasts_longer_than_a_minute() {
    let (sender, mut watched) = mpsc::unbounded_channel();
    let client = api_server::client_by(move |_, uri, _| {
        if uri.query().unwrap_or_default().contains("watch=true") {
            let _ = sender.send(uri.to_string());
            return api_server::refusal(500);
        }
        let list = json!({"metadata": {"resourceVersion": "1"}, "items": []});
        (200, list)
    });
    let (cluster, feed) = Cluster::new();
    let (_dirty, writers) = feed.split();
    let references = References::new(client.clone(), Box::new(|_| {}));
    let of = |kind| Reference {
        kind,
        namespace: "n".into(),
        name: "named".into(),
    };
    let named = [Kind::Secret, Kind::ConfigMap].map(of).into();
    references.set(&"n/f".parse().unwrap(), &named);
    let all = async {
        let mut paths = std::collections::BTreeSet::new();
        while paths.len() < usize::from(WATCHES) + named.len() {
            let uri = watched.recv().await.unwrap();
            assert!(uri.contains("timeoutSeconds=60"), "{uri}");
            paths.insert(uri);
        }
    };
    tokio::select! {
        () = watch_all(client, cluster, writers, |_| {}) => {}
        () = all => {}
    }
}
