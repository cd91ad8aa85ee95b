//! The INSERT on databases without arrays: as many rows of values as there are messages.

use diesel::QueryResult;
use diesel::backend::Backend;
use diesel::query_builder::{AstPass, QueryFragment, QueryId};
use diesel::serialize::ToSql;
use diesel::sql_types::{Binary, HasSqlType, Integer, Nullable, Text};

use crate::Message;

/// Far below the limits of bind parameters, which are 32,766 on SQLite and 65,535 on MySQL.
pub(super) const MAX_ROWS: usize = 500;

#[derive(Debug)]
struct Row<'m> {
    id: String,
    partition: Option<i32>,
    headers: Option<String>,
    message: &'m Message,
}

impl<'m> Row<'m> {
    fn new(message: &'m Message) -> Self {
        Self {
            id: message.id().to_string(),
            partition: message.partition(),
            headers: message.headers().to_json(),
            message,
        }
    }

    fn walk<'b, DB>(&'b self, out: &mut AstPass<'_, 'b, DB>) -> QueryResult<()>
    where
        DB: Backend + HasSqlType<Binary> + HasSqlType<Integer> + HasSqlType<Text>,
        String: ToSql<Text, DB>,
        i32: ToSql<Integer, DB>,
        Vec<u8>: ToSql<Binary, DB>,
    {
        let message = self.message;
        out.push_sql("(");
        out.push_bind_param::<Text, _>(&self.id)?;
        out.push_sql(", ");
        out.push_bind_param::<Text, _>(&message.topic)?;
        out.push_sql(", ");
        out.push_bind_param::<Nullable<Integer>, _>(&self.partition)?;
        out.push_sql(", ");
        out.push_bind_param::<Nullable<Binary>, _>(&message.key)?;
        out.push_sql(", ");
        out.push_bind_param::<Nullable<Binary>, _>(&message.payload)?;
        out.push_sql(", ");
        out.push_bind_param::<Nullable<Text>, _>(&self.headers)?;
        out.push_sql(", ");
        out.push_bind_param::<Nullable<Text>, _>(&message.event_type)?;
        out.push_sql(")");
        Ok(())
    }
}

/// The columns that a writer fills. Two of them are words of SQL on MySQL.
fn insert<DB: Backend>(out: &mut AstPass<'_, '_, DB>) -> QueryResult<()> {
    out.push_sql("INSERT INTO outbox (message_id, topic, ");
    out.push_identifier("partition")?;
    out.push_sql(", ");
    out.push_identifier("key")?;
    out.push_sql(", payload, headers, event_type) VALUES ");
    Ok(())
}

/// One row, in a statement that is prepared once.
#[derive(Debug)]
pub struct InsertOne<'m>(Row<'m>);

impl<'m> InsertOne<'m> {
    pub(super) fn new(message: &'m Message) -> Self {
        Self(Row::new(message))
    }
}

impl QueryId for InsertOne<'_> {
    type QueryId = InsertOne<'static>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl<DB> QueryFragment<DB> for InsertOne<'_>
where
    DB: Backend + HasSqlType<Binary> + HasSqlType<Integer> + HasSqlType<Text>,
    String: ToSql<Text, DB>,
    i32: ToSql<Integer, DB>,
    Vec<u8>: ToSql<Binary, DB>,
{
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, DB>) -> QueryResult<()> {
        insert(&mut out)?;
        self.0.walk(&mut out)
    }
}

/// Several rows. Its text depends on their number, so it is not kept prepared.
#[derive(Debug)]
pub struct InsertMany<'m>(Vec<Row<'m>>);

impl<'m> InsertMany<'m> {
    pub(super) fn new(messages: &'m [Message]) -> Self {
        Self(messages.iter().map(Row::new).collect())
    }
}

impl QueryId for InsertMany<'_> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl<DB> QueryFragment<DB> for InsertMany<'_>
where
    DB: Backend + HasSqlType<Binary> + HasSqlType<Integer> + HasSqlType<Text>,
    String: ToSql<Text, DB>,
    i32: ToSql<Integer, DB>,
    Vec<u8>: ToSql<Binary, DB>,
{
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, DB>) -> QueryResult<()> {
        out.unsafe_to_cache_prepared();
        insert(&mut out)?;
        for (i, row) in self.0.iter().enumerate() {
            if i > 0 {
                out.push_sql(", ");
            }
            row.walk(&mut out)?;
        }
        Ok(())
    }
}
