//! A volume in PostgreSQL, in the very tables a JuiceFS client keeps there.
//!
//! Here is how to connect, to send a message and to read what comes back; what messages say is the
//! business of [`super::sql`]. A commit's message has no `BEGIN`: several statements in one message
//! are one transaction, which rolls back by itself.

mod place;

use std::sync::Arc;

use async_trait::async_trait;
use cairn_env::Env;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Column, ConnectOptions, Connection, Row as _, TypeInfo, ValueRef};

use super::Options;
use super::remote::Remote;
use super::sql::dialect::Dialect;
use super::sql::link::{Trouble, Wire, heard};
use super::sql::rows::{Answer, Row};
use super::sql::{SqlServer, Tables};
use crate::Result;
use place::Place;

/// The engine over PostgreSQL.
pub type PostgresEngine = Remote<SqlServer<PostgresWire>>;

/// How PostgreSQL is spoken to.
pub struct PostgresWire {
    place: String,
    options: PgConnectOptions,
    setup: String,
}

/// A connection, and whether its last message opened a transaction.
pub struct PostgresConnection {
    inner: PgConnection,
    in_block: bool,
}

/// Opens `postgres://[user[:password]@]host[:port]/database[?params]`.
///
/// # Errors
///
/// [`crate::Error::Refused`] with a sentence for people.
pub async fn open(env: Env, url: &str, options: Options) -> Result<Arc<PostgresEngine>> {
    let place = Place::parse(url)?;
    let tables = Tables::new(Dialect::Postgres, &place.common.prefix);
    let connections = place.common.connections;
    let wire = PostgresWire { place: place.describe(), options: place.options(), setup: place.setup() };
    let server = SqlServer::open(env.clone(), wire, tables, connections, options).await?;
    Ok(Remote::new(env, server, options.read_only))
}

#[async_trait]
impl Wire for PostgresWire {
    type Connection = PostgresConnection;

    fn describe(&self) -> String {
        self.place.clone()
    }

    async fn connect(&self) -> std::result::Result<PostgresConnection, Trouble> {
        let inner = self.options.connect().await.map_err(|e| trouble(&e))?;
        let mut connection = PostgresConnection { inner, in_block: false };
        match Self::send(&mut connection, self.setup.clone()).await {
            (_, None) => Ok(connection),
            (_, Some(trouble)) => Err(trouble),
        }
    }

    async fn send(connection: &mut PostgresConnection, message: String) -> (Vec<Answer>, Option<Trouble>) {
        connection.in_block = message.starts_with("BEGIN");
        heard(sqlx::raw_sql(AssertSqlSafe(message)).fetch_many(&mut connection.inner), cells, trouble).await
    }

    async fn recover(connection: &mut PostgresConnection) -> bool {
        !connection.in_block || sqlx::raw_sql("ROLLBACK").execute(&mut connection.inner).await.is_ok()
    }

    async fn close(connection: PostgresConnection) {
        // It is of no more use either way.
        _ = connection.inner.close().await;
    }
}

/// A row as text, its byte strings unpacked.
fn cells(row: &PgRow) -> sqlx::Result<Row> {
    let mut cells = Vec::with_capacity(row.len());
    for column in row.columns() {
        let value = row.try_get_raw(column.ordinal())?;
        cells.push(match value.is_null() {
            true => None,
            false => {
                let text = value.as_bytes().map_err(sqlx::Error::Decode)?;
                let is_bytes = column.type_info().name() == "BYTEA";
                Some(if is_bytes { unpacked(text)? } else { text.to_vec() })
            }
        });
    }
    Ok(Row(cells))
}

/// `\x0a1b` as bytes.
fn unpacked(text: &[u8]) -> sqlx::Result<Vec<u8>> {
    let odd = || sqlx::Error::Decode("a byte string is not in hex".into());
    let digits = text.strip_prefix(b"\\x").ok_or_else(odd)?;
    let (pairs, rest) = digits.as_chunks::<2>();
    let nibble = |c: u8| char::from(c).to_digit(16).map(|n| n as u8);
    let bytes: Option<Vec<u8>> = pairs.iter().map(|[a, b]| Some(nibble(*a)? << 4 | nibble(*b)?)).collect();
    bytes.filter(|_| rest.is_empty()).ok_or_else(odd)
}

/// What the server's or the driver's complaint means.
fn trouble(e: &sqlx::Error) -> Trouble {
    let words = e.to_string();
    let Some(said) = e.as_database_error() else {
        return match e {
            sqlx::Error::Tls(_) | sqlx::Error::Configuration(_) => Trouble::Refused(words),
            sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. } => Trouble::Other(words),
            _ => Trouble::Lost(words),
        };
    };
    let code = said.code();
    let words = said.message().to_string();
    match code.as_deref().unwrap_or_default() {
        "22012" => Trouble::Stopped,
        "23505" => Trouble::Duplicate(words),
        "40001" | "40P01" | "55P03" => Trouble::Conflict(words),
        "53300" | "57P03" => Trouble::Away(words),
        // The server stops, or somebody stopped our backend.
        "57P01" | "57P02" | "57P05" => Trouble::Lost(words),
        "25006" => Trouble::ReadOnly(words),
        "22001" => Trouble::TooBig(words),
        "22003" => Trouble::OutOfRange(words),
        "22021" | "22P05" => Trouble::NotText(words),
        "42P01" => Trouble::NoTable(words),
        "53100" => Trouble::Other(format!("no space is left on the metadata server's disk ({words})")),
        "28000" | "28P01" | "3D000" | "42501" | "3F000" => Trouble::Refused(words),
        code if code.starts_with("08") => Trouble::Lost(words),
        code => Trouble::Other(format!("{words} ({code})")),
    }
}
