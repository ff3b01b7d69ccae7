//! Secrets: read once, then gone from the process list, and masked in what we print.
//!
//! The kernel shows other users the memory the arguments lie in. Once they are parsed, each secret
//! there is overwritten with stars by way of `/proc/self/mem`, which needs no unsafe code; the same
//! happens to the environment, which children would inherit.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, bail};
use cairn_crypt::Passphrase;
use clap::ArgMatches;
use clap::parser::ValueSource;

/// What must not be shown, longest first.
static HIDDEN: Mutex<Vec<String>> = Mutex::new(Vec::new());
/// The password of the metadata engine, taken from the environment at the start.
static META_PASSWORD: Mutex<Option<String>> = Mutex::new(None);
/// The passphrase of a volume's private key, likewise.
static RSA_PASSPHRASE: Mutex<Option<String>> = Mutex::new(None);

/// Arguments that are secrets, as clap names them.
const SECRET_ARGS: [&str; 3] = ["access_key", "secret_key", "session_token"];

/// Remembers the secrets among the arguments and in the environment, and takes them out of sight.
pub(crate) fn hide(matches: &ArgMatches) {
    let mut found = Vec::new();
    if let Some((_, given)) = matches.subcommand() {
        for id in SECRET_ARGS {
            if let Ok(Some(secret)) = given.try_get_one::<String>(id)
                && given.value_source(id) != Some(ValueSource::DefaultValue)
            {
                found.push(secret.clone());
            }
        }
        if let Ok(Some(url)) = given.try_get_one::<String>("meta_url") {
            found.extend(password(url).map(str::to_owned));
        }
    }
    for (name, kept) in [("META_PASSWORD", &META_PASSWORD), ("JFS_RSA_PASSPHRASE", &RSA_PASSPHRASE)] {
        if let Ok(secret) = std::env::var(name) {
            found.push(secret.clone());
            *kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(secret);
        }
    }
    found.retain(|s| !s.is_empty());
    found.sort_by_key(|s| std::cmp::Reverse(s.len()));
    // A secret that cannot be overwritten stays where whoever started us has put it.
    _ = overwrite(&found);
    *HIDDEN.lock().unwrap_or_else(PoisonError::into_inner) = found;
}

/// `text` with every secret replaced.
pub(crate) fn masked(text: &str) -> String {
    let hidden = HIDDEN.lock().unwrap_or_else(PoisonError::into_inner);
    // Very short ones would mask half of the text and hide nothing.
    hidden.iter().filter(|s| s.len() > 3).fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), "****"))
}

/// The password part of `scheme://user:password@...`.
fn password(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let (user, _) = rest.rsplit_once('@')?;
    let (_, password) = user.split_once(':')?;
    (!password.is_empty()).then_some(password)
}

/// The URL with its password, if it has none and `META_PASSWORD` or `META_PASSWORD_FILE` does.
pub(crate) fn meta_url(url: &str) -> anyhow::Result<String> {
    if let Some(path) = crate::paths::meant_as_sqlite(url) {
        bail!("{url:?} is not a metadata URL: did you mean sqlite3://{}?", path.display());
    }
    let url = crate::paths::absolute_url(url);
    let Some((scheme, rest)) = url.split_once("://") else { return Ok(url) };
    if matches!(scheme, "sqlite3" | "memkv") || password(&url).is_some() {
        return Ok(url);
    }
    let given = META_PASSWORD.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let secret = match (given, std::env::var_os("META_PASSWORD_FILE")) {
        (Some(secret), _) => secret,
        (None, Some(file)) => read_file("META_PASSWORD_FILE", file)?,
        (None, None) => return Ok(url),
    };
    HIDDEN.lock().unwrap_or_else(PoisonError::into_inner).push(secret.clone());
    Ok(match rest.rsplit_once('@') {
        Some((user, place)) => format!("{scheme}://{}:{secret}@{place}", user.trim_end_matches(':')),
        None => format!("{scheme}://:{secret}@{rest}"),
    })
}

/// What unlocks the private key of an encrypted volume: `JFS_RSA_PASSPHRASE`, or what the file says that
/// `JFS_RSA_PASSPHRASE_FILE` names.
pub(crate) fn passphrase() -> anyhow::Result<Passphrase> {
    let given = RSA_PASSPHRASE.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let secret = match (given.filter(|g| !g.is_empty()), std::env::var_os("JFS_RSA_PASSPHRASE_FILE")) {
        (Some(secret), _) => secret,
        (None, Some(file)) => read_file("JFS_RSA_PASSPHRASE_FILE", file)?,
        (None, None) => return Ok(Passphrase::default()),
    };
    HIDDEN.lock().unwrap_or_else(PoisonError::into_inner).push(secret.clone());
    Ok(Passphrase::new(secret))
}

fn read_file(name: &str, file: OsString) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(&file).with_context(|| format!("read {name} {}", file.display()))?;
    Ok(text.trim_end_matches(['\n', '\r']).to_owned())
}

/// Replaces each secret in the memory of arguments and environment by stars.
fn overwrite(secrets: &[String]) -> std::io::Result<()> {
    if secrets.is_empty() {
        return Ok(());
    }
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The second field may hold blanks and parentheses; counting starts behind it, at field 3.
    let fields: Vec<u64> =
        stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().map(|f| f.parse().unwrap_or(0)).collect();
    let memory = OpenOptions::new().read(true).write(true).open("/proc/self/mem")?;
    // arg_start, arg_end, env_start, env_end are fields 48 to 51.
    for (start, end) in [(45, 46), (47, 48)] {
        if let (Some(&start), Some(&end)) = (fields.get(start), fields.get(end)) {
            overwrite_in(&memory, start, end.saturating_sub(start), secrets)?;
        }
    }
    Ok(())
}

fn overwrite_in(memory: &File, start: u64, bytes: u64, secrets: &[String]) -> std::io::Result<()> {
    let mut region = vec![0; bytes as usize];
    memory.read_exact_at(&mut region, start)?;
    for secret in secrets {
        let mut at = 0;
        while let Some(found) = find(&region[at..], secret.as_bytes()) {
            let stars = vec![b'*'; secret.len()];
            memory.write_all_at(&stars, start + (at + found) as u64)?;
            at += found + secret.len();
        }
    }
    Ok(())
}

fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    hay.windows(needle.len()).position(|w| w == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_of_a_url_is_found() {
        assert_eq!(password("mysql://me:p@ss@(host:1)/db"), Some("p@ss"));
        assert_eq!(password("redis://:secret@host/1"), Some("secret"));
        assert_eq!(password("redis://host:6379/1"), None);
        assert_eq!(password("sqlite3:///x.db"), None);
    }
}
