use std::io::Read as _;

use std::fs;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

use super::folder::PARTIAL;
use super::notes::Size;
use super::room::STEP;
use super::*;

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

async fn text(store: &Store, sha256: &str) -> Option<String> {
    let (mut file, length) = store.find(sha256).await.unwrap()?;
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(u64::try_from(text.len()).unwrap(), length);
    Some(text)
}

fn expected(limit: u64) -> Expected {
    Expected {
        what: "it".to_owned(),
        sha256: None,
        length: None,
        limit,
    }
}

fn partial(folder: &Path) -> usize {
    fs::read_dir(folder.join(PARTIAL)).unwrap().count()
}

/// Would fail if files were not named by their digest, or only known to the process that wrote them.
#[tokio::test]
async fn what_is_stored_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), 100).unwrap();
    let stored = store.put(&b"abc"[..]).await.unwrap();
    assert_eq!(stored.sha256, sha256(b"abc"));
    assert_eq!(stored.length, 3);
    drop(store);
    fs::write(folder.path().join(PARTIAL).join("left"), "half").unwrap();
    let store = Store::open(folder.path(), 100).unwrap();
    assert_eq!(text(&store, &stored.sha256).await.unwrap(), "abc");
    assert_eq!(partial(folder.path()), 0);
    assert_eq!(text(&store, &sha256(b"else")).await, None);
    assert_eq!(text(&store, "../notes/x").await, None);
}

/// Would fail if a file that was damaged while nobody ran were served.
#[tokio::test]
async fn what_was_damaged_is_removed_instead_of_served() {
    let folder = tempfile::tempdir().unwrap();
    let stored = Store::open(folder.path(), 100)
        .unwrap()
        .put(&b"abc"[..])
        .await
        .unwrap();
    fs::write(folder.path().join(&stored.sha256), "ab").unwrap();
    let store = Store::open(folder.path(), 100).unwrap();
    assert_eq!(text(&store, &stored.sha256).await, None);
    store.put(&b"abc"[..]).await.unwrap();
    assert_eq!(text(&store, &stored.sha256).await.unwrap(), "abc");
}

/// Would fail if what was cut off, or replaced, after it was digested once were served.
#[tokio::test]
async fn what_is_damaged_later_is_removed_too() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), 100).unwrap();
    let sha256 = store.put(&b"abc"[..]).await.unwrap().sha256;
    let path = folder.path().join(&sha256);
    assert_eq!(text(&store, &sha256).await.unwrap(), "abc");
    let file = File::options().write(true).open(&path).unwrap();
    file.set_len(2).unwrap();
    assert_eq!(text(&store, &sha256).await, None);

    store.put(&b"abc"[..]).await.unwrap();
    let other = folder.path().join("other");
    fs::write(&other, "abd").unwrap();
    fs::rename(&other, &path).unwrap();
    assert_eq!(text(&store, &sha256).await, None);
    store.put(&b"abc"[..]).await.unwrap();
    assert_eq!(text(&store, &sha256).await.unwrap(), "abc");
    // Each once, and nothing that was written whole, and is as it was.
    assert_eq!(store.folder.digested.load(Ordering::Relaxed), 2);
}

/// Would fail if what a disk doesn't give back were asked for again and again instead of fetched anew.
#[tokio::test]
async fn what_cannot_be_read_any_more_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), 100).unwrap();
    let sha256 = sha256(b"abc");
    // Nothing is mapped where its reading begins: EIO.
    std::os::unix::fs::symlink("/proc/self/mem", folder.path().join(&sha256)).unwrap();
    assert_eq!(text(&store, &sha256).await, None);
    store.put(&b"abc"[..]).await.unwrap();
    assert_eq!(text(&store, &sha256).await.unwrap(), "abc");

    // Whatever else is wrong is for somebody to look at.
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), 100).unwrap();
    fs::create_dir(folder.path().join(&sha256)).unwrap();
    let error = store.find(&sha256).await.unwrap_err();
    assert_eq!(error.reason(), "StoreFailed");
}

/// Would fail if all who ask for the same after a restart digested it, each on a thread of its own, also who asks again for want
/// of patience.
#[tokio::test]
async fn what_many_ask_for_is_digested_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), 64 << 20).unwrap();
    let sha256 = store.put(vec![7; 8 << 20]).await.unwrap().sha256;
    let store = Store::open(folder.path(), 64 << 20).unwrap();
    let digested = || store.folder.digested.load(Ordering::Relaxed);
    let impatient = tokio::spawn({
        let (store, sha256) = (store.clone(), sha256.clone());
        async move { store.has(&sha256).await }
    });
    while digested() == 0 {
        tokio::task::yield_now().await;
    }
    impatient.abort();
    let all = (0..16).map(|_| store.has(&sha256));
    for has in futures::future::join_all(all).await {
        assert!(has.unwrap());
    }
    assert_eq!(digested(), 1);
}

/// Time in which what nobody holds is no longer waited for.
const LONG: Duration = Duration::from_secs(10 * 60);

/// Would fail if something in use were removed, if the least recently used weren't removed first, or if the bound were
/// not kept.
#[tokio::test]
async fn room_is_made_by_removing_what_nobody_holds_and_was_not_used_for_longest() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), 10).unwrap();
    let mut digests = Vec::new();
    for name in ["aaaa", "bbbb"] {
        digests.push(store.put(name.as_bytes()).await.unwrap().sha256);
    }
    let old = SystemTime::UNIX_EPOCH;
    for (digest, seconds) in digests.iter().zip([1, 2]) {
        let file = File::options()
            .write(true)
            .open(folder.path().join(digest))
            .unwrap();
        file.set_modified(old + Duration::from_secs(seconds))
            .unwrap();
    }
    store.hold("ns/f", [digests[0].clone()]);
    store.folder.age(LONG);
    let (mut removed, _) = store.find(&digests[1]).await.unwrap().unwrap();
    let third = store.put(&b"cccc"[..]).await.unwrap();
    assert_eq!(text(&store, &digests[0]).await.unwrap(), "aaaa");
    assert_eq!(text(&store, &digests[1]).await, None);
    assert_eq!(text(&store, &third.sha256).await.unwrap(), "cccc");
    // Who was reading it reads on.
    let mut bytes = String::new();
    removed.read_to_string(&mut bytes).unwrap();
    assert_eq!(bytes, "bbbb");

    store.hold("ns/g", [third.sha256.clone()]);
    let error = store.put(&b"dddd"[..]).await.unwrap_err();
    assert_eq!(error.reason(), "StoreFull");
    assert!(error.is_transient(), "{error}");
    let text_of = error.to_string();
    assert!(
        text_of.contains("the 4 bytes of the artifact") && text_of.contains("8 of its 10 bytes"),
        "{error}"
    );
    store.release("ns/f");
    store.put(&b"dddd"[..]).await.unwrap();
    assert_eq!(text(&store, &digests[0]).await, None);
    let error = store.put(vec![0; 11]).await.unwrap_err();
    assert_eq!(error.reason(), "StoreFull");
    assert_eq!(partial(folder.path()), 0);
}

/// Would fail if who showed that they have an artifact had to show it again after a restart, others hadn't to, or notes of
/// what is gone were left behind.
#[tokio::test]
async fn where_an_artifact_came_from_is_known_for_as_long_as_it_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), 4).unwrap();
    let first = store.put(&b"aaaa"[..]).await.unwrap().sha256;
    let url = Place::Url("https://u:p4ss@a.example/m");
    store.comes_from(&first, &[url]).await.unwrap();
    let store = Store::open(folder.path(), 4).unwrap();
    assert!(store.came_from(&first, url).await);
    for other in [
        Place::Url("https://a.example/m"),
        Place::Repository("https://u:p4ss@a.example/m", ""),
        Place::Registry("a.example"),
    ] {
        assert!(!store.came_from(&first, other).await, "{other:?}");
    }
    assert!(!store.came_from(&sha256(b"bbbb"), url).await);
    let note = folder.path().join(format!("notes/origins-{first}"));
    assert!(!fs::read_to_string(&note).unwrap().contains("p4ss"));

    let many: Vec<String> = (0..70).map(|index| format!("r{index}")).collect();
    for host in &many {
        let place = Place::Registry(host);
        store.comes_from(&first, &[place]).await.unwrap();
        store.comes_from(&first, &[place]).await.unwrap();
    }
    let known = |index: usize| store.came_from(&first, Place::Registry(&many[index]));
    assert_eq!(
        (known(5).await, known(6).await, known(69).await),
        (false, true, true)
    );

    store.folder.age(LONG);
    store.put(&b"bbbb"[..]).await.unwrap();
    assert!(!note.exists());
}

/// Would fail if what can't fit pushed others out before it is refused, or what just came were pushed out before it can be held.
#[tokio::test]
async fn what_cannot_fit_is_refused_before_anything_goes_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), 10).unwrap();
    let cached = store.put(&b"aaaa"[..]).await.unwrap().sha256;
    store.folder.age(LONG);
    let promised = |length| Expected {
        length: Some(length),
        ..expected(100)
    };
    let never = futures::stream::pending;
    let error = store.save(promised(11), never()).await.unwrap_err();
    assert_eq!(error.reason(), "StoreFull");
    assert!(error.to_string().contains("the 11 bytes of it"), "{error}");
    assert!(store.has(&cached).await.unwrap());

    // What fits has its room before its first byte comes.
    let slow = tokio::spawn({
        let store = store.clone();
        async move { store.save(promised(7), never()).await }
    });
    while store.folder.takes_up() != 7 {
        tokio::task::yield_now().await;
    }
    assert!(!store.has(&cached).await.unwrap());
    let error = store.put(&b"bbbb"[..]).await.unwrap_err();
    assert_eq!(error.reason(), "StoreFull");
    slow.abort();
    while store.folder.takes_up() != 0 {
        tokio::task::yield_now().await;
    }

    // The other two that a function needs don't push out its first.
    let first = store.put(&b"cccccc"[..]).await.unwrap().sha256;
    let error = store.put(&b"ddddd"[..]).await.unwrap_err();
    assert_eq!(error.reason(), "StoreFull");
    store.put(&b"ddd"[..]).await.unwrap();
    store.hold("ns/f", [first.clone()]);
    store.release("ns/f");
    store.put(&b"eeeee"[..]).await.unwrap();
    assert!(!store.has(&first).await.unwrap());
}

/// Would fail if servers that promise much and send nothing took the room of all, if anything went for what they promise, or for
/// what can't fit any more.
#[tokio::test]
async fn what_is_promised_and_does_not_come_takes_little_room() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), 4 * STEP).unwrap();
    let cached = store.put(&b"aaaa"[..]).await.unwrap().sha256;
    store.folder.age(LONG);
    let promised = |steps| Expected {
        length: Some(steps * STEP),
        ..expected(steps * STEP)
    };
    let (sender, receiver) = futures::channel::mpsc::unbounded();
    let save = |chunks: futures::stream::BoxStream<'static, _>| {
        let (store, promised) = (store.clone(), promised(3));
        tokio::spawn(async move { store.save(promised, chunks).await })
    };
    let slow = save(receiver.boxed());
    let silent = save(futures::stream::pending().boxed());
    while store.folder.takes_up() != 2 * STEP + 4 {
        tokio::task::yield_now().await;
    }
    assert!(store.has(&cached).await.unwrap());

    let chunk = Bytes::from(vec![7; BATCH]);
    let many = |steps: u64| {
        let chunks = 0..steps * STEP / chunk.len() as u64;
        let chunks: Vec<Result<Bytes, Error>> = chunks.map(|_| Ok(chunk.clone())).collect();
        chunks
    };
    let chunks = futures::stream::iter(many(2));
    let whole = store.save(promised(2), chunks).await.unwrap();
    assert!(!store.has(&cached).await.unwrap());
    store.hold("ns/f", [whole.sha256]);
    let never = futures::stream::pending();
    let error = store.save(promised(1), never).await.unwrap_err();
    assert_eq!(error.reason(), "StoreFull");
    // It fitted when it began.
    for chunk in many(2) {
        sender.unbounded_send(chunk).unwrap();
    }
    let error = slow.await.unwrap().unwrap_err();
    assert_eq!(error.reason(), "StoreFull");
    silent.abort();
}

/// Would fail if what came nearly whole were ended by what others began later.
#[tokio::test]
async fn what_half_came_of_keeps_its_room() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), 8 * STEP).unwrap();
    store.put(&b"aaaa"[..]).await.unwrap();
    let promised = |steps| Expected {
        length: Some(steps * STEP),
        ..expected(steps * STEP)
    };
    let (sender, receiver) = futures::channel::mpsc::unbounded();
    let large = {
        let (store, promised) = (store.clone(), promised(6));
        tokio::spawn(async move { store.save(promised, receiver).await })
    };
    let chunk = Bytes::from(vec![7; BATCH]);
    let send = |steps: u64| {
        for _ in 0..steps * STEP / chunk.len() as u64 {
            sender
                .unbounded_send(Ok::<_, Error>(chunk.clone()))
                .unwrap();
        }
    };
    while store.folder.takes_up() != STEP + 4 {
        tokio::task::yield_now().await;
    }
    send(4);
    while store.folder.takes_up() != 6 * STEP + 4 {
        tokio::task::yield_now().await;
    }
    let never = futures::stream::pending();
    let error = store.save(promised(3), never).await.unwrap_err();
    assert_eq!(error.reason(), "StoreFull");
    send(2);
    drop(sender);
    assert_eq!(large.await.unwrap().unwrap().length, 6 * STEP);
}

/// Would fail if a disk that is smaller than the store may be made every write fail beside what nobody needs.
#[tokio::test]
async fn where_the_disk_is_full_what_nobody_needs_goes() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), u64::MAX).unwrap();
    let volume = rustix::fs::statvfs(folder.path()).unwrap();
    assert!(store.folder.capacity <= volume.f_blocks * volume.f_frsize);

    let held = store.put(&b"aaaa"[..]).await.unwrap().sha256;
    store.hold("ns/f", [held.clone()]);
    let cached = store.put(&b"bbbb"[..]).await.unwrap().sha256;
    store.folder.age(LONG);
    let mut attempts = 0;
    let mut write = |succeeds| {
        room::with_room(&store.folder, 1, || {
            attempts += 1;
            if attempts == succeeds {
                return Ok(());
            }
            Err(std::io::ErrorKind::StorageFull.into())
        })
    };
    write(2).unwrap();
    // There is nothing left to go for it.
    write(4).unwrap_err();
    assert_eq!(attempts, 3);
    assert!(store.has(&held).await.unwrap());
    assert!(!store.has(&cached).await.unwrap());
    assert_eq!(store.folder.takes_up(), 4);
}

/// Would fail if a stream that breaks off, has too much or something else left anything behind.
#[tokio::test]
async fn only_what_is_whole_and_right_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), 100).unwrap();
    let chunks =
        |last: Result<Bytes, Error>| futures::stream::iter([Ok(Bytes::from_static(b"ab")), last]);
    let cut = store
        .save(expected(10), chunks(Err(Error::Thread)))
        .await
        .unwrap_err();
    assert!(matches!(cut, Error::Thread), "{cut}");
    let large = store
        .save(expected(3), chunks(Ok(Bytes::from_static(b"cd"))))
        .await
        .unwrap_err();
    assert_eq!(large.reason(), "TooLarge");
    let wrong = Expected {
        sha256: Some(sha256(b"abc")),
        ..expected(10)
    };
    let error = store
        .save(wrong, chunks(Ok(Bytes::from_static(b"d"))))
        .await
        .unwrap_err();
    assert_eq!(error.reason(), "DigestMismatch");
    assert!(error.to_string().contains(&sha256(b"abd")), "{error}");
    assert_eq!(partial(folder.path()), 0);
    assert!(store.folder.files().unwrap().is_empty());
}

/// Would fail if what is being fetched took more of the disk than the store may have, or went on doing so once it is given
/// up; or if a thread were kept waiting for the network: there are fewer than can be fetched at once.
#[tokio::test]
async fn what_is_being_fetched_counts_and_keeps_no_thread() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), 3 << 20).unwrap();
    let cached = store.put(&b"abc"[..]).await.unwrap();
    store.folder.age(LONG);
    let mebi = Bytes::from(vec![7; 1 << 20]);
    let mut fetching = Vec::new();
    for _ in 0..600 {
        let never = futures::stream::pending::<Result<Bytes, Error>>();
        let slow = futures::stream::iter([Ok(Bytes::from_static(b"a"))]).chain(never);
        let store = store.clone();
        fetching.push(tokio::spawn(
            async move { store.save(expected(10), slow).await },
        ));
    }
    tokio::task::yield_now().await;
    let chunks = |count| futures::stream::iter((0..count).map(|_| Ok(mebi.clone())));
    let (sender, receiver) = futures::channel::mpsc::unbounded::<Result<Bytes, Error>>();
    let large = tokio::spawn({
        let store = store.clone();
        async move { store.save(expected(4 << 20), receiver).await }
    });
    for _ in 0..3 {
        sender.unbounded_send(Ok(mebi.clone())).unwrap();
    }
    while store.folder.takes_up() != 3 << 20 {
        tokio::task::yield_now().await;
    }
    // What nobody holds went for it, and there is no room for more.
    assert_eq!(text(&store, &cached.sha256).await, None);
    let error = store.save(expected(4 << 20), chunks(1)).await.unwrap_err();
    assert_eq!(error.reason(), "StoreFull");
    large.abort();
    assert!(large.await.unwrap_err().is_cancelled());
    while store.folder.takes_up() != 0 {
        tokio::task::yield_now().await;
    }
    store.save(expected(4 << 20), chunks(3)).await.unwrap();
    assert_eq!(store.folder.takes_up(), 3 << 20);
    for fetching in fetching {
        fetching.abort();
    }
}

/// Would fail if who watches the disk were told something else than what is on it.
#[tokio::test]
async fn how_full_it_is_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), 100).unwrap();
    let held = store.put(&b"abc"[..]).await.unwrap().sha256;
    store.put(&b"de"[..]).await.unwrap();
    store.hold("a", [held.clone(), sha256(b"not here")]);
    store.hold("b", [held]);
    let usage = store.usage().await.unwrap();
    let expected = Usage {
        capacity: 100,
        held: 3,
        kept: 5,
        partial: 0,
    };
    assert_eq!(usage, expected);
}

/// Would fail if a server that sends byte by byte had a whole buffer kept for each of them.
#[tokio::test]
async fn what_waits_to_be_written_keeps_no_buffers() {
    /// One byte in use of a large buffer.
    struct Buffer(#[expect(dead_code, reason = "it counts")] Arc<()>);
    impl AsRef<[u8]> for Buffer {
        fn as_ref(&self) -> &[u8] {
            b"a"
        }
    }
    let buffers = Arc::new(());
    let small = (0..1000).map(|_| Ok(Bytes::from_owner(Buffer(Arc::clone(&buffers)))));
    let large = Bytes::from(vec![7; BATCH]);
    let mut chunks = futures::stream::iter(small.chain([Ok(large.clone())]));
    let (batch, is_last) = next_batch(&mut chunks).await.unwrap();
    assert_eq!((batch.len(), is_last), (1000 + BATCH, false));
    assert_eq!(Arc::strong_count(&buffers), 1);
    // What is enough by itself isn't copied.
    let mut chunks = futures::stream::iter([Ok(large.clone())]);
    let (batch, _) = next_batch(&mut chunks).await.unwrap();
    assert_eq!(batch.as_ptr(), large.as_ptr());
}

/// Would fail if what was found out of a component that is in use were forgotten, so that it is compiled anew, or nothing ever
/// were.
#[tokio::test]
async fn notes_of_what_is_in_use_are_not_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path(), 100).unwrap();
    let here = store.put(&b"abc"[..]).await.unwrap().sha256;
    let gone = sha256(b"else");
    let of = |sha256: &str| {
        [
            format!("{sha256}-p2-p3-0.1.0.json"),
            format!("failed-0-{sha256}-x"),
        ]
    };
    let asked = format!("signed-{gone}-set");
    let keys: Vec<String> = [of(&here), of(&gone)].concat();
    for key in keys.iter().chain([&asked]) {
        store.note(key, &"it").await.unwrap();
        let note = File::options().write(true).open(store.folder.note(key));
        let old = SystemTime::now() - Duration::from_secs(91 * 24 * 3600);
        note.unwrap().set_modified(old).unwrap();
    }
    assert_eq!(store.noted::<String>(&asked).await.unwrap(), "it");
    let store = Store::open(folder.path(), 100).unwrap();
    let mut known = Vec::new();
    for key in keys.iter().chain([&asked]) {
        known.push(store.noted::<String>(key).await.is_some());
    }
    assert_eq!(known, [true, false, false, false, true]);
}

/// Would fail if notes filled the disk, if what is in use were forgotten for what is not, or what is written often took the room of
/// others.
#[tokio::test]
async fn there_are_only_so_many_notes() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(folder.path(), 100).unwrap();
    Arc::get_mut(&mut store.folder).unwrap().notes.most = Size {
        count: 8,
        bytes: 1000,
    };
    let held = store.put(&b"held"[..]).await.unwrap().sha256;
    let here = store.put(&b"here"[..]).await.unwrap().sha256;
    store.hold("ns/f", [held.clone()]);
    store.folder.age(LONG);
    let (gone, long_gone) = (sha256(b"gone"), sha256(b"long gone"));
    // Those first that were not asked for longest.
    let keys = [
        format!("{held}-0.1.0.json"),
        "trials.json".to_owned(),
        format!("signed-{gone}-set"),
        format!("{here}-0.1.0.json"),
        format!("{long_gone}-0.1.0.json"),
        format!("{gone}-0.1.0.json"),
        format!("origins-{here}"),
        format!("failed-0-{held}-0.1.0.json"),
    ];
    let start = SystemTime::UNIX_EPOCH;
    for (key, age) in keys.iter().zip(1..) {
        store.note(key, &"it").await.unwrap();
        let note = File::options().write(true).open(store.folder.note(key));
        note.unwrap()
            .set_modified(start + Duration::from_secs(age))
            .unwrap();
    }
    let left = || keys.each_ref().map(|key| store.folder.note(key).exists());
    for _ in 0..9 {
        store.note("trials.json", &"it").await.unwrap();
    }
    assert_eq!(left(), [true; 8]);
    store.note("another.json", &"it").await.unwrap();
    let few = [true, true, true, true, false, true, true, false];
    assert_eq!(left(), few);
    let many = "x".repeat(990);
    let large = format!("failed-1-{held}-0.1.0.json");
    store.note(&large, &many).await.unwrap();
    assert_eq!((left(), store.folder.note(&large).exists()), (few, false));
}
