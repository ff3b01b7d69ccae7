//! Where the server is, from the URL and the environment (volume format 5.5.1).
//!
//! Passwords come from the URL or from `REDIS_PASSWORD`, `META_PASSWORD` or the file that
//! `META_PASSWORD_FILE` names; they never leave this module but towards the server.

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo,
    RedisConnectionInfo, RedisError, TlsCertificates, Value as Reply,
};

use crate::{Error, Result};

/// A Redis server and how to speak to it.
#[derive(Clone)]
pub(super) struct Place {
    scheme: Scheme,
    kind: Kind,
    /// Servers to ask: one; or those of a cluster, or sentinels, which tell of others. A path for a
    /// Unix socket.
    addresses: Vec<(String, u16)>,
    db: i64,
    user: Option<String>,
    password: Option<String>,
    tls: Tls,
    pub(super) min_backoff: Duration,
    pub(super) read_timeout: Duration,
    pub(super) connect_timeout: Duration,
    /// Replicas that must have a commit before a sync is acknowledged; 0 for none.
    pub(super) wait_replicas: u32,
    /// Is a sync acknowledged only once the server's own log is on its disk?
    pub(super) wait_disk: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Tcp,
    Tls,
    Unix,
}

/// What the addresses are.
#[derive(Clone, PartialEq, Eq)]
enum Kind {
    /// The server.
    Single,
    /// Nodes of a cluster. All keys bear the database number as a hash tag, so that one node has
    /// them all.
    Cluster,
    /// Sentinels, which know the server of this name.
    Sentinel { master: String, password: Option<String> },
}

#[derive(Clone, Default)]
struct Tls {
    /// Certificates that are trusted, PEM.
    ca: Option<Vec<u8>>,
    /// Our certificate and key, PEM.
    own: Option<(Vec<u8>, Vec<u8>)>,
    insecure: bool,
}

impl Place {
    /// Reads a URL; `redis://` where there is no scheme. `env` looks up environment variables.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with a sentence that holds no password.
    pub(super) fn parse(url: &str, env: impl Fn(&str) -> Option<String>) -> Result<Place> {
        let (scheme, rest) = url.split_once("://").unwrap_or(("redis", url));
        let scheme = match scheme {
            "redis" => Scheme::Tcp,
            "rediss" => Scheme::Tls,
            "unix" => Scheme::Unix,
            other => return Err(refused(format!("{other}:// is not a Redis scheme"))),
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (login, rest) = match rest.rsplit_once('@') {
            Some((login, rest)) => (Some(login), rest),
            None => (None, rest),
        };
        let mut place = Place {
            scheme,
            kind: Kind::Single,
            addresses: vec![],
            db: 0,
            user: None,
            password: None,
            tls: Tls::default(),
            min_backoff: Duration::from_millis(8),
            read_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(5),
            wait_replicas: 0,
            wait_disk: false,
        };
        place.read_login(login)?;
        place.read_address(rest)?;
        place.read_query(query)?;
        if let Kind::Sentinel { password, .. } = &mut place.kind {
            *password = env("SENTINEL_PASSWORD").filter(|v| !v.is_empty());
        }
        if place.password.is_none() {
            place.password = password_of(env)?;
        }
        Ok(place)
    }

    fn read_login(&mut self, login: Option<&str>) -> Result<()> {
        let Some(login) = login else { return Ok(()) };
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        let decode = |part: &str| {
            unescaped(part)
                .ok_or_else(|| refused("the user or password in the Redis URL is not escaped as URLs are".into()))
        };
        self.user = (!user.is_empty()).then(|| decode(user)).transpose()?;
        self.password = (!password.is_empty()).then(|| decode(password)).transpose()?;
        Ok(())
    }

    fn read_address(&mut self, rest: &str) -> Result<()> {
        if self.scheme == Scheme::Unix {
            self.addresses = vec![(rest.to_string(), 0)];
            return Ok(());
        }
        let (address, db) = rest.split_once('/').unwrap_or((rest, ""));
        let db = db.trim_end_matches('/');
        if !db.is_empty() {
            self.db = db.parse().ok().filter(|db| *db >= 0).ok_or_else(|| {
                refused(format!("{db:?} in the Redis URL is no database number: write redis://host:port/1"))
            })?;
        }
        // A comma before any colon: the first part is the name that sentinels know the server by.
        let (mut hosts, mut port) = (address, 6379);
        if let Some((master, rest)) = address.split_once(',') {
            if master.contains(':') {
                self.kind = Kind::Cluster;
            } else {
                self.kind = Kind::Sentinel { master: master.to_string(), password: None };
                (hosts, port) = (rest, 26379);
                // One port at the end serves all that have none.
                let last = rest.rsplit(',').next().unwrap_or(rest);
                if let (_, Some(given)) = host_and_port(last)? {
                    port = given;
                }
            }
        }
        for part in hosts.split(',') {
            let (host, own) = host_and_port(part)?;
            let host = if host.is_empty() { "127.0.0.1" } else { host };
            self.addresses.push((host.to_string(), own.unwrap_or(port)));
        }
        Ok(())
    }

    fn read_query(&mut self, query: &str) -> Result<()> {
        let (mut certificate, mut key) = (None, None);
        for member in query.split('&').filter(|m| !m.is_empty()) {
            let (name, value) = member.split_once('=').unwrap_or((member, ""));
            let value = unescaped(value)
                .ok_or_else(|| refused(format!("{name} in the Redis URL is not escaped as URLs are")))?;
            match name {
                "min-retry-backoff" => self.min_backoff = duration(name, &value)?.max(Duration::from_millis(1)),
                "read-timeout" => self.read_timeout = duration(name, &value)?.max(Duration::from_millis(100)),
                "connect-timeout" | "dial-timeout" => {
                    self.connect_timeout = duration(name, &value)?.max(Duration::from_millis(100))
                }
                // Taken and of no use here: nothing waits for a write, and the longest pause is a second.
                "write-timeout" | "max-retry-backoff" => drop(duration(name, &value)?),
                "db" if self.scheme == Scheme::Unix => {
                    self.db = value.parse().map_err(|_| refused(format!("{value:?} is no database number")))?;
                }
                "insecure-skip-verify" => self.tls.insecure = value.is_empty() || value == "true" || value == "1",
                "tls-cert-file" => certificate = Some(file(name, &value)?),
                "tls-key-file" => key = Some(file(name, &value)?),
                "tls-ca-cert-file" => self.tls.ca = Some(file(name, &value)?),
                "wait-replicas" => {
                    self.wait_replicas = value.parse().map_err(|_| refused(format!("{name}={value} is no number")))?;
                }
                "wait-disk" => self.wait_disk = value.is_empty() || value == "true" || value == "1",
                "route-read" if value.is_empty() || value == "master" => {}
                "route-read" => {
                    return Err(refused(
                        "route-read is not in this release: every answer comes from the master".into(),
                    ));
                }
                "tls-server-name" => {
                    return Err(refused(
                        "tls-server-name is not in this release: name the host as its certificate does".into(),
                    ));
                }
                "client-cache" | "client-cache-size" | "client-cache-expire" | "client-cache-prefixes" => {
                    tracing::info!(name, "the option is JuiceFS's own and changes nothing here");
                }
                other => return Err(refused(format!("unknown option {other:?} in the Redis URL"))),
            }
        }
        self.tls.own = match (certificate, key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => return Err(refused("tls-cert-file and tls-key-file go together".into())),
        };
        Ok(())
    }

    /// Scheme, hosts and database; no user, no password.
    pub(super) fn describe(&self) -> String {
        let scheme = match self.scheme {
            Scheme::Tcp => "redis",
            Scheme::Tls => "rediss",
            Scheme::Unix => return format!("unix://{}?db={}", self.addresses[0].0, self.db),
        };
        let hosts: Vec<String> = self.addresses.iter().map(|(host, port)| format!("{host}:{port}")).collect();
        let master = if let Kind::Sentinel { master, .. } = &self.kind { format!("{master},") } else { String::new() };
        format!("{scheme}://{master}{}/{}", hosts.join(","), self.db)
    }

    /// The server turned out to be a node of a cluster.
    pub(super) fn become_cluster(&mut self) {
        self.kind = Kind::Cluster;
    }

    pub(super) fn is_cluster(&self) -> bool {
        self.kind == Kind::Cluster
    }

    /// What every key starts with.
    pub(super) fn prefix(&self) -> String {
        if self.is_cluster() { format!("{{{}}}", self.db) } else { String::new() }
    }

    /// Connects to the server that has the volume, wherever it is now.
    pub(super) async fn connect(&self) -> std::result::Result<MultiplexedConnection, RedisError> {
        match &self.kind {
            Kind::Single => {
                let (host, port) = &self.addresses[0];
                self.connect_to(host, *port, self.db).await
            }
            Kind::Cluster => {
                let (host, port) = self.ask_around(|host, port| self.ask_node(host, port)).await?;
                self.connect_to(&host, port, 0).await
            }
            Kind::Sentinel { master, password } => {
                let ask = |host, port| self.ask_sentinel(host, port, master, password.as_deref());
                let (host, port) = self.ask_around(ask).await?;
                let mut connection = self.connect_to(&host, port, self.db).await?;
                let role: Vec<Reply> = redis::cmd("ROLE").query_async(&mut connection).await?;
                match role.first() {
                    Some(Reply::BulkString(role)) if role == b"master" => Ok(connection),
                    _ => Err(unavailable("the server that the sentinels name is no master yet")),
                }
            }
        }
    }

    /// The first answer of any address.
    async fn ask_around<'a, F>(
        &'a self,
        ask: impl Fn(&'a str, u16) -> F,
    ) -> std::result::Result<(String, u16), RedisError>
    where
        F: Future<Output = std::result::Result<(String, u16), RedisError>>,
    {
        let mut last = unavailable("no address is given");
        for (host, port) in &self.addresses {
            match ask(host, *port).await {
                Ok(found) => return Ok(found),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Asks a node of the cluster which one has our keys.
    async fn ask_node(&self, host: &str, port: u16) -> std::result::Result<(String, u16), RedisError> {
        let mut connection = self.connect_to(host, port, 0).await?;
        let slot: i64 = redis::cmd("CLUSTER").arg("KEYSLOT").arg(self.prefix()).query_async(&mut connection).await?;
        let ranges: Vec<Vec<Reply>> = redis::cmd("CLUSTER").arg("SLOTS").query_async(&mut connection).await?;
        for range in ranges {
            let [Reply::Int(first), Reply::Int(last), Reply::Array(master), ..] = range.as_slice() else { continue };
            if (*first..=*last).contains(&slot)
                && let [name, Reply::Int(port), ..] = master.as_slice()
            {
                let name: Option<String> = redis::from_redis_value(name.clone()).ok();
                let name = name.filter(|name| !name.is_empty()).unwrap_or_else(|| host.to_string());
                return Ok((name, u16::try_from(*port).unwrap_or(0)));
            }
        }
        Err(unavailable("no node of the cluster has the slot of our keys"))
    }

    async fn ask_sentinel(
        &self,
        host: &str,
        port: u16,
        master: &str,
        password: Option<&str>,
    ) -> std::result::Result<(String, u16), RedisError> {
        let sentinel = Place { user: None, password: password.map(str::to_string), ..self.clone() };
        let mut connection = sentinel.connect_to(host, port, 0).await?;
        let mut ask = redis::cmd("SENTINEL");
        let found: Option<(String, u16)> =
            ask.arg("get-master-addr-by-name").arg(master).query_async(&mut connection).await?;
        found.ok_or_else(|| unavailable("the sentinels know no server of this name"))
    }

    async fn connect_to(
        &self,
        host: &str,
        port: u16,
        db: i64,
    ) -> std::result::Result<MultiplexedConnection, RedisError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.connect_timeout))
            .set_response_timeout(Some(self.read_timeout));
        self.client(host, port, db)?.get_multiplexed_async_connection_with_config(&config).await
    }

    fn client(&self, host: &str, port: u16, db: i64) -> std::result::Result<Client, RedisError> {
        let addr = match self.scheme {
            Scheme::Tcp => ConnectionAddr::Tcp(host.into(), port),
            Scheme::Unix => ConnectionAddr::Unix(PathBuf::from(host)),
            Scheme::Tls => {
                ConnectionAddr::TcpTls { host: host.into(), port, insecure: self.tls.insecure, tls_params: None }
            }
        };
        let mut settings = RedisConnectionInfo::default().set_db(db);
        if let Some(user) = &self.user {
            settings = settings.set_username(user);
        }
        if let Some(password) = &self.password {
            settings = settings.set_password(password);
        }
        let info: ConnectionInfo = addr.into_connection_info()?;
        let info = info.set_redis_settings(settings).set_tcp_settings(TcpSettings::default().set_nodelay(true));
        if self.scheme == Scheme::Tls && (self.tls.ca.is_some() || self.tls.own.is_some()) {
            let client_tls =
                self.tls.own.clone().map(|(client_cert, client_key)| ClientTlsConfig { client_cert, client_key });
            return Client::build_with_tls(info, TlsCertificates { client_tls, root_cert: self.tls.ca.clone() });
        }
        Client::open(info)
    }

    /// The server's words without the password, should they ever hold it.
    pub(super) fn words(&self, error: &RedisError) -> String {
        let words = error.to_string();
        match &self.password {
            Some(password) if words.contains(password.as_str()) => words.replace(password.as_str(), "***"),
            _ => words,
        }
    }
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Place({})", self.describe())
    }
}

/// A host, and its port if it has one; IPv6 addresses stand in brackets.
fn host_and_port(text: &str) -> Result<(&str, Option<u16>)> {
    let (host, port) = match text.strip_prefix('[').and_then(|a| a.split_once(']')) {
        Some((v6, port)) => (v6, port.strip_prefix(':').unwrap_or("")),
        None => text.rsplit_once(':').unwrap_or((text, "")),
    };
    let port = match port {
        "" => None,
        port => Some(port.parse().map_err(|_| refused(format!("{port:?} in the Redis URL is no port")))?),
    };
    Ok((host, port))
}

/// A failure that connecting again may cure.
fn unavailable(what: &'static str) -> RedisError {
    RedisError::from((redis::ErrorKind::Io, what))
}

fn refused(sentence: String) -> Error {
    Error::Refused(sentence)
}

fn password_of(env: impl Fn(&str) -> Option<String>) -> Result<Option<String>> {
    let given = ["REDIS_PASSWORD", "META_PASSWORD"].iter().find_map(|name| env(name).filter(|v| !v.is_empty()));
    if given.is_some() {
        return Ok(given);
    }
    let Some(path) = env("META_PASSWORD_FILE").filter(|v| !v.is_empty()) else { return Ok(None) };
    let text = std::fs::read_to_string(&path)
        .map_err(|e| refused(format!("META_PASSWORD_FILE {path} cannot be read: {e}")))?;
    Ok(Some(text.trim_end_matches(['\r', '\n']).to_string()))
}

fn file(name: &str, path: &str) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| refused(format!("{name} {path} cannot be read: {e}")))
}

/// A duration as Go writes it, one unit only: `30s`, `100ms`, `1m`; a bare number is seconds.
fn duration(name: &str, text: &str) -> Result<Duration> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let scale = match unit {
        "" | "s" => 1.0,
        "ms" => 1e-3,
        "us" | "µs" => 1e-6,
        "ns" => 1e-9,
        "m" => 60.0,
        "h" => 3600.0,
        _ => f64::NAN,
    };
    number
        .parse::<f64>()
        .ok()
        .and_then(|n| Duration::try_from_secs_f64(n * scale).ok())
        .ok_or_else(|| refused(format!("{name}={text} in the Redis URL is no duration: write 30s or 100ms")))
}

/// `%HH` as bytes; `None` if that is no text.
fn unescaped(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(b) = rest.next() {
        if b != b'%' {
            out.push(b);
            continue;
        }
        let hex = [rest.next()?, rest.next()?];
        out.push(u8::from_str_radix(std::str::from_utf8(&hex).ok()?, 16).ok()?);
    }
    String::from_utf8(out).ok()
}
