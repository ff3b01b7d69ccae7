//! What the commit script compares and splices, in its own forms.

use cairn_types::Attr;

use super::program::{counter_offset, entry_bytes, limits, owner_field, text};
use crate::engine::remote::record::{Guard, Key, Value};
use crate::record::PlockRange;
use crate::txn::{AttrChange, Rely};

/// Places in an attribute record and what to put there.
pub(super) fn splices(change: &AttrChange) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    let mut put = |place: &str, bytes: &[u8]| {
        out.push(place.as_bytes().to_vec());
        out.push(bytes.to_vec());
    };
    let time = |t: cairn_types::Timestamp| [t.secs.to_be_bytes().as_slice(), &t.nanos.to_be_bytes()].concat();
    if let Some(flags) = change.flags {
        put("1", &[flags.0]);
    }
    if let Some(mode) = change.mode {
        put("mode", &(mode & 0o7777).to_be_bytes());
    }
    if let Some(uid) = change.uid {
        put("4", &uid.to_be_bytes());
    }
    if let Some(gid) = change.gid {
        put("8", &gid.to_be_bytes());
    }
    for (place, value) in [("12", change.atime), ("24", change.mtime), ("36", change.ctime)] {
        if let Some(value) = value {
            put(place, &time(value));
        }
    }
    if change.nlink_add != 0 {
        put("nlink", &text(change.nlink_add));
    }
    if let Some(length) = change.length {
        put("52", &length.to_be_bytes());
    }
    if let Some(least) = change.length_at_least {
        put("least", &least.to_be_bytes());
    }
    if let Some(parent) = change.parent {
        put("64", &parent.0.to_be_bytes());
    }
    if let Some(id) = change.access_acl {
        put("access", &id.to_be_bytes());
    }
    if let Some(id) = change.default_acl {
        put("default", &id.to_be_bytes());
    }
    if let Some(tier) = change.tier {
        put("tier", &[tier]);
    }
    out
}

/// The fields that a guard relies on, one after the other, as the script takes them from a record.
fn relied(attr: &Attr, rely: Rely) -> Vec<u8> {
    let record = attr.encode();
    let mut out = Vec::new();
    if rely.has(Rely::KIND) {
        out.push(record[1] >> 4);
    }
    if rely.has(Rely::PERMISSION) {
        out.push(record[1] & 15);
        out.extend(&record[2..11]);
        out.extend(attr.access_acl.to_be_bytes());
        out.extend(attr.default_acl.to_be_bytes());
    }
    if rely.has(Rely::FLAGS) {
        out.push(record[0]);
    }
    if rely.has(Rely::PARENT) {
        out.extend(attr.parent.0.to_be_bytes());
    }
    if rely.has(Rely::LENGTH) {
        out.extend(&record[51..59]);
    }
    if rely.has(Rely::NLINK) {
        out.extend(&record[47..51]);
    }
    if rely.has(Rely::TIMES) {
        out.extend(&record[11..47]);
    }
    if rely.has(Rely::TIER) {
        out.push(attr.tier);
    }
    out
}

/// How a guard is compared, and with what.
pub(super) fn expected(guard: &Guard) -> (&'static str, Vec<Vec<u8>>) {
    let with = |how: u8, bytes: &[u8]| [&[how], bytes].concat();
    let exactly = |bytes: Option<Vec<u8>>| bytes.map_or(vec![b'-'], |b| with(b'+', &b));
    let flag = |yes: bool| text(u8::from(yes));
    match (&guard.key, &guard.seen) {
        (_, Value::Attr(None)) => ("attr", vec![vec![b'-']]),
        (_, Value::Attr(Some(attr))) => ("attr", vec![text(guard.rely.0), relied(attr, guard.rely)]),
        (_, Value::Entry(entry)) => ("same", vec![exactly(entry.map(entry_bytes))]),
        (Key::CounterRoom { counter, add, limit }, Value::Flag(yes)) => {
            let limit = limit - counter_offset(*counter);
            ("room", vec![text(add), text(limit), flag(*yes)])
        }
        (Key::QuotaRoom { space, inodes, .. }, Value::Flag(yes)) => {
            ("quota", vec![text(space), text(inodes), flag(*yes)])
        }
        (Key::DirIsEmpty(_), Value::Flag(yes)) => ("flag", vec![flag(!yes)]),
        (_, Value::Flag(yes)) => ("flag", vec![flag(*yes)]),
        (_, Value::Parents(parents)) => {
            ("counts", parents.iter().flat_map(|(parent, n)| [text(parent), text(n)]).collect())
        }
        (_, Value::Bytes(bytes)) => ("same", vec![exactly(bytes.clone())]),
        (_, Value::SliceList(bytes)) => ("list", vec![bytes.clone()]),
        (Key::SliceRefs(_), Value::Number(n)) => ("same", vec![with(b'=', &text(n - 1))]),
        (Key::Counter(counter), Value::Number(n)) => ("same", vec![with(b'=', &text(n - counter_offset(*counter)))]),
        (_, Value::Number(n)) => ("same", vec![with(b'+', &text(n))]),
        (_, Value::DirStat(None)) => ("same", vec![vec![b'*'], vec![b'-'], vec![b'*']]),
        (_, Value::DirStat(Some(stat))) => {
            let numbers = [(b'=', stat.length), (b'+', stat.space), (b'=', stat.inodes)];
            ("same", numbers.map(|(how, n)| with(how, &text(n))).to_vec())
        }
        (_, Value::Quota(None)) => ("same", vec![vec![b'*'], vec![b'*'], vec![b'-']]),
        (_, Value::Quota(Some(quota))) => {
            let used = [(b'=', quota.used_space), (b'+', quota.used_inodes)].map(|(how, n)| with(how, &text(n)));
            let [space, inodes] = used;
            ("same", vec![with(b'~', &limits(quota)), space, inodes])
        }
        (_, Value::Acl(rule)) => ("same", vec![exactly(rule.as_ref().map(|rule| rule.encode()))]),
        (_, Value::Session(None)) => ("same", vec![vec![b'-'], vec![b'*']]),
        (_, Value::Session(Some(session))) => {
            let info = if session.info.is_empty() { vec![b'*'] } else { with(b'+', session.info.as_bytes()) };
            ("same", vec![with(b'+', &text(session.expire_secs)), info])
        }
        (_, Value::Flocks(held)) => {
            ("hash", held.iter().flat_map(|(owner, kind)| [owner_field(*owner), vec![kind.letter()]]).collect())
        }
        (_, Value::Plocks(held)) => {
            let pairs = held.iter().flat_map(|(owner, ranges)| [owner_field(*owner), PlockRange::encode_list(ranges)]);
            ("hash", pairs.collect())
        }
        (_, Value::Setting(json)) => ("same", vec![exactly(json.as_ref().map(|j| j.clone().into_bytes()))]),
        (key, other) => unreachable!("{key:?} is never guarded, and {other:?} never seen under it"),
    }
}
