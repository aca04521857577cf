use std::collections::BTreeSet;
use std::io;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::join_all;
use redb::StorageBackend;

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
    } = open(200);
    store.set("k".into(), vec![0; 90]).await.unwrap();
    let error = store
        .set("other".into(), vec![0; 20])
        .await
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "the store is full: its entries count 156 of 200 bytes (keyValue.maxSize), and this needs 94 more"
    );
    assert!(!store.exists("other".into()).await.unwrap());
    store.set("k".into(), vec![0; 134]).await.unwrap();
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

/// Bytes that the file takes on its disk.
fn on_disk(opened: &Opened) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata(opened.folder.path().join("t.redb"))
        .unwrap()
        .blocks()
        * 512
}

/// Would fail if an entry counted its key and value alone: the file of a store that is full of small entries would take
/// many times `maxSize`, and the kubelet would evict its pod for that.
#[tokio::test]
async fn a_store_full_of_small_entries_takes_no_more_than_its_volume() {
    const MAX: u64 = 2 * MIB;
    for key_bytes in [8, 500] {
        let opened = open(MAX);
        // Keys in no order fill a tree's pages worst: 7,919 is a prime.
        let key = |n: u64| format!("{:0>key_bytes$}", n * 7919 % 1_000_003);
        let mut batches = (0..).map(|batch| {
            let pairs = (batch * 500..(batch + 1) * 500).map(|n| (key(n), vec![1]));
            opened.store.set_many(pairs.collect())
        });
        let full = loop {
            if let Err(error) = batches.next().unwrap().await {
                break error;
            }
        };
        assert!(matches!(full, Error::Full { .. }), "{full}");
        // Less than what a pod's volume holds, 2 × maxSize + 64 MiB. What one write replaces is there twice for a while.
        let taken = on_disk(&opened);
        assert!(
            taken < 2 * MAX + 2 * MIB,
            "{taken} bytes, keys of {key_bytes}"
        );
    }
}

/// Would fail if deletes of entries that were counted otherwise made a store look emptier than it is.
#[tokio::test]
async fn a_file_without_a_count_is_counted_when_it_is_opened() {
    let Opened { store, folder } = open(MIB);
    store.set("k".into(), vec![0; 90]).await.unwrap();
    drop(store);
    let file = folder.path().join("t.redb");
    // Once the writer's thread has ended, too, nobody else has the file.
    let database = builder(MIB).create(&file).unwrap();
    crate::tables::forget_count(&database);
    drop(database);
    let store = Store::open("t", &file, 200).unwrap();
    assert!(matches!(
        store.set("other".into(), vec![0; 20]).await,
        Err(Error::Full {
            used: 156,
            needed: 94,
            ..
        })
    ));
}

/// Would fail if a call's items had no bound of their own: a million empty values are few bytes.
#[tokio::test]
async fn a_call_names_so_many_keys_and_no_more() {
    let Opened {
        store,
        folder: _folder,
    } = open(MIB);
    let keys = |count: usize| vec!["k".to_owned(); count];
    assert_eq!(
        store.get_many(keys(MAX_CALL_ITEMS)).await.unwrap().len(),
        MAX_CALL_ITEMS
    );
    let pairs = keys(MAX_CALL_ITEMS + 1)
        .into_iter()
        .map(|key| (key, Vec::new()));
    for refused in [
        store.get_many(keys(MAX_CALL_ITEMS + 1)).await.map(drop),
        store.set_many(pairs.collect()).await,
        store.delete_many(keys(MAX_CALL_ITEMS + 1)).await,
    ] {
        assert_eq!(
            refused.unwrap_err().to_string(),
            "the call names 10001 keys: a call takes at most 10000, split it"
        );
    }
    assert!(!store.exists("k".into()).await.unwrap());
}

/// A file that can't be written, or not be read either, while the disk is full or gone; or that redb panics on.
#[derive(Debug)]
struct Faulty {
    file: redb::backends::FileBackend,
    disk: Arc<Disk>,
}

#[derive(Debug, Default)]
struct Disk {
    is_full: AtomicBool,
    is_gone: AtomicBool,
    panics: AtomicBool,
}

impl Faulty {
    fn read_fault(&self) -> io::Result<()> {
        if self.disk.is_gone.load(Ordering::SeqCst) {
            return Err(io::Error::other("gone"));
        }
        Ok(())
    }

    fn write_fault(&self) -> io::Result<()> {
        assert!(!self.disk.panics.load(Ordering::SeqCst), "on purpose");
        if self.disk.is_full.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

type Locked = Result<bool, redb::BackendError>;

impl StorageBackend for Faulty {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.read_fault()?;
        self.file.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.write_fault()?;
        self.file.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.write_fault()?;
        self.file.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.write_fault()?;
        self.file.write(offset, data)
    }
    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Locked {
        self.file.try_lock_range(start, end)
    }
    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Locked {
        self.file.try_lock_shared_range(start, end)
    }
    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), redb::BackendError> {
        self.file.lock_range(start, end)
    }
    fn lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<(), redb::BackendError> {
        self.file.lock_shared_range(start, end)
    }
    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), redb::BackendError> {
        self.file.unlock_range(start, end)
    }
    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Locked {
        self.file.query_lock_range(start, end)
    }
}

fn faulty(folder: &tempfile::TempDir, disk: &Arc<Disk>) -> Store {
    let path = folder.path().join("t.redb");
    let disk = Arc::clone(disk);
    let open = move || {
        let file = std::fs::File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)?;
        builder(MIB).create_with_backend(Faulty {
            file: redb::backends::FileBackend::new(file)?,
            disk: Arc::clone(&disk),
        })
    };
    Store::with("t", MIB, open).unwrap()
}

/// Would fail if one error of the disk cost a replica its store for good: redb refuses everything after it.
#[tokio::test]
async fn a_disk_that_failed_for_a_while_costs_the_calls_of_that_while() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(Disk::default());
    let store = faulty(&folder, &disk);
    store.set("n".into(), b"1".to_vec()).await.unwrap();

    disk.is_full.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        let refused = store.increment("n".into(), 1).await;
        assert!(matches!(refused, Err(Error::Storage(_))), "{refused:?}");
    }
    disk.is_full.store(false, Ordering::SeqCst);
    assert_eq!(store.get("n".into()).await.unwrap().unwrap(), b"1");
    assert_eq!(store.increment("n".into(), 1).await.unwrap(), 2);

    // What is in the cache is read without the disk: a new handle's is empty.
    disk.is_full.store(true, Ordering::SeqCst);
    assert!(store.increment("n".into(), 1).await.is_err());
    disk.is_gone.store(true, Ordering::SeqCst);
    assert!(store.get("n".into()).await.is_err());
    disk.is_full.store(false, Ordering::SeqCst);
    disk.is_gone.store(false, Ordering::SeqCst);
    assert_eq!(store.increment("n".into(), 1).await.unwrap(), 3);
}

/// Would fail if one panic ended the thread that writes, or left redb unusable: a replica could write nothing any more.
#[tokio::test]
async fn a_write_that_panics_fails_alone() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(Disk::default());
    let store = faulty(&folder, &disk);
    store.set("a".into(), b"1".to_vec()).await.unwrap();
    for (round, is_in_redb) in [(0, false), (1, true), (2, true), (3, false)] {
        disk.panics.store(is_in_redb, Ordering::SeqCst);
        let panics = store.writer.write(0, move |tables| -> Result<(), Error> {
            tables.set("b", b"2")?;
            assert!(is_in_redb, "on purpose");
            Ok(())
        });
        let failed = panics.await;
        assert!(
            matches!(failed, Err(Error::Storage(StorageError::Panicked))),
            "{failed:?}"
        );
        disk.panics.store(false, Ordering::SeqCst);
        assert_eq!(store.get("b".into()).await.unwrap(), None);
        assert_eq!(store.increment("a".into(), 1).await.unwrap(), 2 + round);
    }
}

/// Would fail if those who wait behind a write that panics were told that the thread that writes is gone.
#[tokio::test]
async fn who_waits_behind_a_write_that_panics_is_told_so() {
    let folder = tempfile::tempdir().unwrap();
    let store = faulty(&folder, &Arc::new(Disk::default()));
    let (begin, began) = tokio::sync::oneshot::channel();
    let (let_go, wait) = std::sync::mpsc::channel::<()>();
    let first = store.writer.write(0, move |_| {
        let _ = begin.send(());
        let _ = wait.recv();
        Ok(())
    });
    let panics = store
        .writer
        .write(0, |_| -> Result<(), Error> { panic!("on purpose") });
    let behind = store.writer.write(0, |tables| tables.set("b", b"2"));
    let both = async {
        began.await.unwrap();
        tokio::join!(panics, behind, async { drop(let_go) })
    };
    let (first, (panics, behind, ())) = tokio::join!(first, both);
    first.unwrap();
    for failed in [panics.err(), behind.err()] {
        assert!(
            matches!(failed, Some(Error::Storage(StorageError::Panicked))),
            "{failed:?}"
        );
    }
    store.set("b".into(), b"3".to_vec()).await.unwrap();
}
