//! How a store lies in its file, and what one operation does to it.
//!
//! Every key has a number, given when it is first set. `list-keys` walks the numbers: its cursor stays right while
//! others write, over instances and over restarts, and a page costs what it holds.

use std::ops::Bound;

use redb::{
    ReadOnlyTable, ReadTransaction, ReadableTable as _, Table, TableDefinition, WriteTransaction,
};

use crate::limits::{MAX_CALL_BYTES, PAGE_KEYS, cost};
use crate::store::{Error, Found, Page};

/// Key → its number and its value.
const ENTRIES: TableDefinition<'_, &str, (u64, &[u8])> = TableDefinition::new("entries");
/// Number → key.
const ORDER: TableDefinition<'_, u64, &str> = TableDefinition::new("order");
/// [`COST`] and [`NEXT`].
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// What all entries count.
const COST: &str = "cost";
/// The number of the next new key.
const NEXT: &str = "next";

/// A snapshot.
pub(crate) struct Snapshot {
    entries: ReadOnlyTable<&'static str, (u64, &'static [u8])>,
    order: ReadOnlyTable<u64, &'static str>,
    meta: ReadOnlyTable<&'static str, u64>,
}

impl Snapshot {
    pub(crate) fn open(transaction: &ReadTransaction) -> Result<Self, redb::Error> {
        Ok(Self {
            entries: transaction.open_table(ENTRIES)?,
            order: transaction.open_table(ORDER)?,
            meta: transaction.open_table(META)?,
        })
    }

    /// Whether it is written down what the entries count.
    pub(crate) fn is_counted(&self) -> bool {
        self.meta.get(COST).is_ok_and(|cost| cost.is_some())
    }

    pub(crate) fn get_many(&self, keys: Vec<String>) -> Result<Vec<Found>, Error> {
        let mut bytes = 0usize;
        let mut pairs = Vec::with_capacity(keys.len());
        for key in keys {
            let Some(entry) = self.entries.get(key.as_str())? else {
                pairs.push(None);
                continue;
            };
            let (_, value) = entry.value();
            bytes = bytes.saturating_add(value.len());
            if bytes > MAX_CALL_BYTES {
                return Err(Error::CallTooLarge);
            }
            pairs.push(Some((key, value.to_vec())));
        }
        Ok(pairs)
    }

    pub(crate) fn exists(&self, key: &str) -> Result<bool, Error> {
        Ok(self.entries.get(key)?.is_some())
    }

    pub(crate) fn list(&self, after: Option<u64>) -> Result<Page, Error> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut page = Page {
            keys: Vec::new(),
            cursor: None,
        };
        let mut last = None;
        for entry in self.order.range((from, Bound::<u64>::Unbounded))? {
            let (number, key) = entry?;
            if page.keys.len() == PAGE_KEYS {
                page.cursor = last; // There is at least one more key.
                break;
            }
            last = Some(number.value());
            page.keys.push(key.value().to_owned());
        }
        Ok(page)
    }
}

/// The tables in a transaction that writes. Each operation either does all of its work, or none and returns an error
/// of the guest's making; after a storage error the transaction must be given up.
pub(crate) struct Writable<'t> {
    entries: Table<'t, &'static str, (u64, &'static [u8])>,
    order: Table<'t, u64, &'static str>,
    meta: Table<'t, &'static str, u64>,
    cost: u64,
    next: u64,
    max_bytes: u64,
}

impl<'t> Writable<'t> {
    pub(crate) fn open(
        transaction: &'t WriteTransaction,
        max_bytes: u64,
    ) -> Result<Self, redb::Error> {
        let meta = transaction.open_table(META)?;
        let entries = transaction.open_table(ENTRIES)?;
        let read = |name: &str| Ok::<_, redb::Error>(meta.get(name)?.map(|value| value.value()));
        // Files made before entries counted more than their bytes have none: the folder `.wisp` stays over versions.
        let cost = match read(COST)? {
            Some(cost) => cost,
            None => count(&entries)?,
        };
        let next = read(NEXT)?.unwrap_or_default();
        Ok(Self {
            entries,
            order: transaction.open_table(ORDER)?,
            meta,
            cost,
            next,
            max_bytes,
        })
    }

    pub(crate) fn set(&mut self, key: &str, value: &[u8]) -> Result<(), Error> {
        let old = self.entries.get(key)?.map(|entry| {
            let (number, value) = entry.value();
            (number, cost(key, value.len()))
        });
        let (number, freed) = old.unwrap_or((self.next, 0));
        let added = cost(key, value.len());
        let sum = self.cost.saturating_sub(freed).saturating_add(added);
        // What makes a store smaller is always allowed: its limit may have been lowered.
        if sum > self.max_bytes && sum > self.cost {
            return Err(Error::Full {
                used: self.cost,
                needed: sum - self.cost,
                max: self.max_bytes,
            });
        }
        self.entries.insert(key, (number, value))?;
        if old.is_none() {
            self.order.insert(number, key)?;
            self.next = self.next.saturating_add(1);
        }
        self.cost = sum;
        Ok(())
    }

    pub(crate) fn delete(&mut self, key: &str) -> Result<(), Error> {
        let old = self.entries.remove(key)?.map(|entry| {
            let (number, value) = entry.value();
            (number, cost(key, value.len()))
        });
        if let Some((number, freed)) = old {
            self.order.remove(number)?;
            self.cost = self.cost.saturating_sub(freed);
        }
        Ok(())
    }

    /// Counters are decimal numbers in ASCII, as other hosts of wasi:keyvalue keep them.
    pub(crate) fn increment(&mut self, key: &str, delta: u64) -> Result<u64, Error> {
        let old = match self.entries.get(key)? {
            None => 0,
            Some(entry) => std::str::from_utf8(entry.value().1)
                .ok()
                .filter(|text| !text.starts_with('+'))
                .and_then(|text| text.parse::<u64>().ok())
                .ok_or_else(|| Error::NotANumber {
                    key: key.to_owned(),
                })?,
        };
        let new = old.checked_add(delta).ok_or_else(|| Error::Overflow {
            key: key.to_owned(),
            old,
            delta,
        })?;
        self.set(key, new.to_string().as_bytes())?;
        Ok(new)
    }

    /// Writes down what the operations changed in sum.
    pub(crate) fn finish(mut self) -> Result<(), redb::Error> {
        self.meta.insert(COST, self.cost)?;
        self.meta.insert(NEXT, self.next)?;
        Ok(())
    }
}

/// What all entries count, by reading each of them.
fn count(entries: &Table<'_, &'static str, (u64, &'static [u8])>) -> Result<u64, redb::Error> {
    let mut sum = 0u64;
    for entry in entries.iter()? {
        let (key, entry) = entry?;
        sum = sum.saturating_add(cost(key.value(), entry.value().1.len()));
    }
    Ok(sum)
}

/// Makes of a file one that was made before entries were counted as they are now.
#[cfg(test)]
pub(crate) fn forget_count(database: &redb::Database) {
    let transaction = database.begin_write().unwrap();
    transaction.open_table(META).unwrap().remove(COST).unwrap();
    transaction.commit().unwrap();
}
