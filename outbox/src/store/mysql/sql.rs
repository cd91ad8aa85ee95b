//! Statements and their rows.

use std::time::Duration;

use outbox_mysql_driver::mysql_async::prelude::{FromValue, Queryable as _};
use outbox_mysql_driver::mysql_async::{Conn, Error, Params, Row, Value};

use super::StoreError;

/// By which MySQL tells of a deadlock. The transaction is rolled back by then.
const ER_LOCK_DEADLOCK: u16 = 1213;

/// No time in the tables lies further away than a hundred years, which their type can hold.
const FURTHEST: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Runs a statement without parameters.
pub(super) async fn run(conn: &mut Conn, statement: &str) -> Result<(), StoreError> {
    Ok(conn.query_drop(statement).await?)
}

/// Runs a statement, and tells how many rows it changed.
pub(super) async fn execute(
    conn: &mut Conn,
    statement: impl AsRef<str>,
    parameters: Vec<Value>,
) -> Result<u64, StoreError> {
    conn.exec_drop(statement.as_ref(), positional(parameters))
        .await?;
    Ok(conn.affected_rows())
}

/// The rows of a query.
pub(super) async fn query(
    conn: &mut Conn,
    statement: impl AsRef<str>,
    parameters: Vec<Value>,
) -> Result<Vec<Columns>, StoreError> {
    let rows: Vec<Row> = conn
        .exec(statement.as_ref(), positional(parameters))
        .await?;
    Ok(rows.into_iter().map(Columns::new).collect())
}

fn positional(parameters: Vec<Value>) -> Params {
    match parameters.is_empty() {
        true => Params::Empty,
        false => Params::Positional(parameters),
    }
}

/// A row, from which columns are taken one after the other.
pub(super) struct Columns {
    row: Row,
    next: usize,
}

impl Columns {
    fn new(row: Row) -> Self {
        Self { row, next: 0 }
    }

    /// The next column.
    pub(super) fn next<T: FromValue>(&mut self) -> Result<T, StoreError> {
        let index = self.next;
        self.next += 1;
        match self.row.take_opt(index) {
            Some(Ok(value)) => Ok(value),
            Some(Err(error)) => Err(StoreError::unavailable(error)),
            None => Err(StoreError::unavailable(format!("no column {index}"))),
        }
    }
}

/// So many placeholders for the elements of a list.
pub(super) fn placeholders(count: usize) -> String {
    vec!["?"; count].join(", ")
}

/// For `INTERVAL ? MICROSECOND`.
pub(super) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.min(FURTHEST).as_micros()).unwrap_or(i64::MAX)
}

pub(super) fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Whether the transaction was rolled back in favour of another one.
pub(super) fn is_deadlock(error: &StoreError) -> bool {
    matches!(driver(error), Some(Error::Server(error)) if error.code == ER_LOCK_DEADLOCK)
}

/// Whether the connection is lost.
pub(super) fn is_broken(error: &StoreError) -> bool {
    driver(error).is_some_and(Error::is_fatal)
}

fn driver(error: &StoreError) -> Option<&Error> {
    error.reason().downcast_ref()
}

impl From<Error> for StoreError {
    fn from(error: Error) -> Self {
        Self::unavailable(error)
    }
}
