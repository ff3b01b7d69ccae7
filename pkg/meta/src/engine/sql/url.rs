//! The parts of a database URL, in the URL's own form and in that of Go's MySQL driver.
//!
//! Passwords come out of here towards the server only: no message quotes a URL.

use super::schema::DEFAULT_PREFIX;
use crate::{Error, Result};

/// What stands between `scheme://` and the end.
#[derive(Clone, Default, PartialEq, Eq)]
pub(in crate::engine) struct Parts {
    pub(in crate::engine) user: Option<String>,
    pub(in crate::engine) password: Option<String>,
    /// `host`, `host:port`, `(host:port)`, `unix(/path)`, or nothing.
    pub(in crate::engine) place: String,
    pub(in crate::engine) database: String,
    pub(in crate::engine) params: Vec<(String, String)>,
}

/// What every SQL engine takes from a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::engine) struct Common {
    /// Begins every table's name.
    pub(in crate::engine) prefix: String,
    pub(in crate::engine) connections: usize,
}

pub(in crate::engine) fn refused<T>(sentence: String) -> Result<T> {
    Err(Error::Refused(sentence))
}

impl Parts {
    pub(in crate::engine) fn parse(scheme: &str, url: &str) -> Result<Parts> {
        let Some((_, rest)) = url.split_once("://") else {
            return refused(format!("a metadata URL of {scheme} begins with {scheme}://"));
        };
        // A password may hold any character, so the last @ ends it.
        let (login, rest) = match rest.rsplit_once('@') {
            Some((login, rest)) => (Some(login), rest),
            None => (None, rest),
        };
        let (user, password) = match login.map(|login| login.split_once(':').unwrap_or((login, ""))) {
            Some((user, password)) => (Some(user), Some(password)),
            None => (None, None),
        };
        let decoded = |part: Option<&str>| part.filter(|p| !p.is_empty()).map(decoded);
        let (before, query) = rest.split_once('?').unwrap_or((rest, ""));
        // The path of a socket holds slashes; it is in parentheses.
        let Some((place, database)) = before.rsplit_once('/') else {
            return refused(format!("a metadata URL of {scheme} ends with /DATABASE"));
        };
        if database.is_empty() {
            return refused(format!("the metadata URL of {scheme} names no database: it ends with /DATABASE"));
        }
        let params = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (name.to_string(), self::decoded(value))
        });
        Ok(Parts {
            user: decoded(user),
            password: decoded(password),
            place: place.to_string(),
            database: self::decoded(database),
            params: params.collect(),
        })
    }

    /// Takes what every SQL engine understands out of the parameters.
    pub(in crate::engine) fn take_common(&mut self, connections: usize) -> Result<Common> {
        let mut common = Common { prefix: DEFAULT_PREFIX.into(), connections };
        for (name, value) in std::mem::take(&mut self.params) {
            match name.as_str() {
                "max_open_conns" => match value.parse() {
                    // None means as many as needed: ours are few.
                    Ok(0) => {}
                    Ok(n) => common.connections = n,
                    Err(_) => return refused(format!("metadata URL parameter {name}={value}: expected a number")),
                },
                // Connections are kept while they are whole.
                "max_idle_conns" | "max_idle_time" | "max_life_time" => {}
                "table_prefix" => {
                    let plain = value.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
                    if value.is_empty() || !plain {
                        return refused(format!(
                            "metadata URL parameter {name}={value}: expected letters, digits and underscores"
                        ));
                    }
                    common.prefix = format!("{DEFAULT_PREFIX}{value}_");
                }
                _ => self.params.push((name, value)),
            }
        }
        Ok(common)
    }

    /// Host and port of `host:port`, `[v6]:port` or the same in parentheses.
    pub(in crate::engine) fn host_and_port(place: &str, port: u16) -> Result<(String, u16)> {
        let place = place.strip_prefix("tcp").filter(|rest| rest.starts_with('(')).unwrap_or(place);
        let place = place.strip_prefix('(').and_then(|p| p.strip_suffix(')')).unwrap_or(place);
        let (host, digits) = match place.rsplit_once(':') {
            Some((host, digits)) if !digits.contains(']') && (!host.contains(':') || host.starts_with('[')) => {
                (host, Some(digits))
            }
            _ => (place, None),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_string();
        match digits.map(str::parse) {
            None => Ok((host, port)),
            Some(Ok(port)) => Ok((host, port)),
            Some(Err(_)) => refused(format!("the metadata URL has an odd port: {place}")),
        }
    }
}

/// Percent-encoding taken away; what is none stays as it is.
fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut i) = (Vec::with_capacity(bytes.len()), 0);
    while i < bytes.len() {
        let code = (bytes[i] == b'%').then(|| bytes.get(i + 1..i + 3)).flatten();
        match code.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                i += 3;
            }
            None => {
                out.push(bytes[i]);
                i += 1;
            }
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| text.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_a_url_are_read() {
        let mut parts = Parts::parse("mysql", "mysql://u:p%40s%3as@(db:3307)/vol?table_prefix=team1&tls=true").unwrap();
        assert_eq!(parts.user.as_deref(), Some("u"));
        assert_eq!(parts.password.as_deref(), Some("p@s:s"));
        assert_eq!(parts.database, "vol");
        assert_eq!(Parts::host_and_port(&parts.place, 3306).unwrap(), ("db".into(), 3307));
        let common = parts.take_common(7).unwrap();
        assert_eq!(common, Common { prefix: "jfs_team1_".into(), connections: 7 });
        assert_eq!(parts.params, [("tls".to_string(), "true".to_string())]);

        let parts = Parts::parse("postgres", "postgres://h/d").unwrap();
        assert_eq!((parts.user, parts.place.as_str()), (None, "h"));
        let parts = Parts::parse("mysql", "mysql://root:@unix(/run/my.sock)/d").unwrap();
        assert_eq!((parts.place.as_str(), parts.password), ("unix(/run/my.sock)", None));
        // A password as it was typed, with characters that mean something in a URL.
        let parts = Parts::parse("postgres", "postgres://u:a@b/c?d@[::1]:99/d").unwrap();
        assert_eq!(parts.password.as_deref(), Some("a@b/c?d"));
        assert_eq!(Parts::host_and_port(&parts.place, 1).unwrap(), ("::1".into(), 99));
    }

    #[test]
    fn odd_urls_are_refused_without_their_password() {
        for (url, word) in [
            ("mysql://u:geheim@(db:3306)/", "database"),
            ("mysql://u:geheim@(db:3306)", "/DATABASE"),
            ("mysql://u:geheim@(db:1)/d?table_prefix=a;b", "table_prefix"),
            ("mysql://u:geheim@(db:1)/d?max_open_conns=x", "max_open_conns"),
        ] {
            let e = Parts::parse("mysql", url).and_then(|mut p| p.take_common(1).map(|_| ())).unwrap_err().to_string();
            assert!(e.contains(word) && !e.contains("geheim"), "{e}");
        }
    }
}
