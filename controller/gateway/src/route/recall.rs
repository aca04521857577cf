//! Which function a host led to lately, or a path beside a host that is nobody's, per thread: most requests have those of one
//! before.

use std::cell::RefCell;
use std::sync::Arc;

use crate::function::Function;

/// How many of them a thread remembers.
const PLACES: usize = 512;

struct Entry {
    edition: u64,
    authority: Box<str>,
    by_path: bool,
    function: Arc<Function>,
}

impl Entry {
    /// The function's id, where the path named it.
    fn named(&self) -> Option<&str> {
        let id = || self.function.prefix.strip_prefix('/');
        self.by_path.then(id).flatten()
    }
}

thread_local! {
    static ENTRIES: RefCell<[Option<Entry>; PLACES]> = const { RefCell::new([const { None }; PLACES]) };
}

/// The function that `authority` led to, if nothing has changed since; or, with the `id` in a path, that the path did.
pub(super) fn find(edition: u64, authority: &str, id: Option<&str>) -> Option<Arc<Function>> {
    ENTRIES.with_borrow(|entries| {
        let entry = entries.get(place(authority, id))?.as_ref()?;
        (entry.edition == edition && *entry.authority == *authority && entry.named() == id)
            .then(|| Arc::clone(&entry.function))
    })
}

/// Remembers where `authority` led, or the path beside it.
pub(super) fn keep(edition: u64, authority: &str, by_path: bool, function: &Arc<Function>) {
    let entry = Entry {
        edition,
        authority: authority.into(),
        by_path,
        function: Arc::clone(function),
    };
    ENTRIES.with_borrow_mut(|entries| {
        if let Some(place) = entries.get_mut(place(authority, entry.named())) {
            *place = Some(entry);
        }
    });
}

/// Forgets everything, so that functions which are gone don't linger.
pub(crate) fn sweep() {
    ENTRIES.with_borrow_mut(|entries| entries.fill_with(|| None));
}

fn place(authority: &str, id: Option<&str>) -> usize {
    // FNV-1a, <http://www.isthe.com/chongo/tech/comp/fnv/>.
    let hash = authority
        .bytes()
        .chain(id.unwrap_or_default().bytes())
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    usize::try_from((hash ^ (hash >> 32)) % PLACES as u64).unwrap_or(0)
}
