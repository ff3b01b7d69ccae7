//! What is known of the volume's records: facts of one call, and hints kept between calls.
//!
//! A fact came in an answer of the server during this call, and remembers in which one, so that
//! several can be seen to be of one moment. A hint is what some earlier answer said: good enough
//! to run an operation on, never to believe an error or to answer a question.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use cairn_types::{Attr, Ino};
use quick_cache::sync::Cache;

use super::record::{Key, Value};

/// How well a value is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// Assumed, because it is usually so.
    Guess,
    /// An earlier call was told.
    Hint,
    /// The answer of this number, in this call, said so.
    Answer(u32),
}

/// What this call was told.
#[derive(Default)]
pub(super) struct Facts {
    records: HashMap<Key, (Value, u32)>,
    answers: u32,
}

impl Facts {
    pub(super) fn get(&self, key: &Key) -> Option<(&Value, Source)> {
        self.records.get(key).map(|(value, answer)| (value, Source::Answer(*answer)))
    }

    /// Takes in what one answer of the server said.
    pub(super) fn add_answer(&mut self, records: impl IntoIterator<Item = (Key, Value)>) {
        self.answers += 1;
        let answer = self.answers;
        self.records.extend(records.into_iter().map(|(key, value)| (key, (value, answer))));
    }

    /// Somebody changed something meanwhile: pages, which no guard watches, are read again.
    pub(super) fn forget_pages(&mut self) {
        self.records.retain(|key, _| !key.is_page());
    }
}

/// Records seen lately, by this client's calls.
pub(super) struct Hints {
    records: Cache<Key, Value>,
    /// Attributes as our own commits left them, and when the commit was sent.
    own: Cache<Ino, (Attr, Instant)>,
}

impl Hints {
    pub(super) fn new(capacity: usize) -> Hints {
        Hints { records: Cache::new(capacity), own: Cache::new((capacity / 16).max(16)) }
    }

    pub(super) fn get(&self, key: &Key) -> Option<Value> {
        self.records.get(key)
    }

    /// Takes in what the server said, whichever way.
    pub(super) fn learn(&self, key: &Key, value: &Value) {
        if let (Key::Attr(ino), Value::Attr(now)) = (key, value)
            && self.own.get(ino).is_some_and(|(own, _)| Some(own) != *now)
        {
            self.own.remove(ino);
        }
        if is_kept(key, value) {
            self.records.insert(key.clone(), value.clone());
        }
    }

    pub(super) fn forget(&self, key: &Key) {
        self.records.remove(key);
        if let Key::Attr(ino) = key {
            self.own.remove(ino);
        }
    }

    /// Our own commit, sent at `sent`, left the attributes so.
    pub(super) fn learn_own(&self, ino: Ino, attr: Attr, sent: Instant) {
        self.records.insert(Key::Attr(ino), Value::Attr(Some(attr)));
        self.own.insert(ino, (attr, sent));
    }

    /// Attributes as our own commit left them at most `age` ago, unless somebody else's hand was
    /// seen on them since.
    pub(super) fn own_attr(&self, ino: Ino, now: Instant, age: Duration) -> Option<Attr> {
        let (attr, sent) = self.own.get(&ino)?;
        (now.saturating_duration_since(sent) < age).then_some(attr)
    }
}

/// Small records only. Whether there is room is asked anew each time, and pages are too large.
fn is_kept(key: &Key, value: &Value) -> bool {
    match key {
        Key::Attr(_)
        | Key::Entry(..)
        | Key::Parents(_)
        | Key::SliceCount(..)
        | Key::AnyDirQuota
        | Key::Acl(_)
        | Key::Session(_)
        | Key::Flocks(_)
        | Key::Plocks(_)
        | Key::HasXattr(..)
        | Key::HasDirStat(_)
        | Key::HasQuota(_) => true,
        Key::AclId(_) => matches!(value, Value::AclId(Some(_))),
        _ => false,
    }
}
