//! `postgres://[user[:password]@]host[:port]/database[?params]` as JuiceFS reads it.

use std::path::PathBuf;

use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use super::super::sql::link::CONNECTIONS;
use super::super::sql::url::{Common, Parts, refused};
use crate::Result;

/// What a URL says.
pub(super) struct Place {
    parts: Parts,
    pub(super) common: Common,
    host: String,
    port: u16,
    sslmode: Option<PgSslMode>,
    root_cert: Option<PathBuf>,
    client_cert: Option<PathBuf>,
    client_key: Option<PathBuf>,
    schema: Option<String>,
}

impl Place {
    pub(super) fn parse(url: &str) -> Result<Place> {
        let mut parts = Parts::parse("postgres", url)?;
        let common = parts.take_common(CONNECTIONS)?;
        let (host, port) = Parts::host_and_port(&parts.place, 5432)?;
        if host.contains(',') {
            return refused("several hosts in one postgres:// URL are not supported: name one".into());
        }
        let mut place = Place {
            common,
            host,
            port,
            sslmode: None,
            root_cert: None,
            client_cert: None,
            client_key: None,
            schema: None,
            parts: Parts::default(),
        };
        for (name, value) in std::mem::take(&mut parts.params) {
            place.set(&mut parts, &name, value)?;
        }
        place.parts = parts;
        Ok(place)
    }

    fn set(&mut self, parts: &mut Parts, name: &str, value: String) -> Result<()> {
        match name {
            "sslmode" => match value.parse() {
                Ok(mode) => self.sslmode = Some(mode),
                Err(_) => {
                    return refused(format!(
                        "postgres parameter sslmode={value}: expected disable, allow, prefer, require, verify-ca or \
                         verify-full"
                    ));
                }
            },
            "sslrootcert" => self.root_cert = Some(value.into()),
            "sslcert" => self.client_cert = Some(value.into()),
            "sslkey" => self.client_key = Some(value.into()),
            "host" => self.host = value,
            "port" => match value.parse() {
                Ok(port) => self.port = port,
                Err(_) => return refused(format!("postgres parameter port={value}: expected a number")),
            },
            "user" => parts.user = Some(value),
            "password" => parts.password = Some(value),
            "search_path" => {
                let plain = value.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-');
                if value.is_empty() || !plain {
                    return refused(format!("postgres parameter search_path={value}: expected one schema"));
                }
                self.schema = Some(value);
            }
            // Our own limits hold; the name shows in the server's list of connections.
            "connect_timeout" | "application_name" | "fallback_application_name" => {}
            _ => {
                return refused(format!(
                    "unknown postgres parameter {name:?}: known are sslmode, sslrootcert, sslcert, sslkey, host, port, \
                     user, password, search_path, table_prefix, max_open_conns"
                ));
            }
        }
        Ok(())
    }

    pub(super) fn describe(&self) -> String {
        let user = self.parts.user.as_ref().map(|user| format!("{user}@")).unwrap_or_default();
        let schema = self.schema.as_ref().map(|s| format!("?search_path={s}")).unwrap_or_default();
        if self.host.starts_with('/') {
            return format!("postgres://{user}/{}?host={}", self.parts.database, self.host);
        }
        format!("postgres://{user}{}:{}/{}{schema}", self.host, self.port, self.parts.database)
    }

    pub(super) fn options(&self) -> PgConnectOptions {
        let mut options = PgConnectOptions::new_without_pgpass()
            .port(self.port)
            .database(&self.parts.database)
            .application_name("cairnfs")
            // Poolers in between refuse what they do not know.
            .extra_float_digits(None)
            // Statements hold names of files.
            .disable_statement_logging();
        if !self.host.is_empty() {
            options = options.host(&self.host);
        }
        if let Some(user) = &self.parts.user {
            options = options.username(user);
        }
        if let Some(password) = &self.parts.password {
            options = options.password(password);
        }
        if let Some(mode) = self.sslmode {
            options = options.ssl_mode(mode);
        }
        if let Some(file) = &self.root_cert {
            options = options.ssl_root_cert(file);
        }
        if let Some(file) = &self.client_cert {
            options = options.ssl_client_cert(file);
        }
        if let Some(file) = &self.client_key {
            options = options.ssl_client_key(file);
        }
        options
    }

    /// What every connection is told first: how values are written, and that each statement of a
    /// commit sees what the ones before it waited for.
    pub(super) fn setup(&self) -> String {
        let mut setup = "SET default_transaction_isolation = 'read committed'; SET bytea_output = 'hex'; \
                         SET standard_conforming_strings = on; SET client_min_messages = warning"
            .to_string();
        if let Some(schema) = &self.schema {
            setup += &format!("; SET search_path TO \"{schema}\"");
        }
        setup
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_read_as_juicefs_reads_them() {
        let place = Place::parse("postgres://u:geheim@db:5433/vol?sslmode=verify-ca&search_path=s1").unwrap();
        assert_eq!(place.describe(), "postgres://u@db:5433/vol?search_path=s1");
        assert!(place.setup().contains("search_path TO \"s1\""));
        let options = place.options();
        assert_eq!((options.get_host(), options.get_port(), options.get_username()), ("db", 5433, "u"));
        let socket = Place::parse("postgres://u@/vol?host=/run/pg").unwrap();
        assert_eq!(socket.describe(), "postgres://u@/vol?host=/run/pg");
    }

    #[test]
    fn what_is_unknown_is_refused_by_name() {
        for (url, word) in [
            ("postgres://u:geheim@h/d?nope=1", "nope"),
            ("postgres://u:geheim@h/d?search_path=a,b", "one schema"),
            ("postgres://u:geheim@h/d?sslmode=perhaps", "verify-full"),
            ("postgres://u:geheim@h1,h2/d", "several hosts"),
        ] {
            let e = Place::parse(url).map(|_| ()).unwrap_err().to_string();
            assert!(e.contains(word) && !e.contains("geheim"), "{e}");
        }
    }
}
