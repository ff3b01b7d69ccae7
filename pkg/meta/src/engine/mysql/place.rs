//! `mysql://[user[:password]@](host:port)/database[?params]` as JuiceFS reads it, and as a URL.

use std::path::PathBuf;

use sqlx::ConnectOptions;
use sqlx::mysql::{MySqlConnectOptions, MySqlSslMode};

use super::super::sql::link::CONNECTIONS;
use super::super::sql::url::{Common, Parts, refused};
use crate::Result;

/// Parameters of the driver JuiceFS uses that mean nothing here.
const OF_GO: [&str; 18] = [
    "allowAllFiles",
    "allowCleartextPasswords",
    "allowFallbackToPlaintext",
    "allowNativePasswords",
    "allowOldPasswords",
    "charset",
    "checkConnLiveness",
    "clientFoundRows",
    "collation",
    "columnsWithAlias",
    "connectionAttributes",
    "interpolateParams",
    "loc",
    "maxAllowedPacket",
    "multiStatements",
    "parseTime",
    "rejectReadOnly",
    "timeout",
];

/// What a URL says.
pub(super) struct Place {
    parts: Parts,
    pub(super) common: Common,
    socket: Option<PathBuf>,
    host: String,
    port: u16,
    tls: MySqlSslMode,
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
}

impl Place {
    pub(super) fn parse(url: &str) -> Result<Place> {
        let mut parts = Parts::parse("mysql", url)?;
        let common = parts.take_common(CONNECTIONS)?;
        let socket = parts.place.strip_prefix("unix(").and_then(|rest| rest.strip_suffix(')')).map(PathBuf::from);
        let (host, port) = match socket {
            Some(_) => (String::new(), 0),
            None => Parts::host_and_port(&parts.place, 3306)?,
        };
        let params = std::mem::take(&mut parts.params);
        let tls = MySqlSslMode::Disabled;
        let mut place = Place { parts, common, socket, host, port, tls, ca: None, cert: None, key: None };
        for (name, value) in params {
            place.set(&name, value)?;
        }
        Ok(place)
    }

    fn set(&mut self, name: &str, value: String) -> Result<()> {
        match name {
            "tls" | "ssl-mode" | "sslmode" => {
                self.tls = match value.to_ascii_lowercase().as_str() {
                    "false" | "disabled" => MySqlSslMode::Disabled,
                    "preferred" => MySqlSslMode::Preferred,
                    "skip-verify" | "required" => MySqlSslMode::Required,
                    "verify-ca" | "verify_ca" => MySqlSslMode::VerifyCa,
                    "true" | "verify-identity" | "verify_identity" => MySqlSslMode::VerifyIdentity,
                    _ => {
                        return refused(format!(
                            "mysql parameter {name}={value}: expected false, preferred, skip-verify, verify-ca or true"
                        ));
                    }
                }
            }
            "ssl-ca" => self.ca = Some(value.into()),
            "ssl-cert" => self.cert = Some(value.into()),
            "ssl-key" => self.key = Some(value.into()),
            "socket" => self.socket = Some(value.into()),
            known if OF_GO.contains(&known) || matches!(known, "readTimeout" | "writeTimeout" | "serverPubKey") => {}
            _ => {
                return refused(format!(
                    "unknown mysql parameter {name:?}: known are tls, ssl-ca, ssl-cert, ssl-key, socket, table_prefix, \
                     max_open_conns"
                ));
            }
        }
        Ok(())
    }

    pub(super) fn describe(&self) -> String {
        let user = self.parts.user.as_ref().map(|user| format!("{user}@")).unwrap_or_default();
        match &self.socket {
            Some(path) => format!("mysql://{user}unix({})/{}", path.display(), self.parts.database),
            None => format!("mysql://{user}({}:{})/{}", self.host, self.port, self.parts.database),
        }
    }

    pub(super) fn options(&self) -> MySqlConnectOptions {
        let mut options = MySqlConnectOptions::new()
            .database(&self.parts.database)
            .charset("utf8mb4")
            // The mode is set as a whole afterwards.
            .pipes_as_concat(false)
            .no_engine_substitution(false)
            .timezone(None::<String>)
            .ssl_mode(self.tls)
            // Statements hold names of files.
            .disable_statement_logging();
        options = match &self.socket {
            Some(path) => options.socket(path),
            None => options.host(if self.host.is_empty() { "127.0.0.1" } else { &self.host }).port(self.port),
        };
        if let Some(user) = &self.parts.user {
            options = options.username(user);
        }
        if let Some(password) = &self.parts.password {
            options = options.password(password);
        }
        if let Some(file) = &self.ca {
            options = options.ssl_ca(file);
        }
        if let Some(file) = &self.cert {
            options = options.ssl_client_cert(file);
        }
        if let Some(file) = &self.key {
            options = options.ssl_client_key(file);
        }
        options
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_read_as_juicefs_reads_them() {
        let place = Place::parse("mysql://u:geheim@(db:3307)/vol?tls=skip-verify&parseTime=true").unwrap();
        assert_eq!(place.describe(), "mysql://u@(db:3307)/vol");
        assert!(matches!(place.tls, MySqlSslMode::Required));
        let plain = Place::parse("mysql://u:geheim@db/vol").unwrap();
        assert_eq!(plain.describe(), "mysql://u@(db:3306)/vol");
        let socket = Place::parse("mysql://u:geheim@unix(/run/my.sock)/vol").unwrap();
        assert_eq!(socket.describe(), "mysql://u@unix(/run/my.sock)/vol");
    }

    #[test]
    fn what_is_unknown_is_refused_by_name() {
        for (url, word) in
            [("mysql://u:geheim@h/d?nope=1", "nope"), ("mysql://u:geheim@(h:1)/d?tls=perhaps", "skip-verify")]
        {
            let e = Place::parse(url).map(|_| ()).unwrap_err().to_string();
            assert!(e.contains(word) && !e.contains("geheim"), "{e}");
        }
    }
}
