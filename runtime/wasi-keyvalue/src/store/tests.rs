use std::collections::BTreeSet;

use futures::future::join_all;

use super::*;

const MIB: u64 = 1 << 20;

struct Opened {
    store: Store,
    folder: tempfile::TempDir,
}

fn open(max_bytes: u64) -> Opened {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open("t", &folder.path().join("t.redb"), max_bytes).unwrap();
    Opened { store, folder }
}

async fn all_keys(store: &Store) -> Vec<String> {
    let (mut keys, mut cursor) = (Vec::new(), None);
    loop {
        let page = store.list(cursor).await.unwrap();
        keys.extend(page.keys);
        cursor = page.cursor;
        if cursor.is_none() {
            return keys;
        }
    }
}

#[tokio::test]
async fn what_is_set_is_there_until_it_is_deleted() {
    let Opened {
        store,
        folder: _folder,
    } = open(MIB);
    assert_eq!(store.get("a".into()).await.unwrap(), None);
    store.set("a".into(), b"1".to_vec()).await.unwrap();
    store.set("a".into(), b"two".to_vec()).await.unwrap();
    store.set("ü".into(), vec![0, 255]).await.unwrap();
    assert_eq!(store.get("a".into()).await.unwrap().unwrap(), b"two");
    assert!(store.exists("ü".into()).await.unwrap());
    let many = store
        .get_many(vec!["ü".into(), "none".into(), "a".into()])
        .await
        .unwrap();
    assert_eq!(
        many,
        [
            Some(("ü".into(), vec![0, 255])),
            None,
            Some(("a".into(), b"two".to_vec()))
        ]
    );
    store
        .delete_many(vec!["a".into(), "none".into()])
        .await
        .unwrap();
    assert!(!store.exists("a".into()).await.unwrap());
    assert_eq!(all_keys(&store).await, ["ü"]);
}

#[tokio::test]
async fn a_store_takes_what_fits_and_says_what_does_not() {
    let Opened {
        store,
        folder: _folder,
    } = open(100);
    store.set("k".into(), vec![0; 90]).await.unwrap();
    let error = store
        .set("other".into(), vec![0; 20])
        .await
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "the store is full: it holds 91 of 100 bytes (keyValue.maxSize), and this needs 25 more"
    );
    assert!(!store.exists("other".into()).await.unwrap());
    store.set("k".into(), vec![0; 99]).await.unwrap();
    assert!(matches!(
        store.increment("n".into(), 1).await,
        Err(Error::Full { .. })
    ));
    store.delete_many(vec!["k".into()]).await.unwrap();
    store.set("other".into(), vec![0; 20]).await.unwrap();
}

#[tokio::test]
async fn a_lowered_limit_still_lets_a_store_shrink() {
    let Opened { store, folder } = open(1000);
    store.set("k".into(), vec![0; 900]).await.unwrap();
    drop(store);
    let store = Store::open("t", &folder.path().join("t.redb"), 100).unwrap();
    assert!(store.set("k".into(), vec![0; 901]).await.is_err());
    store.set("k".into(), vec![0; 500]).await.unwrap();
}

#[tokio::test]
async fn keys_and_values_have_limits() {
    let Opened {
        store,
        folder: _folder,
    } = open(1 << 30);
    assert!(matches!(
        store.get(String::new()).await,
        Err(Error::EmptyKey)
    ));
    store
        .set("k".repeat(MAX_KEY_BYTES), Vec::new())
        .await
        .unwrap();
    let error = store
        .increment("k".repeat(MAX_KEY_BYTES + 1), 1)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("is 1025 bytes: a key is 1 to 1024 bytes"),
        "{error}"
    );
    let error = store
        .set("k".into(), vec![0; MAX_VALUE_BYTES + 1])
        .await
        .unwrap_err();
    assert!(matches!(error, Error::ValueTooLong { bytes, .. } if bytes == MAX_VALUE_BYTES + 1));
    store
        .set("big".into(), vec![7; MAX_VALUE_BYTES])
        .await
        .unwrap();
    // A guest that asks for one big value many times doesn't make the host hold it many times.
    let keys = vec!["big".to_owned(); 3];
    assert!(matches!(
        store.get_many(keys).await,
        Err(Error::CallTooLarge)
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn increments_are_atomic_and_every_sum_is_seen_once() {
    let Opened { store, folder } = open(MIB);
    // A second handle on the same file stands for another replica.
    let other = Store::open("t", &folder.path().join("t.redb"), MIB).unwrap();
    let sums = join_all((0..200).map(|i| {
        let store = if i % 2 == 0 {
            store.clone()
        } else {
            other.clone()
        };
        tokio::spawn(async move { store.increment("n".into(), 2).await.unwrap() })
    }))
    .await;
    let sums: BTreeSet<u64> = sums.into_iter().map(Result::unwrap).collect();
    assert_eq!(sums, (1..=200).map(|i| i * 2).collect());
    assert_eq!(other.get("n".into()).await.unwrap().unwrap(), b"400");
}

#[tokio::test]
async fn only_numbers_that_fit_are_incremented() {
    let Opened {
        store,
        folder: _folder,
    } = open(MIB);
    for (value, part) in [
        ("x", "no number"),
        ("", "no number"),
        ("+1", "no number"),
        ("18446744073709551615", "would exceed"),
    ] {
        store.set("n".into(), value.into()).await.unwrap();
        let error = store
            .increment("n".into(), 1)
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains(part), "{value}: {error}");
        assert_eq!(
            store.get("n".into()).await.unwrap().unwrap(),
            value.as_bytes()
        );
    }
    assert_eq!(store.increment("n".into(), 0).await.unwrap(), u64::MAX);
}

#[tokio::test]
async fn pages_hold_every_key_once_while_others_write() {
    let Opened {
        store,
        folder: _folder,
    } = open(MIB);
    let pairs = |from: usize, to: usize| {
        (from..to)
            .map(|i| (format!("key-{i}"), Vec::new()))
            .collect()
    };
    store.set_many(pairs(0, 2500)).await.unwrap();
    let first = store.list(None).await.unwrap();
    assert_eq!(first.keys.len(), 1000);
    // Neither what was deleted of the first page nor what is set again may shift the second one.
    store
        .delete_many((0..900).map(|i| format!("key-{i}")).collect())
        .await
        .unwrap();
    store.set_many(pairs(1000, 1010)).await.unwrap();
    let second = store.list(first.cursor).await.unwrap();
    assert_eq!(
        second.keys,
        (1000..2000).map(|i| format!("key-{i}")).collect::<Vec<_>>()
    );
    let third = store.list(second.cursor).await.unwrap();
    assert_eq!((third.keys.len(), third.cursor), (500, None));
    assert_eq!(
        store.list(Some(u64::MAX)).await.unwrap(),
        Page {
            keys: Vec::new(),
            cursor: None
        }
    );
}

#[tokio::test]
async fn an_operation_whose_caller_left_before_it_began_never_begins() {
    let Opened {
        store,
        folder: _folder,
    } = open(MIB);
    // The future is dropped before it was polled once, and after it was queued behind another.
    drop(store.increment("n".into(), 1));
    store.increment("n".into(), 10).await.unwrap();
    assert_eq!(store.get("n".into()).await.unwrap().unwrap(), b"10");
}

#[test]
fn a_file_that_is_something_else_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.redb");
    std::fs::write(&file, "this is a text, and it is no database".repeat(200)).unwrap();
    assert!(Store::open("t", &file, 100).is_err());
    assert_eq!(std::fs::read_to_string(&file).unwrap().len(), 37 * 200);
}
