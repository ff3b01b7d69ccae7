//! A volume in MySQL or MariaDB, in the very tables a JuiceFS client keeps there.
//!
//! Here is how to connect, to send a message and to read what comes back; what messages say is the
//! business of [`super::sql`]. Nothing is said that only one of the two servers understands.

mod place;

use std::sync::Arc;

use async_trait::async_trait;
use cairn_env::Env;
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection, MySqlDatabaseError, MySqlRow};
use sqlx::{AssertSqlSafe, Column, ConnectOptions, Connection, Row as _};

use super::Options;
use super::remote::Remote;
use super::sql::dialect::Dialect;
use super::sql::link::{Trouble, Wire, heard};
use super::sql::rows::{Answer, Row};
use super::sql::{SqlServer, Tables};
use crate::Result;
use place::Place;

/// The engine over MySQL and MariaDB.
pub type MySqlEngine = Remote<SqlServer<MySqlWire>>;

/// How MySQL is spoken to.
pub struct MySqlWire {
    place: String,
    options: MySqlConnectOptions,
}

/// What every connection is told first: that values too large are errors and not cut, and that each
/// statement of a commit sees what the ones before it waited for.
const SETUP: &str = "SET SESSION sql_mode = 'STRICT_TRANS_TABLES,NO_ENGINE_SUBSTITUTION', \
                     SESSION autocommit = 1; \
                     SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED; \
                     SELECT @@log_bin, @@binlog_format";

/// Opens `mysql://[user[:password]@](host:port)/database[?params]`, with or without parentheses.
///
/// # Errors
///
/// [`crate::Error::Refused`] with a sentence for people.
pub async fn open(env: Env, url: &str, options: Options) -> Result<Arc<MySqlEngine>> {
    let place = Place::parse(url)?;
    let tables = Tables::new(Dialect::MySql, &place.common.prefix);
    let connections = place.common.connections;
    let wire = MySqlWire { place: place.describe(), options: place.options() };
    let server = SqlServer::open(env.clone(), wire, tables, connections, options).await?;
    Ok(Remote::new(env, server, options.read_only))
}

#[async_trait]
impl Wire for MySqlWire {
    type Connection = MySqlConnection;

    fn describe(&self) -> String {
        self.place.clone()
    }

    async fn connect(&self) -> std::result::Result<MySqlConnection, Trouble> {
        let mut connection = self.options.connect().await.map_err(|e| trouble(&e))?;
        let answers = match Self::send(&mut connection, SETUP.into()).await {
            (answers, None) => answers,
            (_, Some(trouble)) => return Err(trouble),
        };
        let said = answers.iter().flat_map(|answer| &answer.rows).next();
        match said.map(|row| (row.text(0), row.text(1))) {
            Some((on, format)) if on == "1" && format.eq_ignore_ascii_case("STATEMENT") => Err(Trouble::Refused(
                "the server writes its binary log by statement, which does not go with READ COMMITTED: \
                 set binlog_format to ROW or MIXED"
                    .into(),
            )),
            _ => Ok(connection),
        }
    }

    async fn send(connection: &mut MySqlConnection, message: String) -> (Vec<Answer>, Option<Trouble>) {
        heard(sqlx::raw_sql(AssertSqlSafe(message)).fetch_many(connection), cells, trouble).await
    }

    async fn recover(connection: &mut MySqlConnection) -> bool {
        // A statement that fails leaves its transaction open.
        sqlx::raw_sql("ROLLBACK").execute(connection).await.is_ok()
    }

    async fn close(connection: MySqlConnection) {
        // It is of no more use either way.
        _ = connection.close().await;
    }
}

/// A row as text and bytes.
fn cells(row: &MySqlRow) -> sqlx::Result<Row> {
    let read = |column: usize| row.try_get_unchecked::<Option<&[u8]>, _>(column);
    Ok(Row(row.columns().iter().map(|c| Ok(read(c.ordinal())?.map(<[u8]>::to_vec))).collect::<sqlx::Result<_>>()?))
}

/// What the server's or the driver's complaint means.
fn trouble(e: &sqlx::Error) -> Trouble {
    let words = e.to_string();
    let Some(said) = e.as_database_error().and_then(|e| e.try_downcast_ref::<MySqlDatabaseError>()) else {
        return match e {
            sqlx::Error::Tls(_) | sqlx::Error::Configuration(_) => Trouble::Refused(words),
            sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. } => Trouble::Other(words),
            _ => Trouble::Lost(words),
        };
    };
    let words = said.message().to_string();
    match said.number() {
        // A sum of ours runs over where a check fails.
        1690 => Trouble::Stopped,
        1062 => Trouble::Duplicate(words),
        1020 | 1205 | 1213 => Trouble::Conflict(words),
        1040 | 1203 | 1226 => Trouble::Away(words),
        1053 | 1077 | 1152 | 1158..=1161 | 1184 | 1927 => Trouble::Lost(words),
        1290 | 1792 | 1836 => Trouble::ReadOnly(words),
        1406 => Trouble::TooBig(words),
        1264 => Trouble::OutOfRange(words),
        1366 => Trouble::NotText(words),
        1146 => Trouble::NoTable(words),
        1021 | 1114 => Trouble::Other(format!("no space is left on the metadata server's disk ({words})")),
        1044 | 1045 | 1049 | 1130 | 1142 | 1227 | 1251 | 1698 => Trouble::Refused(words),
        number => Trouble::Other(format!("{words} ({number})")),
    }
}
