//! Looking at the outbox on diesel-async's connections.

use diesel_async::{AsyncConnection, RunQueryDsl as _};
use futures_util::future::BoxFuture;

use super::statements::Select;
use super::{TestBackend, TestConnection, Waiting};
use crate::{Async, Error};

// So that errors tell what the trait says, and not only which of diesel's is missing.
#[diagnostic::do_not_recommend]
impl<C> TestConnection<Async> for C
where
    C: AsyncConnection,
    C::Backend: TestBackend,
{
    type Answer<'c, T: Send + 'c>
        = BoxFuture<'c, T>
    where
        C: 'c;

    fn look<'c, T, F>(&'c mut self, look: F) -> BoxFuture<'c, T>
    where
        T: Send + 'c,
        F: FnOnce(Vec<Waiting>) -> (T, Vec<i64>) + Send + 'c,
    {
        Box::pin(async move {
            let rows = Select
                .load::<<C::Backend as TestBackend>::Row>(self)
                .await
                .map_err(Error::from)
                .unwrap_or_else(|error| panic!("the table `outbox` can't be read: {error}"));
            let (value, settled) = look(rows.into_iter().map(Into::into).collect());
            for id in settled {
                let settle = <C::Backend as TestBackend>::Settle::from(id);
                self.execute_returning_count(settle)
                    .await
                    .unwrap_or_else(|error| panic!("message {id} can't be settled: {error}"));
            }
            value
        })
    }
}
