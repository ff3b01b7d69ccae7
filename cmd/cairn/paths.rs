//! Where things are if nobody says: `/var/...` for root, below `$HOME/.cairn` for others.

use std::path::{Path, PathBuf};

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn home() -> PathBuf {
    std::env::var_os("HOME").map_or_else(|| "/tmp".into(), PathBuf::from).join(".cairn")
}

/// The bucket of a `file` storage.
pub(crate) fn bucket() -> PathBuf {
    if is_root() { "/var/cairn".into() } else { home().join("local") }
}

/// Cached blocks.
pub(crate) fn cache_dir() -> PathBuf {
    if is_root() { "/var/cairnCache".into() } else { home().join("cache") }
}

/// The log of a mount in the background.
pub(crate) fn log_file() -> PathBuf {
    if is_root() { "/var/log/cairn.log".into() } else { home().join("cairn.log") }
}

/// `path` without `.`, `..` and symbolic links, as far as it exists.
pub(crate) fn absolute(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut missing = Vec::new();
    let mut there = path.as_path();
    loop {
        if let Ok(real) = there.canonicalize() {
            return missing.iter().rev().fold(real, |p: PathBuf, name| p.join(name));
        }
        match (there.parent(), there.file_name()) {
            (Some(parent), Some(name)) => {
                missing.push(name.to_owned());
                there = parent;
            }
            _ => return path,
        }
    }
}

/// Does this character make a path a pattern?
pub(crate) fn is_pattern(c: char) -> bool {
    matches!(c, '*' | '?' | '[')
}

/// The paths that `pattern` stands for, absolute.
///
/// A name behind the last one that holds a pattern need not exist: `/data*/cache` is `cache` below
/// every `/data*`, made where it is missing, so that a new disk is used without a word.
pub(crate) fn expand(pattern: &str) -> anyhow::Result<Vec<PathBuf>> {
    let pattern = Path::new(pattern);
    let names: Vec<_> = pattern.components().collect();
    let is_pattern_name = |name: &std::path::Component<'_>| name.as_os_str().to_string_lossy().contains(is_pattern);
    let Some(last) = names.iter().rposition(is_pattern_name) else { return Ok(vec![absolute(pattern)]) };
    let (matched, rest): (PathBuf, PathBuf) = (names[..=last].iter().collect(), names[last + 1..].iter().collect());
    let found = glob::glob(&matched.to_string_lossy()).map_err(|e| anyhow::anyhow!("not a pattern: {e}"))?;
    let mut all = Vec::new();
    for path in found {
        let path = path.map_err(|e| anyhow::anyhow!("look at {}: {}", e.path().display(), e.error()))?;
        if path.is_dir() {
            // Joining nothing would add a slash.
            all.push(absolute(&if rest.as_os_str().is_empty() { path } else { path.join(&rest) }));
        }
    }
    Ok(all)
}

/// The database file of a SQLite URL.
pub(crate) fn sqlite_file(meta_url: &str) -> Option<PathBuf> {
    let rest = meta_url.strip_prefix("sqlite3://")?;
    Some(PathBuf::from(rest.split_once('?').map_or(rest, |(path, _)| path)))
}

/// The file that somebody named who left out part of `sqlite3://`.
pub(crate) fn meant_as_sqlite(meta_url: &str) -> Option<PathBuf> {
    if meta_url.contains("://") {
        return None;
    }
    let file = meta_url.strip_prefix("sqlite3:").or_else(|| meta_url.strip_prefix("sqlite:"));
    let path = Path::new(file.unwrap_or(meta_url));
    let is_path = path.is_absolute() || path.exists() || meta_url.starts_with("./") || meta_url.starts_with("../");
    (file.is_some() || is_path).then(|| absolute(path))
}

/// The URL with the path of a SQLite database made absolute, so that a later change of the working
/// directory does not move it.
pub(crate) fn absolute_url(meta_url: &str) -> String {
    match (sqlite_file(meta_url), meta_url.split_once('?')) {
        (None, _) => meta_url.into(),
        (Some(file), query) => {
            let query = query.map_or(String::new(), |(_, q)| format!("?{q}"));
            format!("sqlite3://{}{query}", absolute(&file).display())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_databases_become_absolute_and_keep_their_query() {
        let here = std::env::current_dir().expect("a working directory").canonicalize().expect("it exists");
        assert_eq!(absolute_url("sqlite3://x.db?_timeout=1"), format!("sqlite3://{}/x.db?_timeout=1", here.display()));
        assert_eq!(absolute_url("redis://h/1?a=b"), "redis://h/1?a=b");
    }

    #[test]
    fn a_pattern_stands_for_each_match_and_what_is_behind_it_need_not_exist() {
        let dir = tempfile::tempdir().expect("a folder");
        let root = dir.path().canonicalize().expect("it exists");
        for name in ["data1/cache", "data2", "other"] {
            std::fs::create_dir_all(root.join(name)).expect("made");
        }
        std::fs::write(root.join("data3"), "no directory").expect("made");
        let expanded = |pattern: &str| {
            let mut all = expand(&format!("{}/{pattern}", root.display())).expect("a pattern");
            all.sort();
            all
        };
        assert_eq!(expanded("data*/cache"), [root.join("data1/cache"), root.join("data2/cache")]);
        assert_eq!(expanded("data[12]"), [root.join("data1"), root.join("data2")]);
        assert_eq!(expanded("?ther/a/b"), [root.join("other/a/b")]);
        assert_eq!(expanded("new"), [root.join("new")]);
        assert_eq!(expanded("none*"), Vec::<PathBuf>::new());
        assert!(expand("/a/[").is_err());
    }

    #[test]
    fn a_path_is_known_from_a_url() {
        let wanted = Some(PathBuf::from("/nowhere/x.db"));
        assert_eq!(meant_as_sqlite("/nowhere/x.db"), wanted);
        assert_eq!(meant_as_sqlite("sqlite3:/nowhere/x.db"), wanted);
        assert!(meant_as_sqlite("./x.db").is_some_and(|p| p.is_absolute()));
        for url in ["sqlite3:///nowhere/x.db", "redis://h/1", "host:6379/1"] {
            assert_eq!(meant_as_sqlite(url), None, "{url}");
        }
    }
}
