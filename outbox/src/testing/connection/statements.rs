//! The statements.

use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::sql_types::Untyped;
use diesel::{QueryResult, RunQueryDsl};

use super::TestBackend;

/// Reads all that waits. It is diesel's `sql_query`, but for any backend.
#[derive(Debug, QueryId)]
pub(super) struct Select;

impl Query for Select {
    type SqlType = Untyped;
}

impl<C> RunQueryDsl<C> for Select {}

impl<DB: TestBackend> QueryFragment<DB> for Select {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, DB>) -> QueryResult<()> {
        out.push_sql(DB::SELECT);
        Ok(())
    }
}

/// Takes the message with this id out of the table.
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
#[derive(Debug, QueryId)]
pub struct Settle(pub(super) i64);

#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
impl From<i64> for Settle {
    fn from(id: i64) -> Self {
        Self(id)
    }
}

/// `Settle` for a backend of diesel, since only there it is known that it has numbers.
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
macro_rules! settle_on {
    ($backend:ty) => {
        impl diesel::query_builder::QueryFragment<$backend> for Settle {
            fn walk_ast<'b>(
                &'b self,
                mut out: diesel::query_builder::AstPass<'_, 'b, $backend>,
            ) -> diesel::QueryResult<()> {
                out.push_sql("DELETE FROM outbox WHERE id = ");
                out.push_bind_param::<diesel::sql_types::BigInt, _>(&self.0)
            }
        }
    };
}
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
pub(super) use settle_on;
